"""Answers of the page: a budget, limits or a loss in, sentences, tables of texts and a figure out.

The laws are those of `analysis.recommend`, fitted once (`answers_of`) and kept; a question then takes about
a tenth of a second. The page composes no sentence and no number of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.answer.grade import FAR, FARTHEST
from analysis.answer.methods import FamilyLaws, fit_families
from analysis.answer.recommendation import Recommendation, answer_from, usual_budget
from analysis.answer.shown import costs_table, methods_table, ranking_caption, ranking_table
from analysis.dashboard import drawings
from analysis.dashboard.columns import records
from analysis.errors import UserError
from analysis.printed import TextTable

QUESTION = {
    "budget": "flops", "gpus": "gpus", "days": "days", "utilisation": "utilisation", "size": "params",
    "tokens": "tokens", "unique": "unique_tokens", "epochs": "epochs",
}  # fmt: skip
"""Fields of a question, and what `recommend` calls them."""
BEYOND = (3.0, 10.0, 30.0, 100.0)
MOST_MEASURED = 6


@dataclass(frozen=True, slots=True)
class Answers:
    """The laws behind all answers for one way of counting."""

    families: Mapping[str, FamilyLaws]
    refused: Mapping[str, str]
    problem: str
    """Why no family has a law; "" if one has."""
    measured: tuple[float, ...]
    """The largest budgets of the runs."""

    def answer(
        self, question: Mapping[str, str], *, draw: bool = True, paint: bool = False
    ) -> dict[str, Any]:
        """What the page shows for a question; without a budget for ten times the largest one. A refused
        answer has no numbers. draw: with its figure, which takes longer than all else; paint: and the
        figure's first paint. UserError for a bad question."""
        answer = self._answer(question)
        content: dict[str, Any] = {
            "sentences": answer.sentences, "grade": answer.grade, "confidence": answer.confidence,
            "more": list(answer.causes[1:]), "refused": dict(answer.refused),
        }  # fmt: skip
        if answer.sentence_only:
            return content
        if draw and len(answer.table) > 1:
            figure = drawings.plain(answer.plot()) | {"nats": True}
            content["figure"] = figure | ({"svg": drawings.first_paint(figure)} if paint else {})
        return content | {
            "families": answer.table["family"].tolist(),
            "caption": ranking_caption(answer),
            "ranking": _plain(ranking_table(answer, ranges=True)),
            "methods": _plain(methods_table(answer)),
            "numbers": records(answer.table, 6),
        }

    def costs(self, loss: str) -> dict[str, Any]:
        """What a loss costs in every family. UserError if it is no loss."""
        try:
            value: Any = float(loss)
        except ValueError:
            value = loss
        costs = self._answer({}).budget_for(value)
        return {"caption": f"What a loss of {value:g} nats per token costs, the cheapest family first",
                "costs": _plain(costs_table(costs, self.families, FARTHEST))}  # fmt: skip

    def ready(self) -> list[tuple[str, str, str]]:
        """Budgets to choose from: the question ("" for the usual budget), the budget and what it is."""
        if self.problem:
            return []
        largest = max(family.largest_budget for family in self.families.values())
        choices = [(budget, "measured") for budget in self.measured]
        choices += [(factor * largest, f"{factor:g} times the largest") for factor in BEYOND]
        usual, ready = f"{FAR:g} times the largest", {}
        for budget, words in choices:
            text = f"{budget:.3g}".replace("e+0", "e").replace("e+", "e")
            ready[text] = ("" if words == usual else f"budget={text}", text, words)
        return list(ready.values())

    def _answer(self, question: Mapping[str, str]) -> Recommendation:
        if self.problem:
            raise UserError(self.problem)
        fields: dict[str, Any] = {QUESTION[name]: value for name, value in question.items() if value}
        if not fields.keys() & {"flops", "gpus", "days"}:
            fields["flops"] = usual_budget(self.families)
        return answer_from(self.families, self.refused, **fields)


def answers_of(frame: pd.DataFrame) -> Answers:
    """Fit runs as `fits.counted` gives them."""
    try:
        families, refused = fit_families(frame)
    except UserError as error:
        return Answers({}, {}, str(error), ())
    return Answers(families, refused, "", _measured(frame))


def _measured(frame: pd.DataFrame) -> tuple[float, ...]:
    rows = frame[frame["status"] == "finished"] if "status" in frame else frame
    spent = rows["budget"] if "budget" in rows and rows["budget"].notna().any() else rows["flops"]
    if rows["nominal"].isna().all():
        return ()
    means = np.exp(np.log(spent.astype(float)).groupby(rows["nominal"]).mean())
    return tuple(sorted(means))[-MOST_MEASURED:]


def _plain(table: TextTable) -> dict[str, Any]:
    return {"columns": list(table.columns), "rows": [list(row) for row in table.rows]}
