"""Golden cases of single draws: ids from given uniforms, and the nucleus in its two readings."""

from __future__ import annotations

import torch
from torch import Tensor

from scaling.sampling import Filters
from scaling.sampling.noise import choose
from tests.golden_runners.common import Case, Got, Runners, inputs, predicted


def race(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The references' draw, argmax p / -ln u along the last dimension: the stand-in for ours in cases that
    store uniforms of a race."""
    return (weights / (1e-10 - (uniforms + 1e-10).log())).argmax(-1)


def race_drawn(case: Case) -> Got:
    tensors, precision = inputs(case), getattr(torch, case["params"]["precision"])
    return {"ids": race(tensors["probs"].to(precision), tensors["u"].to(precision))}


def inverse(case: Case) -> Got:
    tensors = inputs(case)
    return {"ids": choose(tensors["probs"], tensors["u"])}


def filters_of(case: Case, **changes: bool) -> Filters:
    names = ("temperature", "top_k", "top_p")
    return Filters(**{name: case["params"][name] for name in names if name in case["params"]}, **changes)


def nucleus(case: Case) -> Got:
    probs = filters_of(case)(predicted(inputs(case)["logits"], case["params"].get("mask_index")))
    return {"probs": probs, "kept": (probs > 0).long()}


def stricter_nucleus(case: Case) -> Got:
    probs = predicted(inputs(case)["logits"], case["params"]["mask_index"])
    return {"probs": filters_of(case, drop_crossing=True)(probs)}


FAMILIES: dict[str, Runners] = {
    "categorical": {"categorical_exponential_race_*": race_drawn, "categorical_inverse_cdf": inverse},
    "nucleus": {
        "nucleus_crossing_kept_*": nucleus,
        "nucleus_kept_ids_*": nucleus,
        "nucleus_crossing_dropped_*": stricter_nucleus,
    },
}
