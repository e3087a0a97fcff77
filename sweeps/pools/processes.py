"""Processes on this machine: each job runs in one of its own, forked from a server that has loaded torch.

A fresh process has no state of earlier jobs and gives back its GPU and its memory when it ends. Loading torch
takes seconds, so a server does it once (`python -m sweeps.pools.processes`); it runs no job and touches no
GPU itself. It reads jobs as JSON lines, each with its environment variables, and writes outcomes.

If the process that started the server dies, the server's input ends: the job is asked to stop with a
checkpoint, and killed after STOP_S. If the server dies, the kernel asks the job to stop.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from scaling.errors import UserError
from sweeps.attempt.job import Job, Outcome, killed, lost
from sweeps.ledger.types import Needs
from sweeps.pools.base import WORKER_ENVIRONMENT, PoolOptions
from sweeps.pools.entry import load_packages, run
from sweeps.pools.rack import Handle, Node, Rack

POLL_S = 0.05
STOP_S = 20.0
"""Limit for a job to stop once its server's input has ended."""
_PR_SET_PDEATHSIG = 1


class Server:
    """A server, in the process that started it. It runs one job at a time."""

    def __init__(self, environment: Mapping[str, str] | None = None, log: IO[bytes] | None = None) -> None:
        """environment: of the server (default: ours). log: for the output of its jobs (default: stderr)."""
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "sweeps.pools.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is for the driver; `kill` reaches the job, too
        )
        assert self._popen.stdin is not None, "opened as a pipe"
        assert self._popen.stdout is not None, "opened as a pipe"
        self._input, self.output = self._popen.stdin, self._popen.stdout

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, job: Job, environment: Mapping[str, str]) -> None:
        """Start `job` with these variables set beside the server's own."""
        with suppress(BrokenPipeError):  # it has died: `receive` reports that
            values = {"job": asdict(job), "environment": dict(environment)}
            self._input.write(json.dumps(values).encode() + b"\n")
            self._input.flush()

    def receive(self, job: Job) -> Outcome:
        """Wait for the outcome of the job that was sent."""
        line = self.output.readline()
        if not line.endswith(b"\n"):  # it died, perhaps while it wrote
            return lost(job, "the worker process was lost")
        return Outcome.from_dict(json.loads(line))

    def kill(self) -> None:
        """End the server and its job at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the server; a job that still runs is asked to stop."""
        for pipe in (self._input, self.output):
            with suppress(BrokenPipeError):
                pipe.close()
        self._popen.wait()


@dataclass(slots=True, eq=False)
class _Running:
    """A job, its server and its GPUs."""

    server: Server
    job: Job
    gpus: tuple[int, ...]
    killed: bool = False


class ProcessPool:
    """See `sweeps.pools.base.Pool`: processes of this machine, without Ray."""

    def __init__(self, options: PoolOptions) -> None:
        """UserError if the options have an address."""
        if options.address:
            raise UserError(f"pool 'local' has no address, but --address is {options.address!r}")
        # GPUs by their device files: torch would have to be loaded to count them
        devices = len(list(Path("/dev").glob("nvidia[0-9]*")))
        self._gpus = options.gpus if options.gpus is not None else devices
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        node = Node(
            name="here",
            host=socket.gethostname(),
            cpus=float(options.cpus or usable),
            gpus=float(self._gpus),
            memory_bytes=float(psutil.virtual_memory().total),
        )
        self.rack = Rack([node])
        self._logs = options.logs
        self._idle: list[Server] = []
        self._running: dict[Handle, _Running] = {}
        self._selector = selectors.DefaultSelector()
        self._count = 0

    def ready(self) -> None:
        return

    def warm(self, count: int) -> None:
        count = min(count, self._gpus or self.rack.slots(Needs()))
        self._idle += [self._start() for _ in range(count - len(self._idle) - len(self._running))]

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        while self._idle and not self._idle[-1].alive:  # died while it waited for a job
            self._idle.pop().close()
        server = self._idle.pop() if self._idle else self._start()
        gpus: tuple[int, ...] = ()
        if needs.gpus:  # those that the fewest jobs use
            used = [gpu for running in self._running.values() for gpu in running.gpus]
            gpus = tuple(sorted(range(self._gpus), key=used.count)[: max(1, round(needs.gpus))])
        server.send(job, {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if self._gpus else {})
        self._count += 1
        self._running[self._count] = _Running(server, job, gpus)
        self.rack.place(self._count, needs)
        self._selector.register(server.output, selectors.EVENT_READ, self._count)
        return self._count

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        if not self._running:
            time.sleep(timeout_s)
            return []
        ended = []
        for key, _ in self._selector.select(timeout_s):
            handle: Handle = key.data
            running = self._running.pop(handle)
            self._selector.unregister(running.server.output)
            self.rack.remove(handle)
            outcome = running.server.receive(running.job)
            if running.killed:
                outcome = killed()
            if running.server.alive and not running.killed:
                self._idle.append(running.server)
            else:
                running.server.close()
            ended.append((handle, outcome))
        return ended

    def yields_to(self, priority: int, waiting: int) -> str | None:
        return None

    def kill(self, handle: Handle) -> None:
        if handle in self._running:
            self._running[handle].killed = True
            self._running[handle].server.kill()

    def close(self) -> None:
        for server in [*(running.server for running in self._running.values()), *self._idle]:
            server.kill()
            server.close()
        self._running.clear()
        self._idle.clear()
        self._selector.close()  # closing twice is allowed

    def _start(self) -> Server:
        environment = {**os.environ, **WORKER_ENVIRONMENT}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # each job gets its own
        log = self._logs / "workers.log" if self._logs else Path(os.devnull)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return Server(environment, file)


# -- the server ---------------------------------------------------------------------------------


class _Input:
    """Lines from a descriptor that can be polled for its end."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.ended = descriptor, False
        self._buffer = b""

    def poll(self, seconds: float) -> None:
        """Read what arrives within that time."""
        if self.ended:
            time.sleep(seconds)
            return
        ready, _, _ = select.select([self.descriptor], [], [], seconds)
        if ready:
            data = os.read(self.descriptor, 1 << 16)
            self.ended = not data
            self._buffer += data

    def lines(self) -> Iterator[bytes]:
        """Each line, until the end."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                yield line
            elif self.ended:
                return
            else:
                self.poll(3600.0)


def main() -> None:
    """Serve until the input ends; the output carries nothing but outcomes."""
    answers = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load_packages()
    source = _Input(0)
    for line in source.lines():
        request = json.loads(line)
        job = Job.from_dict(request["job"])
        server = os.getpid()
        child = os.fork()
        if child == 0:
            _run_in_child(job, request["environment"], server, answers)
        deadline = None
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            source.poll(POLL_S)
            if source.ended and deadline is None:
                deadline = time.monotonic() + STOP_S
                os.kill(child, signal.SIGTERM)
            elif deadline is not None and time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            how = f"the worker process was killed by {signal.Signals(-code).name}{hint}"
            _answer(answers, lost(job, how))
        elif code > 0:
            _answer(answers, lost(job, f"the worker process ended with exit code {code}"))


def _run_in_child(job: Job, environment: Mapping[str, str], server: int, answers: int) -> None:
    """Run the job and end this process."""
    code = 1
    try:
        if sys.platform == "linux":  # SIGTERM if the server dies; elsewhere the job runs to its end
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != server:  # it died before that
            os._exit(1)
        os.close(0)
        os.open(os.devnull, os.O_RDONLY)
        os.environ.update(environment)
        _answer(answers, run(job))
        code = 0
    finally:
        os._exit(code)


def _answer(answers: int, outcome: Outcome) -> None:
    data = json.dumps(asdict(outcome)).encode() + b"\n"
    with suppress(BrokenPipeError):  # the reader has gone; the outcome is beside the journal, too
        while data:
            data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main()
