"""Golden cases of hybrid's samplers: GIDD's step, its loop, self-correction, and the adaptive step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scaling.families import get_family
from scaling.sampling import correction
from scaling.sampling.discrete import time_at
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Noise, Purpose
from scaling.sampling.reader import Reader
from tests.golden_runners.common import Case, Got, Runners, inputs, predicted
from tests.golden_runners.hybrid import hybrid

LIMIT = 1000
"""Shifts of the log-SNR that the reference writes for the two limits."""


class Uniforms(Noise):
    """The case's uniforms (n, B, L), one array for each call after the first `start`."""

    def __init__(self, values: Tensor, start: int) -> None:
        super().__init__(range(values.shape[1]))
        self.values, self.start = values, start

    def at(self, step: int, purpose: Purpose, where: Tensor) -> Tensor:
        return self.values[step - self.start][where]


def step(case: Case) -> Got:
    tensors, family, params = inputs(case), hybrid(case), case["params"]
    probs = predicted(tensors["logits"], family.mask_id)
    t, s = tensors["t"][0], tensors["s"][0]  # the same for all rows
    q = correction.cut_posterior(family, probs, tensors["zt"], t, s, params["min_p"])
    return {"q": q, "row_sum": q.sum(-1)}


def time_pairs(case: Case) -> Got:
    assert case["params"]["t_eps"] == correction.EDGE
    return {"pairs": correction.released_times(case["params"]["steps"])}


def correction_step(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    ids, probs = tensors["z"], predicted(tensors["logits"], params["mask_index"])
    new, odds = correction.propose(
        probs.flatten(0, 1), ids.flatten(), tensors["u"].flatten(), params["temperature"]
    )
    new, odds = new.view_as(ids), odds.view_as(ids)
    edited = correction.put_surest(ids, new, odds, params["tokens_per_step"])
    accuracy = (edited == probs.argmax(-1)).double().mean()
    return {"drawn": new, "score": odds / (1 + odds), "new_z": edited, "accuracy": accuracy}


def correction_run(case: Case) -> Got:
    """Logits of a place come from its two neighbours in a ring."""
    params, tensors = case["params"], inputs(case)
    family = get_family("hybrid", vocab_size=params["V"], p_u=0.1, mask_id=params["mask_index"])
    table = tensors["table"]

    def network(ids: Tensor, noise: Tensor) -> Tensor:
        return table[ids.roll(1, 1)] + table.T[ids.roll(-1, 1)] + tensors["bias"]

    reader, ids = Reader(network, family), tensors["z0"]
    draft = Draft(
        family=family, reader=reader, noise=Uniforms(tensors["u"], start=1), steps=1, ids=ids,
        free=torch.ones_like(ids, dtype=torch.bool), lengths=torch.full((len(ids),), ids.shape[1]),
    )  # fmt: skip
    options: dict[str, Any] = {
        "edit_temperature": params["temperature"],
        "edits": 1,
        "iterations": params["iterations"],
        "patience": params["patience"],
        "time": params["t0"],
    }
    for _ in correction.correct(draft, released=True, **options):
        pass
    return {"z": draft.ids, "iterations": torch.tensor(reader.calls)}


def adaptive_step(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    shift = params["hybrid_mixing_shift"]
    noise = "masked" if shift == -LIMIT else "uniform" if shift == LIMIT else shift
    family = get_family("hybrid", vocab_size=params["V"], noise=noise, mask_id=params["mask_index"])
    ids, probs = tensors["z"], predicted(tensors["logits"], params["mask_index"])
    start = time_at(family, 1 / (1 + math.exp(-params["min_log_snr"])))
    score = correction.gain(probs.flatten(0, 1), ids.flatten(), family.mixing(start)).view_as(ids)
    assert params["temperature"] == 0
    new = correction.put_surest(ids, probs.argmax(-1), score * tensors["free"], params["top_k"])
    return {"score": score, "new_z": new}


HYBRID: Runners = {
    "gidd_step_*": step,
    "gidd_time_pairs": time_pairs,
    "gidd_self_correction_step_*": correction_step,
    "gidd_self_correction_run": correction_run,
    "gidd_adaptive_step_*": adaptive_step,
}

FAMILIES: dict[str, Runners] = {"gidd_sampling": HYBRID}
