"""A pool whose workers share no disk with the driver: files pass between them through a storage.

It wraps any other pool. It gives jobs the storage's URI and puts stop files there. Every few seconds it
fetches journals into the folders from which ledger, recorder and progress read; when a job ends, it fetches
the rest before it reports the end. So the rest of the driver is the same with and without a storage.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from scaling.errors import UserError
from scaling.files import write_whole
from sweeps.attempt.job import RESULT, Job, Outcome, Trouble, read_outcome, write_outcome
from sweeps.attempt.journal import JOURNAL
from sweeps.ledger.types import Needs
from sweeps.pools.base import Pool
from sweeps.pools.rack import Handle, Rack
from sweeps.pools.storage.files import Storage, StorageError
from sweeps.pools.storage.mirror import (
    Repeated,
    attempt_place,
    earlier_files,
    put_dataset,
    run_place,
    stop_place,
)

FETCH_S = 3.0
STOP_FILES_S = 0.5
HOLD_S = 120.0
"""How long the end of a job is held back for journals that the storage does not give."""
CLOSE_S = 10.0
AT_ONCE = 8

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Followed:
    """A job that runs, or whose end has not been reported yet."""

    job: Job
    lock: threading.Lock = field(default_factory=threading.Lock)
    earlier_here: bool = False
    """Whether the journals of earlier attempts have been fetched."""
    outcome: Outcome | None = None
    ended: float = 0.0
    complete: bool = False
    """Whether everything was fetched after the end."""


class StoragePool:
    """See `sweeps.pools.base.Pool`."""

    def __init__(
        self, pool: Pool, storage: Storage, datasets: Iterable[str | Path], *, fetch_s: float = FETCH_S
    ) -> None:
        """datasets: folders of all datasets that jobs need."""
        self.pool, self.storage = pool, storage
        self._datasets, self._fetch_s = sorted({Path(folder) for folder in datasets}), fetch_s
        self._followed: dict[Handle, _Followed] = {}
        self._killed: set[Handle] = set()
        self._stop_files: set[str] = set()
        """Their names in the storage."""
        self._damaged = False
        """Whether a worker has reported that the data in the storage is damaged."""
        self._repeated: list[Repeated] = []

    def ready(self) -> None:
        """UserError, too, if a dataset cannot be put into the storage."""
        try:
            for folder in self._datasets:
                put_dataset(self.storage, folder)
        except OSError as error:
            raise UserError(f"the data cannot be put into storage {str(self.storage)!r}: {error}") from error
        self.pool.ready()
        for every_s, action in ((STOP_FILES_S, self._put_stop_files), (self._fetch_s, self._fetch_all)):
            self._repeated.append(Repeated(every_s, action, slowest_s=every_s))

    # -- as the pool behind it ------------------------------------------------------------------

    @property
    def rack(self) -> Rack:
        return self.pool.rack

    def warm(self, count: int) -> None:
        self.pool.warm(count)

    def yields_to(self, priority: int, waiting: int) -> str | None:
        return self.pool.yields_to(priority, waiting)

    def kill(self, handle: Handle) -> None:
        self._killed.add(handle)
        self.pool.kill(handle)

    # -- jobs -----------------------------------------------------------------------------------

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        job = replace(job, storage=self.storage.uri)
        handle = self.pool.submit(job, needs, avoid_host=avoid_host)
        self._followed[handle] = _Followed(job, earlier_here=job.attempt == 1)
        return handle

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        for handle, outcome in self.pool.wait(timeout_s):
            followed = self._followed[handle]
            followed.ended = time.monotonic()
            followed.outcome = outcome
            self._damaged |= outcome.trouble == Trouble.DATA
        ended = [handle for handle, followed in self._followed.items() if followed.outcome is not None]
        reports = [(handle, self._report(handle)) for handle in ended]
        return [(handle, outcome) for handle, outcome in reports if outcome is not None]

    def _report(self, handle: Handle) -> Outcome | None:
        """The outcome of a job that has ended; None while its files are still to be fetched."""
        followed = self._followed[handle]
        outcome = followed.outcome
        assert outcome is not None, "only jobs that have ended are reported"
        overdue = handle in self._killed or time.monotonic() - followed.ended > HOLD_S
        here = followed.complete or (outcome.journal is not None and followed.earlier_here)
        if not (here or overdue):
            return None
        folder = Path(followed.job.folder)
        if outcome.journal is not None:
            try:
                with followed.lock:
                    if outcome.journal:  # jobs that train nothing have none
                        _grow(folder / JOURNAL, outcome.journal.encode())
                    write_outcome(folder, replace(outcome, journal=None))
            except OSError:  # a full disk
                if not overdue:
                    return None
        elif outcome.trouble == Trouble.LOST:
            outcome = read_outcome(folder) or outcome
        del self._followed[handle]
        self._killed.discard(handle)
        return replace(outcome, journal=None)

    def close(self) -> None:
        self.pool.close()
        for repeated in self._repeated:
            repeated.stop(CLOSE_S)
        with suppress(OSError):
            for name in list(self._stop_files):
                self.storage.remove(name)
                self._stop_files.discard(name)

    # -- files that pass through the storage ----------------------------------------------------

    def _put_stop_files(self) -> None:
        """Put the stop files of running jobs into the storage, each once."""
        for followed in list(self._followed.values()):
            for path in map(Path, followed.job.stop_files):
                name = f"{stop_place(followed.job)}/{path.name}"
                if name not in self._stop_files and path.exists():
                    self.storage.put(path, name)
                    self._stop_files.add(name)

    def _fetch_all(self) -> None:
        if self._damaged:
            self._damaged = False
            for folder in self._datasets:
                put_dataset(self.storage, folder, patience_s=0.0)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(self._fetch, list(self._followed.values())))

    def _fetch(self, followed: _Followed) -> None:
        """Fetch new files of one job; earlier attempts first, because the recorder sends steps in order."""
        ended = followed.outcome is not None
        try:
            if not followed.earlier_here:
                place, run = run_place(followed.job), Path(followed.job.folder).parent
                for name in earlier_files(self.storage, followed.job):
                    if PurePath(name).name == JOURNAL:
                        self._fetch_journal(followed, f"{place}/{name}", run / name)
                    elif PurePath(name).name == RESULT and not (run / name).exists():
                        self.storage.get(f"{place}/{name}", run / name)
                followed.earlier_here = True
            place, folder = attempt_place(followed.job), Path(followed.job.folder)
            self._fetch_journal(followed, f"{place}/{JOURNAL}", folder / JOURNAL)
            if ended:
                with suppress(FileNotFoundError):
                    self.storage.get(f"{place}/{RESULT}", folder / RESULT)
                followed.complete = True
        except StorageError as error:
            logger.warning("will be tried again: %s", error)

    def _fetch_journal(self, followed: _Followed, name: str, path: Path) -> None:
        here = path.stat().st_size if path.exists() else 0
        try:
            if self.storage.size(name) <= here:
                return
            content = self.storage.read(name)
        except FileNotFoundError:  # not begun yet
            return
        with followed.lock:
            _grow(path, content)


def _grow(path: Path, content: bytes) -> None:
    """Make `content` that of the file, unless the file is as long already. OSError if that fails."""
    if not path.exists() or path.stat().st_size < len(content):
        with write_whole(path) as temporary:
            temporary.write_bytes(content)
