"""The examples of docs/extending.md do what the page says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import analysis
from analysis import figures
from examples import own_family, own_figure
from examples.own_pool import InlinePool
from scaling.families import FAMILIES
from sweeps.driver.sweep import run_sweep
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Needs, State
from sweeps.pools.base import PoolOptions
from sweeps.record.tracking import tracking_uri
from tests.scaling.families.test_conformance import DIFFUSION, VARIANTS
from tests.scaling.families.test_conformance import TestEveryDiffusion as EveryDiffusion
from tests.scaling.families.test_conformance import TestEveryFamily as EveryFamily
from tests.sweeps.tiny import tiny_data, tiny_entry

CHECKS = [
    getattr(group(), name)
    for group in (EveryFamily, EveryDiffusion)
    for name in dir(group)
    if "test_" in name
]


@pytest.fixture
def timed() -> Iterator[str]:
    """The example's family, known to the table of families and to the conformance tests."""
    own_family.register()
    VARIANTS["timed"] = ("timed", {})
    yield "timed"
    del FAMILIES["timed"], VARIANTS["timed"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_family_of_ones_own_passes_the_conformance_tests(check: object, timed: str) -> None:
    assert callable(check)
    assert "masked" in DIFFUSION, "the same checks that the shipped families pass"
    check(name=timed)


def test_a_family_of_ones_own_trains(timed: str) -> None:
    nothing_learned = 2.079 - 1.247  # log of 8 ids, less the entropy of the source
    assert 0 < own_family.main(steps=60) < 0.8 * nothing_learned


def test_a_figure_of_ones_own_is_drawn_wherever_figures_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FIGURES", dict(figures.FIGURES))
    page, picture = own_figure.main(tmp_path)
    assert "Reducible loss: masked" in page.read_text(encoding="utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")
    runs = analysis.published.runs("sahoo2026")
    law = analysis.fit_law(runs[runs.family == "masked"], bootstrap=0)
    table = own_figure.reducible_table(law)
    assert ((table["loss"] - table["reducible"]) - law.E).abs().max() < 1e-12
    points = [
        trace for trace in figures.drawn(surface=law)["reducible"].data if trace.meta["role"] == "points"
    ]
    assert [len(trace.x) for trace in points] == [len(law.runs)]


def test_a_pool_of_ones_own_runs_a_sweep(tmp_path: Path) -> None:
    data = tiny_data(tmp_path)
    entries = [tiny_entry(data, seed=seed) for seed in range(2)]
    with Ledger(tmp_path / "toy" / "ledger") as ledger:
        report = run_sweep(
            entries, ledger, InlinePool(PoolOptions()), sweep="toy", tracking=tracking_uri(tmp_path)
        )
        assert [run.state for run in ledger.runs()] == 2 * [State.FINISHED]
    assert not report.interrupted


def test_a_pool_of_ones_own_ends_what_is_killed() -> None:
    pool = InlinePool(PoolOptions())
    handle = pool.submit(None, Needs())  # type: ignore[arg-type]
    pool.kill(handle)
    [(ended, outcome)] = pool.wait(0)
    assert (ended, outcome.status) == (handle, "preempted")
    assert pool.rack.find(Needs()) is not None, "its room is free again"
