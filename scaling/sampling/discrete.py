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

from scaling.errors import UserError, nearest
from scaling.families.base import Family
from scaling.sampling.guidance import label_log_probs, mix, tilt
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose
from scaling.sampling.plan import groups_by_time, groups_of

TAILS = ("draw", "posterior", "network")
HALVINGS = 80
"""Of (0, 1), to find a time: to the last bit."""


def ancestral(draft: Draft, *, greedy_tail: bool = False, tail: str = "draw") -> Iterator[None]:
    """`steps` even steps of time, at most one call each.

    tail: how the text ends. "draw": the last step draws as the others do, which samples the model.
    "posterior": it takes the posterior's likeliest ids, the greedy tail of Duo's paper (arXiv 2506.10892),
    which moves the law least. "network": after all draws one more call, at time 0, whose likeliest ids are
    taken, as in Duo's released code. greedy_tail: the last step takes the likeliest ids of the network in
    place of its draw. The last two lower the entropy much: they are the likeliest ids given the other tokens,
    not given the one on the page. With masks, where none is on the page, "posterior" and greedy_tail agree.
    """
    family = draft.family
    if tail not in TAILS:
        raise UserError(f"tail is {tail!r}, it must be one of {', '.join(TAILS)}{nearest(tail, TAILS)}")
    if greedy_tail and tail != "draw":
        raise UserError(f"greedy_tail and tail {tail!r} are two ends of one text: give one of them")
    start_from_noise(draft)
    if draft.reader.guides_posterior:
        if greedy_tail or tail not in TAILS[:2]:
            raise UserError("guidance that changes posteriors goes with tail 'draw' or 'posterior' only")
        yield
        yield from _guided(draft, tail)
        return
    if family.masks_only:
        if tail == "network":
            raise UserError(f"family {family.name!r} has no tail 'network': no mask is left after the draws")
        yield
        yield from _reveal(draft, greedy_tail or tail == "posterior")
        return
    yield
    predictions = Predictions(draft)
    for step, (t, s) in enumerate(pairwise(draft.times)):
        probs, last = predictions(t), step == draft.steps - 1
        if greedy_tail and last:
            draft.ids[draft.free] = probs.argmax(-1)
        elif tail == "posterior" and last:
            draft.ids[draft.free] = _whole_posterior(draft, probs, t, s).argmax(-1)
        else:
            redraw(draft, step, probs, t, s)
        yield
    if tail == "network":
        draft.ids[draft.free] = predictions(draft.times[-1]).argmax(-1)
        yield


def _guided(draft: Draft, tail: str) -> Iterator[None]:
    """Draw from whole posteriors that guidance has changed: a call a step."""
    for step, (t, s) in enumerate(pairwise(draft.times)):
        posterior = guided_posterior(draft, t, s)
        if tail == "posterior" and step == draft.steps - 1:
            draft.ids[draft.free] = posterior.argmax(-1)
        else:
            draft.ids[draft.free] = choose(posterior, draft.noise.at(step, Purpose.CLEAN, draft.free))
        yield


def guided_posterior(draft: Draft, t: Tensor, s: Tensor) -> Tensor:
    """(n, V) of the free places, mixed or tilted by the draft's guidance."""
    return guided_posteriors(draft, t, s)[0]


def guided_posteriors(draft: Draft, t: Tensor, *ends: Tensor) -> list[Tensor]:
    """`guided_posterior` for each of several times s, from one call at t."""
    reader, guidance = draft.reader, draft.reader.guidance
    assert guidance is not None, "a draft that is guided"
    if not reader.filters.neutral:
        raise UserError(
            f"family {draft.family.name!r}: filters cut predictions, and this guidance changes posteriors: "
            "leave temperature, top_k, top_p and min_p out"
        )
    if guidance.classifier is None:
        both = reader.both(draft.ids, t, draft.free)
        pairs = [[_whole_posterior(draft, probs, t, s) for probs in both] for s in ends]
        return [mix(first, second, guidance.scale) for first, second in pairs]
    probs = draft.family.restored(reader.logits(draft.ids, t, draft.free))
    times = t.expand(len(draft.ids))
    tilts = label_log_probs(guidance, draft.ids, times, draft.free, draft.family.vocab_size)
    return [tilt(_whole_posterior(draft, probs, t, s), tilts, guidance.scale) for s in ends]


def start_from_noise(draft: Draft) -> None:
    """Noise of time 1 at the free places."""
    draft.ids[draft.free] = draft.family.noise_ids(
        draft.noise.at(0, Purpose.START, draft.free), draft.times[0]
    )


def time_at(family: Family, alpha: float | Tensor) -> Tensor:
    """The float64 time at which the signal level has fallen to alpha, by bisection; 1 if it never does."""
    early, late = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for _ in range(HALVINGS):
        middle = (early + late) / 2
        if family.schedule(middle)[0] > alpha:
            early = middle
        else:
            late = middle
    return late


class Predictions:
    """x_theta at the free places of a draft, filtered or not. A text is read again only if it has changed, or
    the network sees the time."""

    def __init__(self, draft: Draft, *, filtered: bool = True) -> None:
        self.draft = draft
        self.read = draft.reader if filtered else draft.reader.unfiltered
        self.probs: Tensor | None = None
        self.before = draft.ids

    def __call__(self, t: Tensor) -> Tensor:
        """(n, V) for the present ids at time t."""
        draft = self.draft
        if self.probs is None or draft.family.time_conditioned:
            self.probs = self.read(draft.ids, t, draft.free)
        elif bool((changed := (draft.ids != self.before).any(dim=1)).any()):
            again = changed[:, None].expand_as(draft.free)[draft.free]
            self.probs[again] = self.read(draft.ids[changed], t, draft.free[changed])
        self.before = draft.ids.clone()
        return self.probs


def redraw(draft: Draft, step: int, probs: Tensor, t: Tensor, s: Tensor) -> None:
    """Draw the free places at s from the posterior, given x_theta (n, V) at t."""
    present = draft.ids[draft.free]
    at_present = probs.gather(-1, present[:, None])[:, 0]
    weights = draft.family.posterior_parts(at_present, present, t, s)
    if weights is None:
        whole = _whole_posterior(draft, probs, t, s)
        draft.ids[draft.free] = choose(whole, draft.noise.at(step, Purpose.CLEAN, draft.free))
        return
    draw_parts(draft, step, probs, weights, s)


def draw_parts(draft: Draft, step: int, probs: Tensor, weights: Tensor, s: Tensor) -> None:
    """Draw the free places from a mixture: weights (n, 3) of the present id, of x_theta (n, V), and of fresh
    noise of time s."""
    part = choose(weights, draft.noise.at(step, Purpose.PART, draft.free))
    new = draft.ids[draft.free]
    for number, purpose in ((1, Purpose.CLEAN), (2, Purpose.FRESH)):
        taken = part == number
        where = torch.zeros_like(draft.free)
        where[draft.free] = taken
        uniforms = draft.noise.at(step, purpose, where)
        new[taken] = choose(probs[taken], uniforms) if number == 1 else draft.family.noise_ids(uniforms, s)
    draft.ids[draft.free] = new


def _whole_posterior(draft: Draft, probs: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The posterior (n, V) of the free places."""
    present = draft.ids[draft.free]
    times = (t.expand(len(present)), s.expand(len(present)))
    return draft.family.posterior(probs[:, None], present[:, None], *times)[:, 0]


def first_hitting(draft: Draft) -> Iterator[None]:
    """Masks decoded in a random order, the same number in each of at most `steps` calls (arXiv 2409.02908).

    ceil(free places / steps) a call. One a call is exact for a network that knows every token given any
    others: the order is random and the times at which tokens appear never enter. Several are drawn apart, as
    in any few steps, but no step is idle and their number does not vary. UserError for more than tokens.
    """
    draft.check_steps(draft.ids.shape[1])
    start_from_noise(draft)
    yield
    size = (draft.free.sum(dim=1, keepdim=True) / draft.steps).ceil().long().clamp(min=1)
    uniforms = draft.noise.everywhere(0, Purpose.ORDER, draft.free.shape[1])
    group = groups_of(uniforms, draft.free, size)
    yield from decode(draft, group, torch.zeros_like(uniforms))


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
