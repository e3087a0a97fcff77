"""Golden cases of family block: masks, noise levels, losses, redrawn masks, clip ranges, a reverse step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from scaling.families import get_family
from scaling.families.base import one_per_slice
from scaling.families.block import clip_ranges
from scaling.models import Doubled
from tests.golden_runners.common import Case, Got, Runners, inputs, tensor, with_gradient


def block(case: Case, **options: Any) -> Any:
    params = case["params"]
    low, high = params.get("eps_min", 1e-3), params.get("eps_max", 1.0)
    clip = None if (low, high) in ((1e-3, 1.0), (1.0, 1.0)) else (low, high)
    return get_family(
        "block",
        vocab_size=params.get("V", 11),
        mask_id=params.get("mask_index", 10),
        block_size=params["block_size"],
        clip=clip,
        **options,
    )


def layout_mask(case: Case) -> Got:
    mask = Doubled(case["params"]["block_size"]).mask(case["params"]["L"]).long()
    return {"mask": mask, "row_counts": mask.sum(-1)}


def noise_levels(case: Case) -> Got:
    """The reference writes one column where the block is the sequence; (1, 1) hides every token, as we do."""
    params, u = case["params"], inputs(case)["u"]
    family, length = block(case), params["L"]
    if params["eps_min"] == params["eps_max"] == 1.0:
        t = family.training_batch(torch.zeros(len(u), length).long(), torch.Generator(), 0.0).t
        return {"t": t}
    uniforms = one_per_slice(u.flatten()).view_as(u) if params["antithetic"] else u
    t = family.block_times(uniforms, length)
    return {"t": t[:, :1] if params["block_size"] == length else t}


def loss(case: Case) -> Got:
    """With ignore_bos the reference un-masks position 0 before the forward pass; so does this, by hand."""
    params, tensors = case["params"], inputs(case)
    family = block(case, schedule_eps=params["eps_min"] if params["mdlm_loss_scale"] else 0.0)
    x0, u = tensors["x0"], tensors["u_t"]
    t = family.block_times(one_per_slice(u.flatten()).view_as(u), params["L"])
    xt = family.mask_where(x0, tensors["u_mask"], t)
    if params["ignore_bos"]:
        xt[:, 0] = x0[:, 0]
    out = with_gradient(tensors["logits"], lambda logits: family.token_loss(logits, x0, xt, t))
    whole = params["block_size"] == params["L"]
    return out | {"t": t[:, :1] if whole else t, "xt": xt, "model_input": torch.cat([xt, x0], dim=1)}


def redrawn(case: Case) -> Got:
    tensors = inputs(case)
    used = 0

    def draws() -> Any:
        nonlocal used
        for u in tensor(case["inputs"]["u_draws"]):
            used += 1
            yield u

    xt = block(case, resample=True).mask_in_range(tensors["x0"], tensors["p"], draws())
    return {"xt": xt, "draws_used": torch.tensor(used)}


def intervals(case: Case) -> Got:
    params = case["params"]
    return {"intervals": torch.tensor(clip_ranges(params["widths"], params["delta"]), dtype=torch.float64)}


def reverse_step(case: Case) -> Got:
    """The reference lets clean tokens turn back into masks before it copies them; so does this, by hand."""
    params, tensors = case["params"], inputs(case)
    family, size = block(case), params["block_size"]
    t, xt = tensors["t"], tensors["xt"][:, -size:]
    probs = family.restored(tensors["logits"][:, -size:])
    copied = F.one_hot(xt, family.vocab_size).double()
    probs = torch.where((xt == family.mask_id)[..., None], probs, copied)
    all_masks = torch.full_like(xt, family.mask_id)
    q = family.posterior(probs, all_masks, t, t - params["dt"])
    own = family.posterior(family.restored(tensors["logits"][:, -size:]), xt, t, t - params["dt"])
    assert torch.equal(own, torch.where((xt == family.mask_id)[..., None], q, copied))
    return {"q": q}


RUNNERS: Runners = {
    "bd3_mask_*": layout_mask,
    "bd3_sample_t_*": noise_levels,
    "bd3_loss_*": loss,
    "bd3_resample_*": redrawn,
    "bd3_clip_search_intervals_*": intervals,
    "bd3_reverse_step_*": reverse_step,
}
