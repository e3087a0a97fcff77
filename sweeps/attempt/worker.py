"""One worker and one job: it trains, keeps a journal and returns the outcome. It knows no Ray."""

from __future__ import annotations

import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from sweeps.attempt.job import Job, Outcome, failure, read_outcome, write_json, write_outcome
from sweeps.attempt.journal import JOURNAL, Journal, attempt_folders, fences

SPEC = "spec.json"
STOP_POLL_S = 0.5
CODE_VERSION = "SCALING_CODE_VERSION"
"""Variable with the version of the code, if it came without its git history."""


Train = Callable[..., Any]
"""A function like `scaling.training.train`."""


def run_job(job: Job, *, train: Train | None = None, stop: Stop | None = None) -> Outcome:
    """Run `job` to its end in this process and return its outcome; failures are outcomes, not exceptions.

    train: replaces `scaling.training.train` in tests. stop: another source of requests to stop.
    """
    started = time.perf_counter()
    stop = stop or Stop()
    folder = Path(job.folder)
    try:
        with stop.on_sigterm():
            reason = stop.reason_for(job)
            if job.work:
                outcome = _function(job.work)(job, folder, reason)
            else:
                outcome = _earlier_outcome(job) or _train(job, folder, reason, train)
    except (KeyboardInterrupt, SystemExit) as error:
        outcome = Outcome(status="preempted", sentence=f"the worker was stopped by {type(error).__name__}")
    except BaseException as error:  # every failure reaches the driver
        outcome = failure(error)
    spent_s = time.perf_counter() - started
    outcome = replace(outcome, host=outcome.host or socket.gethostname(), worker_s=spent_s)
    with suppress(OSError):  # a full disk: the outcome still reaches the driver by the pool
        write_outcome(folder, outcome)
        if outcome.status == "finished":  # only now: until then another attempt would go on from them
            from scaling.training.checkpoint import remove_checkpoints

            keep = 1 if job.options.get("keep_weights", True) else 0
            remove_checkpoints(attempt_folders(folder.parent).values(), keep=keep)
    return outcome


def _function(name: str) -> Callable[[Job, Path, Callable[[], str | None]], Outcome]:
    module, _, attribute = name.partition(":")
    function: Callable[[Job, Path, Callable[[], str | None]], Outcome] = getattr(
        import_module(module), attribute
    )
    return function


def _train(job: Job, folder: Path, should_stop: Callable[[], str | None], train: Train | None) -> Outcome:
    import torch

    from scaling.data import open_dataset
    from scaling.spec import RunSpec
    from scaling.training import train as real_train

    threads = max(1, int(job.cpus))
    if torch.get_num_threads() != threads:  # more would compete with the other workers
        torch.set_num_threads(threads)
    device = str(job.options.get("device") or ("cuda" if job.gpus > 0 else "cpu"))
    folders = attempt_folders(folder.parent)
    earlier = [number for number in folders if number < job.attempt]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder.parent / SPEC, dict(job.spec))
    with Journal(folder / JOURNAL) as journal:
        journal.append(
            {
                "kind": "start",
                "key": job.key,
                "attempt": job.attempt,
                "host": socket.gethostname(),
                "device": device_name(device),
                "pid": os.getpid(),
                "python": platform.python_version(),
                "code_version": code_version(),
            }
        )
        result = (train or real_train)(
            RunSpec.from_dict(job.spec),
            open_dataset(job.dataset),
            folder,
            log=journal.append,
            should_stop=should_stop,
            resume_from=[folders[number] for number in reversed(earlier)],
            fences={folders[n]: step for n, step in fences(folder.parent).items() if n in folders},
            device=device,
            **{name: value for name, value in {**job.options, **job.runs}.items() if name != "device"},
        ).to_dict()
        result["code_version"] = code_version()
        batch = int(job.spec["batch_size"])
        result["micro_batch"] = min(batch, int(job.options.get("micro_batch_size") or batch))
        journal.append({"kind": "end", "status": result["status"], "sentence": result["sentence"]})
        journal.sync()
    return Outcome(
        status=str(result["status"]),
        sentence=str(result["sentence"]),
        result=result,
        device=device_name(device),
    )


def _earlier_outcome(job: Job) -> Outcome | None:
    """The outcome of an earlier attempt that finished after its driver had died."""
    for number, folder in reversed(attempt_folders(Path(job.folder).parent).items()):
        outcome = read_outcome(folder)
        done = outcome is not None and outcome.status == "finished" and outcome.result.get("key") == job.key
        if number < job.attempt and done:
            return outcome
    return None


class Stop:
    """A request to stop, by a signal, a file, or a later attempt of the run."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def ask(self, reason: str) -> None:
        self.reason = self.reason or reason

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """SIGTERM asks to stop; Ctrl-C in the terminal is for the driver, which passes it on."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        replaced = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: self.ask("the worker got SIGTERM")),
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        }
        try:
            yield
        finally:
            for number, handler in replaced.items():
                signal.signal(number, handler)

    def reason_for(self, job: Job) -> Callable[[], str | None]:
        """A function for `should_stop`, which looks for the files at most every STOP_POLL_S seconds."""
        run = Path(job.folder).parent
        last = -STOP_POLL_S

        def reason() -> str | None:
            nonlocal last
            now = time.monotonic()
            if self.reason is None and now - last >= STOP_POLL_S:
                last = now
                if max(attempt_folders(run), default=0) > job.attempt:
                    self.ask("a later attempt has taken over")
                for path in map(Path, job.stop_files):
                    if path.exists():
                        self.ask(path.read_text().strip() or "asked to stop")
            return self.reason

        return reason


@cache
def device_name(device: str) -> str:
    """Name of the GPU or of the processor, for the run table."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"cpu: {line.partition(':')[2].strip()}"
    except OSError:
        pass
    return f"cpu: {platform.machine()}"


@cache
def code_version() -> str:
    """Version of the package, and the commit if it runs from a git checkout."""
    import subprocess
    from importlib.metadata import PackageNotFoundError, version

    if from_environment := os.environ.get(CODE_VERSION):
        return from_environment
    try:
        number = version("scaling")
    except PackageNotFoundError:
        number = "unknown"
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return number
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return number
    commit = described.stdout.strip()
    return f"{number}+{commit}" if commit else number
