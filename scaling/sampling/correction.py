"""Samplers of family hybrid beside the ancestral one: texts whose tokens are changed again, the surest change
first.

Self-correction (GIDD, arXiv 2503.04482) mends a finished text; the adaptive sampler (arXiv 2512.10858) writes
one by such changes alone; `released` repeats GIDD's published loop. All leave the places of a prompt alone.

B batch, L length, V vocabulary, n wanted places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.families.hybrid import Hybrid
from scaling.sampling.discrete import Predictions, ancestral, start_from_noise, time_at
from scaling.sampling.filters import Filters
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose

LOWEST_SIGNAL = 1 / (1 + math.exp(9))
"""alpha at log-SNR -9, where the scaling study begins, and at which it weighs the present tokens."""
EDGE = 1e-4
"""The released grid of GIDD runs from 1 - EDGE to EDGE."""


def self_correcting(
    draft: Draft,
    *,
    edit_temperature: float = 0.1,
    edits: int = 1,
    iterations: int = 128,
    patience: int = 32,
    time: float = 0.01,
    released: bool = False,
) -> Iterator[None]:
    """The ancestral sampler's text in `steps` steps, then `correct`: at most `iterations` calls more."""
    _check(draft, edit_temperature, edits, iterations, patience, time)
    yield from ancestral(draft)
    yield from correct(
        draft,
        edit_temperature=edit_temperature,
        edits=edits,
        iterations=iterations,
        patience=patience,
        time=time,
        released=released,
    )


def correct(
    draft: Draft,
    *,
    edit_temperature: float,
    edits: int,
    iterations: int,
    patience: int,
    time: float,
    released: bool,
) -> Iterator[None]:
    """Replace tokens of finished texts by likelier ones of the network, one call an iteration.

    An iteration draws an id for every free place at `edit_temperature` from the prediction at the fixed noise
    time `time`, and puts in the `edits` ids, among those that differ, of which the network is surest. A text
    ends, and costs nothing more, after `iterations`, when no draw differs, or when the share of its ids that
    are the network's first choice has not beaten its best for more than `patience` iterations. The result is
    the last state, not the best. Worth it for networks trained with uniform noise only: others never read a
    wrong token.

    The first iteration always counts as a gain, and every edit that was paid for is kept. released: as in
    GIDD's code, the share to beat starts at 0, and the edit that exhausts the patience is dropped.
    """
    count = len(draft.ids)
    best = torch.full((count,), 0.0 if released else -1.0, dtype=torch.float64, device=draft.ids.device)
    stale = torch.zeros(count, dtype=torch.long, device=draft.ids.device)
    active = draft.free.any(dim=1)
    for iteration in range(iterations):
        if not bool(active.any()):
            return
        ids, free = draft.ids[active], draft.free[active]
        probs = draft.reader(ids, time, free)
        # steps go on after those of the ancestral sampler, so that no draw serves twice
        uniforms = draft.noise.at(draft.steps + iteration, Purpose.CLEAN, draft.free & active[:, None])
        proposals, score = propose(probs, ids[free], uniforms, edit_temperature)
        scores = _spread(score, free, 0.0)
        edited = put_surest(ids, _spread(proposals, free, 0), scores, edits)
        first_choices = (edited == _spread(probs.argmax(-1), free, -1)).sum(dim=1)
        accuracy = first_choices.double() / free.sum(dim=1)
        gained = accuracy > best[active]
        best[active] = torch.maximum(best[active], accuracy)
        stale[active] = torch.where(gained, 0, stale[active] + 1)
        spent = stale[active] > patience
        if released:
            edited = torch.where(spent[:, None], ids, edited)
        draft.ids[active] = edited
        active[active.clone()] = ~spent & (scores > 0).any(dim=1)
        yield


def adaptive(draft: Draft, *, edits: int | None = None, draws: bool = False) -> Iterator[None]:
    """Texts from noise of log-SNR -9 by `steps` rounds of changes, the most rewarding first.

    A place scores by how much more probable the network's first choice is than the present id, times the
    probability of that id under the noise: masks go before tokens, and tokens may be changed again. The
    `edits` best places (by default as many as fill the text in `steps` rounds; published: 1) get the first
    choice, or with `draws` an id drawn from the filtered prediction. A mask that is still there in the last
    round is filled in any case. A network that is told the noise level hears the even grid's.

    Not a sampler of the model's law: order and ids are greedy, so entropy falls. A text that did not change
    is not read again by a network that does not see the time.
    """
    family = draft.family
    assert isinstance(family, Hybrid), "a sampler of this family"
    family.require(edits is None or edits >= 1, f"edits is {edits}, it must be at least 1")
    start = time_at(family, LOWEST_SIGNAL)
    prior = family.mixing(start).to(draft.ids.device)
    draft.ids[draft.free] = family.noise_ids(draft.noise.at(0, Purpose.START, draft.free), start)
    each = torch.full((len(draft.ids),), edits or 1, device=draft.ids.device)
    if edits is None:
        each = -(-draft.free.sum(dim=1) // draft.steps)
    yield
    predictions = Predictions(draft, filtered=False)
    for step, t in enumerate(draft.times[:-1]):
        probs = predictions(t)
        present = draft.ids[draft.free]
        new = probs.argmax(-1)
        if draws:
            new = choose(draft.reader.filters(probs), draft.noise.at(step, Purpose.CLEAN, draft.free))
        score = gain(probs, present, prior)
        if step == draft.steps - 1:
            score = torch.where(present == family.mask_id, math.inf, score)
            each = torch.maximum(each, (draft.free & (draft.ids == family.mask_id)).sum(dim=1))
        draft.ids = put_surest(
            draft.ids, _spread(new, draft.free, 0), _spread(score, draft.free, 0.0), each[:, None]
        )
        yield


def released(draft: Draft, *, posterior_min_p: float = 0.0) -> Iterator[None]:
    """GIDD's released loop, to repeat published figures; `ancestral` is the right one.

    Its times are those of `released_times`. posterior_min_p: entries of the posterior below it are dropped,
    which also drops small chances to change a token; filter `min_p` acts on the prediction instead. A mask
    that the loop leaves is filled from its last call, where the release keeps it in the text.
    """
    family = draft.family
    assert isinstance(family, Hybrid), "a sampler of this family"
    family.require(family.peaked is not None, "sampler 'released' belongs to p_u, and noise is given")
    family.require(0 <= posterior_min_p < 1, f"posterior_min_p is {posterior_min_p}, it must lie in [0, 1)")
    if draft.steps < 2:
        raise UserError(f"sampling steps is {draft.steps}, sampler 'released' needs at least 2")
    start_from_noise(draft)
    yield
    for step, (t, s) in enumerate(released_times(draft.steps).to(draft.ids.device)):
        probs, present = draft.reader(draft.ids, t, draft.free), draft.ids[draft.free]
        uniforms = draft.noise.at(step, Purpose.CLEAN, draft.free)
        if step == draft.steps - 1:
            draft.ids[draft.free] = torch.where(present == family.mask_id, choose(probs, uniforms), present)
        else:
            q = cut_posterior(family, probs[:, None], present[:, None], t, s, posterior_min_p)
            draft.ids[draft.free] = choose(q[:, 0], uniforms)
        yield


def released_times(steps: int) -> Tensor:
    """(steps, 2) the time that each call is told and the time it moves to: the first call is told less noise
    than there is, and the last moves nowhere."""
    grid = torch.linspace(EDGE, 1 - EDGE, steps + 1, dtype=torch.float64)
    index = torch.arange(steps - 1, -1, -1)
    return torch.stack([grid[index], grid[(index - 1).clamp(min=0)]], dim=1)


def cut_posterior(
    family: Hybrid, probs: Tensor, ids: Tensor, t: Tensor, s: Tensor, smallest: float
) -> Tensor:
    """The posterior (B, L, V) without the entries below `smallest`; the likeliest always stays."""
    q = family.posterior(probs, ids, t.expand(len(ids)), s.expand(len(ids)))
    if smallest:
        q = q.where(q >= torch.clamp(q.amax(-1, keepdim=True), max=smallest), 0.0)
        q = q / q.sum(-1, keepdim=True)
    return q


def propose(probs: Tensor, present: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Ids (n,) drawn from probs (n, V) at a temperature, and the odds p / (1 - p) of each at it; 0 where it
    is the present id. Odds rank as probabilities do, and tell certain ids apart that all round to 1."""
    sharp = Filters(temperature=temperature)(probs)
    new = choose(sharp, uniforms)
    others = sharp.scatter(-1, new[:, None], 0.0).sum(-1)
    odds = sharp.gather(-1, new[:, None])[:, 0] / others
    return new, odds.where(new != present, 0.0)


def gain(probs: Tensor, present: Tensor, prior: Tensor) -> Tensor:
    """(n,) what the first choice is more probable than the present id, times that id's share of the noise."""
    here = probs.gather(-1, present[:, None])[:, 0]
    return (probs.amax(-1) - here) * prior[present]


def put_surest(ids: Tensor, new: Tensor, score: Tensor, count: int | Tensor) -> Tensor:
    """ids (B, L) with the `count` places (a number, or (B, 1)) of the highest score above 0 from new.

    Scores that agree to a millionth tie, and the first place wins: places of a monotonous text score the
    same, and rounding, which differs from batch to batch, must not choose among them.
    """
    level = (score.log() * 2**20).round()
    rank = level.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return torch.where((rank < count) & (score > 0), new, ids)


def _spread(values: Tensor, free: Tensor, elsewhere: float) -> Tensor:
    """Values (n,) of the free places as (B, L)."""
    whole = torch.full(free.shape, elsewhere, dtype=values.dtype, device=values.device)
    whole[free] = values
    return whole


def _check(draft: Draft, temperature: float, edits: int, iterations: int, patience: int, time: float) -> None:
    for holds, rule in (
        (0 < temperature < math.inf, f"edit_temperature is {temperature}, it must be above 0"),
        (edits >= 1, f"edits is {edits}, it must be at least 1"),
        (iterations >= 1, f"iterations is {iterations}, it must be at least 1"),
        (patience >= 0, f"patience is {patience}, it must be at least 0"),
        (0 <= time < 1, f"time is {time}, it must lie in [0, 1)"),
    ):
        draft.family.require(holds, f"self-correction: {rule}")
