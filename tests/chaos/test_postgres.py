"""Records in PostgreSQL: the server is away for a minute, and nothing is missing and nothing twice."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator

import pytest

from sweeps.record.recorded import recorded_runs
from sweeps.show.audit import audit
from tests.chaos.scene import Scene, table, wait_for
from tests.chaos.test_chaos import TOY, clean_environment
from tests.servers import Postgres, postgres_server
from tests.sweeps.tiny import tiny_data

AWAY_S = 60.0


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.mark.chaos
@pytest.mark.slow
def test_a_minute_without_the_server_loses_nothing(tmp_path, postgres):
    data = tmp_path / "data"
    tiny_data(data)
    command = [sys.executable, str(TOY), str(data), str(tmp_path / "out"), "local", "4", "600"]
    environment = {**clean_environment(), "MLFLOW_TRACKING_URI": postgres.uri}
    scene = Scene(
        folder=tmp_path, sweep="toy", command=command, environment=environment, random=random.Random(0)
    )
    scene.start_driver()
    wait_for(lambda: some_points(postgres.uri), 120, why="nothing is recorded")
    postgres.kill()
    time.sleep(AWAY_S)
    assert scene.alive(), f"the driver did not wait for the server: {scene.said()}"
    assert {row[0] for row in table(scene.sweep_folder).values()} == {"finished"}, "the sweep went on"
    postgres.start()
    scene.finish()
    recorded = recorded_runs(postgres.uri, "toy")
    checks = audit(scene.sweep_folder, "toy", recorded)
    assert [problem for check in checks for problem in check.problems] == []
    assert sum(run.points for run in recorded) > 0
    assert len(recorded) == 4


def some_points(uri: str) -> bool:
    try:
        return any(run.points for run in recorded_runs(uri, "toy"))
    except ValueError:  # the tables are being made
        return False
