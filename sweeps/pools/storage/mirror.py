"""A worker that shares no disk with its driver: it works in a folder of its node and keeps a storage in step.

What the attempt writes is copied as it appears, the journal whole each time. What earlier attempts left is
fetched before it starts, and so is the dataset where the node does not have it. Files have the same names
in the storage as below the driver's OUT: <sweep>/<family>/runs/<key>/attempt-001/...

A storage that fails delays copies and stops no run. Each object proves by itself that it is whole:
checkpoints by their checksum, journals and results by being JSON, datasets by the hashes in `meta.json`,
which is put last.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath

from scaling.errors import DataAwayError, UserError
from scaling.files import private_folder, scratch_folder
from sweeps.attempt.job import RESULT, Job, Outcome, Trouble, failure, read_outcome
from sweeps.attempt.journal import JOURNAL, fences
from sweeps.attempt.worker import SPEC, Stop
from sweeps.pools.storage.files import Storage, StorageError, open_storage, patiently

WATCH_S = 4.0
"""How often the journal is put and stop files are looked for."""
CHECKPOINTS_S = 1.0
"""How often the attempt's folder is looked at for a new checkpoint."""
SLOWEST_S = 30.0
START_S = 600.0
"""How long a storage may be away before an attempt that cannot start without it is given back."""
LAST_S = 120.0
"""How long the end of an attempt waits for a storage that fails."""
STUCK_S = 3600.0
"""After this a copy that neither ends nor fails is left alone."""
FOLDER_VARIABLE = "SCALING_SCRATCH"

logger = logging.getLogger(__name__)


# -- names --------------------------------------------------------------------------------------


def run_place(job: Job) -> str:
    """Where the attempts of the job's run are in the storage."""
    return "/".join(PurePath(job.folder).parts[-5:-1])


def attempt_place(job: Job) -> str:
    return f"{run_place(job)}/{PurePath(job.folder).name}"


def stop_place(job: Job) -> str:
    """Where the sweep's drivers leave their stop files."""
    return f"{PurePath(job.folder).parts[-5]}/stop"


def data_place(fingerprint: str) -> str:
    return f"data/{fingerprint}"


def attempt_of(name: str) -> int:
    """The attempt that a file of a run, named from its folder on, belongs to; 0 if it is of none."""
    match = re.match(r"attempt-(\d{3,})/", name)
    return int(match[1]) if match else 0


# -- one attempt --------------------------------------------------------------------------------


def run_mirrored(job: Job, run: Callable[[Job], Outcome], stop: Stop) -> Outcome:
    """What `run` makes of a copy of `job` in a scratch folder, kept in step with `job.storage`.

    The outcome carries the journal, so that the driver has it even where the storage does not answer.
    """
    began = time.perf_counter()
    try:
        with stop.on_sigterm(), scratch_folder(node_folder() / "attempts") as scratch:
            outcome = _run(job, run, stop, scratch)
    except StorageError as error:
        outcome = Outcome(status="preempted", sentence=f"the storage did not answer: {error}")
    except (KeyboardInterrupt, SystemExit) as error:
        outcome = Outcome(status="preempted", sentence=f"the worker was stopped by {type(error).__name__}")
    except BaseException as error:  # whatever it was, the driver hears of it
        outcome = failure(error)
        if outcome.trouble == Trouble.USER:  # a package that is missing on this node, say: another may do
            outcome = replace(outcome, trouble=Trouble.ERROR)
    spent_s = time.perf_counter() - began
    host = outcome.host or socket.gethostname()
    return replace(outcome, host=host, worker_s=spent_s, journal=outcome.journal or "")


def _run(job: Job, run: Callable[[Job], Outcome], stop: Stop, scratch: Path) -> Outcome:
    assert job.storage is not None, "only jobs with a storage are mirrored"
    uri = job.storage
    storage = patiently(lambda: open_storage(uri), START_S, give_up=lambda: stop.reason)
    folder = scratch / PurePath(job.folder).name
    copies = Copies(storage, job, folder)
    watch = Repeated(WATCH_S, lambda: look(storage, job, stop), copies.put_journal)
    checkpoints = Repeated(CHECKPOINTS_S, copies.put_checkpoint)
    try:
        fetch_earlier(storage, job, scratch, give_up=lambda: stop.reason)
        dataset = fetch_dataset(storage, job, give_up=lambda: stop.reason)
        local = replace(job, folder=str(folder), dataset=str(dataset), stop_files=(), storage=None)
        outcome = run(local)
        if outcome.trouble == Trouble.USER and fingerprint_of(dataset) is None:
            outcome = replace(outcome, trouble=Trouble.DATA)  # this node's copy: the next attempt fetches it
    finally:
        watch.stop()
        checkpoints.stop()
    end = time.monotonic() + LAST_S
    for put in (copies.put_checkpoint, copies.put_journal, copies.put_result):
        with suppress(OSError):  # outcome and journal reach the driver by the pool
            patiently(put, end - time.monotonic())
    return replace(outcome, journal=copies.journal_text())


def look(storage: Storage, job: Job, stop: Stop) -> None:
    """Ask `stop` where a driver has left a stop file, or a later attempt is under way."""
    wanted = {PurePath(path).name for path in job.stop_files}
    place = stop_place(job)
    for name in wanted.intersection(storage.sizes(place)):
        with suppress(FileNotFoundError):  # taken back meanwhile
            stop.ask(storage.read(f"{place}/{name}").decode().strip() or "asked to stop")
    if max(map(attempt_of, storage.sizes(run_place(job))), default=0) > job.attempt:
        stop.ask("a later attempt has taken over")


class Copies:
    """What an attempt writes into `folder`, put into the storage as it appears."""

    def __init__(self, storage: Storage, job: Job, folder: Path) -> None:
        self._storage, self._job, self._folder = storage, job, folder
        self._place = attempt_place(job)
        self._journal_bytes = 0
        self._lock = threading.Lock()
        self._there: list[str] = []

    def journal_text(self) -> str:
        try:
            return (self._folder / JOURNAL).read_text(errors="replace")
        except OSError:  # the run did not get that far
            return ""

    def put_journal(self) -> None:
        """The whole journal, where it has grown."""
        with self._lock:
            try:
                content = (self._folder / JOURNAL).read_bytes()
            except FileNotFoundError:
                return
            if len(content) > self._journal_bytes:
                self._storage.put(content, f"{self._place}/{JOURNAL}")
                self._journal_bytes = len(content)

    def put_checkpoint(self) -> None:
        """The newest checkpoint; the last few that are there are kept, older ones removed after it.

        The journal goes first: who resumes from the checkpoint does not tell again what led to it.
        """
        from scaling.training.checkpoint import KEPT

        newest = max(self._folder.glob("checkpoint-*.pt"), default=None)
        if newest is None or newest.name in self._there:
            return
        self.put_journal()
        try:
            self._storage.put(newest, f"{self._place}/{newest.name}")
        except FileNotFoundError:  # training has removed it; there are newer ones
            return
        self._there.append(newest.name)
        while len(self._there) > KEPT:
            self._storage.remove(f"{self._place}/{self._there[0]}")
            del self._there[0]

    def put_result(self) -> None:
        for path, place in (
            (self._folder.parent / SPEC, f"{run_place(self._job)}/{SPEC}"),
            (self._folder / RESULT, f"{self._place}/{RESULT}"),
        ):
            with suppress(FileNotFoundError):  # the run did not get that far
                self._storage.put(path, place)


class Repeated:
    """Does things again and again in a thread; later and later while the storage fails."""

    def __init__(self, every_s: float, *actions: Callable[[], object]) -> None:
        """The thread starts at once."""
        self._every_s, self._actions = every_s, actions
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Once it is through with what it is doing."""
        self._stopping.set()
        self._thread.join(STUCK_S)

    def _work(self) -> None:
        pause = self._every_s
        while not self._stopping.wait(pause):
            done = [self._try(action) for action in self._actions]
            pause = self._every_s if all(done) else min(2 * pause, SLOWEST_S)

    def _try(self, action: Callable[[], object]) -> bool:
        try:
            action()
            return True
        except OSError as error:  # the storage, or a local disk with no room
            logger.warning("copying will be tried again: %s", error)
            return False


# -- before it starts ---------------------------------------------------------------------------


def fetch_earlier(
    storage: Storage, job: Job, run: Path, *, give_up: Callable[[], object] = lambda: None
) -> None:
    """Bring to folder `run` what earlier attempts left: journals, results, the newest whole checkpoint.

    Damaged ones come too, so that training tells of them. StorageError after START_S without an answer.
    """
    from scaling.training.checkpoint import LAST_STEP, checkpoint_name

    place = run_place(job)
    names = [
        name
        for name in patiently(lambda: storage.sizes(place), START_S, give_up=give_up)
        if 0 < attempt_of(name) < job.attempt
    ]

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


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint's content has the checksum at its end."""
    from scaling.training.checkpoint import DIGEST_BYTES

    left = checkpoint.stat().st_size - DIGEST_BYTES
    digest = hashlib.sha256()
    with checkpoint.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, 2**22))):
            digest.update(chunk)
            left -= len(chunk)
        return left == 0 and file.read() == digest.digest()


def fetch_dataset(storage: Storage, job: Job, *, give_up: Callable[[], object] = lambda: None) -> Path:
    """The job's dataset on this node: where the driver has it, if that is seen here, else fetched once.

    All its tokens are compared with their hashes, once per node. StorageError where it is not in the storage,
    or that gives no answer for START_S; DataAwayError where the copy there is damaged; UserError where this
    node's disk has no room for it.
    """
    from scaling.data.shards import META, Workshop, read_checked

    fingerprint = str(job.spec["data"]["fingerprint"])
    seen = Path(job.dataset)
    if fingerprint_of(seen) == fingerprint:
        return seen
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
    """Of the dataset in `folder`; None where there is none that is whole."""
    from scaling.data.shards import read_checked

    try:
        return str(read_checked(folder)["fingerprint"])
    except (UserError, KeyError):
        return None


def put_dataset(storage: Storage, folder: Path, *, patience_s: float = START_S) -> None:
    """Make the storage hold the dataset in `folder`, byte for byte, where workers look for it.

    What is there is read and compared; a damaged copy is mended. UserError where `folder` holds no dataset
    that is whole; StorageError after `patience_s` of failing.
    """
    from scaling.data.shards import META, read_checked

    place = data_place(str(read_checked(folder)["fingerprint"]))
    there = patiently(lambda: storage.sizes(place), patience_s)
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    for name in [*(name for name in names if name != META), META]:  # the last one announces them
        path, target = folder / name, f"{place}/{name}"
        same = there.get(name) == path.stat().st_size
        if not (same and patiently(partial(storage.holds, target, path), patience_s)):
            patiently(partial(storage.put, path, target), patience_s)


# -- the node -----------------------------------------------------------------------------------


def node_folder() -> Path:
    """Where this node keeps running attempts, and datasets: SCALING_SCRATCH, else in TMPDIR."""
    given = os.environ.get(FOLDER_VARIABLE)
    return Path(given) if given else private_folder(Path(tempfile.gettempdir()) / f"scaling-{os.getuid()}")
