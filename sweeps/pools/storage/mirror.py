"""A worker that shares no disk with its driver: it works in a folder of its node and copies it to a storage.

Files of the attempt are copied as they appear, the journal whole each time. Before it starts, the files of
earlier attempts are fetched, and the dataset if the node does not have it. Files have the same names in the
storage as below the driver's OUT: <sweep>/<family>/runs/<key>/attempt-001/..., or <sweep>/samples/<key>/...
for a job that trains nothing. Weights of finished runs that a job reads are fetched, too, and kept.

A storage that fails delays copies and stops no run. Each object shows by itself whether it is whole:
checkpoints by their checksum, journals and results by being JSON, datasets by the hashes in `meta.json`,
which is put last.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath

from scaling.data.shards import META, Workshop, read_checked
from scaling.errors import DataAwayError, UserError
from scaling.files import scratch_folder
from sweeps.attempt.job import RESULT, Job, Outcome, Trouble, failure, read_outcome
from sweeps.attempt.journal import JOURNAL, fences
from sweeps.attempt.worker import SPEC, Stop
from sweeps.pools.storage.files import Storage, StorageError, open_storage, patiently
from sweeps.pools.storage.node import node_folder
from sweeps.pools.storage.weights import fetch_weights, is_whole

WATCH_S = 4.0
"""How often the journal is copied and stop files are read."""
CHECKPOINTS_S = 1.0
"""How often the attempt's folder is checked for a new checkpoint."""
SLOWEST_S = 30.0
START_S = 600.0
"""How long an attempt waits for a storage before it starts; then it ends as preempted."""
LAST_S = 120.0
"""How long the end of an attempt waits for a storage that fails."""
STUCK_S = 3600.0
"""How long a copy that neither ends nor fails is waited for."""

logger = logging.getLogger(__name__)


# -- names --------------------------------------------------------------------------------------


def run_place(job: Job) -> str:
    """The folder of the job's run in the storage; of a job that trains nothing the one around its own."""
    return "/".join(_parts(job)[:-1])


def attempt_place(job: Job) -> str:
    return "/".join(_parts(job))


def stop_place(job: Job) -> str:
    """The folder of the stop files of the sweep's drivers."""
    return f"{_parts(job)[0]}/stop"


def _parts(job: Job) -> tuple[str, ...]:
    """Of the name of the job's folder: <sweep>/<family>/runs/<key>/<attempt>, or <sweep>/samples/<key>."""
    return PurePath(job.folder).parts[-3 if job.work else -5 :]


def data_place(fingerprint: str) -> str:
    return f"data/{fingerprint}"


def earlier_files(storage: Storage, job: Job) -> list[str]:
    """Files of earlier attempts, named relative to the folder of the run."""
    return [name for name in storage.sizes(run_place(job)) if 0 < attempt_of(name) < job.attempt]


def attempt_of(name: str) -> int:
    """The attempt of a file, named relative to the folder of its run; 0 if it has none."""
    match = re.match(r"attempt-(\d{3,})/", name)
    return int(match[1]) if match else 0


# -- one attempt --------------------------------------------------------------------------------


def run_mirrored(job: Job, run: Callable[[Job], Outcome], stop: Stop) -> Outcome:
    """The outcome of `run` for a copy of `job` in a scratch folder, whose files go to `job.storage`.

    It carries the journal, so that the driver has it even if the storage does not answer.
    """
    began = time.perf_counter()
    try:
        with stop.on_sigterm(), scratch_folder(node_folder() / "attempts") as scratch:
            outcome = _run(job, run, stop, scratch)
    except StorageError as error:
        outcome = Outcome(status="preempted", sentence=f"the storage did not answer: {error}")
    except (KeyboardInterrupt, SystemExit) as error:
        outcome = Outcome(status="preempted", sentence=f"the worker was stopped by {type(error).__name__}")
    except BaseException as error:  # the driver gets any error
        outcome = failure(error)
        if outcome.trouble == Trouble.USER:  # say a package is missing on this node: another may have it
            outcome = replace(outcome, trouble=Trouble.ERROR)
    spent_s = time.perf_counter() - began
    host = outcome.host or socket.gethostname()
    return replace(outcome, host=host, worker_s=spent_s, journal=outcome.journal or "")


def _run(job: Job, run: Callable[[Job], Outcome], stop: Stop, scratch: Path) -> Outcome:
    from scaling.training.finished import read_spec

    assert job.storage is not None, "only jobs with a storage are mirrored"
    storage = patiently(partial(open_storage, job.storage), START_S, give_up=lambda: stop.reason)
    folder = scratch / PurePath(job.folder).name
    copies = Copies(storage, job, folder)
    watch = Repeated(WATCH_S, lambda: check_stop(storage, job, stop), copies.put_journal)
    checkpoints = Repeated(CHECKPOINTS_S, copies.put_checkpoint)
    try:
        fetch_earlier(storage, job, scratch, give_up=lambda: stop.reason)
        fingerprint = str(job.spec["data"]["fingerprint"])
        dataset = fetch_dataset(storage, Path(job.dataset), fingerprint, give_up=lambda: stop.reason)
        try:
            runs = {name: str(fetch_weights(storage, Path(there), START_S, give_up=lambda: stop.reason))
                    for name, there in job.runs.items()}  # fmt: skip
        except UserError as error:
            return failure(error)
        datasets = {}
        for name, there in job.datasets.items():
            own = read_spec(Path(runs[name])).data.fingerprint
            datasets[name] = str(fetch_dataset(storage, Path(there), own, give_up=lambda: stop.reason))
        local = replace(
            job, folder=str(folder), dataset=str(dataset), runs=runs, datasets=datasets, stop_files=(),
            storage=None,
        )  # fmt: skip
        outcome = run(local)
        if outcome.trouble == Trouble.USER and fingerprint_of(dataset) is None:
            outcome = replace(outcome, trouble=Trouble.DATA)  # this node's copy: the next attempt fetches it
    finally:
        watch.stop()
        checkpoints.stop()
    end = time.monotonic() + LAST_S
    puts = [copies.put_checkpoint, copies.put_journal, copies.put_result]
    for put in [*puts, *([copies.remove_checkpoints] if outcome.status == "finished" else [])]:
        with suppress(OSError):  # outcome and journal reach the driver by the pool
            patiently(put, end - time.monotonic())
    try:
        return replace(outcome, journal=(folder / JOURNAL).read_text(errors="replace"))
    except OSError:  # the run did not get that far
        return replace(outcome, journal="")


def check_stop(storage: Storage, job: Job, stop: Stop) -> None:
    """Ask for a stop if a driver has left a stop file, or a later attempt has begun."""
    place, names = stop_place(job), {PurePath(path).name for path in job.stop_files}
    for name in names.intersection(storage.sizes(place)):
        with suppress(FileNotFoundError):  # withdrawn meanwhile
            stop.ask(storage.read(f"{place}/{name}").decode().strip() or "asked to stop")
    if max(map(attempt_of, storage.sizes(run_place(job))), default=0) > job.attempt:
        stop.ask("a later attempt has taken over")


class Copies:
    """Copies the files of an attempt from `folder` to the storage as they appear."""

    def __init__(self, storage: Storage, job: Job, folder: Path) -> None:
        self._storage, self._job, self._folder = storage, job, folder
        self._place = attempt_place(job)
        self._journal_bytes = 0
        self._lock = threading.Lock()
        self._stored: list[str] = []

    def put_journal(self) -> None:
        """Copy the whole journal if it has grown."""
        with self._lock:
            try:
                content = (self._folder / JOURNAL).read_bytes()
            except FileNotFoundError:
                return
            if len(content) > self._journal_bytes:
                self._storage.put(content, f"{self._place}/{JOURNAL}")
                self._journal_bytes = len(content)

    def put_checkpoint(self) -> None:
        """Copy the newest checkpoint; the last few are kept, older ones removed after it.

        The journal goes first: an attempt that resumes does not repeat the records before the checkpoint.
        """
        from scaling.training.checkpoint import KEPT

        newest = max(self._folder.glob("checkpoint-*.pt"), default=None)
        if newest is None or newest.name in self._stored:
            return
        self.put_journal()
        try:
            self._storage.put(newest, f"{self._place}/{newest.name}")
        except FileNotFoundError:  # training has removed it; there are newer ones
            return
        self._stored.append(newest.name)
        while len(self._stored) > KEPT:
            self._storage.remove(f"{self._place}/{self._stored[0]}")
            del self._stored[0]

    def remove_checkpoints(self) -> None:
        """Remove from the storage those that a finished run has removed from its folder."""
        for name in [name for name in self._stored if not (self._folder / name).exists()]:
            self._storage.remove(f"{self._place}/{name}")
            self._stored.remove(name)

    def put_result(self) -> None:
        for path, place in (
            (self._folder.parent / SPEC, f"{run_place(self._job)}/{SPEC}"),
            (self._folder / RESULT, f"{self._place}/{RESULT}"),
        ):
            with suppress(FileNotFoundError):  # the run did not get that far
                self._storage.put(path, place)


class Repeated:
    """Repeats actions in a thread, at growing intervals while the storage fails."""

    def __init__(self, every_s: float, *actions: Callable[[], object], slowest_s: float = SLOWEST_S) -> None:
        self._every_s, self._actions, self._slowest_s = every_s, actions, slowest_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def stop(self, limit_s: float = STUCK_S) -> None:
        """End it after its current actions, which are waited for until the limit."""
        self._stopping.set()
        self._thread.join(limit_s)

    def _work(self) -> None:
        pause = self._every_s
        while not self._stopping.wait(pause):
            next_pause = self._every_s
            for action in self._actions:
                try:
                    action()
                except (OSError, UserError) as error:  # the storage, a local disk with no room, a dataset
                    logger.warning("copying will be tried again: %s", error)
                    next_pause = min(2 * pause, self._slowest_s)
            pause = next_pause


# -- before it starts ---------------------------------------------------------------------------


def fetch_earlier(
    storage: Storage, job: Job, run: Path, *, give_up: Callable[[], object] = lambda: None
) -> None:
    """Copy to folder `run` the journals, results and newest whole checkpoint of earlier attempts.

    Damaged checkpoints come too, so that training reports them. StorageError after START_S without an answer.
    """
    from scaling.training.checkpoint import LAST_STEP, checkpoint_name

    place = run_place(job)
    names = patiently(lambda: earlier_files(storage, job), START_S, give_up=give_up)

    def fetch(name: str) -> Path | None:
        try:
            patiently(lambda: storage.get(f"{place}/{name}", run / name), START_S, give_up=give_up)
        except FileNotFoundError:  # an earlier attempt, still alive, has removed it
            return None
        return run / name

    for name in names:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        if PurePath(name).name == JOURNAL:
            fetch(name)
        if PurePath(name).name == RESULT and (path := fetch(name)):
            outcome = read_outcome(path.parent)
            if outcome is not None and outcome.status == "finished":
                return
    last = {attempt: checkpoint_name(step) for attempt, step in fences(run).items()}
    checkpoints = [
        name
        for name in names
        if PurePath(name).match("checkpoint-*.pt")
        and PurePath(name).name <= last.get(attempt_of(name), checkpoint_name(LAST_STEP))
    ]
    for name in sorted(checkpoints, key=lambda name: PurePath(name).name, reverse=True):
        path = fetch(name)
        if path is not None and is_whole(path):
            return


def fetch_dataset(
    storage: Storage, there: Path, fingerprint: str, *, give_up: Callable[[], object] = lambda: None
) -> Path:
    """The folder of a dataset on this node: the driver's, `there`, if it is visible here, else a copy.

    Once per node it is fetched and all its tokens are compared with their hashes. StorageError if the storage
    does not have it, or gives no answer for START_S; DataAwayError if the copy there is damaged; UserError if
    this node's disk has no room for it.
    """
    if fingerprint_of(there) == fingerprint:
        return there
    shop, place = Workshop(node_folder() / "data", fingerprint), data_place(fingerprint)
    with shop.locked(lambda: None):
        if fingerprint_of(shop.target) == fingerprint:
            return shop.target
        names = patiently(lambda: storage.sizes(place), START_S, give_up=give_up)
        if META not in names:
            raise StorageError(f"{storage} has no dataset {fingerprint[:16]}")
        with shop.folder() as folder:
            for name in names:
                get = partial(storage.get, f"{place}/{name}", folder / name)
                patiently(get, START_S, give_up=give_up)
            try:
                read_checked(folder)
            except UserError as error:
                raise DataAwayError(
                    f"the copy of the data in {storage} is damaged; the driver puts it there again ({error})"
                ) from error
    return shop.target


def fingerprint_of(folder: Path) -> str | None:
    """Of the dataset in `folder`; None if there is none that is whole."""
    try:
        return str(read_checked(folder)["fingerprint"])
    except (UserError, KeyError):
        return None


def put_dataset(storage: Storage, folder: Path, *, patience_s: float = START_S) -> None:
    """Copy the dataset in `folder` to the storage, for workers without it.

    Files that are there are compared byte for byte; damaged ones are replaced. UserError if `folder` has no
    whole dataset; StorageError if the storage fails for `patience_s`.
    """
    place = data_place(str(read_checked(folder)["fingerprint"]))
    there = patiently(lambda: storage.sizes(place), patience_s)
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    for name in [
        *(name for name in names if name != META),
        META,
    ]:  # workers take a dataset with META as complete
        path, target = folder / name, f"{place}/{name}"
        same = there.get(name) == path.stat().st_size
        if not (same and patiently(partial(storage.holds, target, path), patience_s)):
            patiently(partial(storage.put, path, target), patience_s)
