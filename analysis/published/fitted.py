"""A published law that answers like a fitted one: `predict`, `optimal`, `frontier`, without intervals."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate
from analysis.frontier import (
    Cost,
    Optimum,
    as_flops,
    complete_run,
    frontier_exponents,
    number_column,
    optimal_logs,
    optimal_loss,
    same_shape,
    surface_loss,
)
from analysis.printed import Printed, TextTable, notes_html, words
from analysis.text import value_text

NUMBERS = ("params", "tokens", "tokens_per_param", "loss")
SYMBOLS = ("E", "A", "B", "alpha", "beta")
ASIDE = ("withdrawn", "disputed", "corrected")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PublishedLaw(Printed):
    """A row of `analysis.published.laws()` as a law: counts, FLOPs = 6 N D, loss in nats per token.

    What was published as a formula predicts any run; power laws of the frontier answer for the best runs
    only. No number has an interval. Of a law of repeated text this is the law of text read once.
    """

    row: Mapping[str, Any]
    cost = Cost()

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def family(self) -> str:
        return str(self.row["family"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know: a standing that is not "valid", and what the numbers count."""
        row = self.row
        standing = [f"{row['status']}: {row['note']}"] if row["status"] in ASIDE else []
        counts = f"params counted {row['params_counted']}, FLOPs {row['flops_counted']}"
        return (*standing, f"{counts}; loss: {row['loss_fitted']}, {row['corpus']}, {row['tokenizer']}")

    def _parameters(self) -> dict[str, Estimate]:
        return {name: Estimate(self.row[name]) for name in SYMBOLS if not pd.isna(self.row[name])}

    def _theta(self, question: str) -> np.ndarray:
        parameters = self._parameters()
        if len(parameters) < len(SYMBOLS):
            what = "was published as power laws of the best runs, which say nothing of other runs"
            raise UserError(f"{question}: {self.name} {what}")
        return np.array([[float(value) for value in parameters.values()]])

    @property
    def exponents(self) -> dict[str, Estimate]:
        """Exponents in compute, as printed; those of a formula are worked out where none was printed."""
        row = self.row
        loss = "reducible_loss" if row["loss_form"] == "reducible" else "loss"
        names = {"params": "params", "tokens": "tokens", loss: "loss"}
        exponents = {
            name: Estimate(row[f"{column}_exponent"])
            for name, column in names.items()
            if not pd.isna(row[f"{column}_exponent"])
        }
        if len(self._parameters()) == len(SYMBOLS):
            worked_out = frontier_exponents(self._theta("exponents")[0], self.cost)
            exponents = {name: Estimate(float(value)) for name, value in worked_out.items()} | exponents
        return exponents

    def predict(self, params: Any = None, tokens: Any = None, flops: Any = None) -> Estimate | pd.DataFrame:
        """Loss of a run, from two of params, tokens and FLOPs: an Estimate, for arrays a DataFrame. UserError
        for a law without a formula."""
        theta = self._theta("predict")
        arrays = same_shape("predict", **complete_run(self.cost, params, tokens, flops))
        loss = surface_loss(theta, arrays["params"].ravel(), arrays["tokens"].ravel())[0]
        if arrays["params"].ndim == 0:
            return Estimate(loss[0])
        return pd.DataFrame({name: array.ravel() for name, array in arrays.items()} | {"loss": loss})

    def frontier(self, flops: object) -> pd.DataFrame:
        """The best run at each budget: flops, params, tokens, tokens_per_param, loss; pandas.NA for what was
        not published. UserError if none of them was."""
        table = published_frontier(self.row, as_flops(flops))
        if table is None:
            raise UserError(
                f"frontier: {self.name} was published without coefficients, only its exponents are known"
            )
        return table

    def optimal(self, flops: Any) -> Optimum | pd.DataFrame:
        """The best run at one budget; for several the table of `frontier`. UserError if a part of it was not
        published; `frontier` has the rest."""
        table = self.frontier(flops)
        if np.ndim(flops):
            return table
        missing = [name for name in NUMBERS if pd.isna(table[name][0])]
        if missing:
            has = ", ".join(name for name in NUMBERS if name not in missing)
            raise UserError(
                f"optimal: {self.name} was published without {', '.join(missing)}; frontier has its {has}"
            )
        return Optimum(
            flops=float(table["flops"][0]), note="", **{name: Estimate(table[name][0]) for name in NUMBERS}
        )

    def summary(self) -> pd.DataFrame:
        """One row per published number: quantity, value, low and high (pandas.NA)."""
        numbers = self._parameters() | {
            f"exponent of {name}": value for name, value in self.exponents.items()
        }
        for name in ("params", "tokens", "loss"):
            if not pd.isna(self.row[f"{name}_coefficient"]):
                numbers[f"coefficient of {name}"] = Estimate(self.row[f"{name}_coefficient"])
        none = number_column([None] * len(numbers))
        values = [float(value) for value in numbers.values()]
        return pd.DataFrame({"quantity": list(numbers), "value": values, "low": none, "high": none})

    def text_table(self) -> TextTable:
        rows = self.summary()[["quantity", "value"]].itertuples(index=False)
        cells = tuple((words(name), value_text(name, value)) for name, value in rows)
        return TextTable(columns=("quantity", "published value"), rows=cells, plain_head=True)

    @property
    def _head(self) -> str:
        row = self.row
        source = f"{row['paper']} (arXiv {row['arxiv']}), {row['evidence']}"
        return f"{row['name']}: {row['method']} law of {row['family']}, {source}"

    def __str__(self) -> str:
        return "\n".join(
            [self._head, "", str(self.text_table()), *(f"note: {note}" for note in self.warnings)]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._head)}</p>{self.text_table().to_html()}{notes_html(self.warnings)}"

    def __getattr__(self, name: str) -> Estimate:
        if name == "row":  # a copy that is being made
            raise AttributeError(name)
        if name in SYMBOLS and name in self._parameters():
            return self._parameters()[name]
        raise AttributeError(f"the published law {self.row['name']} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._parameters()]


def published_frontier(row: Mapping[str, Any], flops: np.ndarray) -> pd.DataFrame | None:
    """params, tokens, tokens_per_param, loss of a row of `laws()` at flops (m,), missing if it does not give
    them; None if it gives none. C = 6 N D."""
    values: dict[str, Any] = dict.fromkeys(NUMBERS)
    if not any(pd.isna(row[symbol]) for symbol in SYMBOLS):
        theta = np.array([[float(row[symbol]) for symbol in SYMBOLS]])
        logs = optimal_logs(theta, flops, Cost())
        values["params"], values["tokens"] = (np.exp(log[0]) for log in logs)
        values["loss"] = theta[0, 0] + optimal_loss(theta, *logs)[0]
    else:
        counted = "not a parameter count" not in str(row["params_counted"])
        for name in ("params", "tokens", "loss") if counted else ("tokens", "loss"):
            coefficient, exponent = row[f"{name}_coefficient"], row[f"{name}_exponent"]
            if not pd.isna(coefficient) and not pd.isna(exponent):
                values[name] = float(coefficient) * flops ** float(exponent)
        if values["params"] is not None and values["tokens"] is None:
            values["tokens"] = flops / 6 / values["params"]
    if all(value is None for value in values.values()):
        return None
    if values["params"] is not None and values["tokens"] is not None:
        values["tokens_per_param"] = values["tokens"] / values["params"]
    return pd.DataFrame(
        {"flops": flops}
        | {name: number_column([None] * len(flops) if v is None else list(v)) for name, v in values.items()}
    )
