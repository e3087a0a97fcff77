"""The answer in a terminal: which family and size a budget should buy, or what a loss costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.text import count_text, interval_text
from scaling.errors import UserError
from scaling.families import family_name
from sweeps.results.laws import RunTable
from sweeps.show.steps import Waiting
from sweeps.show.tables import RowsTable

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.answer.recommendation import Recommendation

STYLES = {"reliable": "green", "with care": "yellow", "do not use": "red"}
BEYOND = 10.0
"""A budget that nobody named is this factor beyond the largest one measured."""


def show_answer(
    table: RunTable,
    out: Console,
    *,
    reference: str = "ar",
    flops: str | None = None,
    loss: float | None = None,
    as_json: bool = False,
    samples: Path | None = None,
    speed: Mapping[str, Any] | None = None,
    **limits: Any,
) -> bool:
    """Print the answer of the finished runs; whether there is one that can be used, for every family.

    flops: None is ten times the largest budget measured, unless limits name one. limits: of
    `analysis.recommend`. loss: what reaching it costs, instead of a budget. samples: the file of samples of
    these runs; speed: one that is asked of them, tokens_per_s or latency_s.
    """
    from analysis.answer.grade import REFUSED
    from analysis.answer.recommendation import recommend, usual_budget
    from analysis.speed.samples import load_samples

    if loss is not None and (flops is not None or limits or speed):
        raise UserError("--loss asks for its budget, so give neither a budget nor limits beside it")
    with Waiting(out, "asking the laws ...") as step:
        answer = recommend(
            table.frame, _usual(table.frame, limits) if flops is None else flops,
            reference=family_name(reference, table.families),
            report=lambda name, number, of: step(
                f"fitting {name or 'these runs'} ({number + 1} of {of}) ..."
            ),
            samples=load_samples(samples) if samples is not None else None, **(speed or {}), **limits,
        )  # fmt: skip
        if flops is None and not limits.keys() & {"gpus", "days"}:
            answer = answer.at(usual_budget(answer.families), **limits)  # as page and report do
    if loss is not None:
        show_costs(answer, loss, out, as_json=as_json)
        return not answer.refused
    if as_json:
        out.file.write(json.dumps(answer.to_dict(), indent=1, allow_nan=False) + "\n")
    else:
        print_answer(answer, out)
    return not answer.refused and answer.grade != REFUSED


def print_answer(answer: Recommendation, out: Console) -> None:
    """The sentences, the ranking, and what each method says where they differ."""
    for sentence in answer.sentences:
        out.print(sentence, style="bold")
    out.print(answer.confidence, style=STYLES[answer.grade])
    if answer.sentence_only:
        return
    from analysis.answer.shown import difference_note

    rows = [
        {
            "family": row["family"] or "these runs",
            "params": count_text(row["params"]),
            "tokens": count_text(row["tokens"]),
            "loss": interval_text(row["loss"], row["loss_low"], row["loss_high"], digits=4),
            "above the best": answer.difference_text(row),
            "best in": answer.share_text(row["best_share"]),
        }
        for row in answer.table.to_dict(orient="records")
    ]
    out.print(RowsTable(title="", rows=rows, spare=("tokens", "params")))
    if note := difference_note(answer):
        out.print(note, style="dim")
    for name, reason in answer.refused.items():
        out.print(f"no law of {name or 'these runs'}: {reason}", style="yellow")


def show_costs(answer: Recommendation, loss: float, out: Console, *, as_json: bool) -> None:
    """What a loss costs in every family."""
    from analysis.answer.grade import FARTHEST
    from analysis.answer.shown import costs_table

    costs = answer.budget_for(loss).astype(object)
    rows = costs.where(costs.notna(), None).to_dict(orient="records")
    if as_json:
        finite = [{k: None if v in (float("inf"), None) else v for k, v in row.items()} for row in rows]
        out.file.write(json.dumps(finite, indent=1, allow_nan=False) + "\n")
        return
    text = costs_table(answer.budget_for(loss), answer.families, FARTHEST)
    rows = [(row[0] or "these runs", *row[1:]) for row in text.rows]
    cells = [dict(zip(text.columns, row, strict=True)) for row in rows]
    out.print(RowsTable(title=f"what a loss of {loss:g} nats per token costs", rows=cells))


def _usual(frame: pd.DataFrame, limits: Mapping[str, Any]) -> float | None:
    """Ten times the largest budget of the finished runs; None if the limits name a budget."""
    if "gpus" in limits or "days" in limits:
        return None
    done = frame[frame["status"] == "finished"] if "status" in frame else frame
    column = "budget" if "budget" in done and done["budget"].notna().any() else "flops"
    spent = done[column] if column in done else 6 * done["params"] * done["tokens"]
    if not spent.notna().any():
        raise UserError("there is no finished run to answer from")
    return BEYOND * float(spent.max())
