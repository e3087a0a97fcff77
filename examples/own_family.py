"""A family of one's own: masked diffusion whose network sees the noise level, with an objective of its own.

    python -m examples.own_family

In the package this would be scaling/families/timed.py and one line in `FAMILIES`. From outside, the line is
added before anything is built; it holds for this process, so this trains here instead of through a sweep.
B batch, L length, V vocabulary.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from scaling.families import FAMILIES
from scaling.families.absorbing import Absorbing
from scaling.families.base import per_token


class Timed(Absorbing):
    """`masked`, but the network is told the noise level t, as in the time-conditioned variant of MDLM.

    The noise process, the bound and the posterior come from `Absorbing`. A process of its own would define
    `corrupt`, `token_bound` and `posterior` here.
    """

    name: ClassVar[str] = "timed"
    tightness: ClassVar[str] = "reached by a network that knows every token given any others"
    objectives: ClassVar[tuple[str, ...]] = ("root", "nelbo", "low_variance")

    def conditioning(self, t: Tensor) -> Tensor:
        return t

    def token_loss(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """Objective "root": weight sqrt(1/t), between `low_variance` (1) and `nelbo` (1/t). No bound."""
        if self.objective != "root":
            return super().token_loss(logits, x0, xt, t)
        nats = self.masked_nats(logits, x0, xt)
        weight = per_token(self.weight(t).sqrt().to(nats.dtype))
        return torch.where(xt == self.mask_id, weight * nats, 0.0)


def register() -> None:
    """Add the family to the table of this process."""
    FAMILIES["timed"] = "examples.own_family:Timed"


def main(steps: int = 100) -> float:
    """Train it for a few steps on a source of known entropy; the bound on held-out text, nats per token."""
    from scaling.data import prepare
    from scaling.ladder import LADDERS
    from scaling.spec import DataSpec, EvaluationSpec, OptimizerSpec, RunSpec
    from scaling.training import train

    register()
    with tempfile.TemporaryDirectory() as scratch:
        data = prepare("synthetic:markov?order=1&vocab=8&seed=1", "ids", Path(scratch) / "data")
        spec = RunSpec(
            family="timed",
            size=LADDERS["desk"]["16x1"],
            budget=1e9,
            sequences=16 * steps,
            batch_size=16,
            data=DataSpec(
                corpus=data.corpus,
                tokenizer=data.tokenizer,
                fingerprint=data.fingerprint,
                num_token_ids=data.num_token_ids,
                context_length=16,
            ),
            optimizer=OptimizerSpec(learning_rate=1e-2, warmup_steps=10),
            evaluation=EvaluationSpec(sequences=256, noise_levels=4),
        )
        result = train(spec, data, Path(scratch) / "run", log=lambda record: None)
        entropy = data.entropy_per_token(16)
    assert result.bound is not None, result.sentence
    assert entropy is not None, "a synthetic source knows its entropy"
    print(f"timed: {result.bound:.3f} nats per token after {steps} steps; the source has {entropy:.3f}")
    return result.bound - entropy


if __name__ == "__main__":
    main()
