"""What becomes of a run after an attempt: done, tried again later, or given up."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.attempt.job import Outcome, Trouble
from sweeps.ledger.types import Claim, State
from sweeps.plan.memory import halved


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Failed attempts are tried again, later and later, up to `attempts` in all.

    A lost worker is seldom the run's fault, so there may be `lost` of those, not counting attempts that got
    as far as a checkpoint: a run that gets on will come to its end.
    """

    attempts: int = 3
    lost: int = 6
    wait_s: float = 2.0
    factor: float = 4.0
    longest_wait_s: float = 120.0

    def retry_at(self, failures: int, now: float) -> float:
        return now + min(self.wait_s * self.factor ** (failures - 1), self.longest_wait_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a run after an attempt."""

    state: State
    sentence: str
    retry_at: float = 0.0
    counts: bool = True
    """Whether a failure uses up one of the run's tries."""
    micro_batch: int | None = None
    """Sequences at once, from now on, for runs of this size."""
    elsewhere: bool = False
    """Whether the next attempt had better be on another host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a verdict depends on beside the outcome itself."""

    now: float
    stopping: bool = False
    cancelled: bool = False
    hosts: int = 1
    """Machines there are: a failure may be one machine's fault."""
    micro_batch: int = 1
    """Sequences that were at once in the network."""
    advanced: bool = False
    """Whether the attempt saved a checkpoint."""
    pauses: int = 0
    """How often in a row it has had to wait through no fault of its own."""
    large: bool = False
    """Whether the run by itself takes most of its node's memory."""


def judge(outcome: Outcome, claim: Claim, at: Circumstances, *, retries: Retries) -> Verdict:
    """The state that `outcome` leads to, and when the run may be tried again."""
    said = outcome.sentence
    if outcome.status in (State.FINISHED, State.DIVERGED):
        return Verdict(state=State(outcome.status), sentence=said)
    if at.cancelled:
        return Verdict(state=State.CANCELLED, sentence=said)
    if outcome.status == State.PREEMPTED:
        if at.stopping:
            return Verdict(state=State.PREEMPTED, sentence=said)
        return Verdict(state=State.WAITING, sentence=said, retry_at=at.now + retries.wait_s)
    if outcome.trouble == Trouble.USER:
        return Verdict(state=State.FAILED, sentence=said)
    if outcome.trouble == Trouble.DISK:  # no fault of the run: the driver waits for room
        return Verdict(state=State.WAITING, sentence=said, retry_at=at.now, counts=False)
    # A node low on memory may be others' doing; but not if the run is large, or meets it again and again.
    own_memory = outcome.trouble == Trouble.MEMORY or (
        outcome.trouble == Trouble.NODE_MEMORY and (at.large or at.pauses >= retries.lost)
    )
    if outcome.trouble in (Trouble.DATA, Trouble.NODE_MEMORY) and not own_memory:
        later = retries.retry_at(at.pauses + 1, at.now)
        return Verdict(state=State.WAITING, sentence=said, retry_at=later, counts=False, elsewhere=True)
    if own_memory and at.micro_batch > 1:
        fewer = halved(at.micro_batch)
        sentence = f"{said} (goes on with {fewer} sequences at once instead of {at.micro_batch})"
        return Verdict(
            state=State.WAITING, sentence=sentence, retry_at=at.now, counts=False, micro_batch=fewer
        )
    return _failed(outcome, claim, at, retries)


def _failed(outcome: Outcome, claim: Claim, at: Circumstances, retries: Retries) -> Verdict:
    said, failures = outcome.sentence, claim.failures + 1
    again = outcome.trouble == Trouble.ERROR and outcome.signature == claim.last_signature
    if again and outcome.host != claim.last_host:
        where = f"{claim.last_host} and {outcome.host}"
        return Verdict(state=State.FAILED, sentence=f"{said} (the same on two hosts, {where})")
    if again and at.hosts < 2:
        return Verdict(state=State.FAILED, sentence=f"{said} (the same twice, so not tried again)")
    lost = outcome.trouble == Trouble.LOST
    if lost and at.advanced:
        sentence = f"{said} (it had got further, so this does not count)"
        return Verdict(
            state=State.WAITING,
            sentence=sentence,
            retry_at=at.now + retries.wait_s,
            counts=False,
            elsewhere=True,
        )
    allowed = retries.lost if lost else retries.attempts
    if failures >= allowed:
        return Verdict(state=State.FAILED, sentence=f"{said} (after {failures} failed attempts)")
    return Verdict(
        state=State.WAITING,
        sentence=f"{said} (attempt {failures} of {allowed} failed)",
        elsewhere=True,
        retry_at=retries.retry_at(failures, at.now),
    )
