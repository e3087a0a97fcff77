"""The child process behind the page: reads a store, or fits laws, one job after the other.

    python -m analysis.dashboard.worker

Jobs come as JSON lines on standard input, answers go as JSON lines to standard output; a job's last answer
has "end": true. Large results go into files of the cache folder, whose names are in the answer; each is
written whole, for the server may read it at any time. The process ends with its input. Warnings and logs go
to standard error.
"""

from __future__ import annotations

import base64
import ctypes
import gc
import gzip
import hashlib
import json
import logging
import os
import pickle
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from analysis.dashboard.columns import plain_number, to_columns
from analysis.errors import UserError
from analysis.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

    from analysis.dashboard import fits
    from analysis.dashboard.sources import Change, Source

SNAPSHOT, SAMPLES = "runs.parquet", "samples.parquet"
CURVES_S = 90.0
"""Reading curves for a file takes this long at most; the runs that are left have none in it."""
QUICK, SMALL = 4, 9
"""gzip levels: of what is sent while runs arrive, and of laws that are whole, which exported files carry."""
HASHED = ("family", "key", "params", "tokens", "flops", "budget", "loss", "loss_se", "status", "excluded")
"""Columns on which laws depend."""
MATERIAL = ".pickle.gz"  # of the file beside laws that holds what their figures are made from
OPEN = ("planned", "running", "preempted")

Steps = Iterator[dict[str, Any]]


def pack(value: Any, level: int = QUICK) -> bytes:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return gzip.compress(text.encode(), level, mtime=0)


class Reader:
    """The runs of one source, kept up to date, as files for the page."""

    def __init__(self, source: Source, cache: Path) -> None:
        self.source, self.cache = source, cache
        self.frame: pd.DataFrame | None = None
        self.mark: Any = None
        self.note = ""
        self.tracking: Mapping[str, Any] | None = None
        self._take_up()

    def _take_up(self) -> None:
        """Go on from the snapshot of an earlier process, if there is one."""
        import pandas as pd

        try:
            snapshot = json.loads((self.cache / "mark.json").read_text(encoding="utf-8"))
            frame = pd.read_parquet(self.cache / SNAPSHOT)
        except (OSError, ValueError):
            return
        if snapshot.get("source") == self.source.label:
            self.frame, self.mark, self.note = frame, snapshot["mark"], snapshot["note"]
            self.tracking = snapshot.get("tracking")

    def read(self, job: Mapping[str, Any]) -> Steps:
        """What changed; the answer has no file where nothing did and the server has a page already."""
        change = self.source.read(self.mark)
        if change is not None:
            self._merge(change)
        if not self._take_samples() and change is None and job.get("have"):
            yield {"same": True, "end": True}
            return
        yield self._publish()

    def _take_samples(self) -> bool:
        """Bring the table of samples into the cache as it is now; whether it is another one than before."""
        place, copy = self.source.samples, self.cache / SAMPLES
        content = place.read_bytes() if place is not None and place.is_file() else None
        if content == (copy.read_bytes() if copy.is_file() else None):
            return False
        if content is None:
            copy.unlink()
        else:
            write_whole(copy, content)
        return True

    def _merge(self, change: Change) -> None:
        import pandas as pd

        rows = change.rows
        if not change.whole and self.frame is not None and "key" in self.frame:
            changed = _places(rows)
            kept = self.frame[~_places(self.frame).isin(changed)]
            rows = pd.concat([kept, rows], ignore_index=True)
        self.frame, self.mark, self.note = with_keys(rows), change.mark, change.note
        self.tracking = change.tracking
        self.frame.to_parquet(self.cache / SNAPSHOT, index=False)
        facts = {"source": self.source.label, "mark": self.mark, "note": self.note, "tracking": self.tracking}
        write_whole(self.cache / "mark.json", json.dumps(facts).encode())

    def _publish(self) -> dict[str, Any]:
        from analysis.dashboard.fits import counts_of, default_counts
        from analysis.dashboard.measures import measures_of, nominal_budgets
        from analysis.figures import theme

        frame = self.frame
        assert frame is not None, "a source that never changed has nothing to show"
        facts: dict[str, Any] = {
            "rows": len(frame),
            "note": self.note,
            "hash": data_hash(frame, self.cache / SAMPLES),
            "counts": counts_of(frame) if len(frame) else {"params": ["own"], "flops": ["own"]},
            "default": default_counts(frame) if len(frame) else {"params": "own", "flops": "own"},
            "bits": measures_of(frame),
            # runs that will still change
            "open": int(frame["status"].isin(OPEN).sum()) if "status" in frame else 0,
            "tracking": self.tracking,
            "has_curves": self.source.has_curves,
            "sweeps": sorted(frame["sweep"].dropna().unique().tolist()) if "sweep" in frame else [],
        }
        table = frame.assign(nominal=nominal_budgets(frame)) if len(frame) else frame
        # how families and budgets look, as in every figure
        families = theme.family_order(frame["family"].dropna().unique()) if "family" in frame else [""]
        styles = {name: theme.family_style(name) for name in families}
        facts["families"] = {name: {"colour": s.colour, "symbol": s.symbol} for name, s in styles.items()}
        nominal = table["nominal"].dropna().unique().tolist() if len(frame) else []
        budgets = [plain_number(budget) for budget in sorted(nominal)]
        facts["budgets"] = [
            list(pair) for pair in zip(budgets, theme.budget_colours(len(budgets)), strict=True)
        ]
        content = pack({**facts, "columns": to_columns(table)})
        etag = hashlib.sha256(content).hexdigest()[:24]
        path = self.cache / "page.json.gz"
        write_whole(path, content)
        write_whole(self.cache / "facts.json", json.dumps({**facts, "etag": etag}).encode())
        return {**facts, "etag": etag, "file": str(path), "end": True}

    def curves(self, job: Mapping[str, Any]) -> Steps:
        """Page data as it stands and, in a file of at most job["room"] bytes, the curves of all its runs."""
        from analysis.dashboard import curves

        started = time.monotonic()
        if self.frame is None:
            yield from ({**answer, "end": False} for answer in self.read({}))
        answer = self._publish()
        assert self.frame is not None, "read above"
        path = self.cache / f"curves-{answer['etag']}.npz"
        # while runs train, their curves grow without a change in the table
        if answer["open"] or not path.is_file():
            for older in self.cache.glob("curves-*.npz"):
                older.unlink()
            until = started + CURVES_S
            curves.collected(self.source.curves(self.frame), len(self.frame), until).save(path)
        packed = self.cache / "curves.gz"
        write_whole(packed, curves.fitting(curves.Curves.load(path), int(job["room"])))
        yield {**answer, "curves": str(packed)}

    def run(self, job: Mapping[str, Any]) -> Steps:
        """Curve, story and texts of the run with that key."""
        from analysis.dashboard.curves import columns_of

        frame = self.frame
        rows = frame[frame["key"] == job["key"]] if frame is not None and len(frame) else None
        if rows is None or not len(rows):
            yield {"unknown": True, "end": True}
            return
        curves = columns_of(next(self.source.curves(rows.tail(1))))
        row = rows.iloc[-1]
        yield {**curves, "story": self.source.story(row), "texts": self.source.texts(row), "end": True}


def _places(rows: pd.DataFrame) -> pd.MultiIndex:
    """What tells a row from the others: sweep, key, and the replica of a run that trained several."""
    import pandas as pd

    replica = rows["replica"].fillna(-1) if "replica" in rows else -1
    return pd.MultiIndex.from_frame(rows[["sweep", "key"]].assign(replica=replica))


def with_keys(rows: pd.DataFrame) -> pd.DataFrame:
    """Every row with a key of its own; a table without keys gets numbers."""
    if not len(rows):
        return rows.reset_index(drop=True)
    if "key" not in rows:
        rows = rows.assign(key=[f"row-{number:05d}" for number in range(1, len(rows) + 1)])
    return rows.reset_index(drop=True)


def data_hash(frame: pd.DataFrame, samples: Path | None = None) -> str:
    """Of everything that laws and the table of samples depend on: they are made anew when it changes, and
    only then; "" without a finished run."""
    import numpy as np
    import pandas as pd

    rows = frame[frame["status"] == "finished"] if "status" in frame else frame
    if not len(rows):
        return ""
    names = [n for n in frame.columns if n in HASHED or n.startswith(("params_", "flops_"))]
    numbers = pd.util.hash_pandas_object(rows[names], index=False).to_numpy()
    # sorted: runs come in another order after a restart, and laws do not depend on it
    digest = hashlib.sha256(np.sort(numbers).tobytes())
    if samples is not None and samples.is_file():
        digest.update(samples.read_bytes())
    return digest.hexdigest()[:24]


class Fitter:
    """Fits laws to the snapshot that the reader keeps, answers questions, and makes figures and pictures."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def fit(self, job: Mapping[str, Any]) -> Steps:
        """Answers after each step, with the file that holds all results so far."""
        import pandas as pd

        from analysis.dashboard import fits

        os.nice(max(0, 10 - os.nice(0)))  # a sweep on this machine goes first
        params, flops, of_data = job["params"], job["flops"], job["hash"]
        path = self.cache / f"laws-{of_data}-{params}-{flops}.json.gz"
        frame = pd.read_parquet(self.cache / SNAPSHOT)
        samples = self.cache / SAMPLES
        now = data_hash(frame, samples)
        results: dict[str, Any] = {"hash": now, "params": params, "flops": flops, "fitted_at": time.time()}
        part = path.with_suffix(".part")
        material = fits.Material(fits.counted(frame, params, flops), samples=samples)

        def report(stage: str, news: dict[str, Any]) -> None:
            for name, value in news.items():
                results[name] = results.get(name, {}) | value if isinstance(value, dict) else value
            if news.keys() & {"figures", "answers", "no_answer"}:
                pickled = gzip.compress(pickle.dumps(material), 1)
                write_whole(part.with_suffix("").with_suffix(MATERIAL), pickled)
            write_whole(part, pack({**results, "done": False, "stage": stage}, 1))
            send({"stage": stage, "file": str(part)})

        fits.fit_everything(material, int(job["bootstrap"]), report, paint=bool(job["paint"]))
        write_whole(path, pack({**results, "done": True, "stage": ""}, SMALL))
        part.unlink(missing_ok=True)
        for older in self.cache.glob(f"laws-*-{params}-{flops}.*"):
            if of_data not in older.name:
                older.unlink(missing_ok=True)
        yield {"file": str(path), "hash": now, "end": True}

    def answer(self, job: Mapping[str, Any]) -> Steps:
        """To a question, without its figure, or what a loss costs; {"problem": sentence} to a bad one."""
        own = material_of_laws(job["laws"]).answers
        if own is None:
            raise UserError("the laws are still being fitted")
        try:
            loss = job["question"].get("loss")
            content = own.costs(loss) if loss else own.answer(job["question"], draw=False)
        except UserError as error:
            content = {"problem": " ".join(str(error).split())}
        yield {**content, "end": True}

    def figure(self, job: Mapping[str, Any]) -> Steps:
        """One figure of the laws in that file: as the page gets it, packed, or as a picture."""
        from analysis.dashboard.drawings import picture

        content = material_of_laws(job["laws"]).content(job["name"])
        answer = pack(content, SMALL)
        if job["format"] != "json":
            look = {"families": job["families"], "budgets": job["budgets"], "theme_name": job["theme"]}
            saved = picture(content, self.cache / f"picture.{job['format']}", **look)
            answer = saved.read_bytes()
            saved.unlink()
        yield {"content": base64.b64encode(answer).decode(), "end": True}


def material_of_laws(laws: str) -> fits.Material:
    """What the laws in that file, whole or in part, were fitted with. UserError if it is gone."""
    path = Path(laws).with_suffix("").with_suffix(MATERIAL)
    try:
        return material_of(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise UserError("these laws are being fitted again") from None


@lru_cache(maxsize=1)
def material_of(path: Path, written: int) -> fits.Material:
    """What that file, last written then, holds."""
    return cast("fits.Material", pickle.loads(gzip.decompress(path.read_bytes())))


def give_back() -> None:
    """Memory that reading took and nothing holds any more goes back to the system, where that can be done."""
    gc.collect()
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def build(spec: Mapping[str, Any]) -> Source:
    """The source that the server's caller named, "package.module:Class", with its options."""
    module, name = str(spec["source"]).split(":")
    source: Source = getattr(import_module(module), name)(**spec["options"])
    return source


def send(answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), file=_out, flush=True)


_out = sys.stdout


def main() -> None:
    """Serve jobs until the input ends."""
    global _out
    # what a library prints must not be taken for an answer
    _out, sys.stdout = sys.stdout, sys.stderr
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    cache: Path | None = None
    reader: Reader | None = None
    for line in sys.stdin:
        job = json.loads(line)
        cache = Path(job["cache"])
        try:
            if not hasattr(Fitter, job["job"]) and reader is None:
                reader = Reader(build(job["spec"]), cache)
            owner = Fitter(cache) if hasattr(Fitter, job["job"]) else reader
            for answer in getattr(owner, job["job"])(job):
                send(answer)
            if job["job"] != "answer":
                give_back()
        except UserError as error:
            send({"error": " ".join(str(error).split()), "end": True})
        except Exception as error:  # the server shows it and goes on with what it has
            logging.getLogger(__name__).exception("job %s failed", job["job"])
            send({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "end": True})


if __name__ == "__main__":
    main()
