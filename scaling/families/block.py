"""block (BD3-LM, arXiv 2503.09573): blocks of tokens from left to right, masked diffusion inside each.

log p(x) = sum over blocks b of log p(x^b | x^{<b}), each bounded by an absorbing diffusion of its own
(eq. 8): E over t_b of -alpha' / (1 - alpha) times the sum over masked tokens of -log p(x_0 | x_t^b, x^{<b}).
Blocks of one token give the exact likelihood of `ar`, one block of L tokens gives `masked`; in between the
bound grows with the block size. In training the network reads a noisy and a clean copy of the text at once
(`scaling.models.Doubled`); its keys and values of finished blocks never change, so sampling keeps them.

B batch, L length, V vocabulary, N blocks of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from scaling import flops
from scaling.errors import UserError
from scaling.families.absorbing import Absorbing
from scaling.families.base import EARLIEST, Common, Noised, one_per_slice
from scaling.models import Doubled, Transformer

UNIT_WEIGHT_FROM = 0.5
"""Where mask rates start above this a masked token counts 1 instead of 1/p, as in the published code."""
MOST_REDRAWS = 1000


class Block(Absorbing):
    """Autoregression over blocks, absorbing diffusion within them; trained on its bound.

    `block_size`: tokens of a block; it must divide the context length.
    `clip`: (low, high), mask rates met in training (section 5.2), found by `search_clip`; the objective is
    then "clipped", a loss of lower variance that bounds nothing: the reported bound never clips.
    `resample`: draw a block's masks again until their share lies in `clip`.
    """

    name: ClassVar[str] = "block"
    tightness: ClassVar[str] = "tighter the smaller the blocks; exact with blocks of one token"
    objectives: ClassVar[tuple[str, ...]] = ("nelbo", "clipped")
    samplers: ClassVar[Mapping[str, str]] = {
        "semi_autoregressive": "scaling.sampling.blocks:semi_autoregressive",
        "threshold": "scaling.sampling.blocks:by_threshold",
    }

    def __init__(
        self,
        vocab_size: int,
        *,
        block_size: int = 4,
        clip: Sequence[float] | None = None,
        resample: bool = False,
        **common: Unpack[Common],
    ) -> None:
        if clip is not None and common.get("objective") is None:
            common["objective"] = "clipped"
        super().__init__(vocab_size, **common)
        whole = isinstance(block_size, int) and not isinstance(block_size, bool) and block_size >= 1
        self.require(whole, f"block_size is {block_size!r}, it must be a positive integer")
        self.block_size, self.resample = block_size, resample
        self.clip: tuple[float, float] | None = None
        both = f"objective is {self.objective!r} and clip is {clip}; clip and objective 'clipped' go together"
        self.require((clip is not None) == (self.objective == "clipped"), both)
        if clip is not None:
            rates = [float(x) for x in clip]
            fine = len(rates) == 2 and 0 <= rates[0] < rates[1] <= 1
            self.require(fine, f"clip is {clip}, it must be two rates with 0 <= low < high <= 1")
            linear = self.schedule_name == "log_linear"
            self.require(linear, "clip is a range of mask rates and goes with schedule 'log_linear'")
            self.clip = max(rates[0], EARLIEST), rates[1]
        self.require(clip is not None or not resample, "resample needs clip, the range of mask rates")
        if block_size == 1:
            self.bound = "exact"
        self.layout = Doubled(block_size)

    def check_context(self, context_length: int) -> None:
        rule = f"it must divide the context of {context_length} tokens"
        self.require(context_length % self.block_size == 0, f"block_size is {self.block_size}, {rule}")

    # -- the network's input, and its cost ---------------------------------------------------------

    def view(self, noised: Noised) -> tuple[Tensor, dict[str, Any]]:
        self.check_context(noised.xt.shape[1])
        if noised.xt.shape[1] == self.block_size:
            return noised.xt, {}  # one block: nothing comes before it
        return torch.cat([noised.xt, noised.x0], dim=1), {"layout": self.layout}

    def work(self, context_length: int) -> flops.Work:
        if context_length == self.block_size:
            return flops.PLAIN
        pairs = context_length * (context_length + self.block_size)
        return flops.Work(inputs=2, outputs=1, pairs=pairs, last_pairs=pairs / 2)

    # -- noise: one level per block ----------------------------------------------------------------

    def block_times(self, uniforms: Tensor, length: int) -> Tensor:
        """(B, N) uniforms in [0, 1), one per block, as noise times (B, L)."""
        low, high = self.clip or (EARLIEST, 1.0)
        times = low + (high - low) * uniforms
        return times.repeat_interleave(length // uniforms.shape[1], dim=1)

    def training_batch(self, x0: Tensor, generator: torch.Generator, progress: float) -> Noised:
        """One noise level per block, stratified over all blocks of the batch (section 5.2)."""
        length = x0.shape[1]
        self.check_context(length)
        if self.block_size == 1 and self.clip is None:
            t = torch.ones(x0.shape, dtype=torch.float64, device=x0.device)  # exact: every token hidden
            return Noised(x0, torch.full_like(x0, self.mask_id), t)
        shape = (len(x0), length // self.block_size)
        offsets = torch.rand(shape[0] * shape[1], generator=generator, dtype=torch.float64, device=x0.device)
        t = self.block_times(one_per_slice(offsets).view(shape), length)
        if not self.resample:
            return Noised(x0, self.corrupt(x0, t, generator), t)
        draws = iter(lambda: torch.rand(x0.shape, generator=generator, device=x0.device), None)
        return Noised(x0, self.mask_in_range(x0, t, draws), t)

    def mask_in_range(self, x0: Tensor, t: Tensor, draws: Iterator[Tensor]) -> Tensor:
        """x_t from uniforms (B, L) of `draws`, each block drawn again until its masked share lies in `clip`.

        A clip from 0 or to 1 does not bind at that end. The result no longer follows q(x_t | x_0).
        """
        low, high = self.clip or (EARLIEST, 1.0)
        xt, again_BL = x0, torch.ones_like(x0, dtype=torch.bool)
        for _ in range(MOST_REDRAWS):
            xt = torch.where(again_BL, self.mask_where(x0, next(draws), t), xt)
            share_BN = (xt == self.mask_id).unflatten(1, (-1, self.block_size)).double().mean(-1)
            outside_BN = ((share_BN < low) & (low > EARLIEST)) | ((share_BN > high) & (high < 1))
            if not bool(outside_BN.any()):
                return xt
            again_BL = outside_BN.repeat_interleave(self.block_size, dim=1)
        size = self.block_size
        raise UserError(f"family 'block': no masks of {size} tokens have a share within clip {self.clip}")

    def evaluation_batch(self, x0: Tensor, place: Tensor, generator: torch.Generator) -> Noised:
        """Neighbouring blocks meet levels that lie apart: place is shifted by a golden step per block.

        A block's loss depends on its own level alone, so any dependence between levels leaves the bound
        unbiased, and spreading them lowers its variance. Blocks of one token are hidden: exact.
        """
        self.check_context(x0.shape[1])
        if self.block_size == 1:
            t = torch.ones(x0.shape, dtype=torch.float64, device=x0.device)
            return Noised(x0, torch.full_like(x0, self.mask_id), t)
        num_blocks = x0.shape[1] // self.block_size
        steps = torch.arange(num_blocks, dtype=torch.float64, device=x0.device) * 0.6180339887498949
        place_BN = 1 - (1 - place[:, None] + steps) % 1  # in (0, 1]
        place_BL = place_BN.repeat_interleave(self.block_size, dim=1)
        t = place_BL * place_BL
        return Noised(x0, self.corrupt(x0, t, generator), t, 2 * place_BL)

    # -- losses ------------------------------------------------------------------------------------

    def token_loss(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        if self.clip is not None and self.clip[0] > UNIT_WEIGHT_FROM:
            return self.masked_nats(logits, x0, xt)
        return self.token_bound(logits, x0, xt, t)

    # -- generation --------------------------------------------------------------------------------

    def sampling_steps(self, length: int) -> int:
        """Of each block."""
        return self.block_size

    def step_unit(self, length: int) -> int:
        return self.block_size


# -- the search for a range of mask rates ----------------------------------------------------------------


def clip_ranges(
    widths: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9), step: float = 0.05
) -> tuple[tuple[float, float], ...]:
    """The unclipped range, then for each width every start 0, step, 2 step, ... that fits below 1."""
    ranges = [(EARLIEST, 1.0)]
    for width in widths:
        starts = step * np.arange(round((1 - width) / step + 1e-6) + 1)
        ranges += [(max(float(a), EARLIEST), float(a) + width) for a in starts if a + width <= 1 + 1e-9]
    return tuple(ranges)


@torch.no_grad()
def search_clip(
    family: Block,
    model: Transformer,
    batches: Sequence[Tensor],
    generator: torch.Generator,
    ranges: Sequence[tuple[float, float]] | None = None,
) -> dict[tuple[float, float], float]:
    """How much the training loss of `model` varies in each range of mask rates (BD3-LM, section 5.3): the
    variance over blocks of their mean loss, nats^2, averaged over batches. The range with the least is best.

    batches: held-out ids, each (B, L). Every range meets every batch once. The loss stands for its gradient,
    whose variance slows training.
    """
    variances = dict.fromkeys(ranges or clip_ranges(), 0.0)
    for x0 in batches:
        for low, high in variances:
            clipped = Block(
                family.vocab_size, block_size=family.block_size, clip=(low, high), mask_id=family.mask_id
            )
            noised = clipped.training_batch(x0, generator, 0.0)
            ids, view = clipped.view(noised)
            logits = model(ids, clipped.conditioning(noised.t), **view).float()
            nats = clipped.token_loss(logits, noised.x0, noised.xt, noised.t).double()
            of_blocks = nats.unflatten(1, (-1, family.block_size)).mean(-1)
            variances[low, high] += float(of_blocks.var()) / len(batches)
    return variances
