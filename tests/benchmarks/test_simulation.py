"""The benchmark of schedules: grids are those it names, and it runs."""

import json
import sys

import numpy as np

from benchmarks import simulation


def test_grids_are_as_scaling_grids_are():
    runs = simulation.grid(np.random.default_rng(0), 300)
    budgets = sorted({run.spec.budget for run in runs})
    assert 3 <= len(budgets) <= 7
    assert np.ptp(np.diff(np.log(budgets))) < 1e-9
    assert len({run.key for run in runs}) == 300
    assert sum(node.gpus for node in simulation.nodes(19)) == 19


def test_known_times_give_schedules_close_to_the_bound(capsys, tmp_path, monkeypatch):
    out = tmp_path / "deep" / "simulation.json"
    monkeypatch.setattr(sys, "argv", ["simulation", "--grids", "2", "--large", "150", "--out", str(out)])
    simulation.main()
    written = json.loads(out.read_text())
    assert set(written) == {*simulation.KINDS, "large"}
    assert written["known"]["worst"] <= simulation.CLOSE
    assert written["large"]["worst"] <= simulation.CLOSE
    assert "target: within 5%" in capsys.readouterr().out
