"""Figures: the table says what is shown, the drawing shows the table, and files are whole and offline."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import analysis
from analysis import figures
from analysis.checks.influence import influence_table, outliers
from analysis.errors import UserError
from analysis.figures import axes, parts, theme
from analysis.laws.isoflop import IsoflopLaw
from analysis.laws.surface import SurfaceLaw
from analysis.text import flops_text

BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20)


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


def of_role(figure: go.Figure, role: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.meta["role"] == role]


class TestIsoflop:
    def test_table_holds_every_run_curve_and_minimum(self, isoflops: dict[str, IsoflopLaw]) -> None:
        law = isoflops["uniform"]
        table = figures.isoflop_table(law)
        points = table[table["kind"] == "run"]
        assert sorted(points["loss"]) == sorted(law.runs["loss"])
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
        drawn = sorted(itertools.chain.from_iterable(trace.y for trace in of_role(figure, "points")))
        assert drawn == sorted(table.loc[table["kind"] == "run", "loss"])
        assert names_of(figure) == [flops_text(flops) for flops in BUDGETS]
        sizes, losses = [t for t in of_role(figure, "interval") if t.meta["budget"] == BUDGETS[-1]]
        minimum = table[(table["kind"] == "minimum") & (table["flops"] > 9e19)].iloc[0]
        assert list(sizes.x) == [minimum["params_low"], minimum["params_high"], None]
        assert list(losses.y) == [minimum["loss_low"], minimum["loss_high"], None]
        assert figure.layout.xaxis.type == "log"
        assert figure.layout.yaxis.title.text == "Held-out bound (nats per token)"
        assert "95%" in figure.layout.title.subtitle.text

    def test_refused_budget_is_hollow_and_says_why(self, refused: IsoflopLaw) -> None:
        figure = figures.isoflop(refused)
        (hollow,) = [t for t in of_role(figure, "points") if t.marker.symbol == "circle-open"]
        assert hollow.name == "1.0e20"
        assert "above the largest size" in hollow.hovertext[0]
        assert "&lt;b&gt;x" in hollow.hovertext[0]  # a size is text, not markup
        assert len(of_role(figure, "minimum")) == 4
        assert "Hollow" in figure.layout.title.subtitle.text

    def test_a_panel_per_family_and_one_legend(self, isoflops: dict[str, IsoflopLaw]) -> None:
        figure = figures.isoflop(isoflops)
        titles = {n.name: n.text for n in figure.layout.annotations if (n.name or "").startswith("family:")}
        assert list(titles) == [f"family:{name}" for name in ("ar", "masked", "uniform", "esoteric")]
        mark = f'<span style="color:{theme.FAMILY_STYLES["ar"].colour}">●</span>'
        assert titles["family:ar"] == f"{mark} <b>ar</b>"  # text in the text colour, beside the mark
        assert names_of(figure) == [flops_text(flops) for flops in BUDGETS]
        assert figure.layout.yaxis2.matches == "y"
        own = figures.isoflop(isoflops, own_scale=True)
        assert own.layout.yaxis2.matches is None
        assert own.layout.yaxis.range != own.layout.yaxis2.range

    def test_six_families_stand_in_three_columns(self, isoflops: dict[str, IsoflopLaw]) -> None:
        figure = figures.isoflop({f"f{number}": isoflops["ar"] for number in range(6)})
        places = [
            (figure.layout[f"xaxis{n}"].domain, figure.layout[f"yaxis{n}"].domain) for n in ("", 2, 3, 6)
        ]
        assert len({x for x, _ in places[:3]}) == 3
        assert len({y for _, y in places[:3]}) == 1
        assert places[3][0] == places[2][0]
        assert places[3][1] < places[2][1]

    def test_curves_carry_their_budget(self, isoflops: dict[str, IsoflopLaw]) -> None:
        notes = figures.isoflop(isoflops["ar"]).layout.annotations
        labels = {note.name: note.text for note in notes if note.name}
        assert labels == {f"budget:{flops!r}": axes.compute_text(flops) for flops in BUDGETS}

    def test_the_dashed_line_goes_through_the_minima(self, isoflops: dict[str, IsoflopLaw]) -> None:
        figure = figures.isoflop(isoflops["masked"])
        (dashed,) = [t for t in of_role(figure, "line") if t.line.dash == "dash"]
        minima = of_role(figure, "minimum")
        assert list(zip(dashed.x, dashed.y, strict=True)) == [(t.x[0], t.y[0]) for t in minima]
        assert "Dashed: through the minima" in figure.layout.meta["caption"]

    def test_an_interval_that_leaves_the_plot_ends_in_an_arrow(self) -> None:
        (trace,) = parts.intervals("x", [2.0], [1.0], [1.5], [math.inf], (1.0, 9.0), "#000000")
        assert list(trace.x) == [1.5, 9.0, None]
        assert list(trace.marker.size) == [0, 8, 0]
        assert trace.marker.symbol[1] == "triangle-right"

    def test_without_intervals(self, refused: IsoflopLaw) -> None:
        figure = figures.isoflop(refused)
        assert not of_role(figure, "interval")
        assert "brackets" not in of_role(figure, "minimum")[0].hovertext[0]

    @pytest.mark.parametrize(
        ("column", "title"),
        [("params_total", "Parameters"), ("params_non_embedding", "Parameters without embeddings"),
         (None, "Parameters")],
    )  # fmt: skip
    def test_the_axis_says_which_parameters_these_are(self, runs: Any, column: Any, title: str) -> None:
        table = runs[runs["family"] == "ar"]
        table = table if column is None else table.assign(**{column: table["params"]})
        law = analysis.fit_law(table, method="isoflop", bootstrap=0)
        assert figures.isoflop(law).layout.xaxis.title.text == title
        assert figures.frontier(law).layout.yaxis2.title.text == title


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
        lines = of_role(figure, "line")
        assert len(lines) == 4 * 2 * len(isoflops)
        for line in lines:
            beyond = max(line.x) > 1.01 * max(BUDGETS)
            assert line.line.dash == ("dash" if beyond else "solid")
        bands = of_role(figure, "band")
        # a power law gives no interval of the loss beyond its budgets
        assert len(bands) == len(lines) - len(isoflops)
        half = len(bands[0].y) // 2
        assert all(top >= low for top, low in zip(bands[0].y[:half], bands[0].y[half:][::-1], strict=True))

    def test_legend_colours_and_units(self, isoflops: dict[str, IsoflopLaw]) -> None:
        figure = figures.frontier(isoflops)
        assert names_of(figure) == ["ar", "masked", "uniform", "esoteric"]
        for trace in figure.data:
            if trace.line.color:
                assert trace.line.color == theme.FAMILY_STYLES[trace.name].colour
        titles = [figure.layout[f"yaxis{n}"].title.text for n in ("", "2", "3", "4")]
        assert titles == [axes.LOSS, "Parameters", axes.TOKENS, axes.TOKENS_PER_PARAM]
        assert figure.layout.xaxis3.title.text == "Training compute (FLOPs)"

    def test_bands_of_all_families_lie_beneath_all_lines(self, isoflops: dict[str, IsoflopLaw]) -> None:
        for axis in ("x", "x2", "x3", "x4"):
            roles = [t.meta["role"] for t in figures.frontier(isoflops).data if t.xaxis == axis]
            drawn = [role for role in roles if role != "legend"]
            assert drawn == sorted(drawn, key=parts.ORDER.index)
            assert "band" in drawn

    def test_a_surface_shows_the_best_run_of_every_budget(self, surface: SurfaceLaw) -> None:
        figure = figures.frontier(surface)
        best = surface.runs.groupby("flops")["loss"].min()
        points = of_role(figure, "points")
        assert len(points) == 4  # in every panel
        assert list(points[0].y) == best.tolist()
        assert list(points[0].x) == pytest.approx(best.index.tolist())
        assert names_of(figure) == []
        assert figure.layout.title.text == "Compute-optimal frontier: uniform"

    def test_two_laws_of_one_family_look_different(
        self, isoflops: dict[str, IsoflopLaw], surface: SurfaceLaw
    ) -> None:
        laws = {"isoflop": isoflops["uniform"], "surface": surface}
        styles = parts.styles(laws)
        assert styles["isoflop"] == theme.FAMILY_STYLES["uniform"]
        assert styles["surface"].colour == theme.NEUTRAL
        figure = figures.frontier(laws)
        assert names_of(figure) == ["isoflop", "surface"]
        assert {t.name for t in of_role(figure, "points")} == {"isoflop"}  # the same runs are drawn once
        with pytest.raises(UserError, match="laws is empty"):
            figures.frontier({})

    def test_ticks_stand_at_the_budgets_and_panels_carry_formulas(self, surface: SurfaceLaw) -> None:
        figure = figures.frontier(surface)
        ticks = [*figure.layout.xaxis.tickvals, *figure.layout.xaxis.minor.tickvals]
        assert sorted(ticks) == pytest.approx([*BUDGETS, 1e21])
        assert len(figure.layout.xaxis.ticktext) >= 3
        (formula,) = [n.text for n in figure.layout.annotations if "N* = " in n.text]
        factor, exponent = (float(word) for word in formula.split("N* = ")[1].split(" C^"))
        assert factor * 1e20**exponent == pytest.approx(float(surface.optimal(1e20).params), rel=0.3)
        assert exponent == pytest.approx(float(surface.exponents["params"]), abs=0.005)

    def test_formulas_of_many_laws_are_left_out(self, surface: SurfaceLaw) -> None:
        names = ("ar", "masked", "uniform", "hybrid", "block")
        for count, formulas in ((4, 12), (5, 0)):  # in three of the panels
            laws = {name: replace(surface, family=name) for name in names[:count]}
            figure = figures.frontier(laws)
            assert sum("C^" in note.text for note in figure.layout.annotations) == formulas
            assert ("C: training FLOPs" in figure.layout.title.subtitle.text) == bool(formulas)

    def test_runs_without_budgets_have_round_ticks(self, runs: pd.DataFrame) -> None:
        spread = np.geomspace(1, 30, 34)
        table = runs[runs["family"] == "ar"].drop(columns="flops").assign(family="ar")
        table = table.assign(tokens=table["tokens"] * spread, loss=table["loss"] - 0.1 * np.log(spread))
        axis = figures.frontier(analysis.fit_law(table, bootstrap=0)).layout.xaxis
        assert axis.tickvals
        assert all(text in ("1", "2", "3", "5") for text in {text[0] for text in axis.ticktext})

    def test_axis_covers_minima_and_near_bands_only(self, isoflops: dict[str, IsoflopLaw]) -> None:
        @dataclass
        class Wide:
            """A law whose intervals are as good as infinite."""

            family: str = "ar"
            level: float = 0.95
            flops_range: tuple[float, float] = (1e18, 1e20)
            runs: pd.DataFrame = field(default_factory=lambda: isoflops["ar"].runs)
            sha256: str = "0" * 64
            budget_flops: tuple[float, ...] = BUDGETS
            curve: Any = isoflops["ar"].curve

            def frontier(self, flops: np.ndarray) -> pd.DataFrame:
                table = pd.DataFrame({"flops": flops})
                for name in ("params", "tokens", "loss", "tokens_per_param"):
                    table[name], table[f"{name}_low"], table[f"{name}_high"] = 10.0, 1e-9, math.inf
                return table

        figure = figures.frontier(Wide())  # type: ignore[arg-type]
        low, high = figure.layout.yaxis4.range  # of tokens per parameter: runs lie between 3 and 1,000
        assert -0.5 < low < math.log10(3)
        assert math.log10(90) < high < 3.5
        assert all(math.isfinite(y) for t in of_role(figure, "band") for y in t.y)


class TestCompare:
    def test_points_are_the_multipliers_and_lines_the_curves(self, comparison: Any) -> None:
        table = figures.compare_table(comparison)
        assert table["family"].unique().tolist() == ["masked", "uniform", "esoteric"]
        figure = figures.compare(comparison)
        assert names_of(figure) == ["masked", "uniform", "esoteric"]
        (masked,) = [t for t in of_role(figure, "points") if t.name == "masked"]
        own = table[(table["family"] == "masked") & (table["kind"] == "budget")]
        assert list(masked.y) == own["multiplier"].tolist()
        assert list(masked.x) == own["at_loss"].tolist()
        curve = comparison.curve("masked").set_index("at_loss")["multiplier"]
        for line in of_role(figure, "line"):
            if line.name == "masked":
                assert list(line.y) == curve.loc[list(line.x)].tolist()
        assert figure.layout.xaxis.range[0] > figure.layout.xaxis.range[1]
        assert "better →" in figure.layout.xaxis.title.text
        assert "Compute over ar at equal loss" in figure.layout.yaxis.title.text

    def test_what_is_extrapolated_is_dashed_and_hollow_and_the_caption_says_so(self, comparison: Any) -> None:
        figure = figures.compare(comparison)
        table = comparison.multipliers.set_index("at_loss")
        for trace in of_role(figure, "points"):
            hollow = [symbol.endswith("-open") for symbol in trace.marker.symbol]
            assert hollow == table.loc[list(trace.x), "extrapolated"].tolist()
        dashes = {line.line.dash for line in of_role(figure, "line")}
        beyond = pd.concat([comparison.curve(name) for name in ("masked", "uniform", "esoteric")])
        assert "dash" in dashes
        assert ("solid" in dashes) == (not beyond["extrapolated"].all())
        assert "Dashed and hollow: extrapolated" in figure.layout.meta["caption"]

    def test_open_intervals_and_names_with_markup(self, runs: pd.DataFrame) -> None:
        strange = runs.assign(family=runs["family"].replace("masked", "x<i>"))
        comparison = analysis.compare(strange[strange["family"].isin(["ar", "x<i>"])], bootstrap=30)
        figure = figures.compare(
            replace(comparison, multipliers=comparison.multipliers.assign(low=0.0, high=math.inf))
        )
        low, high = (10.0**end for end in figure.layout.yaxis.range)
        assert 0 < low < high < 1e4
        assert names_of(figure) == ["x&lt;i&gt;"]

    def test_no_intervals_and_no_multipliers(self, runs: pd.DataFrame) -> None:
        bare = analysis.compare(runs, bootstrap=0)
        assert not of_role(figures.compare(bare), "band")
        empty = replace(bare, multipliers=bare.multipliers.iloc[:0], laws={"ar": bare.laws["ar"]})
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
        figure = figures.surface_residuals(law)
        notes = [note for note in figure.layout.annotations if note.text == "odd"]
        assert len(notes) == 2
        for note in notes:  # its text goes towards the middle, and so stays in a narrow panel
            axis = figure.layout["xaxis" + note.xref[1:]]
            assert note.xanchor == ("left" if note.x < sum(axis.range) / 2 else "right")
        counted = outliers(law)  # as the checks of a diagnosis count them
        for trace in of_role(figure, "points"):
            assert [symbol.endswith("-open") for symbol in trace.marker.symbol] == counted.tolist()

    def test_the_checks_and_the_picture_name_the_same_outliers(self, runs: pd.DataFrame) -> None:
        planted = runs[runs["family"] == "uniform"].reset_index(drop=True)
        num_named = set()
        for factor in np.linspace(1.0, 1.02, 21):  # from no outlier to one that any threshold finds
            moved = planted.assign(loss=planted["loss"].where(planted.index != 4, planted["loss"] * factor))
            law = analysis.fit_law(moved, bootstrap=0)
            outlier = influence_table(law)["outlier"].tolist()
            assert figures.surface_residuals_table(law)["outlier"].tolist() == outlier
            num_named.add(sum(outlier))
        assert len(num_named) > 1


class TestThemeOfFigures:
    def test_dark_changes_colours_alone_and_light_brings_them_back(self, isoflops: Any) -> None:
        light, dark = figures.isoflop(isoflops["ar"]), figures.isoflop(isoflops["ar"])
        figures.set_theme(figures.set_theme(dark, "dark"), "dark")
        assert dark.layout.template.layout.paper_bgcolor == theme.PALETTES["dark"].paper
        own, other = (figure.data[-1].marker.color for figure in (light, dark))
        assert other == theme.DARK[own]
        figures.set_theme(dark, "light")
        assert light == dark
        with pytest.raises(UserError, match="theme = 'blue'"):
            figures.set_theme(dark, "blue")

    def test_a_page_can_swap_the_colours_in_the_json(self, isoflops: Any) -> None:
        figure = figures.isoflop(isoflops["ar"])
        pattern = r"#[0-9a-f]{6}|rgba\(\d+, \d+, \d+, "
        text = json.dumps(json.loads(figure.to_json())["data"])
        swapped = re.sub(pattern, lambda match: theme.DARK.get(match[0], match[0]), text)
        dark = json.loads(figures.set_theme(figure, "dark").to_json())["data"]
        assert json.loads(swapped) == dark
        assert swapped != text


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
        assert 1e6 < len(page) < 3e6
        assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)=", page)
        assert "<script>alert(1)" not in page
        assert '<html lang="en">' in page

    def test_other_suffix(self, figure: go.Figure, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"saved as one of \.png, \.svg, \.pdf, \.html"):
            figures.save(figure, tmp_path / "a.jpg")

    def test_a_failure_leaves_the_old_file(self, figure: go.Figure, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_text("old")
        figure.add_pie(values=[1])
        with pytest.raises(UserError, match="scatter traces and horizontal bars, not 'pie'"):
            figures.save(figure, tmp_path / "a.png")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]

    def test_a_page_follows_the_readers_theme_and_width(self, figure: go.Figure) -> None:
        page = figures.page(figure)
        assert "prefers-color-scheme: dark" in page
        for name in theme.PALETTES:
            assert theme.PALETTES[name].paper in page
        assert html.escape(figure.layout.meta["provenance"]) in page
        assert html.escape(figure.layout.meta["caption"]) in page


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
    assert all(hasattr(figures, name) for name in figures.__all__)
