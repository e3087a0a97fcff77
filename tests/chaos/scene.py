"""A sweep under way, with everything that can be broken: workers, driver, recorder, server, node, disk."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from scaling.files import write_whole
from sweeps.attempt.journal import JOURNAL, attempt_folders, read
from sweeps.ledger.ledger import Ledger
from tests.chaos.proxy import PASS, REFUSE, SLOW, Proxy

HERE = Path(__file__).parent
DRIVER_PATIENCE_S = 3600.0
SERVER_READY_S = 90.0
FULL = "disk-is-full"
"""The file whose presence fills the disk."""
HELD = "results-are-held"
"""The folder whose presence holds results back; see full_disk/sitecustomize.py."""


def wait_for(what: Callable[[], object], within_s: float, *, why: str) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Server:
    """An MLflow server over an SQLite file, in a process group of its own, behind a proxy."""

    folder: Path
    port: int = field(default_factory=free_port)
    _popen: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.proxy = Proxy(self.port)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"

    def start(self, *, wait: bool = True) -> None:
        """Start it, unless it is about to be up already."""
        if self._popen is not None and self._popen.poll() is None:
            wait_for(self.answers, SERVER_READY_S, why="the MLflow server does not start")
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--workers", "1"]
        command += ["--default-artifact-root", str(self.folder / "artifacts")]
        off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self._popen = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **off}, start_new_session=True
            )
        if wait:
            wait_for(self.answers, SERVER_READY_S, why="the MLflow server does not start")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        assert self._popen is not None, "it was started"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def close(self) -> None:
        self.kill()
        self.proxy.close()


def fragile_disk(folder: Path) -> dict[str, str]:
    """The environment of processes for which the disk below `folder`/out can be made full or slow."""
    paths = [str(HERE / "full_disk"), str(HERE.parent / "sweeps"), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CHAOS_FULL_BELOW": str(folder / "out"),
        "CHAOS_FULL_FLAG": str(folder / FULL),
        "CHAOS_HOLD": str(folder / HELD),
    }


@dataclass
class Scene:
    """Where it all happens. `command` starts a driver; `breaks` notes each fault and what it hit."""

    folder: Path
    sweep: str
    command: list[str]
    environment: dict[str, str]
    random: random.Random
    server: Server | None = None
    cluster: object | None = None
    """Of two Ray nodes; `lose_node` and `add_node` of a test's own."""
    breaks: list[tuple[str, str]] = field(default_factory=list)
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def full_flag(self) -> Path:
        return self.folder / FULL

    @property
    def sweep_folder(self) -> Path:
        return self.folder / "out" / self.sweep

    def start_driver(self) -> None:
        disk = fragile_disk(self.folder)
        with (self.folder / "driver.log").open("ab") as log:
            self.drivers.append(
                subprocess.Popen(self.command, stdout=log, stderr=log, env={**self.environment, **disk})
            )

    def said(self) -> str:
        return (self.folder / "driver.log").read_text()[-6000:]

    def alive(self) -> list[subprocess.Popen[bytes]]:
        return [driver for driver in self.drivers if driver.poll() is None]

    def restart_refused(self) -> None:
        """A driver that found no tracking server has ended with a sentence; start it once there is one."""
        assert self.drivers[-1].returncode == 2, self.said()
        assert "does not answer" in self.said(), self.said()
        self.heal()
        self.start_driver()

    def finish(self) -> None:
        """Wait for the drivers that live to end well; one that was killed is started again."""
        self.heal()
        self.allow(sys.maxsize)
        if not self.alive():
            self.start_driver()
        end = time.monotonic() + DRIVER_PATIENCE_S
        for driver in self.alive():
            code = driver.wait(max(1.0, end - time.monotonic()))
            assert code == 0, f"exit code {code}; {self.said()}"

    def allow(self, runs: int) -> None:
        """Let no more than `runs` runs of the sweep finish for now."""
        with write_whole(self.folder / HELD / "allowed") as temporary:
            temporary.write_text(str(runs))

    def heal(self) -> None:
        """Nothing is broken any more."""
        self.full_flag.unlink(missing_ok=True)
        if self.server is not None:
            self.server.proxy.mood = PASS
            if not self.server.answers():
                self.server.start()

    # -- what can be hit ------------------------------------------------------------------------

    def attempts(self) -> list[tuple[Path, psutil.Process]]:
        """Attempts that live: their folders and the processes that train them."""
        attempts = []
        for run in self.sweep_folder.glob("*/runs/*"):
            folders = attempt_folders(run)
            if not folders:
                continue
            folder = list(folders.values())[-1]
            starts = [r for r in read(folder / JOURNAL) if r.kind == "start"]
            if starts and not (folder / "result.json").exists():
                with contextlib.suppress(psutil.NoSuchProcess):
                    attempts.append((folder, psutil.Process(int(starts[-1].values["pid"]))))
        return attempts

    def recorders(self) -> list[psutil.Process]:
        ledger = str(self.sweep_folder / "ledger")
        recorders = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "sweeps.record.process" in words and any(
                Path(word).absolute() == Path(ledger) for word in words
            ):
                recorders.append(process)
        return recorders

    # -- faults: each says what it hit, or None where there was nothing to hit --------------------

    def worker_killed(self) -> str | None:
        hit = self.random.choice(self.attempts() or [None])
        if hit is None:
            return None
        _kill(hit[1])
        return hit[0].parent.name

    def driver_killed(self) -> str | None:
        if not self.alive():
            return None
        driver = self.random.choice(self.alive())
        driver.kill()
        driver.wait()
        if not self.alive():
            time.sleep(self.random.uniform(0.0, 2.0))
            self.start_driver()
        return f"driver {driver.pid}"

    def second_driver(self) -> str | None:
        for driver in self.alive()[1:]:
            driver.kill()
            driver.wait()
        self.start_driver()
        return f"driver {self.drivers[-1].pid} beside the first"

    def recorder_killed(self) -> str | None:
        recorders = self.recorders()
        if not recorders:
            return None
        process = self.random.choice(recorders)
        _kill(process)
        return f"recorder {process.pid}"

    def disk_full(self) -> str | None:
        if not self.attempts():
            return None
        self.full_flag.touch()
        seconds = self.random.uniform(1.0, 4.0)
        time.sleep(seconds)
        self.full_flag.unlink()
        return f"for {seconds:.1f} s"

    def checkpoint_truncated(self) -> str | None:
        """The newest checkpoint loses its end, and the worker that could write another is killed."""
        attempts = self.attempts()  # once: one of them may end at any moment
        for folder, process in self.random.sample(attempts, len(attempts)):
            checkpoints = sorted(folder.glob("checkpoint-*.pt"))
            if checkpoints:
                _kill(process)
                with contextlib.suppress(FileNotFoundError):
                    os.truncate(checkpoints[-1], checkpoints[-1].stat().st_size // 2)
                    return f"{folder.parent.name} {checkpoints[-1].name}"
        return None

    def server_killed(self) -> str | None:
        if self.server is None or not self.server.answers():
            return None
        self.server.kill()
        time.sleep(self.random.uniform(0.0, 3.0))
        self.server.start(wait=False)
        return "server"

    def connections(self, mood: str) -> str | None:
        if self.server is None:
            return None
        self.server.proxy.mood = mood
        time.sleep(self.random.uniform(2.0, 5.0))
        self.server.proxy.mood = PASS
        return mood

    def connections_slow(self) -> str | None:
        return self.connections(SLOW)

    def connections_refused(self) -> str | None:
        return self.connections(REFUSE)

    def node_lost(self) -> str | None:
        return None if self.cluster is None else self.cluster.lose_node()

    def strike(self, kind: str) -> bool:
        """Let the fault `kind` happen; whether there was something to hit."""
        hit = getattr(self, kind)()
        if hit is not None:
            self.breaks.append((kind, hit))
        return hit is not None


FAULTS = (
    "worker_killed",
    "driver_killed",
    "second_driver",
    "recorder_killed",
    "disk_full",
    "checkpoint_truncated",
    "server_killed",
    "connections_slow",
    "connections_refused",
    "node_lost",
)


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


# -- what must hold at the end ------------------------------------------------------------------


def table(sweep_folder: Path) -> dict[str, tuple]:
    """What a fit would see of each run, floats and all."""
    with Ledger(sweep_folder / "ledger") as ledger:
        runs = ledger.runs()
    names = ("bound", "bound_se", "bits_per_byte", "steps_done")
    return {run.key: (str(run.state), *(run.result.get(name) for name in names)) for run in runs}


def steps_recorded(database: Path) -> dict[str, list[tuple[int, float]]]:
    """Key -> every recorded point of the training loss, repeated ones too."""
    db = sqlite3.connect(database)
    rows = db.execute(
        "SELECT t.value, m.step, m.value FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid "
        "WHERE t.key = 'scaling.key' AND m.key = 'train_loss' ORDER BY t.value, m.step"
    ).fetchall()
    db.close()
    points: dict[str, list[tuple[int, float]]] = {}
    for key, step, value in rows:
        points.setdefault(key, []).append((step, value))
    return points
