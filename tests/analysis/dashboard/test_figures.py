"""What the page draws is what `analysis.figures` draws of the same runs: both read as plotly.js has them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import figures
from tests.analysis.dashboard.dashboard_help import (
    FLAGS,
    chromium,
    fetch,
    made_up,
    served,
    wait_for,
    write_csv,
)

pytestmark = pytest.mark.slow
FAMILIES = ("ar", "masked", "uniform")
RESAMPLES = 40
"""As `served` asks for."""
Traces = list[dict[str, Any]]


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return made_up(FAMILIES)


@pytest.fixture(scope="module")
def laws(runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """method -> family -> law"""
    return {
        method: {
            f: analysis.fit_law(runs[runs["family"] == f], method, bootstrap=RESAMPLES) for f in FAMILIES
        }
        for method in ("surface", "isoflop")
    }


@pytest.fixture(scope="module")
def show(runs: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function from the address of a view to the traces of its figure."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    folder: Path = tmp_path_factory.mktemp("figures")
    store = write_csv(runs, folder / "runs.csv")
    with sync_playwright() as driver, served(str(store), folder / "cache") as (address, _):
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        wait_for(lambda: b'"done":true' in fetch(f"{address}api/state"), seconds=120)

        def traces(view: str) -> Traces:
            page.goto("about:blank")
            page.goto(f"{address}#/{view}")
            ask = "document.querySelector('.figure[data-drawn] .plot')?.data"
            return list(wait_for(lambda: page.evaluate(ask)))

        yield traces
        browser.close()


def of_figure(figure: Any) -> Traces:
    return [plain(trace) for trace in figure.to_plotly_json()["data"]]


def plain(value: Any) -> Any:
    """Arrays as lists; Plotly writes them as base64."""
    if isinstance(value, dict) and "bdata" in value:
        return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).tolist()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return list(value) if isinstance(value, np.ndarray | tuple) else value


def points(trace: dict[str, Any]) -> np.ndarray:
    """(n, 2), without gaps."""
    pairs = zip(trace["x"], trace["y"], strict=True)
    return np.array([pair for pair in pairs if None not in pair], dtype=float).reshape(-1, 2)


def lines(traces: Traces, dash: str) -> dict[tuple[str, str], np.ndarray]:
    """(panel, family) -> its line."""
    drawn = [(t.get("xaxis", "x"), t["name"], points(t)) for t in curves(traces, dash)]
    return {(panel, name): line for panel, name, line in drawn if len(line) > 1}


def curves(traces: Traces, dash: str) -> Traces:
    """Lines that are no outlines of bands."""
    drawn = [t for t in traces if t["mode"] == "lines" and not t.get("fill")]
    return [trace for trace in drawn if trace["line"].get("dash", "solid") == dash]


def bands(traces: Traces) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Panel, upper and lower end of every band, in the order in which they are drawn."""
    found = []
    for trace in traces:
        if trace.get("fill") == "toself":
            outline = points(trace)
            half = len(outline) // 2
            found.append((trace.get("xaxis", "x"), outline[:half], outline[half:][::-1]))
    return found


def at(line: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A line read between its points, straight on logarithmic scales."""
    return np.exp(np.interp(np.log(x), np.log(line[:, 0]), np.log(line[:, 1])))


@pytest.mark.parametrize("method", ["surface", "isoflop"])
def test_the_frontier(show: Any, laws: dict[str, Any], method: str) -> None:
    page, drawn = show(f"frontier?law={method}"), of_figure(figures.frontier(laws[method]))
    for dash in ("solid", "dash"):
        here, there = lines(page, dash), lines(drawn, dash)
        assert set(here) == set(there)
        assert len(there) == 4 * len(FAMILIES)
        for name, line in there.items():
            # five digits, and the page has fewer points on the same smooth line
            assert at(here[name], line[:, 0]) == pytest.approx(line[:, 1], rel=1e-4), name
    assert len(bands(page)) == len(bands(drawn)) == 8 * len(FAMILIES)
    for (panel, *here_ends), (there_panel, *there_ends) in zip(bands(page), bands(drawn), strict=True):
        assert panel == there_panel
        for here_end, there_end in zip(here_ends, there_ends, strict=True):
            assert at(here_end, there_end[:, 0]) == pytest.approx(there_end[:, 1], rel=1e-3)


def minima(traces: Traces) -> dict[str, np.ndarray]:
    """Panel -> rows of size, loss and the four ends of their bars, the smallest size first."""
    found: dict[str, list[list[float]]] = {}
    for trace in traces:
        if trace["mode"] == "markers" and trace["marker"].get("symbol") == "diamond":
            bars = [trace[f"error_{axis}"][end] for axis in "xy" for end in ("array", "arrayminus")]
            columns = [trace["x"], trace["y"], *bars]
            found.setdefault(trace.get("xaxis", "x"), []).extend(zip(*map(list, columns), strict=True))
    return {panel: np.array(sorted(rows), dtype=float) for panel, rows in found.items()}


def test_isoflop_curves_and_minima(show: Any, laws: dict[str, Any]) -> None:
    page, drawn = show("isoflop"), of_figure(figures.isoflop(laws["isoflop"]))
    here, there = minima(page), minima(drawn)
    assert set(here) == set(there)
    assert [len(rows) for rows in there.values()] == [4] * len(FAMILIES)
    for panel, rows in there.items():
        np.testing.assert_allclose(here[panel][:, :2], rows[:, :2], rtol=1e-5)
        # bars are differences of numbers of six digits
        np.testing.assert_allclose(here[panel][:, 2:], rows[:, 2:], atol=2e-6 * rows[:, :2].max(), rtol=1e-2)
    parabolas, fitted = curves(page, "solid"), curves(drawn, "solid")
    assert len(parabolas) == len(fitted) == 4 * len(FAMILIES)
    for curve, line in zip(parabolas, fitted, strict=True):
        assert curve.get("xaxis", "x") == line.get("xaxis", "x")
        sizes, losses = points(curve).T
        assert losses == pytest.approx(at(points(line), sizes), rel=1e-4)


def unique(traces: Traces) -> dict[str, np.ndarray]:
    """family -> points of all its lines, each once, from the best loss on."""
    found: dict[str, list[np.ndarray]] = {}
    for trace in traces:
        if trace["mode"] == "lines" and not trace.get("fill"):
            found.setdefault(trace["name"], []).append(points(trace))
    return {name: np.unique(np.concatenate(parts).round(9), axis=0) for name, parts in found.items()}


def test_multipliers(show: Any, runs: pd.DataFrame) -> None:
    comparison = analysis.compare(runs, "ar", bootstrap=RESAMPLES)
    page = show("compare?ref=ar")
    here, there = unique(page), unique(of_figure(figures.multiplier_curves(comparison)))
    assert set(here) == set(there) == {"masked", "uniform"}
    for family, line in there.items():
        np.testing.assert_allclose(here[family], line, rtol=5e-5)
    markers = [points(trace) for trace in page if trace["mode"] == "markers"]
    drawn = [points(trace) for trace in of_figure(figures.compare(comparison))]
    for here_points, there_points in zip(markers, drawn, strict=True):
        np.testing.assert_allclose(here_points, there_points, rtol=5e-5)
