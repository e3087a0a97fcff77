"""Runs guidance.json: guided posteriors by two predictions, or by a classifier."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import Family
from scaling.families.uniform import Uniform
from scaling.sampling.guidance import Guidance, label_log_probs, mix, tilt
from tests.golden_runners.common import Case, Got, Runners, inputs


class LinearSoftmax:
    """The classifier of the cases: log softmax over classes of sum_l W[l, x_l] + b."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        self.weights, self.bias, self.classes = weights, bias, len(bias)

    def log_probs(self, texts: Tensor, t: Tensor) -> Tensor:
        rows = texts if texts.ndim == 3 else F.one_hot(texts, self.weights.shape[1]).double()
        return (torch.einsum("blv,lvc->bc", rows, self.weights) + self.bias).log_softmax(-1)


def family_of(case: Case) -> Family:
    params = case["params"]
    if "mask_index" in params:
        return get_family("masked", vocab_size=params["V"], mask_id=params["mask_index"])
    return get_family("uniform", vocab_size=params["V"])


def step(family: Family, values: dict[str, Tensor]) -> Any:
    """The family's posterior as a function of the network's logits."""
    xt = values["xt"]
    if "alpha_t" in values:
        noise_t, noise_s = 1 - values["alpha_t"], 1 - values["alpha_s"]
    else:
        noise_t, noise_s = (
            values.get(f"mask_rate_{time}", values.get(f"noise_rate_{time}")) for time in "ts"
        )

    def posterior(logits: Tensor) -> Tensor:
        probs = family.restored(logits)
        if isinstance(family, Uniform):
            return family.posterior_at(probs, xt, 1 - noise_t, 1 - noise_s)
        return family.posterior(probs, xt, noise_t, noise_s)  # log-linear: the time is the share of masks

    return posterior


def guided_posteriors(case: Case) -> Got:
    """Posteriors mixed: the rule for uniform noise, and for masks what the README calls a defect."""
    values = inputs(case)
    posterior = step(family_of(case), values)
    both = (posterior(values[f"logits_{which}"]) for which in ("conditional", "unconditional"))
    q = mix(*both, case["params"]["gamma"])
    return {"q": q, "row_sum": q.sum(-1)}


def guided_predictions(case: Case) -> Got:
    """Clean ids mixed, then the ordinary step."""
    values, family = inputs(case), family_of(case)
    both = (family.restored(values[f"logits_{which}"]) for which in ("conditional", "unconditional"))
    mixed = mix(*both, case["params"]["gamma"])
    q = step(family, values)(mixed.log())
    return {"q": q, "row_sum": q.sum(-1)}


def guided_next_tokens(case: Case) -> Got:
    values = inputs(case)
    last = (values[f"logits_{which}"][:, -1] for which in ("conditional", "unconditional"))
    both = (logits.softmax(-1) for logits in last)
    return {"log_probs": mix(*both, case["params"]["gamma"]).log()}


def guided_by_classifier(case: Case) -> Got:
    values, family, params = inputs(case), family_of(case), case["params"]
    guidance = Guidance(
        label=params["class"],
        scale=params["gamma"],
        classifier=LinearSoftmax(values["W"], values["b"]),
        first_order="first_order" in case["id"],
    )
    xt = values["xt"]
    everywhere = torch.ones_like(xt, dtype=torch.bool)
    log_probs = label_log_probs(guidance, xt, torch.zeros(len(xt)), everywhere, params["V"])
    q = step(family, values)(values["logits"])
    return {"q": tilt(q, log_probs.view_as(q), guidance.scale)}


FAMILIES: dict[str, Runners] = {
    "guidance": {
        "cfg_posterior*": guided_posteriors,
        "cfg_x_theta_absorbing_*": guided_predictions,
        "cfg_ar_*": guided_next_tokens,
        "cbg_*": guided_by_classifier,
    }
}
