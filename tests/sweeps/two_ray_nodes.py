"""Two Ray nodes on this machine, started as a person does it on two: `ray start`, twice, with a token."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

QUOTA = "quota_anna"
"""A resource that only the second node has."""
READY_S = 180.0
RAY = Path(sys.executable).parent / "ray"


class TwoRayNodes:
    """A node of one CPU, the head, and another of one CPU that has QUOTA."""

    def __init__(self, **more: str) -> None:
        """more: variables for the processes of both nodes."""
        # Ray's sockets lie in here and may not have long names, so pytest's folder will not do
        self.folder = Path(tempfile.mkdtemp(prefix="rn", dir="/tmp"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = {
            **kept,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            **more,
        }
        self._nodes = []
        try:
            port = self.address.partition(":")[2]
            head = ["--head", "--port", port, "--temp-dir", str(self.folder), "--include-dashboard", "false"]
            self._start("head", head)
            self.start_second()
        except BaseException:
            self.close()
            raise

    def start_second(self) -> None:
        self._start("second", ["--address", self.address, "--resources", f'{{"{QUOTA}": 1}}'])

    def kill_second(self) -> None:
        """All of its processes at once, as when a machine loses its power."""
        node = self._nodes.pop()
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()

    def _start(self, name: str, options: list[str]) -> None:
        log_path = self.folder / f"{name}.log"
        common = ["--num-cpus", "1", "--object-store-memory", "80000000", "--block"]
        with log_path.open("wb") as log:
            self._nodes.append(
                subprocess.Popen(
                    [str(RAY), "start", *options, *common],
                    stdout=log, stderr=log, env=self.environment, cwd=self.folder, start_new_session=True,
                )
            )  # fmt: skip
        end = time.monotonic() + READY_S
        while "Ray runtime started" not in log_path.read_text():
            assert self._nodes[-1].poll() is None, log_path.read_text()
            assert time.monotonic() < end, log_path.read_text()
            time.sleep(0.2)

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A Python program on this cluster."""
        return subprocess.run(
            [sys.executable, *command],
            env={**self.environment, "RAY_ADDRESS": self.address, **more},
            cwd=self.folder, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    def close(self) -> None:
        """End these two nodes and nothing else, as `ray stop` would."""
        for node in reversed(self._nodes):
            node.send_signal(signal.SIGTERM)
        for node in self._nodes:
            try:
                node.wait(10)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in word for word in process.info["cmdline"] or []):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
