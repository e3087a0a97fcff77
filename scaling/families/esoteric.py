"""esoteric (Eso-LM, arXiv 2506.01928): masked diffusion for part of the text, left to right for the rest.

Diffusion runs from alpha = 0 to alpha = alpha_0 only; what is still masked then is predicted from left to
right, each token from everything clean and the masked ones before it. Bound (eq. 7), per sequence:

    E_{z_0} [ sum over masked l of -log p(x^l | clean of z_0, x^{<l}) ]
    + E_t [ -alpha'_t / (1 - alpha_t) * sum over masked l of -log p(x^l | z_t) ],   alpha_t = alpha_0 (1 - t)

alpha_0 = 1 is any-order masked diffusion (as in the published study), alpha_0 = 0 is `ar`. The network reads
tokens in a random order, clean ones first, under causal attention with the rotary angles of their places in
the text: what it makes of a clean token never changes, so keys and values can be kept. For the sequential
term it reads the masked text and the clean text at once (`scaling.models.Doubled`, blocks of one token).

B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from scaling import flops
from scaling.families.absorbing import Absorbing
from scaling.families.base import LABELS, Common, Denoiser, Noised
from scaling.models import Doubled, Transformer

DOUBLED = Doubled(block_size=1)


class Esoteric(Absorbing):
    """Diffusion and left to right in one model. Time 0 stands for the sequential term.

    `alpha_0`: expected share of tokens that diffusion restores, in [0, 1].
    `batch_split`: share of a batch that trains the diffusion term, the rest the sequential one; 1/2 where
    both exist (a quarter or less diverged in the paper). Each term is a mean over its own rows.
    """

    name: ClassVar[str] = "esoteric"
    tightness: ClassVar[str] = "reached by one that knows every token given any others; exact at alpha_0 = 0"
    causal: ClassVar[bool] = True
    samplers: ClassVar[Mapping[str, str]] = {
        "any_order": "scaling.sampling.any_order:any_order",
        "block": "scaling.sampling.any_order:block",
        "block_autoregressive": "scaling.sampling.any_order:block_autoregressive",
    }

    def __init__(
        self,
        vocab_size: int,
        *,
        alpha_0: float = 1.0,
        batch_split: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(vocab_size, **common)
        self.require(0 <= alpha_0 <= 1, f"alpha_0 is {alpha_0}, it must lie in [0, 1]")
        self.alpha_0, one_term = float(alpha_0), alpha_0 in (0, 1)
        if batch_split is None:
            batch_split = self.alpha_0 if one_term else 0.5
        fine = batch_split == alpha_0 if one_term else 0 < batch_split < 1
        only = f"there is one term only and it must be {alpha_0:g} or left out"
        rule = only if one_term else "both terms need rows: it must lie in (0, 1)"
        self.require(fine, f"batch_split is {batch_split}, with alpha_0 {alpha_0:g} {rule}")
        self.batch_split = batch_split
        if alpha_0 == 0:
            self.bound = "exact"

    # -- the noise process -------------------------------------------------------------------------

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, slope = super().schedule(t)
        return self.alpha_0 * alpha, self.alpha_0 * slope

    def noise_share(self, t: Tensor) -> Tensor:
        share = super().noise_share(t)
        return share if self.alpha_0 == 1 else (1 - self.alpha_0) + self.alpha_0 * share

    def order(self, xt: Tensor, uniforms: Tensor | None, *, masks_in_place: bool = False) -> Tensor:
        """(B, L) places of the text in reading order: clean tokens first, then masked ones.

        uniforms (B, L) in [0, 1) shuffle both groups; None leaves both from left to right.
        masks_in_place: masked tokens from left to right, clean ones shuffled.
        """
        masked = xt == self.mask_id
        in_place = torch.arange(xt.shape[1], dtype=torch.float64, device=xt.device) / xt.shape[1]
        keys = in_place.expand(xt.shape) if uniforms is None else uniforms.double()
        if masks_in_place:
            keys = torch.where(masked, in_place, keys)
        return torch.argsort(masked + 0.9 * keys, dim=1, stable=True)

    def _arranged(self, x0: Tensor, t: Tensor, generator: torch.Generator, sequential: bool) -> Noised:
        """Corrupted at times t, in reading order, with that order beside it."""
        xt = self.corrupt(x0, t, generator)
        uniforms = torch.rand(x0.shape, generator=generator, dtype=torch.float64, device=x0.device)
        order = self.order(xt, uniforms, masks_in_place=sequential)
        return Noised(x0.gather(1, order), xt.gather(1, order), t, extra={"order": order})

    def noised(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Noised:
        return self._arranged(x0, t, generator, sequential=False)

    def training_batch(self, x0: Tensor, generator: torch.Generator, progress: float) -> Noised:
        count = len(x0)
        diffused = round(self.batch_split * count)
        if 0 < self.batch_split < 1:
            diffused = min(max(diffused, 1), count - 1)
        parts = []
        if diffused:
            t = self.training_times(diffused, generator)
            parts.append(self._arranged(x0[:diffused], t, generator, sequential=False))
        if diffused < count:
            t = torch.zeros(count - diffused, dtype=torch.float64, device=x0.device)
            parts.append(self._arranged(x0[diffused:], t, generator, sequential=True))
        if len(parts) == 1:
            return parts[0]
        weight = torch.cat([torch.full_like(p.t, count / len(p)) for p in parts])
        return replace(Noised.join(parts), weight=weight)

    def evaluation_batch(self, x0: Tensor, place: Tensor, generator: torch.Generator) -> Noised:
        """Both terms of every row: the sequential one's text, noise and order stand in `extra`."""
        sequential = {}
        if self.alpha_0 < 1:
            ends = self._arranged(x0, torch.zeros_like(place), generator, sequential=True)
            if self.alpha_0 == 0:
                return ends
            sequential = {"z0": ends.xt, "z0_x0": ends.x0, "z0_order": ends.extra["order"]}
        t = place * place
        row = self._arranged(x0, t, generator, sequential=False)
        return Noised(row.x0, row.xt, t, 2 * place, {**row.extra, **sequential})

    # -- the network's input, and its cost ---------------------------------------------------------

    def _is_sequential(self, noised: Noised) -> Tensor:
        """(B,) rows of the sequential term."""
        return (noised.t == 0) & (self.alpha_0 < 1)

    def view(self, noised: Noised) -> tuple[Tensor, dict[str, Any]]:
        """All rows must belong to one term."""
        order = noised.extra["order"]
        if not bool(self._is_sequential(noised).any()):
            return noised.xt, {"positions": order}
        both = torch.cat([noised.xt, noised.x0], dim=1)
        return both, {"positions": torch.cat([order, order], dim=1), "layout": DOUBLED}

    def work(self, context_length: int) -> flops.Work:
        return self._work(context_length, self.batch_split)

    def evaluation_work(self, context_length: int) -> list[flops.Work]:
        """Every row is scored by each term that there is."""
        shares = [share for share, used in ((1.0, self.alpha_0 > 0), (0.0, self.alpha_0 < 1)) if used]
        return [self._work(context_length, share) for share in shares]

    @staticmethod
    def _work(context_length: int, share: float) -> flops.Work:
        """share: of the rows, those of the diffusion term."""
        diffusion = context_length * (context_length + 1) / 2
        pairs = diffusion * (share + 2 * (1 - share))
        return flops.Work(inputs=2 - share, outputs=1, pairs=pairs, last_pairs=diffusion)

    # -- losses --------------------------------------------------------------------------------------

    def weight(self, t: Tensor) -> Tensor:
        """Of a masked token in the bound; 1 in the sequential term, which stands at time 0."""
        weight = super().weight(t)
        return weight if self.alpha_0 == 1 else torch.where(t == 0, 1.0, weight)

    def training_loss(self, model: Transformer, noised: Noised) -> Tensor:
        sequential = self._is_sequential(noised)
        parts = [noised.rows(rows) for rows in (~sequential, sequential) if bool(rows.any())]
        return torch.stack([super(Esoteric, self).training_loss(model, part) for part in parts]).sum(0)

    def sequence_bound(self, model: Denoiser, noised: Noised) -> Tensor:
        nats, extra = super().sequence_bound(model, noised), noised.extra
        if "z0" not in extra:
            return nats
        start = torch.zeros_like(noised.t)
        ends = Noised(extra["z0_x0"], extra["z0"], start, extra={"order": extra["z0_order"]})
        return nats + super().sequence_bound(model, ends.with_labels(extra.get(LABELS)))
