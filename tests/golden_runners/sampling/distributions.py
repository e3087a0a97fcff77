"""Golden laws of whole samplers: every state of a short text, pushed through the steps of the product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import Family
from scaling.sampling.remasking import psi_weights
from tests.golden_runners.common import Case, Got, Runners, inputs, tensor
from tests.scaling.enumeration import Planted
from tests.scaling.sampling.laws import law_of, posterior_weights


def family_of(case: Case) -> Any:
    params = case["params"]
    if "p_uniform" in params:
        options = {"p_u": params["p_uniform"], "gamma": params["gamma"]}
        return get_family("hybrid", vocab_size=params["V"], mask_id=params["mask_index"], **options)
    if params["process"] == "absorbing":
        return get_family("masked", vocab_size=params["V"] + 1)
    return get_family("uniform", vocab_size=params["V"])


def source_of(case: Case) -> Planted:
    ids, probs = (inputs(case)[name] for name in ("ids", "source_probs"))
    return Planted(int(ids.max()) + 1, ids.shape[1], ids, probs)


def times_of(case: Case) -> Tensor:
    tensors = inputs(case)
    return tensors["times"] if "times" in tensors else 1 - tensors["alphas"]


def step_weights(case: Case, family: Family) -> Any:
    kappa = case["params"].get("kappa")
    if kappa is None:
        return posterior_weights(family)
    return lambda step, at_present, present, t, s: psi_weights(family, at_present, present, t, s, kappa)


TAILS = {None: "draw", "x_theta": "greedy_tail", "posterior": "posterior"}


def distribution(case: Case) -> Got:
    family, source = family_of(case), source_of(case)
    tail = TAILS[case["params"].get("argmax_of")]
    law = law_of(family, source, times_of(case), step_weights(case, family), tail)
    return {
        "probs": law,
        "total_variation": (law - source.probs).abs().sum() / 2,
        "entropy": -torch.xlogy(law, law).sum(),
        "source_entropy": tensor(source.entropy),
    }


FAMILIES: dict[str, Runners] = {"sampler_distributions": {"*": distribution}}
