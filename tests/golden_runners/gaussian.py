"""Golden cases of family gaussian (Plaid): its schedule, its vectors, its bound and its network's ends."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.families.gaussian import Gaussian, diffusion_nats, latents, prior_nats
from scaling.ladder import Size
from scaling.models.gaussian import GaussianTransformer, build_gaussian_model, unit
from tests.golden_runners.common import Case, Got, Runners, inputs, tensor


def model_of(case: Case, vocab: int, **changes: Any) -> GaussianTransformer:
    """A float64 network of one block, which starts as the identity, with the case's schedule and vectors."""
    params, tensors = case["params"], inputs(case)
    options = {
        "embed_dim": params.get("embed_dim", 2),
        "endpoints": (params.get("gamma_0", -3.0), params.get("gamma_1", 6.0)),
        "schedule_units": params.get("hidden", len(tensors.get("b1", [0]))),
        "auxiliary_rate": 1e-2,
    }
    size = Size(name="golden", hidden=params.get("dim", 2), num_layers=1, num_heads=1)
    generator = torch.Generator().manual_seed(0)
    model = build_gaussian_model(size, vocab, generator=generator, **options).double()
    weights = {**model.state_dict(), **changes}
    if "W1" in tensors:
        weights["schedule.steepness"] = tensors["W1"].flatten()
        weights["schedule.offset"] = tensors["b1"]
        weights["schedule.height"] = tensors["W2"].flatten()
    if "matrix" in tensors:
        weights["embedding"] = tensors["matrix"]
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def noise_schedule(case: Case) -> Got:
    t = inputs(case)["t"]
    schedule = model_of(case, vocab=2).schedule
    gamma, slope = schedule(t)
    return {
        "gamma_normalised": schedule.course(t)[0],
        "gamma": gamma,
        "dgamma_dt": slope,
        "alpha_squared": torch.sigmoid(-gamma),
        "sigma_squared": torch.sigmoid(gamma),
        "snr_prime": -torch.exp(-gamma) * slope,
    }


def embedding(case: Case) -> Got:
    return {"embedding": unit(inputs(case)["matrix"])}


def bound_terms(case: Case) -> Got:
    """The first rows stand at t = 0 and give the reconstruction; the others the diffusion term."""
    params, tensors = case["params"], inputs(case)
    x0, logits, first = tensors["x"], tensors["logits"], params["reconst_examples"]
    ends = {name: params[name] for name in ("gamma_0", "gamma_1")}
    family = Gaussian(params["V"], embed_dim=params["embed_dim"], **ends)
    model = model_of(case, vocab=params["V"])
    others = len(x0) - first
    t = torch.cat([torch.zeros(first), (torch.arange(others) + tensors["u"]) / others])
    gamma, slope = model.schedule(t)
    rows = model.rows()
    target, x_hat = F.embedding(x0, rows), logits.softmax(-1) @ rows
    z = latents(target, tensors["noise"], gamma)
    nats = family.token_bound(logits, x0, z, t, model).mean(-1)
    prior = prior_nats(model.schedule(torch.ones(1))[0][0], params["embed_dim"])
    reconstruction = nats[:first]
    loss = prior + reconstruction.mean() + nats[first:].mean()
    return {
        "t": t,
        "gamma": gamma,
        "z": z,
        "x_reconst": x_hat,
        "snr_prime": -torch.exp(-gamma) * slope,
        "diffusion_per_example": diffusion_nats(target, x_hat, gamma, slope).mean(-1),
        "reconst_per_example": reconstruction,
        "prior": prior,
        "reconst": reconstruction.mean(),
        "loss": loss,
        "nll": loss,
    }


def network_ends(case: Case) -> Got:
    """A block whose gates are 0 is the identity, so one of those stands for no block.

    The reference's mask of self-conditioned rows changes gradients alone: every row's guess is read.
    """
    params, tensors = case["params"], inputs(case)
    weights = {name: tensor(value) for name, value in case["inputs"]["state_dict"].items()}
    model = model_of(
        case,
        params["V"],
        embedding=tensors["embedding"],
        norm_final=weights["output_norm.weight"],
        **{name: weights[name] for name in weights if "_linear" in name and not name.startswith("output")},
        **{f"head.{kind}": weights[f"output_linear.{kind}"] for kind in ("weight", "bias")},
    )  # fmt: skip
    gamma = tensors["gamma"]
    options = {"guess": tensors["x_selfcond"], "strength": torch.full_like(gamma, params["bias_scale"])}
    logits = model(tensors["z"], gamma, **options)
    x_hat, nats = model.restore(tensors["z"], gamma, logits.argmax(-1), **options)
    likeliest: Tensor = -logits.log_softmax(-1).amax(-1)
    torch.testing.assert_close(nats, likeliest)
    return {"logits": logits, "x_reconst": x_hat}


RUNNERS: Runners = {
    "noise_schedule": noise_schedule,
    "embedding_normalisation": embedding,
    "vlb_terms_selfcond_*": bound_terms,
    "model_head_zero_blocks": network_ends,
}
