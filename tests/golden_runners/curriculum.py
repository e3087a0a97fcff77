"""Golden cases of the Gaussian curriculum of family uniform and of the transform behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import noise_times, one_per_slice
from scaling.families.curriculum import (
    falling_inverse_temperature,
    gamma_at,
    gaussian_latent,
    largest_normals,
    log_mean_exp_below,
    signal_at,
    tempered_weights,
)
from scaling.families.duality import to_discrete
from tests.golden_runners.common import Case, Got, Runners, close, inputs


def transform(case: Case) -> Got:
    vocab = case["params"]["V"]
    alpha, noise, slope = to_discrete(inputs(case)["gamma"], vocab)
    share = (vocab - 1) / vocab
    return {"pt": alpha + noise / vocab, "dpt_dgamma": share * slope, "alpha": alpha, "dalpha_dgamma": slope}


def transform_over_time(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    ends = params["gamma_min"], params["gamma_max"]
    close(gamma_at(tensors["t"], ends), tensors["gamma"], case)
    alpha, _, slope = signal_at(tensors["t"], ends, params["V"])
    last = to_discrete(torch.tensor([ends[1]], dtype=torch.float64), params["V"])
    prior = _nats_to_uniform(last.alpha, last.noise, params["V"])[0]
    return {"alpha": alpha, "dalpha_dt": slope, "prior_loss_at_gamma_max": prior}


def _nats_to_uniform(alpha: Tensor, noise: Tensor, vocab: int) -> Tensor:
    """KL from q(z | x_0) to the uniform distribution."""
    kept, other = alpha + noise / vocab, noise / vocab
    return torch.xlogy(kept, vocab * kept) + (vocab - 1) * torch.xlogy(other, vocab * other)


def temperature(case: Case) -> Got:
    params = case["params"]
    inverse = falling_inverse_temperature(
        inputs(case)["step"],
        params["curriculum_start"],
        params["curriculum_end"],
        10 ** params["gumbel_tau_log10_start"],
        10 ** params["gumbel_tau_log10_end"],
    )
    return {"inverse_tau": inverse}


def latent(case: Case) -> Got:
    tensors = inputs(case)
    w = gaussian_latent(tensors["x0"], tensors["gamma"], tensors["epsilon"])
    weights = tempered_weights(w, case["params"]["inverse_tau"])
    return {"latent": w, "soft_weights": weights, "argmax_tokens": w.argmax(-1)}


def loss(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    family = get_family("uniform", vocab_size=params["V"])
    ends = params["gamma_min"], params["gamma_max"]
    uniforms = one_per_slice(tensors["u_t"]) if params["antithetic"] else tensors["u_t"]
    t = noise_times(uniforms, params["sampling_eps"])
    signal = signal_at(t, ends, params["V"])
    z = gaussian_latent(tensors["x0"], gamma_at(t, ends), tensors["epsilon"]).argmax(-1)
    nats = family.bound_at(tensors["logits"], tensors["x0"], z, *signal)  # type: ignore[attr-defined]
    return {
        "t": t,
        "alpha_t": signal.alpha,
        "dalpha_t": signal.slope,
        "argmax_tokens": z,
        "sigma_passed_to_backbone": -torch.log(signal.alpha),
        "per_token": nats,
        "mean": nats.mean(),
    }


def truncated_normal(case: Case) -> Got:
    tensors = inputs(case)
    return {"value": log_mean_exp_below(tensors["c"], tensors["sigma"][:, None])}


def order_statistics(case: Case) -> Got:
    tensors = inputs(case)
    return {"topk": tensors["sigma"][:, None, None] * largest_normals(tensors["u"], case["params"]["N"])}


RUNNERS: Runners = {
    "tau_schedule": temperature,
    "gaussian_latent_and_soft_input": latent,
    "curriculum_loss": loss,
    "log_mean_exp_truncated_normal": truncated_normal,
    "topk_gaussian_order_statistics": order_statistics,
}

TRANSFORM_RUNNERS: Runners = {
    "transform_quad_*": transform,
    "transform_series_*": transform_over_time,
    "transform_shipped_cache_*": transform,
    "transform_cached_path_*": transform_over_time,
}
