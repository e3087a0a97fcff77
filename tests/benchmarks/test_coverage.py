"""The coverage benchmark: its designs are those it names, its truth is the law's, and it runs."""

import json
import sys

import numpy as np
import pytest

from analysis import fit_law
from benchmarks import coverage


@pytest.mark.parametrize(("name", "runs", "budgets"), [("sahoo2026", 29, 5), ("desk", 24, 4)])
def test_designs_are_those_of_the_table_and_the_config(name, runs, budgets):
    design = coverage.DESIGNS[name]()
    assert len(design.runs) == runs
    spent = design.runs["budget" if "budget" in design.runs else "flops"]
    assert len(np.unique(spent.round(-9 if spent.max() < 1e15 else -17))) == budgets
    assert design.cost.largest_error < 0.02


@pytest.mark.parametrize("name", list(coverage.DESIGNS))
def test_a_sweep_without_noise_tells_the_truth(name):
    design = coverage.DESIGNS[name]()
    estimates = coverage.estimates(fit_law(design.sweep(0.0, 0), bootstrap=0), design.top)
    for quantity, value in design.truth().items():
        assert float(estimates[quantity]) == pytest.approx(value, rel=1e-5), quantity


def test_it_prints_and_writes_every_cell(capsys, tmp_path, monkeypatch):
    out = tmp_path / "coverage.json"
    words = [
        "coverage",
        "--sweeps",
        "2",
        "--bootstrap",
        "20",
        "--design",
        "desk",
        "--method",
        "surface",
        "surface allowance",
        "isoflop",
    ]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(out)])
    coverage.main()
    printed = capsys.readouterr().out
    assert printed.count("| desk |") == 9
    cells = json.loads(out.read_text())
    assert len(cells) == 9
    assert all(0 <= share <= 1 for cell in cells for share in cell["coverage"].values())
    with_loss = {cell["method"] for cell in cells if "loss" in cell["coverage"]}
    assert with_loss == {"surface", "surface allowance"}, "parabolas give no loss interval beyond budgets"
