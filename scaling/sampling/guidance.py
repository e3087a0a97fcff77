"""Guidance: texts of a label, more so than the network alone would make them.

Without classifier two predictions of one network are mixed, with the label and with the null label, by the
rule of each process (arXiv 2412.10193). Masks and `ar` mix clean ids, p ~ p_label^scale p_null^(1 - scale),
and step as ever, so that the chance of unmasking stays what it is. `uniform` and `hybrid` mix posteriors of
that form, for there x_theta alone does not say what a place will hold; a step of Psi mixes both of its
posteriors so, and leaves its noise. `gaussian` mixes the expected
embeddings, x = scale x_label + (1 - scale) x_null: the score is linear in them. The texts are not those of
the law p(x | label)^scale p(x)^(1 - scale): every step is guided, the whole is not.

With a classifier of noised text the posterior is multiplied by p(label | text with the place set to
v)^scale, exactly or to first order.

B batch, L length, V vocabulary, C classes, n wanted places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.errors import UserError
from scaling.labels import label_number

TEXTS_PER_CALL = 4096
"""Texts that the exact rule shows a classifier at once."""


class NoisedClassifier(Protocol):
    """What a classifier of noised text must have; see `scaling.training.classifier`."""

    classes: int

    def log_probs(self, texts: Tensor, t: Tensor) -> Tensor:
        """log p(label | text), (B, C), of ids (B, L), or of their one-hot rows (B, L, V) in float64
        with gradient, at noise times t (B,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """UserError for a scale that is no number, and options that do not go together."""

    label: int | str
    scale: float = 1.0
    """0: as if there were no label; 1: the network given the label; above 1: more so."""
    names: Sequence[str] = ()
    """What the labels are called, if one is given by name."""
    classifier: NoisedClassifier | None = None
    """Guides a network that need not read labels."""
    first_order: bool = False
    """Classifier: one gradient a step in place of a call for every id at every place."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise UserError(f"guidance: scale is {self.scale}, it must be a finite number")
        if self.first_order and self.classifier is None:
            raise UserError("guidance: first_order goes with a classifier, and none is given")

    @property
    def mixes(self) -> bool:
        """Whether two predictions of the network are mixed: at 0 and 1 one is enough."""
        return self.classifier is None and self.scale not in (0, 1)

    def number(self, classes: int) -> int:
        """The label's number, for a network with so many of them, or the classifier."""
        return label_number(
            self.label, classes if self.classifier is None else self.classifier.classes, self.names
        )

    def labels(self, classes: int) -> list[int]:
        """What the network reads in each pass of a step: the label, the null label, or one after the other;
        nothing if it has no labels and a classifier guides it."""
        if self.classifier is not None:
            return []
        number = self.number(classes)
        return [number, classes] if self.mixes else [number if self.scale else classes]


def mix(with_label: Tensor, without: Tensor, scale: float) -> Tensor:
    """with_label^scale without^(1 - scale), rows (..., V) summing to 1, in float64.

    An id that either gives no probability gets none where its exponent is positive, and where both do.
    """
    first, second = with_label.double().log(), without.double().log()
    smallest = math.log(torch.finfo(torch.float64).tiny)
    logits = scale * first.clamp(min=smallest) + (1 - scale) * second.clamp(min=smallest)
    gone = (first.isneginf() & (scale > 0)) | (second.isneginf() & (scale < 1))
    return logits.masked_fill(gone, -math.inf).softmax(-1)


def tilt(posterior: Tensor, log_probs: Tensor, scale: float) -> Tensor:
    """posterior (n, V) times exp(log_probs)^scale, rows summing to 1."""
    return (posterior.double().log() + scale * log_probs.double()).softmax(-1)


def label_log_probs(guidance: Guidance, ids: Tensor, t: Tensor, where: Tensor, vocab_size: int) -> Tensor:
    """log p(label | text with the place set to v), (n, V) up to a constant of each row, of the places (B, L)
    that are True; t (B,). Takes n V texts of the classifier, or one gradient to first order."""
    classifier = guidance.classifier
    assert classifier is not None, "guidance by a classifier"
    label = guidance.number(0)
    if guidance.first_order:
        with torch.enable_grad():
            rows = F.one_hot(ids, vocab_size).double().requires_grad_()
            total = classifier.log_probs(rows, t)[:, label].sum()
        (gradient,) = torch.autograd.grad(total, rows)
        return gradient[where].double()
    texts, places = where.nonzero(as_tuple=True)
    out = torch.empty(len(texts), vocab_size, dtype=torch.float64, device=ids.device)
    count = max(1, TEXTS_PER_CALL // vocab_size)
    every = torch.arange(vocab_size, device=ids.device)
    for start in range(0, len(texts), count):
        row, place = texts[start : start + count], places[start : start + count]
        changed = ids[row][:, None].repeat(1, vocab_size, 1)
        changed[torch.arange(len(row))[:, None], every, place[:, None]] = every
        log_probs = classifier.log_probs(changed.flatten(0, 1), t[row].repeat_interleave(vocab_size))
        out[start : start + count] = log_probs[:, label].view(len(row), vocab_size).double()
    return out
