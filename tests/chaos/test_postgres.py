"""Records in PostgreSQL: the server is away for a minute, and nothing is missing and nothing twice."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from scene import Scene, free_port, table, wait_for
from test_chaos import TOY, clean_environment
from tiny import tiny_data

from sweeps.audit import audit
from sweeps.record.recorded import recorded_runs

AWAY_S = 60.0


def find_server() -> Path | None:
    """The folder of PostgreSQL's programs, where the system has them."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


class Postgres:
    """A server of this test's own, on a free port of the loopback interface."""

    def __init__(self, programs: Path) -> None:
        self.programs, self.port = programs, free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        # it refuses to run as root
        self._user = "nobody" if os.getuid() == 0 else None
        if self._user:
            shutil.chown(self.folder, self._user)
            self.folder.chmod(0o700)
        self._call("initdb", "-D", str(self.folder / "data"), "-U", "scaling", "--auth=trust", "-N")
        self.start()
        self._call("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "scaling", "mlflow")

    @property
    def uri(self) -> str:
        return f"postgresql://scaling@127.0.0.1:{self.port}/mlflow"

    def _call(self, program: str, *words: str) -> None:
        subprocess.run(
            [str(self.programs / program), *words],
            check=True,
            capture_output=True,
            user=self._user,
            cwd=self.folder,
            timeout=120,
        )

    def start(self) -> None:
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"]
        self._popen = subprocess.Popen(
            command,
            user=self._user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._ready, 60, why="PostgreSQL does not start")

    def _ready(self) -> bool:
        command = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    programs = find_server()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on the PATH or under /usr/lib/postgresql")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install -e '.[postgres]'")
    server = Postgres(programs)
    yield server
    server.close()


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
