"""Held-out losses along runs, as a tracking store gives them back."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.table.runs import loss_curves
from tests.analysis.table.test_runs import record, row

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|alembic|sqlalchemy|pydantic|google).*")


def test_held_out_losses_stand_at_their_steps(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(store)
    sweep = client.create_experiment("desk", artifact_location=str(tmp_path))
    run_id = record(client, sweep, row("aaaa"), [(10, 1000, 5.0), (20, 2000, 4.0), (100, 4000, 3.0)])
    for step, loss, error in ((20, 4.25, 0.125), (30, 4.0, 0.25)):  # the second in a biased phase
        client.log_metric(run_id, "held_out_loss", loss, step=step)
        client.log_metric(run_id, "held_out_loss_se", error, step=step)
    curve = loss_curves(store, "desk").set_index("step")
    measured = curve[["held_out_loss", "held_out_loss_se"]].dropna()
    assert measured.index.tolist() == [20, 30]
    assert measured.to_numpy().tolist() == [[4.25, 0.125], [4.0, 0.25]]
    assert curve["loss"].isna().to_dict() == {10: False, 20: False, 30: True, 100: False}
