"""Wishes about runs: cancel, retry, resume. What each means, for whoever may write the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.errors import UserError
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.status import Row, of_families, rows_of
from sweeps.ledger.types import SETTLED, State

ACTIONS = ("cancel", "retry", "resume")
_DONE = {"cancel": "cancelled", "retry": "to be tried again", "resume": "to go on"}


def carry_out(ledger: Ledger, action: str, families: Sequence[str], keys: Sequence[str]) -> str:
    """Do `action` to the runs of `families` whose keys begin as said (all, where neither is given).

    cancel: what is not done stops, running runs at their next step with a checkpoint. retry: what failed or
    fitted no node gets all its tries again, and so does a diverged run that is named by its key. resume: what
    was cancelled, or stands still, goes on from its checkpoint. Returns what was done, in a sentence;
    UserError for a family without runs and a key that no run begins with.
    """
    chosen = _chosen(rows_of(ledger), families, keys)
    if action == "cancel":
        wanted = [row for row in chosen if row.state not in SETTLED]
        number = ledger.cancel([row.key for row in wanted])
    elif action == "retry":
        states = {State.FAILED, State.UNSCHEDULABLE} | ({State.DIVERGED} if keys else set())
        wanted = [row for row in chosen if row.state in states]
        number = ledger.reopen([row.key for row in wanted], states)
    elif action == "resume":
        wanted = [row for row in chosen if row.state in (State.CANCELLED, State.PREEMPTED)]
        still = sum(row.state == State.PREEMPTED for row in wanted)
        number = still + ledger.reopen([row.key for row in wanted], [State.CANCELLED])
    else:
        raise UserError(f"action is {action!r}, it must be one of {', '.join(ACTIONS)}")
    others = len(chosen) - number
    rest = f"; {others} others were in no state for it" if others and (keys or not number) else ""
    driver = "" if action == "cancel" or not number or ledger.driven() else NOBODY
    return f"{number} run{'' if number == 1 else 's'} {_DONE[action]}{rest}{driver}"


NOBODY = "; nobody drives the sweep now, `scaling sweep` starts it"


def _chosen(rows: Sequence[Row], families: Sequence[str], keys: Sequence[str]) -> list[Row]:
    rows = of_families(rows, families)
    if not keys:
        return list(rows)
    chosen = {row.key: row for start in keys for row in find(rows, start)}
    return list(chosen.values())


def find(rows: Sequence[Row], start: str) -> list[Row]:
    """The runs whose key begins with `start`; UserError where there is none."""
    found = [row for row in rows if row.key.startswith(start)]
    if not found:
        raise UserError(f"no run's key begins with {start!r}; `scaling status` lists them")
    return found


def find_one(rows: Sequence[Row], start: str) -> Row:
    """The run whose key begins with `start`; UserError where there is none, or several."""
    found = find(rows, start)
    if len(found) > 1:
        names = ", ".join(row.key for row in found[:4])
        raise UserError(f"{len(found)} runs' keys begin with {start!r} ({names}); give more of it")
    return found[0]
