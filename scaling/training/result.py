"""How a run ended: what `train` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal


class RunStatus(StrEnum):
    """How a run ended; only a finished one has a bound."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    PREEMPTED = "preempted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The numbers of one network that has ended, nats per token; one that did not finish has no bound."""

    status: RunStatus
    bound: float | None = None
    bound_se: float | None = None
    bits_per_byte: float | None = None
    weights: Literal["last", "average"] = "last"
    """The weights that `bound` is of: where a run keeps a moving average, those with the lower bound."""
    bound_last: float | None = None
    """The bound of the last weights, if the run keeps an average."""
    bound_average: float | None = None
    """The bound of the average, likewise."""
    loss_with_label: float | None = None
    """The bound of a network that is given the label of each held-out text; None without labels."""
    label_leak: float | None = None
    """How much lower that is than `bound`, which is with the null label."""
    label_leak_se: float | None = None
    label_cost: float | None = None
    """Entropy of the labels per token: `loss_with_label` and this make a bound of text, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica(Losses):
    """How one of a run's replicas ended."""

    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult(Losses):
    """How a run ended.

    Of a run with several replicas each number is the mean over those that finished, `replicas` has each one's
    own; it has finished if one of them has. Seconds are those of all, rates (tokens/s, FLOP/s) count them
    all.
    """

    key: str
    sentence: str
    steps_done: int
    train_s: float = 0.0
    """Seconds in the training loop over all attempts, data and checkpoints included, evaluation not."""
    evaluation_s: float = 0.0
    """Seconds of evaluation, those during training included."""
    evaluation_flops: float = 0.0
    """Exact matrix-product FLOPs of evaluation, likewise."""
    tokens_per_s: float = 0.0
    flops_per_s: float = 0.0
    """Exact matrix-product FLOPs of training per second."""
    replicas: tuple[Replica, ...] = ()
    """How each replica ended, in the order of their seeds; empty for a run of one network."""

    def to_dict(self) -> dict[str, Any]:
        out = {**asdict(self), "status": str(self.status)}
        del out["replicas"]
        if self.replicas:
            out["replicas"] = [{**asdict(one), "status": str(one.status)} for one in self.replicas]
        return out
