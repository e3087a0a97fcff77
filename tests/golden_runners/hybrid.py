"""Golden cases of family hybrid: the hybrid mask and uniform process of GIDD."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.families import get_family
from tests.golden_runners.common import Case, Got, Runners, inputs, predicted, with_gradient

OBJECTIVES = {"none": "nelbo", "clip": "clamp", "dynamic": "dynamic_released"}
"""By the reference's loss_weighting; its "dynamic" is not what the paper defines."""


def hybrid(case: Case, **options: Any) -> Any:
    """The family as the reference sets it up: p_u is floored at e^-clip_noise, which ours is not."""
    params = case["params"]
    p_u = max(params["p_uniform"], math.exp(-params["clip_noise"]))
    options |= {"p_u": p_u, "gamma": params["gamma"], "mask_id": params["mask_index"]}
    return get_family("hybrid", vocab_size=params["V"], **options)


def marginals(family: Any, probs: Tensor, t: Tensor) -> Tensor:
    """q(z_t | x) for each row of probs (..., V) at times t of the leading shape."""
    alpha = family.schedule(t)[0][..., None]
    return alpha * probs + (1 - alpha) * family.mixing(t)


def hybrid_schedule(case: Case) -> Got:
    family, t = hybrid(case), inputs(case)["t"]
    alpha = family.schedule(t)[0]
    truth = torch.eye(family.vocab_size, dtype=torch.float64)
    peak = torch.tensor(family.peaked.peak, dtype=torch.float64)
    return {
        "B": peak,
        "log_B": peak.log(),
        "alpha_t": alpha,
        "beta_pi_t": (1 - alpha)[:, None] * family.mixing(t),
        "q_zt_given_x0": marginals(family, truth, t[:, None].expand(-1, len(truth))),
    }


def hybrid_loss(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    objective = OBJECTIVES[params["loss_weighting"]]
    limit = {} if objective == "nelbo" else {"max_weight": params["max_loss_weight"]}
    assert params["min_loss_weight"] == 0, "all weights are above 0"
    family = hybrid(case, objective=objective, **limit)
    x0, xt, t, kept = tensors["x0"], tensors["zt"], tensors["t"], tensors["attention_mask"]
    bound, loss = (
        with_gradient(tensors["logits"], lambda logits, f=f: f(logits, x0, xt, t))
        for f in (family.token_bound, family.token_loss)
    )
    kl, itakura_saito = family.divergences(tensors["logits"], x0, xt, t)
    weights = family.training_weights(x0, xt, t)
    alpha, slope = family.schedule(t)

    def weighted(nats: Tensor) -> Tensor:
        return (weights * kept * nats).sum() / (weights * kept).sum()

    return {
        "elbo_weights": family.weights(x0, xt, t),
        "loss_weights": weights,
        "alpha_ratio": slope / alpha,
        "elbo_per_token": bound["per_token"],
        "elbo_mean": bound["mean"],
        "elbo_metric": (bound["per_token"] * kept).sum() / kept.sum(),
        "grad_elbo_mean_wrt_logits": bound["grad_mean_wrt_logits"],
        "loss_per_token": loss["per_token"],
        "loss_tokenmean": loss["mean"],
        "grad_loss_mean_wrt_logits": loss["grad_mean_wrt_logits"],
        "kl_metric": weighted(kl),
        "is_metric": weighted(itakura_saito),
    }


def hybrid_corruption(case: Case) -> Got:
    """Inverse of the distribution function, ids in order: our marginals, the reference's uniforms."""
    tensors, family = inputs(case), hybrid(case)
    x0, t = tensors["x0"], tensors["t"][:, None].expand(tensors["x0"].shape)
    q = marginals(family, F.one_hot(x0, family.vocab_size).double(), t)
    return {"zt": (q.cumsum(-1) < tensors["u"][..., None]).sum(-1)}


def hybrid_reverse_step(case: Case) -> Got:
    tensors, family = inputs(case), hybrid(case)
    probs = predicted(tensors["logits"], family.mask_id)
    q = family.posterior(probs, tensors["zt"], tensors["t"], tensors["s"])
    return {"q": q, "row_sum": q.sum(-1)}


RUNNERS: Runners = {
    "gidd_schedule_*": hybrid_schedule,
    "gidd_loss_*": hybrid_loss,
    "gidd_sample_zt": hybrid_corruption,
    "gidd_reverse_step_*": hybrid_reverse_step,
}
