"""A pool of plain processes here, and the loop such a process runs (`python -m sweeps.pools.local`).

Jobs go in and outcomes come out as JSON lines over the process's own pipes. A worker whose driver dies sees
its input end, stops at the next step with a checkpoint, and exits.
"""

from __future__ import annotations

import json
import os
import queue
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from sweeps.attempt.worker import Job, Outcome, Stop, run_job
from sweeps.ledger.types import Needs
from sweeps.pools.base import WORKER_ENVIRONMENT, in_fresh_process_next, killed, lost
from sweeps.pools.fork import message
from sweeps.pools.rack import Handle, Node, Rack

_WARM = "warm"


def available_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True, eq=False)
class _Process:
    """A worker process and the job it has, if any."""

    popen: subprocess.Popen[bytes]
    forks: bool = False
    """Whether it makes a process of its own for every job, as jobs with GPUs need it."""
    devices: tuple[int, ...] = ()
    handle: Handle | None = None
    job: Job | None = None
    killed: bool = False
    buffer: bytearray = field(default_factory=bytearray)

    @property
    def output(self) -> IO[bytes]:
        assert self.popen.stdout is not None, "a worker's output is a pipe"
        return self.popen.stdout

    def tell(self, message: object) -> None:
        """Send a line; a process that is gone is found out by the end of its output."""
        assert self.popen.stdin is not None, "a worker's input is a pipe"
        try:
            self.popen.stdin.write(json.dumps(message).encode() + b"\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            return

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue


class LocalPool:
    """See `sweeps.pools.base.Pool`."""

    def __init__(self, *, cpus: int | None = None, gpus: int | None = None, logs: Path | None = None) -> None:
        self._gpus = gpus if gpus is not None else _visible_gpus()
        node = Node(
            name="here",
            host=socket.gethostname(),
            cpus=float(cpus or available_cpus()),
            gpus=float(self._gpus),
            memory_bytes=float(psutil.virtual_memory().total),
        )
        self.rack = Rack([node])
        self._logs = logs
        self._idle: list[_Process] = []
        self._busy: dict[Handle, _Process] = {}
        self._selector = selectors.DefaultSelector()
        self._count = 0

    def ready(self) -> None:
        return

    def warm(self, count: int) -> None:
        count = min(count, self._gpus or self.rack.slots(Needs()))
        for _ in range(max(0, count - len(self._idle) - len(self._busy))):
            process = self._spawn(forks=bool(self._gpus))
            if not process.forks:  # a server loads by itself
                process.tell(_WARM)
            self._idle.append(process)

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        process = self._worker_for(needs)
        self._count += 1
        handle = self._count
        process.handle, process.job = handle, job
        self._busy[handle] = process
        self.rack.place(handle, needs)
        self._selector.register(process.output, selectors.EVENT_READ, process)
        if process.forks:
            process.devices = self._choose_gpus(needs.gpus)
            chosen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, process.devices))}
            process.tell(message(job, chosen))
        else:
            process.tell(job.to_dict())
        return handle

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        if not self._busy:
            time.sleep(timeout_s)
            return []
        ended = []
        for key, _ in self._selector.select(timeout_s):
            process: _Process = key.data
            data = os.read(process.output.fileno(), 1 << 16)
            process.buffer += data
            if not data or process.buffer.endswith(b"\n"):
                ended.append(self._settle(process))
        return ended

    def yields_to(self, priority: int, waiting: int) -> str | None:
        return None

    def kill(self, handle: Handle) -> None:
        if handle in self._busy:
            self._busy[handle].killed = True
            self._busy[handle].popen.kill()

    def close(self) -> None:
        for process in [*self._busy.values(), *self._idle]:
            process.end()
        self._busy.clear()
        self._idle.clear()
        self._selector.close()  # twice is as good as once

    def _worker_for(self, needs: Needs) -> _Process:
        forks = needs.gpus > 0
        for process in [process for process in self._idle if process.forks == forks]:
            self._idle.remove(process)
            if process.popen.poll() is None:
                return process
            process.end()
        return self._spawn(forks=forks)

    def _choose_gpus(self, wanted: float) -> tuple[int, ...]:
        """Those that the fewest jobs use."""
        used = [device for process in self._busy.values() for device in process.devices]
        return tuple(sorted(range(self._gpus), key=used.count)[: max(1, round(wanted))])

    def _spawn(self, *, forks: bool) -> _Process:
        environment = {**os.environ, **WORKER_ENVIRONMENT}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # jobs are told theirs
        module = "sweeps.pools.fork" if forks else "sweeps.pools.local"
        log: IO[bytes] | int = subprocess.DEVNULL
        if self._logs is not None:
            self._logs.mkdir(parents=True, exist_ok=True)
            log = (self._logs / "workers.log").open("ab")
        try:
            popen = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the driver
            )
        finally:
            if not isinstance(log, int):
                log.close()
        return _Process(popen=popen, forks=forks)

    def _settle(self, process: _Process) -> tuple[Handle, Outcome]:
        assert process.handle is not None, "a process that reports has a job"
        assert process.job is not None, "a process that reports has a job"
        handle, job = process.handle, process.job
        self._selector.unregister(process.output)
        self.rack.remove(handle)
        del self._busy[handle]
        if process.buffer.endswith(b"\n"):
            outcome = Outcome.from_dict(json.loads(process.buffer))
        else:
            outcome = killed() if process.killed else lost(job, _how_it_died(process.popen))
        process.buffer.clear()
        process.handle = process.job = None
        process.devices = ()
        fit = process.forks or not in_fresh_process_next(outcome)
        if fit and process.popen.poll() is None:
            self._idle.append(process)
        else:
            process.end()
        return handle, outcome


def _how_it_died(popen: subprocess.Popen[bytes]) -> str:
    code = popen.wait()
    if code >= 0:
        return f"the worker process ended with exit code {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"the worker process was killed by {signal.Signals(-code).name}{hint}"


def _visible_gpus() -> int:
    """GPUs of this machine, by their device files: asking torch would load it."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


# -- the worker process -------------------------------------------------------------------------


def _listen(jobs: queue.Queue[object], stop: Stop) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    stop.ask("the driver is gone")
    jobs.put(None)


def main() -> None:
    """Take jobs from the input until it ends; the only thing on the output are outcomes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    jobs: queue.Queue[object] = queue.Queue()
    stop = Stop()
    threading.Thread(target=_listen, args=(jobs, stop), daemon=True).start()
    while (message := jobs.get()) is not None:
        if message == _WARM:
            load_what_runs_need()
            continue
        assert isinstance(message, dict), "a message is a job or the wish to warm up"
        outcome = run_job(Job.from_dict(message), stop=stop)
        try:
            answers.write(json.dumps(outcome.to_dict()).encode() + b"\n")
            answers.flush()
        except BrokenPipeError:
            return
        if stop.reason:
            return


def load_what_runs_need() -> None:
    """Imports that take seconds, done while the driver is still busy with something else."""
    import torch

    import scaling.data
    import scaling.training  # noqa: F401

    torch.optim.AdamW([torch.zeros(1)])  # torch loads its compiler (2 s) with the first optimizer


if __name__ == "__main__":
    main()
