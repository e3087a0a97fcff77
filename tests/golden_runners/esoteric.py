"""Golden cases of family esoteric: attention masks, reading orders, both terms of its loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import Noised, noise_times, one_per_slice
from scaling.models import CAUSAL, Doubled
from tests.golden_runners.common import Case, Got, Runners, inputs


def esoteric(case: Case, **options: Any) -> Any:
    params = case["params"]
    objective = "low_variance" if params.get("loss_type") == "low_var" else "nelbo"
    return get_family(
        "esoteric",
        vocab_size=params.get("V", 11),
        mask_id=params["mask_index"],
        schedule_eps=params.get("eps", 0.0),
        objective=objective,
        **options,
    )


def sort(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    order = esoteric(case).order(
        tensors["xt"],
        tensors["u_sort"] if params["shuffle"] else None,
        masks_in_place=params["keep_masks_unshuffled"],
    )
    return {"sort_idx": order, "xt_sorted": tensors["xt"].gather(1, order)}


def diffusion(family: Any, tensors: dict[str, Tensor], x0: Tensor, earliest: float) -> Noised:
    """The diffusion rows from given uniforms, in reading order."""
    t = noise_times(one_per_slice(tensors["u_t"]), earliest)
    xt = family.mask_where(x0, tensors["u_mask"], t)
    order = family.order(xt, tensors.get("u_sort_diffusion", tensors.get("u_sort")))
    return Noised(x0.gather(1, order), xt.gather(1, order), t, extra={"order": order})


def sequential(family: Any, tensors: dict[str, Tensor], x0: Tensor) -> Noised:
    t = torch.zeros(len(x0), dtype=torch.float64)
    z0 = family.mask_where(x0, tensors["u_z0_mask"], t)
    order = family.order(z0, tensors["u_sort_sequential"], masks_in_place=True)
    return Noised(x0.gather(1, order), z0.gather(1, order), t, extra={"order": order})


def both_terms(case: Case) -> Got:
    """Each term is a mean over its own rows; the reference counts tokens of the diffusion rows alone."""
    params, tensors = case["params"], inputs(case)
    family = esoteric(case, alpha_0=params["alpha_0"])
    x0, rows = tensors["x0"], round(params["batch_split"] * len(tensors["x0"]))
    tokens = (rows or len(x0)) * x0.shape[1]
    out: Got = {"reconstruction_sum": torch.tensor(0.0)}
    loss = torch.tensor(0.0, dtype=torch.float64)
    if rows:
        part = diffusion(family, tensors, x0[:rows], params["sampling_eps"])
        nats = family.token_loss(tensors["logits_diffusion_sorted"], part.x0, part.xt, part.t)
        loss = loss + nats.mean()
        out |= {"sort_idx_diffusion": part.extra["order"], "xt_sorted": part.xt, "t": part.t}
    if rows < len(x0):
        part = sequential(family, tensors, x0[rows:])
        nats = family.token_loss(tensors["logits_sequential_sorted"], part.x0, part.xt, part.t)
        loss = loss + nats.mean()
        out |= {
            "sort_idx_sequential": part.extra["order"],
            "z0_sorted": part.xt,
            "reconstruction_sum": nats.mean() * tokens,
        }
    return out | {"loss": loss, "nll_sum": loss * tokens, "num_tokens": torch.tensor(tokens)}


def diffusion_alone(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    family = esoteric(case, alpha_0=params["alpha_0"])
    part = diffusion(family, tensors, tensors["x0"], 1e-3)
    nats = family.token_loss(tensors["logits_sorted_order"], part.x0, part.xt, part.t)
    return {
        "t": part.t,
        "alpha_t": family.schedule(part.t)[0],
        "sort_idx": part.extra["order"],
        "per_token_sorted": nats,
        "mean": nats.mean(),
    }


def attention_masks(case: Case) -> Got:
    length = case["params"]["L"]
    query = torch.eye(length, dtype=torch.float64)[None, None]
    visible = CAUSAL.attend(torch.zeros_like(query), torch.zeros_like(query), query)[0, 0] > 0
    return {"causal": visible.long(), "sequential_2L": Doubled(block_size=1).mask(length).long()}


RUNNERS: Runners = {
    "eso_attention_masks": attention_masks,
    "eso_sort_*": sort,
    "eso_loss_*": both_terms,
    "eso_scaling_diffusion_*": diffusion_alone,
}
