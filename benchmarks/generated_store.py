"""A tracking database with thousands of made-up runs and their loss curves, written in one go."""

from __future__ import annotations

import math
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from analysis.table.columns import TRAIN_LOSS, to_mlflow

FAMILIES = {
    "ar": (1.70, 400, 400),
    "masked": (1.82, 560, 520),
    "uniform": (1.86, 620, 540),
    "esoteric": (1.82, 540, 520),
    "hybrid": (1.84, 580, 540),
    "block": (1.75, 470, 450),
    "gaussian": (1.90, 700, 600),
}
"""E, A and B of the surface that each family's losses follow; alpha .34 and beta .28."""
NOISE = 0.004
BITS = 1.0 / math.log(2) / 3.7
STARTED_MS = 1_795_000_000_000


def made_up_runs(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`count` rows of the run table: families x 12 budgets x 17 sizes x seeds; one in a hundred diverged."""
    rng = np.random.default_rng(seed)
    budgets, spans = np.geomspace(1e18, 3e21, 12), np.geomspace(0.15, 7, 17)
    for number in range(count):
        family, size = list(FAMILIES)[number % 7], number // 84 % 17
        budget = float(budgets[number // 7 % 12])
        E, A, B = FAMILIES[family]
        params = round(0.09 * budget**0.5 * float(spans[size]))
        tokens = round(budget / 6 / params)
        loss = (E + A / params**0.34 + B / tokens**0.28) * math.exp(rng.normal(0, NOISE))
        diverged = rng.random() < 0.01
        row = {
            "sweep": "generated",
            "family": family,
            "size": f"s{size:02d}",
            "key": f"{number:016x}",
            "seed": number // 1428 + 1,
            "status": "diverged" if diverged else "finished",
            "budget": budget,
            "flop_convention": "exact",
            "flops": budget,
            "flops_exact": budget,
            "flops_6nd": budget * 0.93,
            "flops_sahoo2026": budget * 0.96,
            "params": params,
            "params_total": params * 1.12,
            "params_non_embedding": params,
            "params_body": params * 0.91,
            "tokens": tokens,
            "bound": "exact" if family == "ar" else "upper",
            "objective": "nelbo",
            "context_length": 2048,
            "batch_size": 256,
            "steps": max(1, tokens // 524288),
            "learning_rate": 0.001,
            "vocab_size": 32000,
            "corpus": "made up",
            "tokenizer": "made up",
            "data_fingerprint": "0" * 16,
            "wall_s": budget / 1e15,
            "tokens_per_s": 1e6,
            "device": "made up",
            "host": f"node{number % 16:02d}",
        }
        measured = {"loss": loss, "loss_se": 0.002, "bits_per_byte": loss * BITS}
        yield row if diverged else row | measured


def write_store(path: Path, runs: int, points: int) -> str:
    """Write an MLflow database of `runs` made-up runs with `points` of loss each; its URI."""
    import mlflow

    uri = f"sqlite:///{path}"
    mlflow.MlflowClient(tracking_uri=uri).create_experiment("generated")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA synchronous = OFF")
        select = "SELECT experiment_id FROM experiments WHERE name = 'generated'"
        experiment = db.execute(select).fetchone()[0]
        for number, row in enumerate(made_up_runs(runs)):
            add_run(db, experiment, row, number, points)
    db.close()
    return uri


def add_run(db: sqlite3.Connection, experiment: int, row: dict[str, Any], number: int, points: int) -> None:
    """One run with its texts, last metrics and curve."""
    run_id, at = uuid.UUID(int=number + 1).hex, STARTED_MS + 1000 * number
    params, tags, metrics = to_mlflow(row)
    tags["mlflow.runName"] = f"{row['family']}-{number:05d}"
    ended = "FINISHED" if row["status"] == "finished" else "FAILED"
    names = (
        "run_uuid, name, experiment_id, status, start_time, end_time, lifecycle_stage, artifact_uri, "
        "source_type, user_id, source_name, entry_point_name, source_version"
    )
    run = (run_id, tags["mlflow.runName"], experiment, ended, at, at + 900, "active", "/tmp", "LOCAL")
    db.execute(f"INSERT INTO runs ({names}) VALUES (?,?,?,?,?,?,?,?,?,'','','','')", run)
    for table, texts in (("params", params), ("tags", tags)):
        rows = [(run_id, name, value) for name, value in texts.items()]
        db.executemany(f"INSERT INTO {table} (run_uuid, key, value) VALUES (?,?,?)", rows)
    last = [(run_id, name, value, at, 0, 0) for name, value in metrics.items()]
    steps, end = max(1, int(row["steps"])), float(row.get("loss") or 3.0)
    curve = []
    for n in range(points):
        loss, step = end + 4.0 * math.exp(-6.0 * (n + 1) / points), max(1, steps * (n + 1) // points) + n
        curve.append((run_id, TRAIN_LOSS, loss, at + n, step, 0))
    insert = "INSERT INTO {} (run_uuid, key, value, timestamp, step, is_nan) VALUES (?,?,?,?,?,?)"
    db.executemany(insert.format("latest_metrics"), last)
    db.executemany(insert.format("metrics"), [*last, *curve])
