"""Figures as the page gets them: whole, few points, the first paint, and pictures with filters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go
import pytest

from analysis import figures
from analysis.dashboard import drawings
from tests.analysis.dashboard.dashboard_help import EVIL, made_up


def of_runs(count: int, *, traces: int = 2) -> go.Figure:
    """Points of runs on a logarithmic axis, as the figures of `analysis` mark them."""
    rng = np.random.default_rng(0)
    figure = go.Figure()
    for number in range(traces):
        keys = [f"{number}-{at}" for at in range(count)]
        figure.add_scatter(
            x=np.exp(rng.normal(20, 1, count)), y=rng.normal(3, 0.1, count), mode="markers", customdata=keys,
            hovertext=[f"run {key}" for key in keys], marker={"symbol": ["circle"] * count},
            meta={"family": f"f{number}", "budget": 1e18, "role": "points", "keys": keys},
        )  # fmt: skip
    figure.update_xaxes(type="log")
    return figure


def test_a_figure_keeps_all_it_shows_and_loses_its_title_and_template() -> None:
    figure = of_runs(20).update_layout(title={"text": "Runs"}, margin={"t": 99}, meta={"caption": "dots"})
    content = drawings.plain(figures.set_theme(figure, "light"))
    json.dumps(content, allow_nan=False)
    assert (content["heading"]["text"], content["caption"], content["top"]) == ("Runs", "dots", 99)
    assert not {"title", "template"} & set(content["layout"])
    trace = content["data"][1]
    assert trace["x"] == pytest.approx(figure.data[1].x, rel=1e-4)
    assert trace["meta"] == {"family": "f1", "budget": 1e18, "role": "points"}


def test_of_many_points_few_are_kept_each_with_its_own_run() -> None:
    figure = of_runs(5000)
    content = drawings.plain(figure)
    kept = sum(len(trace["x"]) for trace in content["data"])
    assert drawings.MOST_POINTS / 2 < kept <= drawings.MOST_POINTS
    for number, trace in enumerate(content["data"]):
        assert {len(trace[name]) for name in ("x", "y", "customdata", "hovertext")} == {len(trace["x"])}
        assert len(trace["marker"]["symbol"]) == len(trace["x"])
        # the range is that of all points, and keys belong to their points
        assert max(trace["x"]) == pytest.approx(max(figure.data[number].x), rel=0.3)
        at = list(figure.data[number].customdata).index(trace["customdata"][7])
        assert trace["y"][7] == pytest.approx(figure.data[number].y[at], rel=1e-4)
    texts = [text for trace in content["data"] for text in trace["hovertext"]]
    hidden = sum(int(text.split("and ")[1].split()[0]) for text in texts if "more here" in text)
    assert hidden + kept == 10_000


def test_budgets_have_the_names_by_which_the_page_knows_them() -> None:
    figure = of_runs(3).add_annotation(text="label", name="budget:1e+18")
    content = drawings.plain(figure, {1.02e18: 1e17})
    assert {trace["meta"]["budget"] for trace in content["data"]} == {1e17}
    assert content["layout"]["annotations"][0]["name"] == "budget:1e+17"


def test_the_first_paint_is_an_svg_without_anything_that_runs() -> None:
    content = drawings.plain(figures.measured(made_up((EVIL, "masked"))))
    root = ElementTree.fromstring(drawings.first_paint(content))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert {"svg", "path"} <= tags
    assert not {"script", "image", "a", "foreignObject"} & tags


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_shows_the_families_and_budgets_that_are_chosen(tmp_path: Path, suffix: str) -> None:
    content = drawings.plain(figures.best_losses(made_up(("ar", "masked"))))
    whole, one = (
        drawings.picture(content, tmp_path / f"{name}.{suffix}", families=families).read_bytes()
        for name, families in (("whole", ()), ("one", ("ar",)))
    )
    assert len(one) < len(whole)
    if suffix == "svg":
        assert colour(whole, "masked")
        assert colour(one, "ar")
        assert not colour(one, "masked")


def colour(svg: bytes, family: str) -> bool:
    from analysis.figures.theme import family_style

    return family_style(family).colour in svg.decode()


def test_a_dark_picture_is_dark(tmp_path: Path) -> None:
    content = drawings.plain(figures.best_losses(made_up()))
    path: Any = drawings.picture(content, tmp_path / "dark.svg", theme_name="dark")
    assert "#14171c" in path.read_text()
