"""`scaling families` and `scaling sweeps`: the names that the other commands take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.text import flops_text, without_secrets
from scaling.families import FAMILIES, PAPERS, describe
from sweeps.show.status import summary
from sweeps.show.tables import RowsTable

if TYPE_CHECKING:
    from rich.console import Console


def families_table() -> RowsTable:
    """Each family: its name, the papers', and how it works."""
    papers = {ours: paper for paper, ours in PAPERS.items()}
    rows = []
    for name in FAMILIES:
        about = re.fullmatch(r"(?:\w+(?: \((?P<source>.*?)\))?: )?(?P<how>.*?)\.?", describe(name))
        source = re.search(r"arXiv \d+\.\d+", (about and about["source"]) or "")
        rows.append(
            {
                "family": name,
                "in papers": papers.get(name, ""),
                "source": source[0] if source else "",
                "how it works": about["how"] if about else "",
            }
        )
    return RowsTable(title="", rows=rows, wraps="how it works")


def show_sweeps(
    out: Path, store: str | None, terminal: Console, *, columns: Mapping[str, str] | None = None
) -> None:
    """The sweeps of a store; without one, those of the package and those under `out`.

    UserError as `analysis.load_runs`, and for a table of runs without sweeps.
    """
    if store is not None:
        rows = _recorded(store, columns)
        title = f"sweeps in {without_secrets(store)}"
    else:
        rows, title = _shipped(out), ""
    terminal.print(RowsTable(title=title, rows=rows, wraps="families" if store else "what it is"))


def _recorded(store: str, columns: Mapping[str, str] | None) -> list[dict[str, str]]:
    from analysis.errors import UserError
    from sweeps.results.laws import store_table

    runs = store_table(store, None, columns=columns).frame
    if "sweep" not in runs.columns:
        raise UserError(f"{without_secrets(store)} has no column sweep: it holds the runs of one sweep")
    rows = []
    for name, own in runs.groupby("sweep", sort=True):
        states = summary(own["status"].dropna()) if "status" in own.columns else f"{len(own)} runs"
        families = ", ".join(map(str, own["family"].dropna().unique())) if "family" in own.columns else ""
        rows.append({"sweep": str(name), "runs": states, "families": families})
    return rows


def _shipped(out: Path) -> list[dict[str, str]]:
    from sweeps.config.load import SHIPPED, load_config, shipped_names, swept_names
    from sweeps.ledger.ledger import Ledger

    rows, swept = [], swept_names(out)
    for name in dict.fromkeys((*shipped_names(), *swept)):
        own = {"sweep": name, "budgets": "", "runs": "", "what it is": f"in {out / name}"}
        if name in shipped_names():
            file = SHIPPED / f"{name}.yaml"
            budgets = load_config(file).grid.budgets
            own["budgets"] = f"{flops_text(min(budgets))} to {flops_text(max(budgets))}"
            own["what it is"] = file.read_text(encoding="utf-8").partition("\n")[0].strip("# .")
        if name in swept:
            with Ledger(out / name / "ledger", read_only=True) as ledger:
                own["runs"] = summary(run.state for run in ledger.runs(whole=False))
        rows.append(own)
    return rows
