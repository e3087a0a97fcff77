"""Golden cases of family uniform."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scaling.families import get_family
from scaling.families.base import noise_times, one_per_slice
from tests.golden_runners.common import Case, Got, Runners, close, inputs, tensor, with_gradient


def uniform(case: Case, **options: Any) -> Any:
    params = case["params"]
    mask_id = params.get("mask_index") if params.get("suppress_mask_column", True) else None
    return get_family("uniform", vocab_size=params["V"], mask_id=mask_id, **options)


def uniform_loss(case: Case) -> Got:
    tensors, family = inputs(case), uniform(case)
    alpha, slope = tensors["alpha_t"], tensors["dalpha_t"]

    def per_token(logits: Tensor) -> Tensor:
        return family.bound_at(logits, tensors["x0"], tensors["xt"], alpha, 1 - alpha, slope)

    out = with_gradient(tensors["logits"], per_token)
    if "per_token_40digit" in case:  # better than the reference's own float64 at both ends
        close(out["per_token"], tensor(case["per_token_40digit"]), case)
    return out


def uniform_posterior(case: Case) -> Got:
    tensors, family = inputs(case), uniform(case)
    q = family.posterior_at(tensors["x"], tensors["xt"], tensors["alpha_t"], tensors["alpha_s"])
    return {"q": q, "row_sum": q.sum(-1)}


def uniform_corruption(case: Case) -> Got:
    tensors, family = inputs(case), uniform(case)
    t = 1 - tensors["alpha_t"]
    return {"xt": family.replace_where(tensors["x0"], tensors["u_move"], tensors["replacement"], t)}


def uniform_from_draws(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    family = uniform(case, schedule_eps=params["eps"])
    uniforms = one_per_slice(tensors["u_t"]) if params["antithetic"] else tensors["u_t"]
    t = noise_times(uniforms, params["sampling_eps"])
    xt = family.replace_where(tensors["x0"], tensors["u_move"], tensors["replacement"], t)
    nats = family.token_loss(tensors["logits"], tensors["x0"], xt, t)
    return {
        "t": t,
        "alpha_t": family.schedule(t)[0],
        "mean": nats.mean(),
        "nll_sum": nats.sum(),
        "sigma_passed_to_backbone": family.conditioning(t),
    }


RUNNERS: Runners = {
    "duo_nelbo_*": uniform_loss,
    "duo_nomask_nelbo_*": uniform_loss,
    "duo_posterior_*": uniform_posterior,
    "duo_nomask_posterior": uniform_posterior,
    "duo_q_xt": uniform_corruption,
    "duo_end_to_end": uniform_from_draws,
}
