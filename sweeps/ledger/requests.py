"""Requests about runs: cancel, retry, resume."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.errors import UserError
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.status import of_families
from sweeps.ledger.types import RETRIED, SETTLED, Run, State

_DONE = {"cancel": "cancelled", "retry": "to be tried again", "resume": "to go on"}
ACTIONS = tuple(_DONE)


def carry_out(ledger: Ledger, action: str, families: Sequence[str], keys: Sequence[str]) -> str:
    """Do `action` to the runs of `families` whose keys begin with one of `keys`; empty: to all.

    cancel: open runs stop, running ones at their next step with a checkpoint. retry: runs that failed or
    fitted no node get all their tries again, and so does a diverged run that `keys` name. resume: cancelled
    and preempted runs go on from their checkpoint. Returns a sentence about it; UserError for a family
    without runs and a key that no run begins with.
    """
    chosen = of_families(ledger.runs(whole=False), families)
    if keys:
        chosen = list({run.key: run for start in keys for run in find(chosen, start)}.values())
    if action == "cancel":
        number = ledger.cancel([run.key for run in chosen if run.state not in SETTLED])
    elif action == "retry":
        states = RETRIED | ({State.DIVERGED} if keys else set())
        number = ledger.reopen([run.key for run in chosen], states)
    elif action == "resume":
        still = sum(run.state == State.PREEMPTED for run in chosen)
        number = still + ledger.reopen([run.key for run in chosen], [State.CANCELLED])
    else:
        raise UserError(f"action is {action!r}, it must be one of {', '.join(ACTIONS)}")
    sentence = f"{number} run{'' if number == 1 else 's'} {_DONE[action]}"
    others = len(chosen) - number
    if others and (keys or not number):
        sentence += f"; {others} others were in no state for it"
    if number and action != "cancel" and not ledger.driven():
        sentence += "; nobody drives the sweep now, `scaling sweep` starts it"
    return sentence


def find(runs: Sequence[Run], start: str) -> list[Run]:
    """The runs whose key begins with `start`; UserError if there is none."""
    matches = [run for run in runs if run.key.startswith(start)]
    if not matches:
        raise UserError(f"no run's key begins with {start!r}; `scaling status` lists them")
    return matches


def find_one(runs: Sequence[Run], start: str) -> Run:
    """The run whose key begins with `start`; UserError if there is none, or several."""
    matches = find(runs, start)
    if len(matches) > 1:
        names = ", ".join(run.key for run in matches[:4])
        raise UserError(f"{len(matches)} runs' keys begin with {start!r} ({names}); give more of it")
    return matches[0]
