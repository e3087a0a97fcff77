"""Ancestral sampling of ids: from noise at time 1 to text at time 0, by the posterior of the family's
process.

Every discrete process here has a posterior of three parts: the present id stays, or a clean id is drawn from
the network's x_theta, or fresh noise comes. A draw chooses the part, then the id within it: no (B, L, V)
posterior is made, ids are drawn only where one is needed, and float64 decides. With masks alone the part does
not depend on the network: see `scaling.sampling.plan`.

B batch, L length, V vocabulary, n wanted places.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose
from scaling.sampling.plan import groups_by_time


def ancestral(draft: Draft, *, greedy_tail: bool = False) -> Iterator[None]:
    """`steps` even steps of time, at most one call each.

    greedy_tail: the last step takes the network's likeliest ids instead of drawing: fewer stray tokens, lower
    entropy. They are the likeliest given the other tokens, not given the one on the page.
    """
    start_from_noise(draft)
    yield
    if draft.family.masks_only:
        yield from _reveal(draft, greedy_tail)
        return
    last, probs, before = draft.steps - 1, None, draft.ids
    for step, (t, s) in enumerate(pairwise(draft.times)):
        if probs is None or draft.family.time_conditioned:
            probs = draft.reader(draft.ids, t, draft.free)
        elif bool((changed := (draft.ids != before).any(dim=1)).any()):
            again = changed[:, None].expand_as(draft.free)[draft.free]
            probs[again] = draft.reader(draft.ids[changed], t, draft.free[changed])
        before = draft.ids.clone()
        if greedy_tail and step == last:
            draft.ids[draft.free] = probs.argmax(-1)
        else:
            redraw(draft, step, probs, t, s)
        yield


def start_from_noise(draft: Draft) -> None:
    """Noise of time 1 at the free places."""
    draft.ids[draft.free] = draft.family.noise_ids(
        draft.noise.at(0, Purpose.START, draft.free), draft.times[0]
    )


def redraw(draft: Draft, step: int, probs: Tensor, t: Tensor, s: Tensor) -> None:
    """Draw the free places at s from the posterior, given x_theta (n, V) at t."""
    present = draft.ids[draft.free]
    at_present = probs.gather(-1, present[:, None])[:, 0]
    weights = draft.family.posterior_parts(at_present, present, t, s)
    if weights is None:
        whole = draft.family.posterior(
            probs[:, None], present[:, None], t.expand(len(present)), s.expand(len(present))
        )
        draft.ids[draft.free] = choose(whole[:, 0], draft.noise.at(step, Purpose.CLEAN, draft.free))
        return
    part = choose(weights, draft.noise.at(step, Purpose.PART, draft.free))
    new = present.clone()
    for number, purpose in ((1, Purpose.CLEAN), (2, Purpose.FRESH)):
        taken = part == number
        where = torch.zeros_like(draft.free)
        where[draft.free] = taken
        uniforms = draft.noise.at(step, purpose, where)
        new[taken] = choose(probs[taken], uniforms) if number == 1 else draft.family.noise_ids(uniforms, s)
    draft.ids[draft.free] = new


def _reveal(draft: Draft, greedy_tail: bool) -> Iterator[None]:
    """Masks alone: what is decoded when does not depend on the network."""
    hidden = draft.free & (draft.ids == draft.family.mask_id)
    uniforms = draft.noise.everywhere(0, Purpose.ORDER, hidden.shape[1])
    group, step = groups_by_time(uniforms, hidden, draft.family.noise_share(draft.times))
    yield from decode(
        draft, group, draft.times[step.clamp(min=0)], step == draft.steps - 1 if greedy_tail else None
    )


def decode(draft: Draft, group: Tensor, times: Tensor, greedy: Tensor | None = None) -> Iterator[None]:
    """Fill the places (B, L) of group 0, then of group 1, ...; the network reads a row at times (B, L) of the
    places that it fills. greedy: places that get the likeliest id."""
    for number in range(int(group.max()) + 1):
        here = group == number
        rows = here.any(dim=1)
        t = times.where(here, 0.0).amax(dim=1)
        probs = draft.reader(draft.ids[rows], t[rows], here[rows])
        ids = choose(probs, draft.noise.at(0, Purpose.CLEAN, here))
        draft.ids[here] = ids if greedy is None else torch.where(greedy[here], probs.argmax(-1), ids)
        yield
