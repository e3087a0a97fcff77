"""What becomes of a run after an attempt: done, tried again later, or given up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

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
    state: State
    sentence: str
    retry_at: float = 0.0
    counts: bool = True
    """Whether a failure uses up one of the run's tries."""
    micro_batch: int | None = None
    """Sequences at once, from now on, for runs of this size."""
    elsewhere: bool = False
    """Whether the next attempt had better be on another host."""


def judge(
    outcome: Outcome,
    claim: Claim,
    *,
    now: float,
    retries: Retries,
    stopping: bool = False,
    cancelled: bool = False,
    hosts: int = 1,
    micro_batch: int = 1,
    advanced: bool = False,
    pauses: int = 0,
    large: bool = False,
) -> Verdict:
    """The state that `outcome` leads to, and when the run may be tried again.

    stopping: the sweep. cancelled: the run. hosts: number of machines, for a failure may be one machine's
    fault. micro_batch: of this attempt. advanced: it saved a checkpoint. pauses: how often in a row the run
    has waited through no fault of its own. large: by itself it takes most of its node's memory.
    """
    text, trouble = outcome.sentence, outcome.trouble
    if outcome.status in (State.FINISHED, State.DIVERGED):
        return Verdict(state=State(outcome.status), sentence=text)
    if cancelled:
        return Verdict(state=State.CANCELLED, sentence=text)
    if outcome.status == State.PREEMPTED and stopping:
        return Verdict(state=State.PREEMPTED, sentence=text)
    if outcome.status == State.PREEMPTED:
        return Verdict(state=State.WAITING, sentence=text, retry_at=now + retries.wait_s)
    if trouble == Trouble.USER:
        return Verdict(state=State.FAILED, sentence=text)

    uncounted = partial(Verdict, state=State.WAITING, counts=False)
    if trouble == Trouble.DISK:  # no fault of the run: the driver waits for room
        return uncounted(sentence=text, retry_at=now)
    # A node low on memory may be others' doing; but not if the run is large, or meets it again and again.
    own_memory = trouble == Trouble.MEMORY or (
        trouble == Trouble.NODE_MEMORY and (large or pauses >= retries.lost)
    )
    if trouble in (Trouble.DATA, Trouble.NODE_MEMORY) and not own_memory:
        return uncounted(sentence=text, retry_at=retries.retry_at(pauses + 1, now), elsewhere=True)
    if own_memory and micro_batch > 1:
        fewer = halved(micro_batch)
        text += f" (goes on with {fewer} sequences at once instead of {micro_batch})"
        return uncounted(sentence=text, retry_at=now, micro_batch=fewer)
    if trouble == Trouble.LOST and advanced:
        text += " (it had got further, so this does not count)"
        return uncounted(sentence=text, retry_at=now + retries.wait_s, elsewhere=True)

    # Everything else uses up one of the run's tries. A failure that comes back exactly is the program's own.
    failures = claim.failures + 1
    allowed = retries.lost if trouble == Trouble.LOST else retries.attempts
    same = trouble == Trouble.ERROR and outcome.signature == claim.last_signature
    if same and outcome.host != claim.last_host:
        reason = f"the same on two hosts, {claim.last_host} and {outcome.host}"
    elif same and hosts < 2:
        reason = "the same twice, so not tried again"
    elif failures >= allowed:
        reason = f"after {failures} failed attempts"
    else:
        return Verdict(
            state=State.WAITING,
            sentence=f"{text} (attempt {failures} of {allowed} failed)",
            retry_at=retries.retry_at(failures, now),
            elsewhere=True,
        )
    return Verdict(state=State.FAILED, sentence=f"{text} ({reason})")
