"""Whether guidance does what it is for: texts of a label, by labels that are given and by clusters.

    python -m benchmarks.guidance [families]

Trains small networks on `synthetic:topics`, whose labels are known and whose likelihoods are exact, draws
texts at several scales, and prints as a Markdown table: how many texts have the topic that was asked for (for
clusters: the topic that most held-out texts of the cluster have), their entropy of pairs of tokens, and their
surprise under the topic's own source. Intervals are of 95% over texts. Some 10 minutes on two cores.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scaling.data import Dataset, prepare
from scaling.data.synthetic import TopicSource
from scaling.labels import Labels
from scaling.ladder import Size
from scaling.sampling import Guidance, generate
from scaling.spec import DataSpec, EvaluationSpec, OptimizerSpec, RunSpec
from scaling.training import load_run, train
from scaling.training.checkpoint import newest_checkpoint
from scaling.training.clusters import Clustering

TOPICS, CONTEXT, TEXTS, STEPS = 4, 32, 128, 32
CORPUS = f"synthetic:topics?topics={TOPICS}&vocab=16&sharpness=1.0"
SCALES = (0.0, 0.5, 1.0, 2.0, 4.0)
GIVEN, CLUSTERS = Labels(of="topic", classes=TOPICS), Labels(of="clusters", classes=8)
SIZE = Size(name="tiny", hidden=64, num_layers=2, num_heads=2, cond_dim=64)


def spec_of(family: str, data: Dataset, labels: Labels, steps: int) -> RunSpec:
    return RunSpec(
        family=family,
        size=SIZE,
        budget=1e12,
        sequences=64 * steps,
        batch_size=64,
        data=DataSpec.of(data, CONTEXT),
        optimizer=OptimizerSpec(learning_rate=2e-3, warmup_steps=100),
        evaluation=EvaluationSpec(sequences=1024, noise_levels=8),
        labels=labels,
    )


def topics_of_clusters(run: Clustering, data: Dataset) -> tuple[list[int], float]:
    """The topic that most held-out texts of each cluster have (-1: none is in it), and the mutual information
    of both over their mean entropy."""
    x0 = torch.from_numpy(data.heldout(4096, CONTEXT))
    topics = torch.from_numpy(data.heldout_labels(4096, CONTEXT, GIVEN))
    table = torch.zeros(CLUSTERS.classes, TOPICS, dtype=torch.float64)
    table.index_put_((run.labels(x0, 0), topics), torch.ones(4096, dtype=torch.float64), accumulate=True)
    joint = table / table.sum()
    entropy = torch.special.entr
    apart = [float(entropy(joint.sum(side)).sum()) for side in (0, 1)]
    shared = sum(apart) - float(entropy(joint).sum())
    best = [int(row.argmax()) if float(row.sum()) else -1 for row in table]
    return best, 2 * shared / sum(apart)


def interval(values: np.ndarray) -> str:
    """Mean and half the width of its interval of 95%."""
    return f"{values.mean():.3f} ± {1.96 * values.std(ddof=1) / math.sqrt(len(values)):.3f}"


def pair_entropy(ids: np.ndarray, source: TopicSource) -> float:
    """Of neighbouring tokens over all texts of one topic, in nats."""
    pairs = ids[:, :-1] * source.num_token_ids + ids[:, 1:]
    shares = np.bincount(pairs.ravel()) / pairs.size
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def measure(family: str, labels: Labels, data: Dataset, steps: int, folder: Path) -> None:
    """Train, sample, print the rows of one network."""
    source, spec = data.source, spec_of(family, data, labels, steps)
    assert isinstance(source, TopicSource)
    result = train(spec, data, folder, log=lambda record: None)
    run = load_run(folder, spec=spec)
    wishes, note = list(range(TOPICS)), ""
    if labels.clustered:
        clustering = Clustering(spec, run.family, run.model, 64)
        state, _ = newest_checkpoint([folder], spec.key)
        assert state is not None
        clustering.restore(state)
        wishes, shared = topics_of_clusters(clustering, data)
        note = f", clusters and topics share {shared:.2f} of their information"
    print(f"\n{family}, {labels.of}: {result.sentence}, label worth {result.label_leak:.4f} ± "
          f"{1.96 * (result.label_leak_se or 0):.4f}{note}\n")  # fmt: skip
    print(
        "| scale | texts of the topic | entropy of pairs | surprise under the topic | calls | tokens read |"
    )
    print("|---|---|---|---|---|---|")
    for scale in SCALES:
        hits, surprises, entropies, calls, tokens = [], [], [], 0, 0
        for label, topic in enumerate(wishes):
            if topic < 0:
                continue
            about: dict[str, Any] = {"guidance": Guidance(label=label, scale=scale)}
            if family != "ar":
                about["steps"] = STEPS
            seeds = range(1000 * label, 1000 * label + TEXTS)
            texts = generate(run.model, run.family, seeds, CONTEXT, **about)
            ids = texts.ids.numpy()
            log_probs = source.topic_log_probs(ids)
            hits.append(log_probs.argmax(1) == topic)
            surprises.append(-log_probs[:, topic] / CONTEXT)
            entropies.append(pair_entropy(ids, source))
            calls, tokens = texts.calls, tokens + texts.tokens
        print(
            f"| {scale:g} | {interval(np.concatenate(hits).astype(float))} | {np.mean(entropies):.3f} "
            f"| {interval(np.concatenate(surprises))} | {calls} | {tokens} |",
            flush=True,
        )


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    steps = 1500
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(CORPUS, "bytes", Path(folder) / "data")
        source = data.source
        assert isinstance(source, TopicSource)
        ids = data.heldout(4096, CONTEXT)
        log_probs = source.topic_log_probs(ids)
        topics = data.heldout_labels(4096, CONTEXT, GIVEN)
        own = -np.take_along_axis(log_probs, topics[:, None], 1)[:, 0] / CONTEXT
        entropies = [pair_entropy(ids[topics == topic], source) for topic in range(TOPICS)]
        hits = (log_probs.argmax(1) == topics).astype(float)
        print(f"the source itself: texts of the topic {interval(hits)}, "
              f"entropy of pairs {np.mean(entropies):.3f}, surprise {interval(own)}; "
              f"least loss {source.entropy_per_token(CONTEXT):.4f}", flush=True)  # fmt: skip
        for family in arguments or ["masked", "uniform", "ar"]:
            for labels in (GIVEN, CLUSTERS):
                measure(family, labels, data, steps, Path(folder) / f"{family}-{labels.of}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
