"""Golden cases of family ar."""

from __future__ import annotations

import torch

from scaling.families import get_family
from tests.golden_runners.common import Case, Got, Runners, inputs, with_gradient


def ar_shift(case: Case) -> Got:
    params, x0 = case["params"], inputs(case)["x0"]
    start = params["bos"] if params["prepend"] == "bos" else params["prepend"]
    vocab = max(int(x0.max()), params["mask_index"], params["bos"]) + 1
    family = get_family("ar", vocab_size=vocab, mask_id=params["mask_index"], start=start)
    ids = family.corrupt(x0, torch.zeros(len(x0)), torch.Generator())
    targets = family.targets(x0)
    return {"input_tokens": ids, "target_tokens": targets, "num_scored": torch.tensor(targets.numel())}


def ar_loss(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    family = get_family("ar", vocab_size=params["V"], mask_id=params["mask_index"], start="none")
    x0, t = tensors["x0"], torch.zeros(len(tensors["x0"]))
    xt = family.corrupt(x0, t, torch.Generator())
    out = with_gradient(tensors["logits"], lambda logits: family.token_bound(logits, x0, xt, t))
    return out | {"input_tokens": xt, "target_tokens": family.targets(x0)}


RUNNERS: Runners = {
    "ar_prepend_*": ar_shift,
    "ar_basic": ar_loss,
    "ar_mask_mid": ar_loss,
    "ar_extreme_logits": ar_loss,
}
