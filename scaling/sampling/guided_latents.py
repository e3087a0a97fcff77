"""Guidance of family gaussian: a network that answers with two predictions mixed.

x_hat = scale x_label + (1 - scale) x_null: that of p(z | label)^scale p(z)^(1 - scale) at one noise level, as
the score is linear in x_hat. Ids at the end are mixed as those of masks. Each of the two passes reads its own
earlier answer. One pass reads every text twice.

B batch, L length, E embedding dimensions, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.sampling.reader import Reader


def guided_model(reader: Reader) -> Any:
    """The reader's model, or one in its place that reads the label as the reader's guidance says."""
    if reader.guidance is None:
        return reader.model
    if reader.guidance.classifier is not None:
        raise UserError(f"family {reader.family.name!r} has no rule for guidance by a classifier of ids")
    return _Guided(reader)


class _Guided:
    """What samplers of latents call: `rows`, `schedule`, `restore`, and the model itself for logits."""

    def __init__(self, reader: Reader) -> None:
        assert reader.guidance is not None, "a reader with guidance"
        self.reader, self.model, self.scale = reader, reader.model, reader.guidance.scale
        self.copies = 2 if reader.guidance.mixes else 1
        self.earlier: Tensor | None = None
        """(copies B, L, E) the answers before."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def restore(
        self, z: Tensor, gamma: Tensor, ids: Tensor, *, guess: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x_hat (B, L, E), and -log p(ids) as the network says it with the label, or alone at scale 0."""
        read = self._copied(z, gamma, guess)
        answers, nats = self.model.restore(*read[:2], torch.cat([ids] * self.copies), **read[2])  # type: ignore[attr-defined]
        self.earlier = answers
        return self._mixed(answers), nats[: len(z)]

    def __call__(self, z: Tensor, gamma: Tensor, *, guess: Tensor | None = None) -> Tensor:
        """Logits (B, L, V)."""
        latents, gammas, read = self._copied(z, gamma, guess)
        logits = self.model(latents, gammas, **read)
        return logits if self.copies == 1 else self._mixed(logits.double().log_softmax(-1))

    def _copied(
        self, z: Tensor, gamma: Tensor, guess: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        if self.copies == 2:
            self.reader.tokens += z.shape[0] * z.shape[1]
        if guess is not None and self.copies == 2:
            guess = torch.cat([guess] * 2) if self.earlier is None else self.earlier
        read = {"guess": guess, "labels": self.reader.labels(self.copies * len(z), z.device)}
        return torch.cat([z] * self.copies), torch.cat([gamma] * self.copies), read

    def _mixed(self, answers: Tensor) -> Tensor:
        if self.copies == 1:
            return answers
        with_label, without = answers.chunk(2)
        return self.scale * with_label + (1 - self.scale) * without
