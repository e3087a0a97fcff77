"""Losses along runs: the training objective, and held-out losses on an axis of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis import figures
from analysis.errors import UserError
from analysis.figures.curves import run_curves
from tests.analysis.figures.test_figures import names_of, of_role


class TestLossCurves:
    def curves(self, keys: list[str], steps: int = 3000) -> pd.DataFrame:
        step = np.arange(steps)  # the first has no compute: it cannot stand on a logarithmic axis
        parts_of = [
            pd.DataFrame({"key": key, "step": step, "tokens": 1e3 * step, "flops": 1e9 * step})
            for key in keys
        ]  # fmt: skip
        return pd.concat(parts_of).assign(loss=lambda frame: 3 + 1 / (1 + frame["step"]))

    def runs(self, **columns: Any) -> pd.DataFrame:
        return pd.DataFrame(
            {"key": ["a1", "b2"], "family": "ar", "size": "6M", "budget": [1e12, 3e12], "status": "finished",
             "params": 1e5, "tokens": 3e6, "flops": 3e12, "loss": [3.1, 2.9]} | columns
        )  # fmt: skip

    def test_means_over_stretches(self) -> None:
        curves = self.curves(["a1", "b2", "unknown"])
        table = figures.loss_curves_table(self.runs(), curves)
        assert set(table["key"]) == {"a1", "b2"}
        for _, part in table.groupby("key"):
            assert 30 < len(part) <= 60
            assert part["points"].sum() == 2999  # every step but the one that has no compute
            assert (part["step"].min(), part["step"].max()) == (1, 2999)
            assert part["flops"].is_monotonic_increasing
            mean = (part["loss"] * part["points"]).sum() / 2999
            assert mean == pytest.approx(curves["loss"].iloc[1:3000].mean(), rel=1e-12)

    def test_one_point_is_a_curve(self) -> None:
        table = figures.loss_curves_table(self.runs(), self.curves(["a1"], steps=2))
        assert table[["step", "points"]].to_numpy().tolist() == [[1, 1]]

    def test_one_family_is_coloured_by_budget(self) -> None:
        figure = figures.loss_curves(self.runs(status=["finished", "diverged"]), self.curves(["a1", "b2"]))
        assert names_of(figure) == ["1.0e12", "3.0e12"]
        (end,) = of_role(figure, "points")
        assert list(end.y) == [3.1]  # a diverged run has no bound

    def test_the_objective_and_the_bound_have_axes_of_their_own(self) -> None:
        figure = figures.loss_curves(self.runs(objective="low_variance"), self.curves(["a1", "b2"]))
        assert {t.yaxis for t in of_role(figure, "line")} == {"y"}
        assert {t.yaxis for t in of_role(figure, "points")} == {"y2"}
        assert "low-variance objective" in figure.layout.yaxis.title.text
        assert "not the bound" in figure.layout.yaxis.title.text
        assert figure.layout.yaxis2.title.text == "Held-out bound (nats per token)"
        assert {key for t in of_role(figure, "line") for key in t.customdata} == {"a1", "b2"}

    def test_held_out_losses_during_training_are_points_beside_the_bound(self) -> None:
        curves = self.curves(["a1", "b2"]).reset_index(drop=True)
        at = curves["step"].isin([30, 300, 2999]) & (curves["key"] == "a1")
        curves["held_out_loss"] = (curves["loss"] + 1).where(at)
        curves["held_out_loss_se"] = curves["loss"].where(at) * 0.1
        only = curves[at].assign(loss=math.nan, step=1, tokens=1e3, flops=1e9, held_out_loss=9.0)
        figure = figures.loss_curves(self.runs(), pd.concat([curves, only.head(1)]))
        plain = figures.loss_curves(self.runs(), self.curves(["a1", "b2"]))
        objectives = [[list(t.y) for t in of_role(f, "line") if t.yaxis == "y"] for f in (figure, plain)]
        assert objectives[0] == objectives[1]
        (measured,) = [t for t in of_role(figure, "line") if t.yaxis == "y2"]
        assert measured.mode == "lines+markers"
        assert list(measured.x) == [1e9, 30e9, 300e9, 2999e9]
        assert list(measured.y) == pytest.approx([9, 4 + 1 / 31, 4 + 1 / 301, 4 + 1 / 3000])
        assert "held-out 4.0323 ± 0.3032 on a small text at step 30" in measured.hovertext[1]
        assert (figure.layout.yaxis2.type, plain.layout.yaxis2.type) == ("log", None)
        assert "the same small held-out text" in figure.layout.meta["caption"]
        assert "small" not in plain.layout.meta["caption"]
        assert {len(t.y) for t in of_role(figure, "points")} == {1}, "the final bounds are there as before"

    def test_several_families_are_coloured_by_family(self) -> None:
        runs = self.runs(family=["uniform", "ar"]).set_index(pd.Index(["6M at 1e12", "6M at 3e12"]))
        figure = figures.loss_curves(runs, self.curves(["a1", "b2"]), x="tokens")
        assert names_of(figure) == ["ar", "uniform"]
        assert figure.layout.xaxis2.title.text == "Training tokens"

    def test_missing_budget_no_points_and_bad_scale(self) -> None:
        runs = self.runs(budget=[1e12, None])
        assert names_of(figures.loss_curves(runs, self.curves(["a1"]))) == ["1.0e12", "unknown"]
        assert len(figures.loss_curves_table(runs, self.curves(["a1"]).iloc[:0])) == 0
        figures.loss_curves(runs, self.curves(["a1"]).iloc[:0])
        with pytest.raises(UserError, match="x = 'steps'"):
            figures.loss_curves(runs, self.curves(["a1"]), x="steps")


@pytest.mark.parametrize("several", [False, True])
def test_the_figure_that_a_page_fills_in_has_a_trace_of_each_kind_and_a_legend_for_several(
    several: bool,
) -> None:
    alone, both = (run_curves(held_out=held_out, several=several) for held_out in (False, True))
    assert (len(alone["data"]), len(both["data"])) == (1, 3)
    assert [trace.get("yaxis") for trace in both["data"]] == [None, "y2", "y2"]
    for figure in (alone, both):
        go.Figure(figure["data"], figure["layout"])  # refuses what Plotly does not know
        assert figure["layout"]["showlegend"] is several
        assert ("runs" in figure["caption"]) is several
