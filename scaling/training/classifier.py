"""A classifier of noised text, for guidance: the label of a text, whatever share of it is noise.

B texts, L length, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaling.errors import UserError
from scaling.families.base import Family
from scaling.ladder import Size
from scaling.models import build_model
from scaling.randomness import generator_for

Batch = Callable[[int], tuple[Tensor, Tensor]]
"""Step -> ids (B, L) and labels (B,)."""


class TextClassifier(nn.Module):
    """The body of the shared network, averaged over tokens, and a linear map: p(label | noisy text, time)."""

    def __init__(self, size: Size, family: Family, classes: int, seed: int = 0) -> None:
        super().__init__()
        if family.causal or not family.clusterable or "ancestral" not in family.samplers:
            raise UserError(
                f"family {family.name!r} has no posterior of whole texts for a classifier to guide"
            )
        self.family, self.classes = family, classes
        generator = generator_for(seed, "classifier weights")
        self.body = build_model(size, family.vocab_size, causal=False, generator=generator)
        self.last = nn.Linear(size.hidden, classes)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def log_probs(self, texts: Tensor, t: Tensor) -> Tensor:
        """log p(label | text), (B, C), of ids (B, L) or their one-hot rows (B, L, V), at times t (B,)."""
        table = self.body.embedding
        texts = texts.to(table.dtype) @ table if texts.is_floating_point() else texts
        features = self.body.trunk(texts, self.family.conditioning(t))
        return self.last(features.mean(dim=1)).log_softmax(-1)


def train_classifier(
    size: Size,
    family: Family,
    classes: int,
    batch: Batch,
    steps: int,
    *,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> TextClassifier:
    """Trained on text at all noise levels, by AdamW at a rate that falls to 0; every draw depends on (seed,
    step) alone.

    UserError for a family without an ancestral posterior of ids, whose sampler a classifier could guide.
    """
    classifier = TextClassifier(size, family, classes, seed)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=0.01)
    for step in range(steps):
        x0, labels = batch(step)
        generator = generator_for(seed, "classifier noise", step, x0.device.type)
        t = family.training_times(len(x0), generator)
        loss = F.nll_loss(classifier.log_probs(family.corrupt(x0, t, generator), t), labels)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
    return classifier.requires_grad_(requires_grad=False)
