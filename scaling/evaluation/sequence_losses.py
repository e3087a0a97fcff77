"""Losses of single held-out sequences as a record of a journal, and back.

All runs of a sweep meet the same text, levels and noise, so two of them differ far more exactly sequence by
sequence than as two means (`analysis.comparison.pairwise`). A journal reaches the driver from every worker,
with a shared disk and without, so it carries them: 4 bytes a sequence in float32, as base64; and as many for
the noise level of each sequence if it has but one, for what differs from level to level is no error.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

KIND = "sequence_losses"


def sequence_record(losses: Tensor, levels: Tensor | None = None) -> dict[str, Any]:
    """A record for `log`; losses (n,) in nats per token, or (R, n) of R networks trained as one run; levels
    (n,), see `bound.only_levels`."""
    record = {"kind": KIND, "shape": list(losses.shape), "float32": _packed(losses)}
    return record if levels is None else record | {"levels": _packed(levels)}


def _packed(values: Tensor) -> str:
    return base64.b64encode(values.detach().cpu().numpy().astype("<f4").tobytes()).decode()


def read_sequence_record(values: Mapping[str, Any]) -> np.ndarray:
    """The losses (R, n) of such a record in float64; R is 1 for a run of one network. ValueError if it is
    damaged."""
    try:
        shape = [int(size) for size in values["shape"]]
        losses = np.frombuffer(base64.b64decode(values["float32"], validate=True), dtype="<f4")
        return losses.reshape(shape if len(shape) == 2 else (1, *shape)).astype(np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a record of {KIND} is damaged: {error}") from None


def read_levels(values: Mapping[str, Any]) -> np.ndarray | None:
    """The level (n,) of each sequence, None if each has several; ValueError if it is damaged."""
    if "levels" not in values:
        return None
    levels = np.frombuffer(base64.b64decode(values["levels"], validate=True), dtype="<f4").astype(np.float64)
    if len(levels) != int(values["shape"][-1]):
        raise ValueError(f"a record of {KIND} is damaged: it has {len(levels)} levels")
    return levels
