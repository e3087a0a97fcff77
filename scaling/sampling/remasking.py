"""Samplers that take tokens back, so that later calls may mend what earlier ones got wrong.

Psi (arXiv 2602.21185) mixes the posterior with a corrector that guesses the text and puts noise of the new
time on it; ReMDM (arXiv 2503.00307) turns decoded tokens into masks again. Both keep the marginals of the
process whatever their rates, if the network is perfect, but add to the error of few steps: their gain is that
they mend an imperfect network, at many steps. With masks a Psi step is a ReMDM step of rate
sigma = (1 - kappa)(1 - alpha_s).

Every step is a mixture of the present id, x_theta and fresh noise. With masks its weights do not depend on
the network, so it reads only the places that are decoded, and not at all in a step that decodes none.

B batch, L length, V vocabulary, T steps, n places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from scaling.errors import UserError, nearest
from scaling.families.base import Family
from scaling.sampling.discrete import (
    Predictions,
    ancestral,
    draw_parts,
    guided_posteriors,
    start_from_noise,
    time_at,
)
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose

REMASKING_ETA = {
    "cap": 0.008,
    "rescale": 0.05,
    "loop": 0.02,
    "conf": None,
    "forward_backward": None,
    "flow_matching": None,
}
"""ReMDM's schedules with the rates of its released code; None: the schedule has no rate."""

PSI_ETA = {"rescale": 0.05, "rescale_released": 0.05, "cap": 0.01, "fixed": 0.01, "loop": 0.01}
"""Psi's schedules of ReMDM's kind with the rates of its scripts."""
PSI_PHASES = ("ancestral", "corrector", "constant", "rescale", "rescale_released", "cap", "fixed")
LOOP_SHARES = (0.45, 0.5)
"""Of the times, those before and on the plateau of Psi's loop."""


# -- ReMDM ---------------------------------------------------------------------------------------


def remasking(
    draft: Draft,
    *,
    schedule: str = "cap",
    eta: float | None = None,
    t_on: float = 0.55,
    t_off: float = 0.05,
    alpha_on: float = 0.9,
) -> Iterator[None]:
    """ReMDM: in a step a token becomes a mask with probability sigma, at most
    bound = min(1, (1 - alpha_s) / alpha_t).

    schedule, with eta as released unless given:
    cap               sigma = min(eta, bound).
    rescale           sigma = eta bound.
    conf              bound, shared out among the tokens by softmax(-their probability when decoded).
    loop              alpha rises to alpha_on until t_on and stays until t_off while sigma = eta, then to 1.
    forward_backward  sigma = (alpha_s - alpha_t) / alpha_t, the corrector of Campbell et al.
    flow_matching     the corrector of discrete flow matching (arXiv 2407.15595): a / t a unit of time for
                      masks, b / (1 - t) for tokens, a = 10 (t (1 - t))^(1/4) + 1 and b = a - 1, in steps of
                      min(1 / steps, 1 / (a / t + b / (1 - t))), which are more than `steps`.

    Published results also use the filters top_p = 0.9 with drop_crossing. UserError for a value out of range.
    """
    family = draft.family
    assert family.masks_only, "a sampler of masks"
    eta = _rate(schedule, eta, REMASKING_ETA)
    if not 0 <= t_off <= t_on <= 1 or not 0 <= alpha_on < 1:
        raise UserError(
            f"t_off {t_off}, t_on {t_on} and alpha_on {alpha_on} must be such that 0 <= t_off <= t_on <= 1 "
            "and 0 <= alpha_on < 1"
        )
    if eta == 0 and schedule != "loop":
        yield from ancestral(draft)
        return
    if schedule == "flow_matching":
        moves = flow_matching_moves(draft.steps)
    elif schedule == "loop":
        alphas = loop_alphas(draft.times, t_on, t_off, alpha_on)
        rates = remasking_rates("cap", alphas, eta)
        holding = (draft.times[:-1] <= t_on) & (draft.times[:-1] > t_off)
        moves = mask_moves(alphas, rates.where(holding, 0.0))
    else:
        alphas = 1 - family.noise_share(draft.times)
        rates = remasking_rates(schedule, alphas, eta)
        moves = mask_moves(alphas, rates, shared_out=schedule == "conf")
    start_from_noise(draft)
    yield
    mask_id: Any = family.mask_id
    decoded_with = torch.full(draft.ids.shape, torch.inf, dtype=torch.float64, device=draft.ids.device)
    for step, (unmask, remask) in enumerate(moves):
        if schedule == "conf":
            remask = remask * shares_by_doubt(decoded_with)[draft.free]
        weights = mask_weights(draft.ids[draft.free].eq(mask_id), unmask, remask)
        decoded, at_new = move_masks(draft, step, weights)
        decoded_with[draft.ids == mask_id] = torch.inf
        decoded_with[decoded] = at_new
        yield


def loop_alphas(times: Tensor, t_on: float, t_off: float, alpha_on: float) -> Tensor:
    """Signal levels of ReMDM's loop at `times`, of their shape."""
    before = (1 - times) / max(1 - t_on, 1e-300) * alpha_on
    after = 1 - times / max(t_off, 1e-300) * (1 - alpha_on)
    return before.where(times > t_on, torch.where(times > t_off, alpha_on, after))


def remasking_rates(schedule: str, alphas: Tensor, eta: float) -> Tensor:
    """sigma (T,) of the steps between signal levels alphas (T + 1,); for "conf" the whole that is shared."""
    alpha_t, alpha_s = alphas[:-1], alphas[1:]
    bound = ((1 - alpha_s) / alpha_t).clamp(max=1).nan_to_num(0.0)  # at alpha_t = 0 nothing is decoded yet
    if schedule == "cap":
        return bound.clamp(max=eta)
    if schedule == "rescale":
        return eta * bound
    if schedule == "forward_backward":
        return torch.minimum((alpha_s - alpha_t) / alpha_t, bound)
    return bound


def mask_moves(alphas: Tensor, rates: Tensor, shared_out: bool = False) -> list[tuple[Tensor, Tensor]]:
    """For each step the probability that a mask is decoded, and that a token is masked.

    shared_out: the rate is that of all tokens together; masks are decoded as without it, as released.
    """
    alpha_t, alpha_s = alphas[:-1], alphas[1:]
    kept = alpha_t if shared_out else (1 - rates) * alpha_t
    return list(zip((alpha_s - kept) / (1 - alpha_t), rates, strict=True))


def flow_matching_moves(steps: int) -> list[tuple[Tensor, Tensor]]:
    """As `mask_moves`, for the corrector of discrete flow matching; the last step decodes all."""
    moves, t = [], 1.0
    while t > (1 + 1e-9) / steps:
        length, *move = flow_matching_step(t, steps)
        moves.append(move)
        t -= length
    pairs = torch.tensor([*moves, [1.0, 0.0]], dtype=torch.float64)
    return list(zip(*pairs.unbind(1), strict=True))


def flow_matching_step(t: float, steps: int) -> tuple[float, float, float]:
    """Length of the step that starts at t, and its probabilities to decode a mask and to mask a token."""
    decode = 10 * (t * (1 - t)) ** 0.25 + 1
    back = (decode - 1) / (1 - t) if t < 1 else 0.0
    length = min(1 / steps, 1 / (decode / t + back))
    return length, length * decode / t, length * back


def shares_by_doubt(decoded_with: Tensor) -> Tensor:
    """Shares (B, L) of tokens by softmax of minus the probability with which each was decoded, inf at places
    that have no part; all 0 where no place has."""
    return (-decoded_with).softmax(-1).nan_to_num(0.0)


def mask_weights(masked: Tensor, unmask: Tensor, remask: Tensor) -> Tensor:
    """Weights (n, 3) of the present id, of x_theta and of the mask; masked (n,) bool, rates of any shape that
    fits it."""
    decode = torch.where(masked, unmask, 0.0)
    lose = torch.where(masked, 0.0, remask)
    return torch.stack([1 - decode - lose, decode, lose], dim=1)


def move_masks(draft: Draft, step: int, weights: Tensor, t: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Draw the free places from a mixture of weights (n, 3) that do not depend on the network, which is told
    time t if it is told the time.

    Returns the decoded places (B, L), and x_theta (n,) of their new ids.
    """
    part = choose(weights, draft.noise.at(step, Purpose.PART, draft.free))
    decoded, lost = torch.zeros_like(draft.free), torch.zeros_like(draft.free)
    decoded[draft.free], lost[draft.free] = part == 1, part == 2
    before, mask_id = draft.ids, draft.family.mask_id
    assert mask_id is not None
    draft.ids = draft.ids.masked_fill(lost, mask_id)
    rows = decoded.any(dim=1)
    if not bool(rows.any()):
        return decoded, torch.zeros(0, dtype=torch.float64, device=draft.ids.device)
    probs = draft.reader(before[rows], t, decoded[rows])
    new = choose(probs, draft.noise.at(step, Purpose.CLEAN, decoded))
    draft.ids[decoded] = new
    return decoded, probs.gather(-1, new[:, None])[:, 0]


# -- Psi -----------------------------------------------------------------------------------------


def psi(
    draft: Draft,
    *,
    kappa: float | None = None,
    schedule: str | None = None,
    eta: float | None = None,
    high_share: float = 0.2,
    middle_share: float = 0.6,
    plateau: float | None = None,
) -> Iterator[None]:
    """Psi: kappa q(z_s | z_t) + (1 - kappa) [alpha_s q(z_0 | z_t) + (1 - alpha_s) noise], one call a step.

    kappa: the same at every step; 1 is ancestral, 0 noises the whole text anew each time. Or a schedule of
    sigma, as in `remasking`, with kappa = clip(1 - sigma / (1 - alpha_s), 0, 1):
    rescale           sigma = eta min(1, (1 - alpha_s) / alpha_t), the default.
    rescale_released  sigma = eta min(eta, (1 - alpha_s) / alpha_t): the released code, eta twice.
    cap               sigma = min(eta, (1 - alpha_s) / alpha_t).
    fixed             sigma = eta.
    loop              ancestral to a plateau at signal level 0.9, there "fixed", then ancestral.
    Or three of these with commas, of which "constant" is the given kappa, "ancestral" 1 and "corrector" 0:
    the first for a share high_share of the times, the second for middle_share, the third for the rest.
    plateau: the time at which the middle ones stay; by default they go on evenly.

    Guidance acts on both posteriors, never on the noise. Published results also use the filter top_p = 0.9
    (loop: 0.95). UserError for a value out of range.
    """
    family = draft.family
    if kappa is not None and not 0 <= kappa <= 1:
        raise UserError(f"kappa is {kappa}, it must lie in [0, 1]")
    shares, times = (high_share, middle_share), draft.times
    if min(shares) < 0 or sum(shares) > 1:
        raise UserError(
            f"high_share {high_share} and middle_share {middle_share} must not be negative, nor more than 1 "
            "together"
        )
    if plateau is not None and not 0 < plateau < 1:
        raise UserError(f"plateau is {plateau}, it must lie in (0, 1)")
    if schedule is None:
        schedule = "rescale" if kappa is None else "constant"
    if schedule == "loop":
        shares, eta = LOOP_SHARES, PSI_ETA["loop"] if eta is None else eta
        plateau = float(time_at(family, 0.9)) if plateau is None else plateau
        schedule = "ancestral,fixed,ancestral"
    if plateau is not None:
        times = plateau_times(draft.steps, plateau, *shares).to(times)
        times[-1] = 0  # published: near 0, and a call more that removes what noise is left
    phases = [phase.strip() for phase in schedule.split(",")]
    for name, value, users in (("kappa", kappa, {"constant"}), ("eta", eta, PSI_ETA.keys())):
        if value is not None and not users & set(phases):
            raise UserError(f"{name} has no part in schedule {schedule!r}: leave it out")
    kappas = kappas_at(family.schedule(times)[0], phases, shares, kappa, eta).tolist()
    if plateau is None and family.masks_only and min(kappas[:-1]) == 1:
        yield from ancestral(draft)  # nothing is taken back
        return
    start_from_noise(draft)
    yield
    predictions = Predictions(draft)
    for step, (t, s) in enumerate(pairwise(times)):
        present = draft.ids[draft.free]
        if draft.reader.guides_posterior:
            if t > s or kappas[step] < 1:
                draw_guided(draft, step, t, s, kappas[step])
        elif family.masks_only:
            nothing = torch.zeros_like(present, dtype=torch.float64)
            move_masks(draft, step, psi_weights(family, nothing, present, t, s, kappas[step]), t)
        elif t > s or kappas[step] < 1:
            probs = predictions(t)
            at_present = probs.gather(-1, present[:, None])[:, 0]
            weights = psi_weights(family, at_present, present, t, s, kappas[step])
            draw_parts(draft, step, probs, weights, s)
        yield


def draw_guided(draft: Draft, step: int, t: Tensor, s: Tensor, kappa: float) -> None:
    """Draw the free places by a Psi step whose two posteriors, to s and to the text, are guided as those of
    `ancestral` are. Fresh noise knows no label. With kappa = 1 it is that sampler's step, id for id."""
    to_s, to_text = guided_posteriors(draft, t, s, torch.zeros_like(s))
    alpha = draft.family.schedule(s)[0]
    shares = torch.stack([torch.as_tensor(kappa).to(alpha), (1 - kappa) * alpha, (1 - kappa) * (1 - alpha)])
    part = choose(shares.expand(len(to_s), 3), draft.noise.at(step, Purpose.PART, draft.free))
    guess = torch.where((part == 0)[:, None], to_s, to_text)
    ids = choose(guess, draft.noise.at(step, Purpose.CLEAN, draft.free))
    fresh = draft.family.noise_ids(draft.noise.at(step, Purpose.FRESH, draft.free), s)
    draft.ids[draft.free] = torch.where(part == 2, fresh, ids)


def psi_weights(
    family: Family, at_present: Tensor, present: Tensor, t: Tensor, s: Tensor, kappa: float
) -> Tensor:
    """Weights (n, 3) of a Psi step; arguments as of `Family.posterior_parts`."""
    to_s = family.posterior_parts(at_present, present, t, s)
    assert to_s is not None, "a posterior in parts"
    if kappa == 1:
        return to_s
    to_text = family.posterior_parts(at_present, present, t, torch.zeros_like(s))
    assert to_text is not None
    alpha = family.schedule(s)[0]
    corrector = alpha * to_text / to_text.sum(dim=1, keepdim=True)
    corrector[:, 2] += 1 - alpha
    return kappa * to_s / to_s.sum(dim=1, keepdim=True) + (1 - kappa) * corrector


def plateau_times(steps: int, plateau: float, high: float, middle: float, last: float = 0.0) -> Tensor:
    """Psi's times (steps + 1,): down to `plateau` in a share `high` of them, there for a share `middle`, then
    down to `last`. As published, shares are rounded and the ends of the plateau repeat; a single time after
    it stays on it. (A step that changes nothing costs no call here.)"""
    count = steps + 1
    before, on = round(high * count), round(middle * count)
    parts = [
        torch.linspace(1, plateau, before, dtype=torch.float64),
        torch.full((on,), plateau, dtype=torch.float64),
        torch.linspace(plateau, last, count - before - on, dtype=torch.float64),
    ]
    return torch.cat(parts)


def kappas_at(
    alphas: Tensor, phases: list[str], shares: tuple[float, float], kappa: float | None, eta: float | None
) -> Tensor:
    """kappa (T + 1,) at each of the times with signal levels alphas (T + 1,); the last has no step."""
    if len(phases) not in (1, 3):
        raise UserError(f"schedule has {len(phases)} phases, it must have one or three")
    if len(phases) == 1:
        return _phase_kappas(phases[0], alphas, kappa, eta)
    before, on = (round(share * len(alphas)) for share in shares)
    parts = alphas.split([before, on, len(alphas) - before - on])
    return torch.cat([_phase_kappas(p, a, kappa, eta) for p, a in zip(phases, parts, strict=True)])


def _phase_kappas(phase: str, alphas: Tensor, kappa: float | None, eta: float | None) -> Tensor:
    """kappa of one phase; schedules of sigma end on 1."""
    if phase not in PSI_PHASES:
        raise UserError(
            f"schedule {phase!r} is unknown{nearest(phase, PSI_PHASES)} (there are: {', '.join(PSI_PHASES)}, "
            "loop, and three of them with commas)"
        )
    if phase == "constant":
        if kappa is None:
            raise UserError("schedule 'constant' needs kappa")
        return torch.full_like(alphas, kappa)
    if phase in ("ancestral", "corrector"):
        return torch.full_like(alphas, float(phase == "ancestral"))
    eta = _rate(phase, eta, PSI_ETA)
    alpha_t, alpha_s = alphas[:-1], alphas[1:]
    bound = (1 - alpha_s) / alpha_t
    sigma = {
        "rescale": eta * bound.clamp(max=1),
        "rescale_released": eta * bound.clamp(max=eta),
        "cap": bound.clamp(max=eta),
        "fixed": torch.full_like(bound, eta),
    }[phase]
    kappas = (1 - sigma / (1 - alpha_s)).clamp(0, 1).where(alpha_s < 1, 1.0)
    return torch.cat([kappas, torch.ones_like(alphas[-1:])])[: len(alphas)]


def _rate(schedule: str, eta: float | None, usual: Mapping[str, float | None]) -> float:
    """eta, or the schedule's own; UserError if it has none or is unknown."""
    if schedule not in usual:
        raise UserError(
            f"schedule {schedule!r} is unknown{nearest(schedule, usual)} (there are: {', '.join(usual)})"
        )
    own = usual[schedule]
    if own is None:
        if eta is not None:
            raise UserError(f"schedule {schedule!r} has no rate: leave eta out")
        return 1.0
    if eta is not None and not 0 <= eta <= 1:
        raise UserError(f"eta is {eta}, it must lie in [0, 1]")
    return own if eta is None else eta
