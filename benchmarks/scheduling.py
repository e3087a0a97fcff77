"""The cost of scheduling: per run, per recorded point, per status of a large sweep; beside other tools.

- overhead: time in which a slot does not train, per run, in worker processes that are kept (as on CPUs) and
  in fresh ones (as on GPUs, and after a failure); beside a trial of Ray Tune that does nothing.
- many: driver's CPU time per run, for 1,000 short runs on local Ray.
- recorder: metric points per second from journals into SQLite (or --store); beside one `log_metrics` call
  per step into SQLite.
- status: `scaling status` of 10,000 runs as a command; beside reading as many runs with `search_runs`.

    python -m benchmarks.scheduling [--only overhead] [--runs 1000] [--store URI]

All numbers go to build/benchmarks/scheduling.json. Simulated schedules: `python -m benchmarks.simulation`.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import options, save, tiny_data, tiny_spec
from sweeps.attempt.journal import JOURNAL, Journal, attempt_folder, run_folder
from sweeps.driver.sweep import run_sweep
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Entry, Needs, Run, State
from sweeps.plan.rows import spec_columns
from sweeps.pools.base import PoolOptions
from sweeps.pools.start import start
from sweeps.record.recorder import Recorder
from sweeps.record.tracking import ENVIRONMENT, MlflowStore, client, tracking_uri

TARGETS = {
    "overhead, warm process": (0.2, "s"),
    "overhead, fresh process": (1.5, "s"),
    "driver per run": (10.0, "ms"),
    "recorder": (2500.0, "points/s"),
    "status": (1.0, "s"),
}
NUMBERS = dict.fromkeys(("loss", "learning_rate", "grad_norm", "tokens", "flops", "tokens_per_s"), 1.5)
"""Of a training step."""


def tiny_entries(folder: Path, count: int, steps: int, needs: Needs | None = None) -> list[Entry]:
    """Runs of about `steps` milliseconds each, on a corpus of a few kilobytes below `folder`."""
    data = tiny_data(folder / "corpus")
    specs = [tiny_spec(data, seed=seed, steps=steps) for seed in range(count)]
    return [
        Entry(
            spec=spec,
            dataset=str(data.folder),
            predicted_s=1.0,
            columns=spec_columns(spec),
            needs=needs or Needs(),
            options={"device": "cpu"},
        )
        for spec in specs
    ]


def trained_s(run: Run) -> float:
    return float(run.result["train_s"] + run.result["evaluation_s"])


def overhead(folder: Path, runs: int = 16) -> dict[str, float]:
    """Seconds per run in which a slot does not train, once the first run has ended."""
    results = {}
    for name, needs in (("warm process", Needs()), ("fresh process", Needs(gpus=1.0))):
        out = folder / name.replace(" ", "-")
        entries = tiny_entries(folder, runs, 300, needs)
        with Ledger(out / "s" / "ledger") as ledger:
            pool = start("ray", PoolOptions(cpus=1, gpus=1))
            run_sweep(entries, ledger, pool, sweep="s", tracking=tracking_uri(out))
            runs_by_end = sorted(ledger.runs(), key=lambda run: run.ended or 0.0)
        pairs = itertools.pairwise(runs_by_end)
        gaps = [float(b.ended or 0.0) - float(a.ended or 0.0) - trained_s(b) for a, b in pairs]
        results[f"overhead, {name}"] = median(gaps)
    return results


def tune_trial(runs: int = 16) -> float:
    """Seconds per trial of Ray Tune whose function returns at once, on one slot."""
    script = (
        "import logging, sys, time, ray; from ray import tune\n"
        "logging.disable(logging.WARNING)\n"
        "ray.init(num_cpus=1, include_dashboard=False, logging_level=40, object_store_memory=2**27)\n"
        "run = lambda n: tune.Tuner(lambda config: {'loss': 1.0}, param_space={'x': tune.grid_search(list("
        "range(n)))}, run_config=tune.RunConfig(verbose=0)).fit()\n"
        "run(1); began = time.perf_counter(); run(int(sys.argv[1]))\n"
        "print((time.perf_counter() - began) / int(sys.argv[1]))\n"
    )
    command = [sys.executable, "-P", "-c", script, str(runs)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    return float(out.stdout.splitlines()[-1])


def many(folder: Path, runs: int) -> dict[str, float]:
    """CPU time of the driver, Ray's threads included, per run of a sweep of short runs."""
    entries = tiny_entries(folder, runs, 20)  # about .1 s each
    before, began = time.process_time(), time.perf_counter()
    out = folder / "many"
    with Ledger(out / "s" / "ledger") as ledger:
        pool, tracking = start("ray"), tracking_uri(out)
        report = run_sweep(entries, ledger, pool, sweep="s", tracking=tracking, grace_s=300.0)
    wall_s = time.perf_counter() - began
    assert report.counts == {"finished": runs}, report.sentence
    return {
        "driver per run": 1000 * (time.process_time() - before) / runs,
        "trained per run, ms": 1000 * sum(map(trained_s, report.runs)) / runs,
        "wall of all runs, s": wall_s,
    }


def journals(folder: Path, runs: int, steps: int) -> Ledger:
    """A ledger of finished runs whose journals are not recorded yet."""
    ledger = Ledger(folder / "s" / "ledger")
    ledger.enlist()
    entries = tiny_entries(folder, runs, 20)
    ledger.register(entries)
    for entry in entries:
        claim = ledger.claim(entry.key)
        assert claim is not None, "this is the only driver"
        run = run_folder(folder / "s", entry.family, entry.key)
        with Journal(attempt_folder(run, 1) / JOURNAL) as journal:
            for step in range(1, steps + 1):
                journal.append({"kind": "train", "step": step, **NUMBERS})
        result = {"key": entry.key, "bound": 1.0, "steps_done": steps, "train_s": 1.0, "evaluation_s": 0.1}
        ledger.end(claim, State.FINISHED, sentence="", result=result)
    return ledger


def recorder(
    folder: Path, store: str | None = None, *, runs: int = 100, steps: int = 200
) -> dict[str, float]:
    """Points per second through the recorder, and with `log_metrics` for every step."""
    sqlite = f"sqlite:///{folder / 'mlflow.db'}"
    sweep = f"benchmark {uuid.uuid4().hex[:8]}"
    there = MlflowStore(store or sqlite, sweep)
    there.open()  # makes the database
    with journals(folder, runs, steps) as ledger:
        one = Recorder(ledger, sweep, there)
        began = time.perf_counter()
        one.pass_once()
        rate = runs * steps * len(NUMBERS) / (time.perf_counter() - began)

    os.environ.update(ENVIRONMENT)
    import mlflow

    client(sqlite)
    mlflow.set_tracking_uri(sqlite)
    mlflow.set_experiment("by step")
    with mlflow.start_run():
        mlflow.log_metrics(NUMBERS, step=0)
        began = time.perf_counter()
        for step in range(1, steps + 1):
            mlflow.log_metrics(NUMBERS, step=step)
        by_step = steps * len(NUMBERS) / (time.perf_counter() - began)
    # the target is one for SQLite
    return {"recorder, points/s" if store else "recorder": rate, "log_metrics per step, points/s": by_step}


def status(folder: Path, runs: int = 10_000) -> dict[str, float]:
    """Seconds of `scaling status` as a command, the best of five; and of `search_runs` for as many runs."""
    (first,) = tiny_entries(folder, 1, 20)
    sweep = folder / "out" / "many"
    with Ledger(sweep / "ledger") as ledger:
        sizes = [f"{width}x1" for width in (4, 6, 8, 12, 16)]
        entries = []
        for number in range(runs):
            size, budget = sizes[number % 5], 1e9 * 2 ** (number // 5 % 4)
            named = replace(first.spec.size, name=size)
            spec = replace(first.spec, seed=number, budget=budget, size=named)
            entries.append(replace(first, key=f"{number:016x}", spec=spec, predicted_s=1.0))
        ledger.register(entries)
        done = json.dumps({"bound": 2.5, "bound_se": 0.01, "bits_per_byte": 3.6, "train_s": 9.0})
        with ledger.write() as db:
            db.execute("UPDATE runs SET state = 'finished', attempt = 1, result = ?", (done,))
    config = folder / "many.yaml"
    config.write_text(
        "name: many\nfamilies: [uniform]\nladder: desk\ngrid: {budgets: [1e9], sizes: [4x1]}\n"
        "context_length: 16\nlearning_rate: {base: 1e-3}\nbatch: {base_tokens: 64}\n"
    )
    command = [sys.executable, "-P", "-m", "sweeps.cli", "status", "--config", str(config)]
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([*command, "--out", str(folder / "out")], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return {"status": min(times)}


def main() -> None:
    parser = options(__doc__, "scheduling")
    parser.add_argument("--only", choices=("overhead", "many", "recorder", "status"))
    parser.add_argument("--runs", type=int, default=1000, help="of `many`")
    parser.add_argument("--store", help="of `recorder`: record here, such as postgresql://... or http://...")
    parser.add_argument("--no-tune", action="store_true", help="without Ray Tune beside")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "overhead": overhead,
        "many": lambda folder: many(folder, arguments.runs),
        "recorder": lambda folder: recorder(folder, arguments.store),
        "status": status,
    }
    results: dict[str, float] = {}
    for name, measure in parts.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                results |= measure(Path(folder))
    if "overhead, warm process" in results and not arguments.no_tune:
        results["Ray Tune trial, s"] = tune_trial()
    for name, value in results.items():
        target, unit = TARGETS.get(name, (None, ""))
        more = f" {unit} (target {target:g})" if target is not None else ""
        print(f"{name}: {value:.3g}{more}")
    save(arguments.out, results)


if __name__ == "__main__":
    main()
