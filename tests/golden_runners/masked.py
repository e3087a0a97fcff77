"""Golden cases of family masked, in the forms that several repositories give its bound."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import noise_times, one_per_slice, suppress
from tests.golden_runners.common import Case, Got, Runners, close, inputs, predicted, with_gradient


def masked(case: Case, **options: Any) -> Any:
    params = case["params"]
    return get_family("masked", vocab_size=params["V"], mask_id=params["mask_index"], **options)


def masked_loss(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    x0, xt, t = tensors["x0"], tensors["xt"], tensors["t"]
    objective = "low_variance" if params.get("low_var") else "nelbo"
    family = masked(case, schedule_eps=params["eps"], objective=objective)
    alpha, slope = family.schedule(t)
    close(alpha, tensors["alpha_t"], case)
    close(slope, tensors["dalpha_t"].expand_as(t), case)
    return with_gradient(tensors["logits"], lambda logits: family.token_loss(logits, x0, xt, t))


def masked_discrete(case: Case) -> Got:
    """T KL(q(x_s | x_t, x_0) || q(x_s | x_t, x_theta)) with s = t - 1/T; t = 1 becomes 1 - 1e-4 as there."""
    tensors, steps = inputs(case), case["params"]["T"]
    family = masked(case)
    x0, xt, logits = tensors["x0"], tensors["xt"], tensors["logits"]

    def term(snapped: Tensor) -> Tensor:
        t = snapped.clamp(max=1 - 1e-4)
        s = (t - 1 / steps).clamp(min=0)
        true = family.posterior(F.one_hot(x0, family.vocab_size).double(), xt, t, s)
        guess = family.posterior(predicted(logits, family.mask_id), xt, t, s)
        nats = torch.xlogy(true, true) - torch.where(true > 0, true * torch.log(guess), 0.0)
        return steps * nats.sum(-1)

    first = term(torch.full_like(tensors["t_raw"], 1 / steps))
    assert torch.isfinite(first).all(), "the first step has a value, not nan as in the reference"
    snapped = ((tensors["t_raw"] * steps).floor() + 1) / steps
    nats = term(snapped)
    return {"t_snapped": snapped, "per_token": nats, "mean": nats.mean()}


def masked_change_of_variables(case: Case) -> Got:
    """Time drawn so that log(1 - alpha) is uniform: the bound times dt/du = t log(m_1 / m_0)."""
    params, tensors = case["params"], inputs(case)
    first, last = (math.log(-math.expm1(math.log(x))) for x in (math.exp(-params["eps"]), params["eps"]))
    share = torch.exp(first + tensors["t"] * (last - first))
    family = masked(case, schedule_eps=params["eps"])
    t = share / (1 - params["eps"])
    bound = family.token_bound(tensors["logits"], tensors["x0"], tensors["xt"], t)
    nats = bound * t[:, None] * -first  # the reference leaves `last` out of the Jacobian
    return {"mask_probability": share, "per_token": nats, "mean": nats.mean()}


def masked_score_entropy(case: Case) -> Got:
    """SEDD's scores sum to Z, not 1: the bound of their normalised form, plus weight (Z - 1 - log Z)."""
    params, tensors = case["params"], inputs(case)
    family = masked(case, schedule_eps=params["eps"])
    x0, xt, t, logits = tensors["x0"], tensors["xt"], tensors["t"], tensors["logits"]
    logits = suppress(logits, family.mask_id)
    log_z = torch.logsumexp(logits, -1) - math.log(family.vocab_size - 1)
    weight = (-family.schedule(t)[1] / family.noise_share(t))[:, None]
    excess = torch.where(family.scored(xt), weight * (torch.expm1(log_z) - log_z), 0.0)
    nats = family.token_bound(logits, x0, xt, t) + excess
    return {"per_token": nats, "mean": nats.mean()}


def masked_from_uniforms(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    family = masked(
        case, schedule_eps=params["eps"], objective="low_variance" if params["low_var"] else "nelbo"
    )
    uniforms = one_per_slice(tensors["u_t"]) if params["antithetic"] else tensors["u_t"]
    t = noise_times(uniforms, params["sampling_eps"])
    xt = family.mask_where(tensors["x0"], tensors["u_mask"], t)
    nats = family.token_loss(tensors["logits"], tensors["x0"], xt, t)
    count = torch.tensor(nats.numel())
    return {"t": t, "xt": xt, "mean": nats.mean(), "nll_sum": nats.sum(), "num_tokens": count}


def masked_smdm(case: Case) -> Got:
    """SMDM draws the mask probability p = eps + (1 - eps) u itself: our time with alpha = 1 - t."""
    params, tensors = case["params"], inputs(case)
    family = masked(case)
    t = noise_times(tensors["u_t"], params["eps"])
    xt = family.mask_where(tensors["x0"], tensors["u_mask"], t)
    nats = family.token_bound(tensors["logits"], tensors["x0"], xt, t)
    return {"xt": xt, "p_mask": family.noise_share(t), "per_token": nats, "mean": nats.mean()}


def masked_posterior(case: Case) -> Got:
    tensors, family = inputs(case), masked(case)
    probs = predicted(tensors["logits"], family.mask_id)
    q = family.posterior(probs, tensors["xt"], 1 - tensors["alpha_t"], 1 - tensors["alpha_s"])
    return {"q": q, "row_sum": q.sum(-1)}


def masked_reverse_step(case: Case) -> Got:
    """The expected numbers are for mask positions; other tokens are copied, which is checked here."""
    params, tensors = case["params"], inputs(case)
    family = masked(case, schedule_eps=params["eps"])
    t, xt = tensors["t"], tensors["xt"]
    s = t - params["dt"]
    close(family.schedule(t)[0], tensors["alpha_t"], case)
    close(family.schedule(s)[0], tensors["alpha_s"], case)
    q = family.posterior(predicted(tensors["logits"], family.mask_id), xt, t, s)
    clean = xt != family.mask_id
    assert torch.equal(q[clean], F.one_hot(xt[clean], family.vocab_size).double())
    all_masks = torch.full_like(xt, family.mask_id)
    q = family.posterior(predicted(tensors["logits"], family.mask_id), all_masks, t, s)
    return {"q_normalised": q, "q_unnormalised": q * family.noise_share(t)[:, None, None]}


RUNNERS: Runners = {
    "mdlm_nelbo_*": masked_loss,
    "mdlm_lowvar_*": masked_loss,
    "mdlm_gidd_repo_*": masked_loss,
    "mdlm_discrete_T*": masked_discrete,
    "mdlm_change_of_variables": masked_change_of_variables,
    "sedd_absorb_score_entropy": masked_score_entropy,
    "mdlm_end_to_end_*": masked_from_uniforms,
    "smdm_end_to_end": masked_smdm,
    "mdlm_posterior_normalised": masked_posterior,
    "mdlm_reverse_step": masked_reverse_step,
}
