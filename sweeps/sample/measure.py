"""One point on a worker: load a finished run, make texts by one sampler, time it, and judge the texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.attempt.job import Job, Outcome
from sweeps.attempt.worker import code_version, device_name

if TYPE_CHECKING:
    from scaling.data import Dataset
    from scaling.evaluation.perplexity import Judge

WORK = "sweeps.sample.measure:measure"
"""The name of `measure` in a job."""


def measure(job: Job, folder: Path, should_stop: Callable[[], str | None]) -> Outcome:
    """Measure the point in `job.options` (see `sweeps.sample.points.Point.identity`, and the run's columns)
    with the weights in `job.runs`; the outcome holds its row of the table of samples. UserError as the parts
    raise it."""
    import torch

    from scaling.data import open_dataset
    from scaling.evaluation.mauve import mauve_available
    from scaling.evaluation.quality import measure_quality, unigram_entropy
    from scaling.sampling.speed import measure_speed
    from scaling.training.finished import load_run

    torch.set_num_threads(max(1, int(job.cpus)))
    folder.mkdir(parents=True, exist_ok=True)
    point, columns = job.options["point"], job.options["columns"]
    device = "cuda" if job.gpus > 0 else "cpu"
    data = open_dataset(job.dataset)
    # first: one that is not there stops the point at once
    places = {"folder": job.runs.get("judge", ""), "data": job.datasets.get("judge", "")}
    judge = open_judge({**point["judge"], **places}, data, device)
    run = load_run(Path(job.runs["run"]), replica=job.options.get("replica", 0), device=device)
    speed, texts = measure_speed(
        run.model, run.family, point["length"], batch=point["batch"], repeats=point["repeats"],
        seed=point["seed"], device=device, sampler=point["sampler"], steps=point["steps"], **point["options"],
    )  # fmt: skip
    if reason := should_stop():
        return Outcome(status="preempted", sentence=reason)
    human = data.heldout(len(texts), point["length"]) if mauve_available() else None
    quality = measure_quality(
        [text.numpy() for text in texts], data, judge=judge,
        rule=point["rule"], human=human, device=device,
    )  # fmt: skip
    windows = data.num_windows("heldout", point["length"])
    windows = len(texts) if windows is None else min(windows, len(texts))
    real = [unigram_entropy(window) for window in data.heldout(windows, point["length"])]
    row = {
        **columns, "sampler": point["sampler"], "steps": point["steps"],
        "options": json.dumps(point["options"], sort_keys=True), "seed": point["seed"],
        **asdict(speed), **asdict(quality), "length": point["length"], "device": device_name(device),
        "heldout_entropy": sum(real) / len(real), "code_version": code_version(),
    }  # fmt: skip
    return Outcome(status="finished", sentence="", result={"point": point, "row": row}, device=row["device"])


def open_judge(judge: Mapping[str, Any], data: Dataset, device: str) -> Judge:
    """The judge of a point: a finished run, or a Hugging Face model. data: what the sampled run learned."""
    from scaling.data import open_dataset
    from scaling.evaluation.judges import HubJudge, RunJudge
    from scaling.evaluation.perplexity import Vocabulary
    from scaling.training.finished import load_run

    if not judge["folder"]:
        return HubJudge(judge["name"], device=device)
    run = load_run(Path(judge["folder"]), replica=judge.get("replica", 0), device=device)
    words = Vocabulary.of(open_dataset(judge["data"]) if judge["data"] else data)
    return RunJudge(judge["name"], run.family, run.model, run.spec.data.context_length, words)
