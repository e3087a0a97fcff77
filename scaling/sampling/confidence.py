"""Decoding of the places of which the network is surest: LLaDA (arXiv 2502.09992), Dream (2508.15487),
Fast-dLLM (2505.22618), dInfer (2510.08666) and SDAR (2510.06303).

None of these samples the model's law: the order depends on what was drawn, and likeliest ids have little
entropy. They are for tasks with an answer; judge them by those.

B batch, L length, V vocabulary, n places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from scaling.errors import UserError, nearest
from scaling.sampling.discrete import start_from_noise
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose

KINDS = ("probability", "margin", "negative_entropy")
ORDERS = ("confidence", "random", "left_to_right")
RULES = ("fixed", "lowered", "factor", "dynamic")

Rule = Callable[[Tensor, Tensor], Tensor]
"""(confidences (B, L), -inf where nothing is to be decoded; static counts (B, 1)) -> places (B, L)."""


def confidence(
    draft: Draft,
    *,
    block_size: int | None = None,
    order: str = "confidence",
    kind: str = "probability",
    filtered: bool = False,
    greedy: bool = True,
) -> Iterator[None]:
    """LLaDA's decoding: every call draws an id for each masked place and keeps the surest ones, in `steps`
    calls.

    block_size: decode blocks of so many places from left to right (LLaDA's semi-autoregressive remasking),
    `steps` shared out evenly among them. With n masks in a block and T calls for it, call i keeps n // T
    places, one more for the first n mod T. order: keep the surest places, random ones, or the leftmost.
    kind: confidence is the probability of the drawn id, the margin between the two likeliest, or minus the
    entropy. filtered: judge by the filtered distribution (Dream, SDAR) instead of the network's own (LLaDA).
    greedy: take the likeliest ids (published) instead of drawing them.

    UserError for a name that is unknown or `steps` that the blocks cannot share. Further steps idle.
    """
    _check("order", order, ORDERS)
    yield from _decode(draft, block_size, order, kind, filtered, greedy, surest)


def threshold(
    draft: Draft,
    *,
    rule: str = "fixed",
    threshold: float = 0.9,
    factor: float = 1.0,
    block_size: int | None = None,
    kind: str = "probability",
    filtered: bool = False,
    greedy: bool = True,
) -> Iterator[None]:
    """Every call keeps all places that are sure enough, and always the surest: how many calls that takes the
    network decides.

    rule:
    fixed    Fast-dLLM: confidence of at least `threshold`.
    lowered  dInfer: at least min(threshold, that of the surest - 1e-5), so that ties go together.
    factor   Fast-dLLM: the k-th surest while all of them have at least 1 - factor / (k + 1).
    dynamic  SDAR: all above `threshold` if they are at least as many as `confidence` would keep in this call,
             else as many of the surest as that. The one rule that looks at `steps`: it takes at most so many.

    Other options as of `confidence`. UserError for a name that is unknown or a value out of range.
    """
    _check("rule", rule, RULES)
    if factor <= 0:
        raise UserError(f"factor is {factor}, it must be above 0")
    rules: dict[str, Rule] = {
        "fixed": lambda surety, counts: above(surety, threshold),
        "lowered": lambda surety, counts: above_lowered(surety, threshold),
        "factor": lambda surety, counts: above_factor(surety, factor),
        "dynamic": lambda surety, counts: above_or_count(surety, counts, threshold),
    }
    counted = rule == "dynamic"
    yield from _decode(draft, block_size, "confidence", kind, filtered, greedy, rules[rule], counted)


def _decode(
    draft: Draft,
    block_size: int | None,
    order: str,
    kind: str,
    filtered: bool,
    greedy: bool,
    rule: Rule,
    counted: bool = True,
) -> Iterator[None]:
    """Each text in its own first block with a mask, until none is left. counted: the rule takes counts."""
    _check("kind", kind, KINDS)
    reader, (count, length) = draft.reader, draft.ids.shape
    size = length if block_size is None else block_size
    if size < 1:
        raise UserError(f"block_size is {size}, it must be at least 1")
    blocks = -(-length // size)
    if counted and draft.steps % blocks:
        raise UserError(
            f"{blocks} blocks share the steps evenly: steps is {draft.steps}, it must be a multiple of that"
        )
    calls = draft.steps // blocks if counted else length
    start_from_noise(draft)
    yield
    places = torch.arange(length, device=draft.ids.device)
    priority = -places.double().expand(count, -1)
    if order == "random":
        priority = draft.noise.everywhere(0, Purpose.ORDER, length)
    masked, block_of = draft.free.clone(), places // size
    block = torch.full((count,), -1, device=masked.device)
    begun, total = torch.zeros_like(block), torch.zeros_like(block)
    step = 0
    while bool(masked.any()):
        before, block = block, block_of.expand(count, -1).where(masked, blocks).amin(dim=1)
        here = masked & (block_of == block[:, None])
        begun = torch.where(block == before, begun + 1, 0)
        total = torch.where(block == before, total, here.sum(dim=1))
        static = (total // calls + (begun < total % calls))[:, None]
        surety = priority.where(here, -torch.inf)
        if order != "confidence":
            here = surest(surety, static)
        rows = here.any(dim=1)
        plain = reader.unfiltered(draft.ids[rows], where=here[rows])
        probs = reader.filters(plain)
        ids = probs.argmax(-1) if greedy else choose(probs, draft.noise.at(step, Purpose.CLEAN, here))
        new = draft.ids.clone()
        new[here] = ids
        if order == "confidence":
            surety[here] = confidence_of(probs if filtered else plain, ids, kind)
            here = rule(surety, static)
        draft.ids = new.where(here, draft.ids)
        masked = masked & ~here
        step += 1
        yield


def confidence_of(probs: Tensor, ids: Tensor, kind: str) -> Tensor:
    """(n,) confidence in ids (n,) under distributions (n, V)."""
    if kind == "margin":
        best = probs.topk(2, -1).values
        return best[..., 0] - best[..., 1]
    if kind == "negative_entropy":
        return torch.xlogy(probs, probs).sum(-1)
    return probs.gather(-1, ids[..., None])[..., 0]


def by_surety(surety: Tensor) -> Tensor:
    """Places (B, L) from the surest on, of equals the leftmost first.

    Digits that a network's rounding leaves are not compared: in a text of masks alone all places may be
    equally sure, and which goes first must not depend on the batch.
    """
    return surety.round(decimals=6).argsort(dim=1, descending=True, stable=True)


def surest(surety: Tensor, counts: Tensor) -> Tensor:
    """The `counts` (B, 1) surest places (B, L) of each row; never one of -inf."""
    rank = by_surety(surety).argsort(dim=1)
    return (rank < counts) & (surety > -torch.inf)


def above(surety: Tensor, threshold: float | Tensor) -> Tensor:
    """Places of at least that confidence, and the surest."""
    return ((surety >= threshold) | surest(surety, torch.ones_like(surety[:, :1]))) & (surety > -torch.inf)


def above_lowered(surety: Tensor, threshold: float) -> Tensor:
    """As `above`, with a threshold just below the surest where that does not reach it."""
    return above(surety, (surety.amax(dim=1, keepdim=True) - 1e-5).clamp(max=threshold))


def above_factor(surety: Tensor, factor: float) -> Tensor:
    """The k surest places, k the last for which the k-th and all before it have at least
    1 - factor / (k + 1); at least one."""
    order = by_surety(surety)
    ordered = surety.gather(1, order)
    number = torch.arange(1, surety.shape[1] + 1, device=surety.device)
    passed = ordered >= 1 - factor / (number + 1)
    passed[:, 0] = True
    taken = torch.zeros_like(passed).scatter(1, order, passed.long().cumprod(dim=1).bool())
    return taken & (surety > -torch.inf)


def above_or_count(surety: Tensor, counts: Tensor, threshold: float) -> Tensor:
    """All places above the threshold if they are at least `counts` (B, 1), else the `counts` surest."""
    sure = surety > threshold
    return torch.where(sure.sum(dim=1, keepdim=True) >= counts, sure, surest(surety, counts))


def _check(name: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise UserError(f"{name} is {value!r}, it must be one of {', '.join(names)}{nearest(value, names)}")
