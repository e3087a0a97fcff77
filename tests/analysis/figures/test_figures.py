"""Figures: the table says what is shown, the drawing shows the table, and files are whole and offline."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import analysis
from analysis import figures
from analysis.checks import influence
from analysis.errors import UserError
from analysis.figures import axes, parts, theme
from analysis.laws.isoflop import IsoflopLaw
from analysis.laws.surface import SurfaceLaw

BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20)


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return analysis.published.runs("sahoo2026")


@pytest.fixture(scope="module")
def isoflops(runs: pd.DataFrame) -> dict[str, IsoflopLaw]:
    families = runs.groupby("family")
    return {str(name): analysis.fit_law(part, method="isoflop", bootstrap=100) for name, part in families}


@pytest.fixture(scope="module")
def surface(runs: pd.DataFrame) -> SurfaceLaw:
    return analysis.fit_law(runs[runs["family"] == "uniform"], bootstrap=100)


@pytest.fixture(scope="module")
def comparison(runs: pd.DataFrame) -> Any:
    return analysis.compare(runs, method="isoflop", bootstrap=100)


@pytest.fixture(scope="module")
def refused(runs: pd.DataFrame) -> IsoflopLaw:
    """uniform with losses that only fall with size at the largest budget: its minimum is not bracketed."""
    uniform = runs[runs["family"] == "uniform"].assign(size="<b>x</b>")
    falling = 60 / np.log(uniform["params"])
    planted = uniform.assign(loss=uniform["loss"].where(uniform["flops"] < 9e19, falling))
    return analysis.fit_law(planted, method="isoflop", bootstrap=0)


def names_of(figure: go.Figure) -> list[str]:
    """The legend, top to bottom."""
    return [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]


def points(figure: go.Figure, symbol: str) -> list[go.Scatter]:
    return [
        t for t in figure.data if t.mode == "markers" and t.marker.symbol == symbol and t.x[0] is not None
    ]


class TestIsoflop:
    def test_table_holds_every_run_curve_and_minimum(self, isoflops: dict[str, IsoflopLaw]) -> None:
        law = isoflops["uniform"]
        table = figures.isoflop_table(law)
        shown = table[table["kind"] == "run"]
        assert sorted(shown["loss"]) == sorted(law.runs["loss"])
        minima = table[table["kind"] == "minimum"].set_index("flops")
        expected = law.minima.set_index("flops")
        for name in ("params", "params_low", "loss", "loss_high"):
            np.testing.assert_array_equal(minima[name], expected[name].astype(float))
        curve = table[(table["kind"] == "curve") & (table["flops"] == table["flops"].max())]
        # the drawn parabola has 101 points; one of them is this near the minimum
        assert abs(curve["loss"].min() - minima["loss"].iloc[-1]) < 1e-3

    def test_each_run_is_at_its_own_budget(self, isoflops: dict[str, IsoflopLaw]) -> None:
        law = isoflops["masked"]
        table = figures.isoflop_table(law)
        drawn = table[table["kind"] == "run"].merge(law.runs, on=["params", "tokens", "loss"])
        np.testing.assert_allclose(drawn["flops_x"], drawn["flops_y"], rtol=1e-9)

    def test_drawing_shows_the_table(self, isoflops: dict[str, IsoflopLaw]) -> None:
        figure = figures.isoflop(isoflops["uniform"])
        table = figures.isoflop_table(isoflops["uniform"])
        circles = points(figure, "circle")
        drawn = sorted(itertools.chain.from_iterable(trace.y for trace in circles))
        assert drawn == sorted(table.loc[table["kind"] == "run", "loss"])
        assert names_of(figure) == [axes.flops_text(flops) for flops in BUDGETS] + ["frontier"]
        (largest,) = [t for t in points(figure, "diamond") if t.name == "1.0e20"]
        minimum = table[(table["kind"] == "minimum") & (table["flops"] > 9e19)].iloc[0]
        assert largest.x[0] + largest.error_x.array[0] == pytest.approx(minimum["params_high"], rel=1e-12)
        assert largest.y[0] - largest.error_y.arrayminus[0] == pytest.approx(minimum["loss_low"], rel=1e-12)
        assert figure.layout.xaxis.type == "log"
        assert figure.layout.xaxis.title.text == "Parameters without embeddings"
        assert figure.layout.yaxis.title.text == "Held-out bound (nats per token)"
        assert "95%" in figure.layout.title.subtitle.text

    def test_refused_budget_is_hollow_and_says_why(self, refused: IsoflopLaw) -> None:
        figure = figures.isoflop(refused)
        (hollow,) = points(figure, "circle-open")
        assert hollow.name == "1.0e20"
        assert "above the largest size" in hollow.hovertext[0]
        assert "&lt;b&gt;x" in hollow.hovertext[0]  # a size is text, not markup
        assert len(points(figure, "diamond")) == 4
        assert "Hollow" in figure.layout.title.subtitle.text

    def test_a_panel_per_family_and_one_legend(self, isoflops: dict[str, IsoflopLaw]) -> None:
        figure = figures.isoflop(isoflops)
        titles = [note.text for note in figure.layout.annotations]
        assert titles == ["<b>ar</b>", "<b>masked</b>", "<b>uniform</b>", "<b>esoteric</b>"]
        assert names_of(figure) == [axes.flops_text(flops) for flops in BUDGETS] + ["frontier"]
        assert figure.layout.yaxis2.matches == "y"

    def test_without_intervals(self, refused: IsoflopLaw) -> None:
        lowest = points(figures.isoflop(refused), "diamond")[0]
        assert lowest.error_x.array == (None,)
        assert "brackets" not in lowest.hovertext[0]


class TestFrontier:
    def test_table_is_the_law_and_goes_beyond(self, surface: SurfaceLaw) -> None:
        table = figures.frontier_table(surface)
        low, high = surface.flops_range
        assert table["flops"].min() == pytest.approx(low)
        assert table["flops"].max() == pytest.approx(10 * high)
        row = table.iloc[7]
        assert row["params"] == pytest.approx(float(surface.optimal(row["flops"]).params))
        assert table[table["extrapolated"]]["flops"].min() == pytest.approx(high)

    def test_extrapolation_is_dashed_and_bands_are_closed(self, isoflops: dict[str, IsoflopLaw]) -> None:
        figure = figures.frontier(isoflops)
        lines = [t for t in figure.data if t.mode == "lines" and t.fill is None]
        assert len(lines) == 4 * 2 * len(isoflops)
        for line in lines:
            beyond = max(line.x) > 1.01 * max(BUDGETS)
            assert line.line.dash == ("dash" if beyond else "solid")
        bands = [t for t in figure.data if t.fill == "toself"]
        assert len(bands) == len(lines)
        half = len(bands[0].y) // 2
        assert all(top >= low for top, low in zip(bands[0].y[:half], bands[0].y[half:][::-1], strict=True))

    def test_legend_colours_and_units(self, isoflops: dict[str, IsoflopLaw]) -> None:
        figure = figures.frontier(isoflops)
        assert names_of(figure) == ["ar", "masked", "uniform", "esoteric"]
        for trace in figure.data:
            if trace.line.color:
                assert trace.line.color == theme.FAMILY_STYLES[trace.name].colour
        titles = [figure.layout[f"yaxis{n}"].title.text for n in ("", "2", "3", "4")]
        assert titles == [axes.LOSS, axes.PARAMS, axes.TOKENS, axes.TOKENS_PER_PARAM]
        assert figure.layout.xaxis3.title.text == "Training compute (FLOPs)"

    def test_one_surface_shows_its_runs(self, surface: SurfaceLaw) -> None:
        figure = figures.frontier(surface)
        (shown,) = [t for t in figure.data if t.mode == "markers" and len(t.x)]
        assert sorted(shown.y) == sorted(surface.runs["loss"])
        assert names_of(figure) == []
        assert figure.layout.title.text == "Compute-optimal frontier: uniform"

    def test_two_laws_of_one_family_look_different(
        self, isoflops: dict[str, IsoflopLaw], surface: SurfaceLaw
    ) -> None:
        laws = {"isoflop": isoflops["uniform"], "surface": surface}
        styles = parts.styles(laws)
        assert styles["isoflop"] == theme.FAMILY_STYLES["uniform"]
        assert styles["surface"].colour == theme.NEUTRAL
        assert names_of(figures.frontier(laws)) == ["isoflop", "surface"]
        with pytest.raises(UserError, match="laws is empty"):
            figures.frontier({})

    def test_axis_covers_minima_and_near_bands_only(self, isoflops: dict[str, IsoflopLaw]) -> None:
        @dataclass
        class Wide:
            """A law whose intervals are as good as infinite."""

            family: str = "ar"
            level: float = 0.95
            flops_range: tuple[float, float] = (1e18, 1e20)
            runs: pd.DataFrame = field(default_factory=lambda: isoflops["ar"].runs)

            def frontier(self, flops: np.ndarray) -> pd.DataFrame:
                table = pd.DataFrame({"flops": flops})
                for name in ("params", "tokens", "loss", "tokens_per_param"):
                    table[name], table[f"{name}_low"], table[f"{name}_high"] = 10.0, 1e-9, math.inf
                return table

        low, high = figures.frontier(Wide()).layout.yaxis2.range  # type: ignore[arg-type]
        assert -1 < low < math.log10(10 / 29)
        assert math.log10(290) < high < 3.5


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
        ends = [t for t in figure.data if t.mode == "markers"]
        assert [list(t.y) for t in ends] == [[3.1], []]  # a diverged run has no bound

    def test_several_families_are_coloured_by_family(self) -> None:
        runs = self.runs(family=["uniform", "ar"]).set_index(pd.Index(["6M at 1e12", "6M at 3e12"]))
        figure = figures.loss_curves(runs, self.curves(["a1", "b2"]), x="tokens")
        assert names_of(figure) == ["ar", "uniform"]
        assert figure.layout.xaxis.title.text == "Training tokens"
        assert figure.layout.yaxis.title.text == "Training loss (nats per token)"

    def test_missing_budget_no_points_and_bad_scale(self) -> None:
        runs = self.runs(budget=[1e12, None])
        assert names_of(figures.loss_curves(runs, self.curves(["a1"]))) == ["1.0e12", "unknown"]
        assert len(figures.loss_curves_table(runs, self.curves(["a1"]).iloc[:0])) == 0
        figures.loss_curves(runs, self.curves(["a1"]).iloc[:0])
        with pytest.raises(UserError, match="x = 'steps'"):
            figures.loss_curves(runs, self.curves(["a1"]), x="steps")


class TestCompare:
    def test_table_and_drawing(self, comparison: Any) -> None:
        table = figures.compare_table(comparison)
        assert table["family"].unique().tolist() == ["masked", "uniform", "esoteric"]
        figure = figures.compare(comparison)
        (masked,) = [t for t in figure.data if t.name == "masked"]
        own = table[table["family"] == "masked"]
        assert list(masked.y) == own["multiplier"].tolist()
        assert list(masked.x) == own["at_loss"].tolist()
        assert masked.text == ("6e18", "1e19", "3e19", "6e19", "1e20")
        hollow = [symbol.endswith("-open") for symbol in masked.marker.symbol]
        assert hollow == own["extrapolated"].tolist()
        tops = np.array(masked.y) + np.array(masked.error_y.array)
        np.testing.assert_allclose(tops, own["high"].astype(float), rtol=1e-12)
        assert figure.layout.xaxis.range[0] > figure.layout.xaxis.range[1]  # lower loss to the right
        assert "Compute over ar at equal loss" in figure.layout.yaxis.title.text
        assert "isoflop" in figure.layout.title.subtitle.text

    def fake(self, **columns: Any) -> Any:
        table = pd.DataFrame(
            {"family": "x<i>", "reference": "ar", "at_flops": np.geomspace(1e18, 1e20, 8),
             "at_loss": np.linspace(3, 2, 8), "reference_flops": 1e17, "multiplier": 10.0, "low": 0.0,
             "high": math.inf, "extrapolated": False, "law": "surface"}
            | columns
        )  # fmt: skip

        @dataclass
        class Fake:
            multipliers: pd.DataFrame
            reference: str = "ar"
            method: str = "surface"
            laws: dict[str, Any] = field(default_factory=lambda: {"ar": type("L", (), {"level": 0.9})})

        return Fake(table)

    def test_open_intervals_leave_the_picture(self) -> None:
        figure = figures.compare(self.fake())
        low, high = (10.0**end for end in figure.layout.yaxis.range)
        trace = figure.data[0]
        assert high < 10 + trace.error_y.array[0] < math.inf
        assert 0 < 10 - trace.error_y.arrayminus[0] < low
        assert trace.name == "x&lt;i&gt;"
        assert [bool(text) for text in trace.text] == [True, *[False] * 6, True]

    def test_no_intervals_and_no_multipliers(self) -> None:
        bare = figures.compare(self.fake(low=None, high=None))
        assert bare.data[0].error_y.array == (None,) * 8
        empty = self.fake()
        empty.multipliers = empty.multipliers.iloc[:0]
        with pytest.raises(UserError, match="no multiplier over ar"):
            figures.compare(empty)


class TestResiduals:
    def test_residuals_are_those_of_the_law(self, surface: SurfaceLaw) -> None:
        table = figures.surface_residuals_table(surface)
        row = table.iloc[3]
        predicted = float(surface.predict(row["params"], row["tokens"]))
        assert row["predicted"] == pytest.approx(predicted, rel=1e-12)
        assert row["residual_percent"] == pytest.approx(100 * math.log(row["loss"] / predicted), abs=1e-9)
        figure = figures.surface_residuals(surface)
        assert list(figure.data[0].y) == list(figure.data[1].y) == table["residual_percent"].tolist()
        assert {round(shape.y0, 6) for shape in figure.layout.shapes} == {-0.1, 0.0, 0.1}

    def test_a_planted_outlier_is_named(self, runs: pd.DataFrame) -> None:
        planted = runs[runs["family"] == "uniform"].reset_index(drop=True)
        planted.loc[4, ["loss", "size"]] = planted.loc[4, "loss"] * 1.2, "odd"
        law = analysis.fit_law(planted, bootstrap=0)
        table = figures.surface_residuals_table(law)
        assert "odd" in table[table["outlier"]]["label"].tolist()
        assert "odd" in figures.surface_residuals(law).data[0].text

    def test_the_checks_and_the_picture_name_the_same_outliers(self, runs: pd.DataFrame) -> None:
        planted = runs[runs["family"] == "uniform"].reset_index(drop=True)
        num_named = set()
        for factor in np.linspace(1.0, 1.02, 21):  # from no outlier to one that any threshold finds
            moved = planted.assign(loss=planted["loss"].where(planted.index != 4, planted["loss"] * factor))
            law = analysis.fit_law(moved, bootstrap=0)
            outlier = influence.influence_table(law)["outlier"].tolist()
            assert figures.surface_residuals_table(law)["outlier"].tolist() == outlier
            num_named.add(sum(outlier))
        assert len(num_named) > 1


class TestThemeOfFigures:
    def test_dark_changes_the_template_only(self, surface: SurfaceLaw) -> None:
        light, dark = figures.surface_residuals(surface), figures.surface_residuals(surface)
        figures.set_theme(dark, "dark")
        assert dark.layout.template.layout.paper_bgcolor == theme.PALETTES["dark"].paper
        light.layout.template = dark.layout.template = None
        assert light == dark
        with pytest.raises(UserError, match="theme = 'blue'"):
            figures.set_theme(dark, "blue")


class TestSave:
    @pytest.fixture
    def figure(self, isoflops: dict[str, IsoflopLaw]) -> go.Figure:
        return figures.isoflop(isoflops["uniform"])

    def test_png_and_svg(self, figure: go.Figure, tmp_path: Path) -> None:
        png = figures.save(figure, tmp_path / "deep" / "er" / "a.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert png == figures.save(figure, tmp_path / "b.png").read_bytes()  # no date inside
        svg = figures.save(figure, str(tmp_path / "a.svg")).read_text()
        assert svg.startswith("<?xml")
        assert svg == figures.save(figure, tmp_path / "b.svg").read_text()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svg", "b.png", "b.svg", "deep"]

    def test_html_needs_nothing_else(self, figure: go.Figure, tmp_path: Path) -> None:
        figure.update_layout(title_text="</title></script><script>alert(1)</script>")
        page = figures.save(figure, tmp_path / "a.html").read_text()
        assert 4e6 < len(page) < 6e6
        assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)=", page)
        assert "<script>alert(1)" not in page
        assert '<html lang="en">' in page

    def test_other_suffix(self, figure: go.Figure, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"saved as one of \.png, \.svg, \.html"):
            figures.save(figure, tmp_path / "a.jpg")

    def test_a_failure_leaves_the_old_file(self, figure: go.Figure, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_text("old")
        figure.add_bar(x=[1], y=[1])
        with pytest.raises(ValueError, match="scatter traces only"):
            figures.save(figure, tmp_path / "a.png")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]

    def test_dark_page(self, figure: go.Figure) -> None:
        assert f"background: {theme.PALETTES['dark'].paper}" in figures.page(
            figures.set_theme(figure, "dark")
        )


def test_every_figure_is_plain_json(
    isoflops: dict[str, IsoflopLaw], comparison: Any, surface: SurfaceLaw
) -> None:
    drawn = [
        figures.isoflop(isoflops),
        figures.frontier(isoflops),
        figures.compare(comparison),
        figures.surface_residuals(surface),
        isoflops["ar"].plot(),
        comparison.plot(),
    ]
    for figure in drawn:
        assert "NaN" not in json.dumps(json.loads(figure.to_json()))


def test_import_is_light() -> None:
    code = (
        "import sys, analysis.figures; "
        "heavy = {'plotly', 'matplotlib', 'pandas', 'numpy', 'scipy', 'mlflow', 'torch'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.monotonic() - began < 10


def test_public_names_exist() -> None:
    assert sorted(figures.__all__) == figures.__all__
    assert all(callable(getattr(figures, name)) for name in figures.__all__)
