"""The server's state: the latest runs and laws as bytes, kept up to date by child processes.

Nothing here reads a store or fits anything. If a store is lost, the last state stays and is shown with its
age. Laws are fitted for the count that pages ask for; once all runs have ended, for the other counts too.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.dashboard.children import Child, ChildError
from analysis.dashboard.columns import nothing
from analysis.dashboard.sources import marks_of
from analysis.errors import UserError
from analysis.table.notes import read_notes, why_not, write_note

LOOK_S = 1.0
"""How often files are looked at."""
ASK_S = 3.0
"""How often a store without files is asked."""
AT_LEAST_EVERY_S = 60.0
"""A store with files is read again after this time, whatever its files say."""
REST = 4.0
"""After a read the store has peace for this many times as long as it took; after a fit the processor."""
READER_IDLE_S, FITTER_IDLE_S = 90.0, 5.0
QUICK_FIT_S = 600.0
"""If a fit took longer than this, only counts that a page asked for are fitted."""

Count = tuple[str, str]
"""Counts of params and FLOPs, e.g. ("params_total", "flops_6nd")."""


@dataclass(slots=True)
class Laws:
    """Laws for one way of counting, as far as they are there."""

    content: bytes = b""
    """gzip of JSON."""
    file: str = ""
    """Where the same bytes lie."""
    figures: dict[str, bytes] = field(default_factory=dict)
    """Those that pages asked for, as gzip of JSON."""
    etag: str = ""
    hash: str = ""
    """Of the data they were fitted to."""
    done: bool = False
    stage: str = ""
    problem: str = ""


@dataclass(slots=True)
class Runs:
    """The runs as last read, as the page gets them."""

    content: bytes = b""
    etag: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    read_at: float | None = None
    """When the store last answered; None before the first time. Seconds since 1970."""
    problem: str = ""
    """Why it does not answer now; "" while it does."""
    old: bool = False
    """Left by an earlier server, the store has not been read since."""


class State:
    """See the module. `watch` runs as a task for as long as the server does."""

    def __init__(self, spec: Mapping[str, Any], cache: Path, *, files: tuple[Path, ...] = (),
                 notes: Path | None = None, bootstrap: int = 1000) -> None:  # fmt: skip
        """spec: the source, see `worker.build`; files and notes: see `sources.Place`."""
        self.files, self.notes, self.bootstrap = files, notes, bootstrap
        self.sweep = ""
        """The one it is of; "" for all of a store."""
        self.has_whole = True
        """Whether there is a page of all sweeps together."""
        self.sweeps: Callable[[], Sequence[str]] = lambda: self.runs.facts.get("sweeps", ())
        """Names of those that a page can choose from."""
        base = {"spec": dict(spec), "cache": str(cache)}
        self.reader, self.fitter = Child(base, READER_IDLE_S), Child(base, FITTER_IDLE_S)
        self.drawer = Child(base, READER_IDLE_S)
        self.runs = Runs()
        self.laws: dict[Count, Laws] = {}
        self._counts_of_pages: list[Count] = []
        self._work = asyncio.Event()
        self._slow = False
        """Whether a fit took longer than QUICK_FIT_S."""

    # -- what the server asks --------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """Small enough to be fetched every second or two."""
        runs = self.runs
        age = None if runs.read_at is None else round(time.time() - runs.read_at, 1)
        by_count = {
            "|".join(count): {"etag": laws.etag, "done": laws.done, "stage": laws.stage,
                              "fresh": laws.hash == runs.facts.get("hash"), "problem": laws.problem}
            for count, laws in self.laws.items()
        }  # fmt: skip
        notes = marks_of((self.notes,) if self.notes else ())
        of_sweeps = {"sweep": self.sweep, "sweeps": list(self.sweeps()), "whole": self.has_whole}
        facts = {"etag": runs.etag, "age_s": age, "problem": runs.problem, "notes": notes}
        return {**facts, **of_sweeps, "laws": by_count}

    def notes_of_runs(self) -> dict[str, Any]:
        """Stars and notes as the page gets them: "runs" by key, and "why" they cannot be changed, or ""."""
        try:
            return {"runs": read_notes(self.notes) if self.notes else {}, "why": why_not(self.notes)}
        except UserError as error:
            return {"runs": {}, "why": str(error)}

    def write_note(self, key: str, *, star: bool, note: str) -> None:
        """Keep star and note of a run of the table; UserError if that cannot be."""
        if self.notes is None or (why := why_not(self.notes)):
            raise UserError(why_not(None) if self.notes is None else why)
        column = json.loads(gzip.decompress(self.runs.content))["columns"]["key"] if self.runs.content else {}
        if key not in (*column.get("values", ()), column.get("value"), *column.get("words", ())):
            raise UserError(f"there is no run {key!r} among these")
        write_note(self.notes, key, star=star, note=note)

    def want(self, count: Count) -> Laws:
        """The laws counted that way, as far as they are there; they are fitted next."""
        if count not in self._counts_of_pages:
            self._counts_of_pages.insert(0, count)
            self._work.set()
        return self.laws.setdefault(count, Laws())

    def knows(self, count: Count) -> bool:
        counts = self.runs.facts.get("counts", {})
        return count[0] in counts.get("params", ()) and count[1] in counts.get("flops", ())

    async def curves(self, room: int) -> bytes:
        """The loss curves of all runs in at most `room` bytes, see `analysis.dashboard.curves`; the page's
        data is then that of the same runs. If they cannot be read, the sentence that says so."""
        try:
            answer = await self.reader.last(job="curves", room=room)
        except ChildError as error:
            return nothing(f"Loss curves could not be read when this file was written: {error}")
        path = Path(answer.pop("curves"))
        self._take_page(answer)
        return path.read_bytes()

    async def run(self, key: str) -> dict[str, Any]:
        """Curve and story of a run; ChildError if the store does not answer."""
        return await self.reader.last(job="run", key=key)

    async def answer(self, count: Count, question: Mapping[str, str]) -> dict[str, Any]:
        """What the page shows for a question, or {"problem": sentence} if it is a bad one; ChildError while
        there are no laws to ask."""
        laws = self.laws.get(count, Laws())
        if not laws.file:
            raise ChildError("the laws are still being fitted")
        return await self.drawer.last(job="answer", laws=laws.file, question=dict(question))

    async def figure(self, count: Count, name: str, *, format: str = "json", **look: Any) -> bytes:
        """A figure of the laws: gzip of JSON, made when it is first asked for, or a picture; look: families,
        budgets, theme. ChildError if there is none."""
        laws = self.laws.get(count, Laws())
        if not laws.file:
            raise ChildError("the laws are still being fitted")
        kept = format == "json" and not name.startswith("answer?")  # of those there is no end
        figures = laws.figures if kept else {}  # newer laws get others
        if name not in figures:
            answer = await self.drawer.last(job="figure", laws=laws.file, name=name, format=format, **look)
            figures[name] = base64.b64decode(answer["content"])
        return figures[name]

    async def figures(self, count: Count) -> dict[str, Any]:
        """All figures of the laws counted that way, as far as they can be made."""
        content = self.laws.get(count, Laws()).content
        figures = json.loads(gzip.decompress(content)).get("figures", {}) if content else {}
        for name in [name for name, figure in figures.items() if figure is None]:
            with contextlib.suppress(ChildError):
                figures[name] = json.loads(gzip.decompress(await self.figure(count, name)))
        return {name: figure for name, figure in figures.items() if figure is not None}

    # -- keeping up ------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Read the store when it changes, and fit when the runs changed; until cancelled."""
        fitting = asyncio.create_task(self._keep_fitting())
        try:
            await self._keep_reading()
        finally:
            fitting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await fitting
            for child in (self.reader, self.fitter, self.drawer):
                await child.close()

    async def _keep_reading(self) -> None:
        while True:
            began = time.monotonic()
            marks = marks_of(self.files)
            await self._read_once()
            took = time.monotonic() - began
            await asyncio.sleep(max(LOOK_S if self.files else ASK_S, REST * min(took, 10.0)))
            until = time.monotonic() + AT_LEAST_EVERY_S
            while (
                self.files
                and time.monotonic() < until
                and not self.runs.problem
                and marks_of(self.files) == marks
            ):
                self.runs.read_at = time.time()  # nothing was written since: what was read is still so
                await asyncio.sleep(LOOK_S)

    async def _read_once(self) -> None:
        try:
            answer = await self.reader.last(job="read", have=bool(self.runs.content) and not self.runs.old)
        except ChildError as error:
            self.runs.problem = str(error)
            return
        self.runs.problem, self.runs.read_at = "", time.time()
        self.runs.old = False
        if not answer.get("same"):
            self._take_page(answer)

    def _take_page(self, answer: dict[str, Any]) -> None:
        if answer["etag"] == self.runs.etag:
            return
        self.runs.content = Path(answer.pop("file")).read_bytes()
        self.runs.etag, self.runs.facts = answer["etag"], answer
        self._work.set()

    async def _keep_fitting(self) -> None:
        while True:
            count = self._next_count()
            if count is None:
                self._work.clear()
                await self._work.wait()
                continue
            began = time.monotonic()
            await self._fit_once(count)
            took = time.monotonic() - began
            # while runs arrive, fits take at most a fifth of the time
            await asyncio.sleep(min(REST * took, 120.0) if self.runs.facts.get("open") else 0.05)

    def _next_count(self) -> Count | None:
        facts = self.runs.facts
        if not facts.get("rows") or not facts.get("hash"):
            return None
        first = (facts["default"]["params"], facts["default"]["flops"])
        of_pages = [count for count in self._counts_of_pages if self.knows(count)]
        rest = [(p, f) for p in facts["counts"]["params"] for f in facts["counts"]["flops"]]
        if facts.get("open") or self._slow:
            rest = []
        for count in [*of_pages, first, *rest]:
            laws = self.laws.get(count)
            if laws is None or laws.hash != facts["hash"]:
                return count
        return None

    async def _fit_once(self, count: Count) -> None:
        laws = self.laws.setdefault(count, Laws())
        data_hash = str(self.runs.facts["hash"])
        whole_before = bool(laws.content) and laws.done
        began = time.monotonic()
        laws.stage, laws.problem = "starting", ""
        default = self.runs.facts["default"]  # a page that goes over to another count has its library by then
        paint = count in self._counts_of_pages or count == (default["params"], default["flops"])
        try:
            job = {"params": count[0], "flops": count[1], "hash": data_hash, "bootstrap": self.bootstrap}
            async for answer in self.fitter.ask(job="fit", paint=paint, **job):
                laws.stage = answer.get("stage", "")
                if answer.get("end") or not whole_before:
                    # older laws that are whole stay until the new ones are
                    self._take(laws, Path(answer["file"]), done=bool(answer.get("end")))
        except ChildError as error:
            laws.problem, laws.stage = str(error), ""
        laws.hash = data_hash  # also after a failure: the same runs would fail again
        self._slow = self._slow or time.monotonic() - began > QUICK_FIT_S

    def _take(self, laws: Laws, path: Path, *, done: bool) -> None:
        with contextlib.suppress(OSError):
            laws.content = path.read_bytes()
            laws.etag = hashlib.sha256(laws.content).hexdigest()[:24]
            laws.done, laws.file, laws.figures = done, str(path), {}

    def take_up(self, cache: Path) -> None:
        """Show what an earlier server left in the cache folder until the store has been read."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            facts = json.loads((cache / "facts.json").read_text(encoding="utf-8"))
            path = cache / "page.json.gz"
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:24] != facts["etag"]:
                return
            self.runs = Runs(
                content=content, etag=facts["etag"], facts=facts, read_at=path.stat().st_mtime, old=True
            )
            for params in facts["counts"]["params"]:
                for flops in facts["counts"]["flops"]:
                    path = cache / f"laws-{facts['hash']}-{params}-{flops}.json.gz"
                    if facts["hash"] and path.is_file():
                        laws = self.laws[params, flops] = Laws(hash=facts["hash"])
                        self._take(laws, path, done=True)
