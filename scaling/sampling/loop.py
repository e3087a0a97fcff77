"""The loop that all samplers share: a batch of texts, what is given of them, and the steps that fill the
rest.

A sampler is a function of a `Draft` that changes its ids step by step and yields after each: the loop shows
the state, counts and measures. Which samplers a family has stands in `Family.samplers`, the usual one first.

B batch, L length, V vocabulary.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scaling.errors import UserError, nearest
from scaling.sampling.filters import Filters
from scaling.sampling.guidance import Guidance
from scaling.sampling.noise import Noise
from scaling.sampling.reader import Reader

if TYPE_CHECKING:
    from scaling.families.base import Denoiser, Family

FREE = -1
"""In place of an id of a prompt: a place to be filled."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """A batch of texts in the making."""

    family: Family
    reader: Reader
    noise: Noise
    steps: int
    ids: Tensor
    """(B, L) the present ids; at places that are not free, the given ones."""
    free: Tensor
    """(B, L) bool: places to be filled."""
    lengths: Tensor
    """(B,) tokens of each text, L unless the sampler stops earlier."""

    def check_steps(self, most: int) -> None:
        """UserError if there are more steps than `most`, what the sampler can use."""
        if self.steps > most:
            raise UserError(f"sampling steps is {self.steps}, for these tokens it must be at most {most}")

    @property
    def times(self) -> Tensor:
        """(steps + 1,) float64 times from 1 down to 0."""
        return torch.linspace(1, 0, self.steps + 1, dtype=torch.float64, device=self.ids.device)


Sampler = Callable[..., Iterator[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Finished texts and what they took."""

    ids: Tensor
    """(B, L); after a text's end, whatever the sampler left there."""
    lengths: Tensor
    """(B,) tokens of each text."""
    calls: int
    """Network function evaluations (NFE)."""
    tokens: int
    """Tokens that passed the network's blocks, of all texts."""
    seconds: float
    """Wall-clock seconds of the loop."""
    network_s: float
    """Of these, in the network; 0 unless measured."""


@torch.no_grad()
def generate(
    model: Denoiser,
    family: Family,
    seeds: Sequence[int],
    length: int,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    prompt: Tensor | None = None,
    filters: Filters | None = None,
    guidance: Guidance | None = None,
    device: torch.device | str = "cpu",
    timed: bool = False,
    watch: Callable[[Draft], None] | None = None,
    **options: Any,
) -> Texts:
    """One text of `length` tokens for each seed, by the family's sampler of that name (the usual one if
    None).

    steps: calls of the network as the sampler counts them, by default the family's `sampling_steps`. prompt:
    (B, L) or (L,) ids that are given, `FREE` elsewhere; shorter ones are a beginning. guidance: towards a
    label. timed: measure the share of the network. watch: called with the draft before the first step and
    after each. options: of the sampler.

    A text depends on its own seed and prompt alone. UserError for a sampler or option that the family does
    not have, a prompt that is too long or that the sampler cannot keep, steps it cannot use, and a label that
    the network does not have.
    """
    sampler = next(iter(family.samplers)) if sampler is None else sampler
    function = sampler_of(family, sampler)
    taken = [name for name in inspect.signature(function).parameters if name != "draft"]
    for option in options:
        if option not in taken:
            has = f" (it has: {', '.join(taken)})" if taken else ""
            raise UserError(
                f"family {family.name!r}: sampler {sampler!r} has no option "
                f"{option!r}{nearest(option, taken)}{has}"
            )
    steps = family.sampling_steps(length) if steps is None else steps
    if steps < 1:
        raise UserError(f"sampling steps is {steps}, it must be at least 1")
    fixed = _whole_prompt(prompt, len(seeds), length, family).to(device)
    noise = Noise(seeds, device)
    if guidance is not None:
        guidance.number(getattr(model, "classes", 0))  # UserError for one that is not there
    reader = Reader(model, family, filters or Filters(), guidance, timed)
    started = time.perf_counter()
    draft = Draft(
        family=family, reader=reader, noise=noise, steps=steps, ids=fixed.clamp(min=0), free=fixed == FREE,
        lengths=torch.full((len(seeds),), length, device=device),
    )  # fmt: skip
    for _ in function(draft, **options):
        if watch is not None:
            watch(draft)
    return Texts(
        ids=draft.ids, lengths=draft.lengths, calls=reader.calls, tokens=reader.tokens,
        seconds=time.perf_counter() - started, network_s=reader.seconds,
    )  # fmt: skip


def generate_for(
    family: Family,
    model: Denoiser,
    shape: tuple[int, int],
    steps: int,
    generator: torch.Generator,
    **options: Any,
) -> Tensor:
    """`Family.sample`: ids (B, L) from seeds that the generator gives; options of `Filters`, of the sampler,
    and `sampler` itself."""
    count, length = shape
    words = torch.randint(1 << 62, (count,), generator=generator, device=generator.device)
    names = {field.name for field in fields(Filters)} & options.keys()
    filters = Filters(**{name: options.pop(name) for name in names})
    texts = generate(
        model,
        family,
        words.tolist(),
        length,
        steps=steps,
        filters=filters,
        device=generator.device,
        **options,
    )
    return texts.ids


def sampler_of(family: Family, name: str) -> Sampler:
    """The family's sampler of that name; UserError lists those it has."""
    if name not in family.samplers:
        raise UserError(
            f"family {family.name!r} has no sampler {name!r}{nearest(name, family.samplers)} "
            f"(it has: {', '.join(family.samplers)})"
        )
    module, _, attribute = family.samplers[name].partition(":")
    function: Sampler = getattr(import_module(module), attribute)
    return function


def _whole_prompt(prompt: Tensor | None, count: int, length: int, family: Family) -> Tensor:
    """(B, L) ids, FREE where there is none."""
    whole = torch.full((count, length), FREE)
    if prompt is None:
        return whole
    prompt = prompt.cpu().expand(count, -1) if prompt.ndim == 1 else prompt.cpu()
    if prompt.shape[1] > length:
        raise UserError(f"the prompt has {prompt.shape[1]} tokens, the text only {length}")
    outside = (prompt < FREE) | (prompt >= family.vocab_size)
    if bool(outside.any()) or (family.mask_id is not None and bool((prompt == family.mask_id).any())):
        raise UserError(f"the prompt has an id that is no token: ids are below {family.vocab_size}")
    whole[:, : prompt.shape[1]] = prompt
    return whole
