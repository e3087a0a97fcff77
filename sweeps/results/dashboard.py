"""A sweep's own ledger as a source of the dashboard, see `analysis.dashboard.sources`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.dashboard import sources
from analysis.dashboard.serve import serve
from analysis.dashboard.sources import Change
from analysis.errors import UserError as AnalysisError
from analysis.table.columns import typed
from analysis.table.runs import UnknownNameError
from scaling.errors import UserError
from scaling.families import family_name
from sweeps.attempt.journal import JOURNAL, attempt_folders, last, merged, run_folder
from sweeps.ledger.ledger import Ledger, LedgerLostError
from sweeps.plan.rows import run_rows

if TYPE_CHECKING:
    import pandas as pd

    from analysis.dashboard.curves import Pair


NOTES = "notes.json"
"""Stars and notes on the runs of a sweep, in its folder."""


class LedgerSource:
    """The runs of one sweep, from its ledger and the journals beside the runs."""

    has_curves = True

    def __init__(self, folder: str, sweep: str, families: list[str] | None = None) -> None:
        """folder: of the sweep; its ledger may not exist yet."""
        self.folder, self.sweep, self.families = Path(folder), sweep, frozenset(families or ())
        self.label = str(self.folder)
        self.samples = self.folder / sources.SAMPLES
        self.files = (self.folder / "ledger" / "ledger.db", self.samples)
        """They change with every change of the ledger, and of the samples."""
        self._last: dict[str, tuple[int, str]] = {}
        """Key -> the last change and state of a run that were read."""
        self._ledger: Ledger | None = None

    def read(self, mark: Any) -> Change | None:
        """Runs that changed since the last call, or whose driver stopped since then.

        The mark is the ledger's id and the number of its newest change.
        """
        import pandas as pd

        if not Ledger.exists(self.folder / "ledger"):
            note = f"sweep {self.sweep} has no runs yet: start it with `scaling sweep`"
            return None if mark == "none" else Change(rows=pd.DataFrame(), mark="none", whole=True, note=note)
        with self._opened() as ledger:
            since = mark[1] if isinstance(mark, list) and mark[0] == ledger.id else None
            self._last = self._last if since is not None else {}
            runs = [
                run
                for run in ledger.runs(since=since)
                if not self.families or run.family in self.families
                if self._last.get(run.key) != (run.changed, run.state)
            ]
            recorded = ledger.run_ids()
        if not runs:
            note = "no run is planned yet"
            empty = Change(rows=pd.DataFrame(), mark=[ledger.id, 0], whole=True, note=note)
            return empty if since is None else None
        rows = []
        for run in runs:
            about: dict[str, Any] = {"attempt": float(run.attempt)}
            about |= {"sentence": run.sentence} if run.sentence else {}
            rows += [row | about for row in run_rows(run, self.sweep, run_id=recorded.get(run.key))]
        self._last |= {run.key: (run.changed, run.state) for run in runs}
        newest = max(since or 0, *(run.changed for run in runs))
        return Change(
            rows=typed(pd.DataFrame(rows), self.label), mark=[ledger.id, newest], whole=since is None
        )

    @contextmanager
    def _opened(self) -> Iterator[Ledger]:
        """The ledger, kept open: whether drivers live shows in their heartbeats over time."""
        try:
            self._ledger = self._ledger or Ledger(self.folder / "ledger", read_only=True)
            yield self._ledger
        except UserError as error:
            if isinstance(error, LedgerLostError):  # it may be another file next time
                self._ledger = None
            raise AnalysisError(str(error)) from error

    def curves(self, rows: pd.DataFrame) -> Iterator[Pair]:
        """Losses along the runs, from their journals; a biased phase has no training loss to compare."""
        import numpy as np

        from analysis.table.columns import HELD_OUT_LOSS, HELD_OUT_LOSS_SE
        from sweeps.attempt.journal import run_folder

        for family, key in zip(rows["family"], rows["key"], strict=True):
            records = merged(run_folder(self.folder, str(family), str(key)))
            points = [(r.step, r.loss) for r in records if r.has_objective]
            measured = [
                (r.step, *(r.numbers.get(name, math.nan) for name in (HELD_OUT_LOSS, HELD_OUT_LOSS_SE)))
                for r in records
                if r.kind == "held_out"
            ]
            steps, losses = np.array(points, dtype=np.float64).reshape(-1, 2).T
            at, held_out, errors = np.array(measured, dtype=np.float64).reshape(-1, 3).T
            yield (steps, losses), (at, held_out, errors)

    def story(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every attempt: number, state, sentence, host, device, started and ended (seconds since 1970)."""
        names = ("attempt", "state", "sentence", "host", "device", "started", "ended")
        with self._opened() as ledger:
            return [{name: one[name] for name in names} for one in ledger.attempts(str(row["key"]))]

    def texts(self, row: Mapping[str, Any]) -> list[str]:
        """Samples of the attempt that finished; the journals have them."""
        folders = attempt_folders(run_folder(self.folder, str(row["family"]), str(row["key"])))
        samples = [last(folder / JOURNAL, kind="samples") for folder in folders.values()]
        texts = next((record.values.get("texts") for record in reversed(samples) if record), None)
        return list(map(str, texts)) if isinstance(texts, list) else []


def spec_of(folder: Path, sweep: str, families: list[str] | None = None) -> dict[str, Any]:
    """The source for `analysis.dashboard.serve` that reads the sweep's ledger."""
    options = {"folder": str(folder.absolute()), "sweep": sweep, "families": list(families or [])}
    return {"source": "sweeps.results.dashboard:LedgerSource", "options": options}


def show(
    sweep: str | None, config: Path | None, families: Sequence[str], store: str | None, out: Path,
    data: str | None = None, columns: Mapping[str, str] | None = None, **how: Any,
) -> None:  # fmt: skip
    """Serve the page over --store, or over the sweep's own ledger.

    columns: names in a file -> ours; `how`: see `analysis.dashboard.serve`.
    """
    from sweeps.config.load import find_name, swept_names
    from sweeps.results.laws import columns_by_option, store_table

    names = [family_name(family) for family in families]
    if store is not None:
        name = find_name(sweep, config, data, out, store=store) if sweep or config or data else None
        if name is not None or names:
            try:  # a mistyped name would show an empty page forever
                table = store_table(store, name, families, columns)
                names = list(table.families) if names else []
            except UnknownNameError:
                raise
            except AnalysisError:
                pass  # a store that is empty, or does not answer, may have runs later
        files, notes = sources.files_of(store), sources.notes_of(store)
        with columns_by_option():
            spec = sources.spec_of(store, name, names, columns)
        place = sources.Place(spec=spec, files=files, notes=notes)
        serve(place, title=name or sources.title_of(store), sweep=name or "", **how)
        return

    def place_of(name: str) -> sources.Place:
        source = LedgerSource(str((out / name).absolute()), name)
        return sources.Place(
            spec=spec_of(out / name, name, names), files=source.files, notes=out / name / NOTES
        )

    swept = swept_names(out)
    first = find_name(sweep, config, data, out, store=None)
    if swept and first not in swept and not (sweep or config or data):  # none was named: the newest one
        first = max(swept, key=lambda one: (out / one / "ledger" / "ledger.db").stat().st_mtime)

    def others() -> dict[str, sources.Place]:
        return {one: place_of(one) for one in {*swept_names(out), first}}

    serve(place_of(first), title=first, sweep=first, others=others, **how)
