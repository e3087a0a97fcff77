"""Whether guidance does what it is for: texts of a label, by labels that are given and by clusters.

    python -m benchmarks.guidance [families] [stdlib]

Trains small networks on `synthetic:topics`, whose labels are known and whose likelihoods are exact, draws
texts at several scales, and prints as a Markdown table: how many texts have the label that was asked for (for
clusters: the label that most held-out texts of the cluster have), their entropy of pairs of tokens, and their
surprise under the label's own source. Intervals are of 95% over texts. With `stdlib` also on Python source
and tests, judged by letters in threes of either kind of training text. Some 3 minutes a network.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
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

TOPICS, TEXTS, STEPS = 4, 128, 32
CORPUS = f"synthetic:topics?topics={TOPICS}&vocab=16&sharpness=1.0"
SCALES = (0.0, 0.5, 1.0, 2.0, 4.0)
GIVEN, CLUSTERS = Labels(of="topic", classes=TOPICS), Labels(of="clusters", classes=8)
SIZE = Size(name="tiny", hidden=64, num_layers=2, num_heads=2, cond_dim=64)


@dataclass(frozen=True, slots=True)
class Judge:
    """log p(text | label), (B, C), of token ids (B, L), and what it knows of its texts."""

    data: Dataset
    labels: Labels
    context: int
    log_probs: Callable[[np.ndarray], np.ndarray]

    def describe(self) -> str:
        """How right it is on held-out text, beside what guided texts are measured by."""
        ids, labels = self.heldout(4096)
        log_probs = self.log_probs(ids)
        own = -np.take_along_axis(log_probs, labels[:, None], 1)[:, 0] / self.context
        present = sorted(set(labels.tolist()))
        entropies = [pair_entropy(ids[labels == label], self.data.num_token_ids) for label in present]
        hits = (log_probs.argmax(1) == labels).astype(float)
        return (
            f"held-out text of {self.data.corpus}: texts of the label {interval(hits)}, "
            f"entropy of pairs {np.mean(entropies):.3f}, surprise {interval(own)}"
        )

    def heldout(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        return (
            self.data.heldout(count, self.context),
            self.data.heldout_labels(count, self.context, self.labels),
        )


def topic_judge(folder: Path) -> Judge:
    data = prepare(CORPUS, "bytes", folder)
    assert isinstance(data.source, TopicSource)
    return Judge(data, GIVEN, 32, data.source.topic_log_probs)


def kind_judge(folder: Path) -> Judge:
    """Of Python source and tests: each byte given the two before it, from counts in training text."""
    data, labels, length = prepare("stdlib", "bytes", folder), Labels(of="kind"), 64
    ids = np.minimum(data.train_batch(0, 100_000, length, 12345), 127)
    kinds = data.train_labels(0, 100_000, length, 12345, labels)

    def pairs(ids: np.ndarray) -> np.ndarray:
        return ids[:, :-2] * 128 + ids[:, 1:-1]

    counts = np.full((2, 128 * 128, 128), 0.02)
    for kind in (0, 1):
        own = ids[kinds == kind]
        np.add.at(counts[kind], (pairs(own), own[:, 2:]), 1.0)
    logs = np.log(counts / counts.sum(-1, keepdims=True))

    def log_probs(ids: np.ndarray) -> np.ndarray:
        ids = np.minimum(ids, 127)
        return np.stack([table[pairs(ids), ids[:, 2:]].sum(1) for table in logs], axis=1)

    return Judge(data, labels, length, log_probs)


def spec_of(family: str, judge: Judge, labels: Labels, steps: int) -> RunSpec:
    return RunSpec(
        family=family,
        size=SIZE,
        budget=1e12,
        sequences=64 * steps,
        batch_size=64,
        data=DataSpec.of(judge.data, judge.context),
        optimizer=OptimizerSpec(learning_rate=2e-3, warmup_steps=100),
        evaluation=EvaluationSpec(sequences=1024, noise_levels=8),
        labels=labels,
    )


def topics_of_clusters(run: Clustering, judge: Judge) -> tuple[list[int], float]:
    """The label that most held-out texts of each cluster have (-1: none is in it), and the mutual information
    of both over their mean entropy."""
    x0, topics = (torch.from_numpy(values) for values in judge.heldout(4096))
    table = torch.zeros(CLUSTERS.classes, judge.labels.classes, dtype=torch.float64)
    table.index_put_((run.labels(x0, 0), topics), torch.ones(len(x0), dtype=torch.float64), accumulate=True)
    joint = table / table.sum()
    entropy = torch.special.entr
    apart = [float(entropy(joint.sum(side)).sum()) for side in (0, 1)]
    shared = sum(apart) - float(entropy(joint).sum())
    best = [int(row.argmax()) if float(row.sum()) else -1 for row in table]
    return best, 2 * shared / sum(apart)


def interval(values: np.ndarray) -> str:
    """Mean and half the width of its interval of 95%."""
    return f"{values.mean():.3f} ± {1.96 * values.std(ddof=1) / math.sqrt(len(values)):.3f}"


def pair_entropy(ids: np.ndarray, num_ids: int) -> float:
    """Of neighbouring tokens over all texts of one label, in nats."""
    pairs = ids[:, :-1] * num_ids + ids[:, 1:]
    shares = np.bincount(pairs.ravel()) / pairs.size
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def measure(family: str, labels: Labels, judge: Judge, steps: int, folder: Path) -> None:
    """Train, sample, print the rows of one network."""
    data, spec = judge.data, spec_of(family, judge, labels, steps)
    result = train(spec, data, folder, log=lambda record: None)
    run = load_run(folder, spec=spec)
    wishes, note = sorted(set(judge.heldout(4096)[1].tolist())), ""
    if labels.clustered:
        clustering = Clustering(spec, run.family, run.model, 64)
        state, _ = newest_checkpoint([folder], spec.key)
        assert state is not None
        clustering.restore(state)
        wishes, shared = topics_of_clusters(clustering, judge)
        note = f", clusters and topics share {shared:.2f} of their information"
    print(f"\n{family}, {labels.of}: {result.sentence}, label worth {result.label_leak:.4f} ± "
          f"{1.96 * (result.label_leak_se or 0):.4f}{note}\n")  # fmt: skip
    print(
        "| scale | texts of the label | entropy of pairs | surprise under the label | calls | tokens read |"
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
            texts = generate(run.model, run.family, seeds, judge.context, **about)
            ids = texts.ids.numpy()
            log_probs = judge.log_probs(ids)
            hits.append(log_probs.argmax(1) == topic)
            surprises.append(-log_probs[:, topic] / judge.context)
            entropies.append(pair_entropy(ids, data.num_token_ids))
            calls, tokens = texts.calls, tokens + texts.tokens
        print(
            f"| {scale:g} | {interval(np.concatenate(hits).astype(float))} | {np.mean(entropies):.3f} "
            f"| {interval(np.concatenate(surprises))} | {calls} | {tokens} |",
            flush=True,
        )


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    families = [name for name in arguments if name != "stdlib"] or ["masked", "uniform", "ar"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        judges = [topic_judge(folder / "topics")] if families != ["none"] else []
        if "stdlib" in arguments:
            judges.append(kind_judge(folder / "stdlib"))
        for judge in judges:
            print(judge.describe(), flush=True)
            of_text = judge.labels.of == "kind"
            for family in ["masked"] if of_text else families:
                for labels in (judge.labels, CLUSTERS):
                    where = folder / f"{family}-{judge.labels.of}-{labels.of}"
                    measure(family, labels, judge, 2000 if of_text else 1500, where)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
