"""The rows of the run table for a run of the ledger: one, or one for each of its replicas."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from analysis.table.replicas import OWN, metric, rows_of
from scaling.spec import RunSpec
from sweeps.ledger.types import Run, State

_STATUS = {State.WAITING: "planned", State.UNSCHEDULABLE: "planned"}
"""States that the run table calls otherwise."""

LABEL_COLUMNS = ("loss_with_label", "label_leak", "label_leak_se", "label_cost")
"""Results of runs with labels."""

_FLOP_NAMES = {"2nd": "6nd"}
"""2ND per forward pass is 6ND per training step, its name in the table."""


def spec_columns(spec: RunSpec, *, unique_tokens: float | None = None) -> dict[str, Any]:
    """Columns of the run table that the spec alone determines, for a run that meets its budget; FLOPs, params
    and tokens are those of one network, however many replicas it trains.

    unique_tokens: tokens of the training text; None for an endless source, of which all are different.
    """
    family, size = spec.build_family(), spec.size
    non_embedding = spec.param_count("non_embedding")
    labels = {} if spec.labels is None else {"labels": f"{spec.labels.classes} {spec.labels.of}"}
    return {
        "family": spec.family,
        "size": size.name,
        "key": spec.key,
        "seed": spec.seed,
        "budget": spec.budget,
        "flop_convention": _FLOP_NAMES.get(spec.flop_convention, spec.flop_convention),
        "flops": spec.training_flops(),
        "flops_exact": spec.training_flops("exact"),
        "flops_6nd": spec.training_flops("2nd"),
        "flops_sahoo2026": spec.training_flops("sahoo2026"),
        "params": non_embedding,
        "params_total": spec.param_count("total"),
        "params_non_embedding": non_embedding,
        "params_body": spec.param_count("body"),
        "tokens": spec.tokens,
        "unique_tokens": spec.tokens if unique_tokens is None else min(spec.tokens, unique_tokens),
        "bound": family.bound,
        "objective": family.objective,
        "context_length": spec.data.context_length,
        "batch_size": spec.batch_size,
        "steps": spec.steps,
        "learning_rate": spec.optimizer.learning_rate,
        "vocab_size": spec.vocab_size,
        "corpus": spec.data.corpus,
        "tokenizer": spec.data.tokenizer,
        "data_fingerprint": spec.data.fingerprint,
        **labels,
        **({} if spec.replicas == 1 else {"replicas": spec.replicas}),
        **({} if spec.distillation is None else {"distilled_from": spec.distillation.of}),
    }


def run_row(run: Run, sweep: str, *, run_id: str | None = None) -> dict[str, Any]:
    """The row of `run`, with the names of `analysis.table.columns`; unknown values are left out. Of several
    replicas it has the means of losses and the sums of times.

    Only finished runs have losses. Tokens and FLOPs are those of the whole run, even if it ended before: the
    journal says how far a diverged run got.
    """
    result: Mapping[str, Any] = run.result
    columns = dict(run.columns) or spec_columns(RunSpec.from_dict(run.spec))
    columns |= {} if run.replicas == 1 else {"replicas": run.replicas}
    row = {"sweep": sweep, **columns, "status": _STATUS.get(run.state, str(run.state))}
    if run.state == State.FINISHED:
        row |= {
            "loss": result.get("bound"),
            "loss_se": result.get("bound_se"),
            "bits_per_byte": result.get("bits_per_byte"),
            **{name: result.get(name) for name in LABEL_COLUMNS},
        }
    if run.state in (State.FINISHED, State.DIVERGED):
        row["wall_s"] = run.worked_s
        costs = ("evaluation_s", "evaluation_flops", "tokens_per_s", "micro_batch")
        row |= {name: result.get(name) for name in costs}
    times = {"started": run.started, "ended": run.ended}
    row |= {
        "device": run.device,
        "host": run.host,
        "code_version": result.get("code_version"),
        "mlflow_run_id": run_id,
        **{name: None if at is None else datetime.fromtimestamp(at, UTC) for name, at in times.items()},
    }
    return {name: value for name, value in row.items() if value is not None}


def run_rows(run: Run, sweep: str, *, run_id: str | None = None) -> list[dict[str, Any]]:
    """As `run_row`, but a row for each replica, see `analysis.table.replicas`."""
    row = run_row(run, sweep, run_id=run_id)
    return [row] if run.replicas == 1 else rows_of(row, replica_numbers(run))


def replica_numbers(run: Run) -> dict[int, dict[str, float]]:
    """Replica, from 0 -> its own values in the run table, of the replicas of a run that have finished."""
    values = {name: name for name in OWN} | {"loss": "bound", "loss_se": "bound_se"}
    return {
        number: {column: float(one[name]) for column, name in values.items() if one.get(name) is not None}
        for number, one in enumerate(run.result.get("replicas") or ())
        if one["status"] == State.FINISHED
    }


def replica_metrics(run: Run) -> dict[str, float]:
    """The same as metrics of a tracking store."""
    return {
        metric(number, column): value
        for number, own in replica_numbers(run).items()
        for column, value in own.items()
    }
