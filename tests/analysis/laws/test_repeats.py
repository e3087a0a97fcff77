"""Repeated runs, as replicas of one run or apart: what they promise, and what they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import diagnose, fit_law
from analysis.errors import UserError
from analysis.laws.solver.noise import spread_about_budgets
from analysis.table.fit_table import prepare
from analysis.table.runs import load_runs
from tests.analysis.planted import isoflop_table, repeated_isoflops

METHODS = ("isoflop", "surface", "envelope", "interaction")


def width(law: Any) -> float:
    exponent = law.exponents["params"]
    return float(exponent.high - exponent.low)


@pytest.mark.parametrize("method", METHODS)
def test_replicas_of_a_run_and_runs_apart_give_one_law(method: str) -> None:
    replicas = repeated_isoflops(seed=1)
    apart = replicas.drop(columns="replica").assign(key=[f"run {i}" for i in range(len(replicas))])
    one, other = (fit_law(table, method, bootstrap=40) for table in (replicas, apart))
    assert str(one.exponents["params"]) == str(other.exponents["params"])
    assert len(one.runs) == len(replicas)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_table_on_disk_keeps_the_replicas(ending: str, tmp_path: Any) -> None:
    table, path = repeated_isoflops(), tmp_path / f"runs.{ending}"
    table.to_parquet(path) if ending == "parquet" else table.to_csv(path, index=False)
    back = load_runs(path)
    assert back["replica"].tolist() == table["replica"].tolist()
    assert fit_law(back, "isoflop", bootstrap=0).exponents["params"] == pytest.approx(
        float(fit_law(table, "isoflop", bootstrap=0).exponents["params"])
    )


def test_one_replica_with_two_results_is_refused_and_a_copy_counts_once() -> None:
    table = repeated_isoflops()
    other = table.iloc[[0]].assign(loss=9.0)
    with pytest.raises(UserError, match="listed more than once, with different results"):
        prepare(pd.concat([table, other], ignore_index=True))
    again = prepare(pd.concat([table, table.iloc[[0]]], ignore_index=True))
    assert len(again) == len(table)
    equal = table.assign(loss=table.groupby("key")["loss"].transform("first"))
    assert len(prepare(equal)) == len(table), "replicas with one loss are two runs all the same"


def coverage(sweeps: int, **planted: Any) -> float:
    hits = 0
    for seed in range(sweeps):
        exponent = fit_law(repeated_isoflops(seed=seed, **planted), "isoflop", bootstrap=150).exponents
        hits += exponent["params"].low <= 0.46 <= exponent["params"].high
    return hits / sweeps


@pytest.mark.parametrize(
    "planted",
    [
        {"repeats": 3},
        {"repeats": 4, "noise": 0.002, "misfit": 0.006},
        {"repeats": (8, 8, 4, 2, 1, 1), "noise": 0.003, "misfit": 0.006},
    ],
)
def test_intervals_hold_the_truth_whether_noise_or_misfit_scatters_the_runs(planted: dict[str, Any]) -> None:
    """Noise drawn run by run holds it in 79 to 84% of sweeps with misfit."""
    assert coverage(80, **planted) > 0.875


def test_noise_and_misfit_are_told_apart() -> None:
    parts = []
    for seed in range(30):
        table = prepare(repeated_isoflops(4, noise=0.004, misfit=0.006, sizes=8, seed=seed))
        parts.append(spread_about_budgets(table, "parabola", None).parts)
    assert np.mean([part.within for part in parts if part]) == pytest.approx(0.004, rel=0.05)
    assert np.sqrt(np.mean([part.misfit**2 for part in parts if part])) == pytest.approx(0.006, rel=0.15)


def test_repeats_narrow_the_noise_but_not_the_misfit() -> None:
    def widths(**planted: Any) -> float:
        return float(np.median([width(fit_law(repeated_isoflops(seed=s, **planted), "isoflop", bootstrap=100))
                                for s in range(12)]))  # fmt: skip

    assert widths(repeats=8, noise=0.004) < 0.55 * widths(repeats=1, noise=0.004)
    assert widths(repeats=8, noise=0.001, misfit=0.004) > 0.7 * widths(repeats=2, noise=0.001, misfit=0.004)


def test_a_size_with_many_repeats_counts_as_its_misfit_allows() -> None:
    """Without noise all sizes count alike, however often they were repeated."""
    many = repeated_isoflops((40, 1, 1, 1, 1, 2), noise=1e-6, misfit=0.01)
    once = many.drop_duplicates("key").drop(columns="replica")
    parameters = [float(fit_law(table, "isoflop", bootstrap=0).exponents["params"]) for table in (many, once)]
    assert parameters[0] == pytest.approx(parameters[1], abs=1e-4)


def test_the_envelope_is_of_means_and_not_of_the_luckiest_seeds() -> None:
    table = repeated_isoflops(6, noise=0.02)
    law = fit_law(table, "envelope", bootstrap=0)
    assert "of 24 means of repeats lie on the envelope" in law.sentence
    means = table.groupby("key")["loss"].mean()
    assert all(np.isclose(means, loss).any() for loss in law.vertices["loss"])


def test_parabolas_that_fail_name_the_cubic_and_its_result() -> None:
    table = repeated_isoflops(4, cubic=0.012, noise=0.004)
    law = fit_law(table, "isoflop", bootstrap=100)
    cubic = fit_law(table, "isoflop", shape="cubic", bootstrap=100)
    (warning,) = (w for w in law.warnings if "no parabola describes" in w)
    assert f'shape = "cubic" gives an exponent of N* of {cubic.exponents["params"]}' in warning
    assert not any("describes the means" in w for w in cubic.warnings)
    row = diagnose(law).table.set_index("check").loc["lack of fit"]
    assert row["grade"] == "concern"
    assert "p = " in row["finding"]
    assert diagnose(cubic).table.set_index("check").loc["lack of fit", "grade"] == "fine"


def test_cubics_hold_the_minima_of_planted_cubics() -> None:
    """The minimum of 0.03 u^2 + 0.02 u^3 is at u = 0 at every budget."""
    exact = fit_law(repeated_isoflops(1, noise=0.0, cubic=0.012), "isoflop", shape="cubic", bootstrap=0)
    np.testing.assert_allclose(exact.minima["params"], 0.12 * exact.minima["flops"] ** 0.46, rtol=1e-6)
    hits = 0
    for seed in range(40):
        table = repeated_isoflops(3, noise=0.004, cubic=0.012, seed=seed)
        exponent = fit_law(table, "isoflop", shape="cubic", bootstrap=150).exponents["params"]
        hits += exponent.low <= 0.46 <= exponent.high
    assert hits >= 35


def test_a_cubic_needs_four_sizes() -> None:
    with pytest.raises(UserError, match="a cubic needs at least 4"):
        fit_law(repeated_isoflops(2, sizes=3), "isoflop", shape="cubic", bootstrap=0)
    with pytest.raises(UserError, match="a cubic has no such bias"):
        fit_law(repeated_isoflops(2), "isoflop", shape="cubic", correct_bias=True)


def test_checks_without_repeats_say_so_and_with_them_leave_out_runs() -> None:
    single = diagnose(fit_law(isoflop_table(noise=0.002, sizes=6, span=4), "isoflop", bootstrap=0))
    row = single.table.set_index("check").loc["lack of fit"]
    assert (row["grade"], row["finding"]) == ("note", "not testable: no run is repeated with another seed")
    table = isoflop_table(sizes=6, span=4)
    table = table.loc[table.index.repeat(2)].reset_index(drop=True)
    table["loss"] *= np.exp(0.002 * np.random.default_rng(0).standard_normal(len(table)))
    law = fit_law(table, "surface", bootstrap=0)
    influence = diagnose(law).influence
    assert influence is not None
    assert (influence.groupby("cell")["exponent_without"].nunique() == 1).all()
    rest = law.runs[influence["cell"].to_numpy() != influence["cell"].iloc[0]]
    scratch = fit_law(rest, "surface", bootstrap=0).exponents["params"]
    assert influence["exponent_without"].iloc[0] == pytest.approx(float(scratch), rel=1e-5)
