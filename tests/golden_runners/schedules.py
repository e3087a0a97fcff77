"""Golden cases of noise schedules and noise times."""

from __future__ import annotations

import math
from typing import Any

import torch

from scaling.families import get_family
from scaling.families.base import noise_times, one_per_slice
from tests.golden_runners.common import Case, Got, Runners, inputs


def on_schedule(name: str, eps: float) -> Any:
    return get_family("masked", vocab_size=3, schedule=name, schedule_eps=eps)


def schedule_log_linear(case: Case) -> Got:
    t, eps = inputs(case)["t"], case["params"]["eps"]
    alpha_0 = case["params"].get("alpha_0", 1.0)
    family = get_family("esoteric", vocab_size=3, alpha_0=alpha_0, schedule_eps=eps)
    alpha, slope = family.schedule(t)
    sigma = -torch.log(alpha)
    if alpha_0 == 1:
        uniform = get_family("uniform", vocab_size=3, schedule_eps=eps)
        reached = sigma <= -math.log(1e-3)
        torch.testing.assert_close(uniform.conditioning(t)[reached], sigma[reached])
    share = family.noise_share(t)
    return {
        "alpha_t": alpha,
        "dalpha_t": slope,
        "sigma_t": sigma,
        "sigma": sigma,
        "dsigma": -slope / alpha,
        "nelbo_weight": -slope / share,
        "move_chance": share,
    }


def schedule_cosine(case: Case) -> Got:
    t, eps = inputs(case)["t"], case["params"]["eps"]
    alpha, slope = on_schedule("cosine", eps).schedule(t)
    return {"alpha_t": alpha, "dalpha_t": slope / (1 - eps)}  # the reference leaves 1 - eps out


def schedule_whole(case: Case) -> Got:
    """BD3's log-linear schedule reaches 0: ours with eps 0. Its loss scale is negative."""
    t = inputs(case)["t"]
    family = on_schedule("log_linear", 0.0)
    share = family.noise_share(t)
    return {"move_chance": share, "loss_scale": family.schedule(t)[1] / share}


def schedule_of_bd3(case: Case) -> Got:
    """BD3's other schedules, which start at eps; ours start at 0.

    Powers of t are clamped and their derivatives are not. `cosine` has a factor 1 - eps on the signal, and in
    its loss scale once more eps in the denominator.
    """
    t, eps, name = inputs(case)["t"], case["params"]["eps"], case["id"].removeprefix("bd3_")
    family = on_schedule({"log": "logarithmic", "cosine": "cosine_signal"}.get(name, name), 0.0)
    share, slope = family.noise_share(t), family.schedule(t)[1]
    if name == "cosine":
        share, slope = eps + (1 - eps) * share, (1 - eps) * slope
        return {"move_chance": share, "loss_scale": slope / (share + eps)}
    share = share.clamp(min=eps)
    return {"move_chance": share, "loss_scale": slope / share}


def times_from_uniforms(case: Case) -> Got:
    u, params = inputs(case)["u"], case["params"]
    return {"t": noise_times(one_per_slice(u) if params["antithetic"] else u, params["sampling_eps"])}


def times_of_gidd(case: Case) -> Got:
    """GIDD's noise times: one offset for the whole batch, and as far from 1 as from 0."""
    u, params = inputs(case)["u"], case["params"]
    if params["low_discrepancy"]:
        u = one_per_slice(u.expand(params["n"]) * params["n"]) % 1
    eps = params["t_eps"]
    return {"t": noise_times(u * (1 - 2 * eps) / (1 - eps), eps)}


RUNNERS: Runners = {
    "loglinear_duo": schedule_log_linear,
    "loglinear_scaling_alpha0_*": schedule_log_linear,
    "loglinear_mdlm_sigma_form": schedule_log_linear,
    "cosine_duo": schedule_cosine,
    "bd3_loglinear": schedule_whole,
    "bd3_*": schedule_of_bd3,
    "sample_t_antithetic_*": times_from_uniforms,
    "sample_t_gidd_*": times_of_gidd,
}
