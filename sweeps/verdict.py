"""What becomes of a run after an attempt: done, tried again later, or given up."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.ledger_types import Claim, State
from sweeps.worker import Outcome, Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Failed attempts are tried again, later and later, up to `attempts` in all."""

    attempts: int = 3
    wait_s: float = 2.0
    factor: float = 4.0

    def retry_at(self, failures: int, now: float) -> float:
        return now + self.wait_s * self.factor ** (failures - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a run after an attempt."""

    state: State
    sentence: str
    retry_at: float = 0.0


def judge(
    outcome: Outcome, claim: Claim, *, retries: Retries, now: float, stopping: bool, cancelled: bool
) -> Verdict:
    """The state that `outcome` leads to, and when the run may be tried again."""
    said = outcome.sentence
    if outcome.status in (State.FINISHED, State.DIVERGED):
        return Verdict(state=State(outcome.status), sentence=said)
    if cancelled:
        return Verdict(state=State.CANCELLED, sentence=said)
    if outcome.status == State.PREEMPTED:
        if stopping:
            return Verdict(state=State.PREEMPTED, sentence=said)
        return Verdict(state=State.WAITING, sentence=said, retry_at=now + retries.wait_s)
    failures = claim.failures + 1
    if outcome.trouble == Trouble.USER:
        return Verdict(state=State.FAILED, sentence=said)
    if outcome.trouble == Trouble.ERROR and outcome.signature == claim.last_signature:
        return Verdict(state=State.FAILED, sentence=f"{said} (the same twice, so not tried again)")
    if failures >= retries.attempts:
        return Verdict(state=State.FAILED, sentence=f"{said} (after {failures} failed attempts)")
    retry_at = retries.retry_at(failures, now)
    return Verdict(
        state=State.WAITING,
        sentence=f"{said} (attempt {failures} of {retries.attempts} failed)",
        retry_at=retry_at,
    )
