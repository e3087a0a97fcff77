"""What holds of every figure there is: saved in every form, a true legend, parts that say what they are."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import analysis
from analysis import figures
from analysis.figures.static import draw
from analysis.laws.isoflop import IsoflopLaw
from analysis.laws.response import fit_response
from analysis.laws.surface import SurfaceLaw
from analysis.text import flops_text
from tests.analysis.planted import samples_table, tuning_trials

BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20)


@pytest.fixture(scope="module")
def drawn(
    runs: pd.DataFrame, isoflops: dict[str, IsoflopLaw], comparison: Any, surface: SurfaceLaw
) -> dict[str, go.Figure]:
    """Every figure there is, by name."""
    table = pd.DataFrame(
        {"node": "a", "slot": 1, "start_s": [0.0, 60.0], "end_s": [60.0, 90.0], "budget": [1e9, 3e9],
         "family": "ar", "size": "4x1", "seed": 1, "key": ["0123", "4567"]}
    )  # fmt: skip
    trained = pd.DataFrame(
        {"key": ["a1", "b2"], "family": "ar", "size": "6M", "budget": [1e12, 3e12], "status": "finished",
         "params": 1e5, "tokens": 3e6, "flops": 3e12, "loss": [3.1, 2.9]}
    )  # fmt: skip
    step = np.arange(1, 200)
    points = [{"key": key, "step": step, "tokens": 1e3 * step, "flops": 1e9 * step} for key in trained["key"]]
    curves = pd.concat([pd.DataFrame(columns).assign(loss=3 + 1 / step) for columns in points])
    material = {
        "isoflop": isoflops,
        "laws": isoflops,
        "table": runs.assign(key=[f"k{row}" for row in range(len(runs))], budget=runs["flops"]),
        "runs": (trained, curves),
        "comparison": comparison,
        "beside": surface.against("hoffmann2022"),
        "surface": surface,
        "diagnosis": analysis.diagnose(surface),
        "rollout": analysis.rollout(surface.runs, bootstrap=20),
        "answer": analysis.recommend(runs, 1e21, draws=40),
        "tuning": fit_response(tuning_trials().assign(family="ar"), bootstrap=20),
        "speed": analysis.speed_quality(samples_table({"ar": (20, 9, 1e5), "masked": (25, 4, 1e5)})),
    }
    figure = figures.schedule(table, [("a", 1)], title="Sweep x", note="simulated")
    return figures.drawn(**material) | {"schedule": figure}


def test_the_registry_is_what_there_is(drawn: dict[str, go.Figure]) -> None:
    assert set(drawn) == set(figures.FIGURES)
    for name, figure in drawn.items():
        assert figure.layout.meta["name"] == name


@pytest.mark.parametrize("name", figures.FIGURES)
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "html"])
def test_every_figure_is_saved_in_every_form(
    drawn: dict[str, go.Figure], tmp_path: Path, name: str, suffix: str
) -> None:
    figure = drawn[name]
    content = figures.save(figure, tmp_path / f"a.{suffix}", scale=0.5).read_bytes()
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<!doctype html>"}
    assert content.startswith(begins[suffix])
    assert len(content) > 3000
    if suffix == "png":
        assert content[25] in (2, 6)  # colour type: true colours, no palette
    if suffix == "html":
        assert html.escape(figure.layout.meta["provenance"]).encode() in content


@pytest.mark.parametrize("name", figures.FIGURES)
def test_legends_hold_families_or_budgets_and_nothing_else(drawn: dict[str, go.Figure], name: str) -> None:
    """Of the export too: it draws the legend from the same traces."""
    figure = drawn[name]
    families = {"ar", "masked", "uniform", "esoteric"}
    budgets = {flops_text(flops) for flops in (*BUDGETS, 1e9, 3e9, 1e12, 3e12)}
    published = {"this law", *(f"hoffmann2022_{kind}" for kind in ("envelope", "isoflop", "surface"))}
    legend = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    for allowed in (families, budgets, published):
        if set(legend) <= allowed:
            break
    else:
        raise AssertionError(legend)
    assert len(legend) == len(set(legend))
    assert all(trace.meta["role"] == "legend" for trace in figure.data if trace.showlegend is not False)
    legends = draw(figure).legends
    texts = [text.get_text() for box in legends for text in box.get_texts()]
    assert texts == [html.unescape(entry) for entry in legend]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_every_part_says_what_it_belongs_to(drawn: dict[str, go.Figure], name: str) -> None:
    figure = drawn[name]
    for trace in figure.data:
        assert set(trace.meta) - {"keys"} == {"family", "budget", "role"}
        if trace.meta["role"] == "points" and trace.meta["keys"]:
            assert list(trace.customdata) == trace.meta["keys"]
            assert len(trace.x) == len(trace.meta["keys"])
    families = {trace.meta["family"] for trace in figure.data}
    budgets = {repr(trace.meta["budget"]) for trace in figure.data}
    for part in (*figure.layout.annotations, *figure.layout.shapes):
        kind, _, of = (part.name or "").partition(":")
        assert kind in ("", "family", "budget")
        assert not kind or of in (families if kind == "family" else budgets)
    assert set(figure.layout.meta) == {"name", "caption", "provenance"}
    assert "scaling " in figure.layout.meta["provenance"]
    assert re.search(r"20\d\d-\d\d-\d\d", figure.layout.meta["provenance"])


def test_every_figure_is_plain_json(drawn: dict[str, go.Figure]) -> None:
    for figure in drawn.values():
        text = json.dumps(json.loads(figure.to_json()))
        assert "NaN" not in text
        assert "Infinity" not in text


def test_results_name_their_figure(isoflops: Any, surface: SurfaceLaw, comparison: Any) -> None:
    for result, name in ((isoflops["ar"], "isoflop"), (surface, "frontier"), (comparison, "compare")):
        assert result.plot().layout.meta["name"] == name


def test_pictures_of_the_docs_have_true_colours() -> None:
    pictures = list((Path(__file__).parents[3] / "docs" / "pictures").glob("*.png"))
    assert pictures
    assert {path.name for path in pictures if path.read_bytes()[25] not in (2, 6)} == set()
