"""Servers that tests start for themselves: MLflow over a database, PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

START_S = 120.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + START_S
    while not ready():
        assert time.monotonic() < end, f"{what} does not start"
        time.sleep(0.2)


class MLflow:
    """An MLflow server over `store`, one process without a job runner, on a free port of loopback."""

    def __init__(self, store: str, folder: Path) -> None:
        """folder: where it works."""
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._store = store
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._store]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._popen = subprocess.Popen(
            [*command, "--workers", "1", "--port", str(self.port)], env=os.environ | quiet, cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        _wait_until(self._ready, "the MLflow server")

    def _ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=1):
            return True
        return False

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGTERM)
        self._popen.wait(timeout=30)


@contextmanager
def mlflow_server(store: str, folder: Path) -> Iterator[MLflow]:
    server = MLflow(store, folder)
    try:
        yield server
    finally:
        server.stop()


class Postgres:
    """A PostgreSQL server with an empty database `mlflow`, on a free port of the loopback interface."""

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
            check=True, capture_output=True, user=self._user, cwd=self.folder, timeout=120,
        )  # fmt: skip

    def start(self) -> None:
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"]
        self._popen = subprocess.Popen(
            command, user=self._user, cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        _wait_until(self._ready, "PostgreSQL")

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


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Skips the test where PostgreSQL or its driver is not installed."""
    program = shutil.which("initdb")
    places = [Path(program).resolve().parent] if program else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    programs = next((place for place in places if (place / "initdb").exists()), None)
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on the PATH or under /usr/lib/postgresql")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install -e '.[postgres]'")
    server = Postgres(programs)
    try:
        yield server
    finally:
        server.close()
