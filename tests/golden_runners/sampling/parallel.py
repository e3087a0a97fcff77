"""Golden cases of decoding by confidence: LLaDA, Fast-dLLM, dInfer, Dream, SDAR."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from scaling.families import get_family
from scaling.sampling import generate
from scaling.sampling.confidence import above, above_factor, above_lowered, confidence_of, surest
from tests.golden_runners.common import Case, Got, Runners, close, inputs, predicted, tensor
from tests.golden_runners.sampling.draws import filters_of


def counts(case: Case) -> Got:
    """Masks that each call of `confidence` decodes, seen from outside."""
    params = case["params"]
    family = get_family("masked", vocab_size=5)
    states: list[int] = []

    def model(ids: Tensor, t: Tensor) -> Tensor:
        return torch.arange(20.0 * ids.shape[1]).sin().view(ids.shape[1], 20)[:, :5].expand(*ids.shape, 5)

    generate(
        model, family, [1], params["masked"], sampler="confidence", steps=params["steps"],
        watch=lambda draft: states.append(int((draft.ids == family.mask_id).sum())),
    )  # fmt: skip
    fixed = [before - after for before, after in pairwise(states)]
    return {"counts": tensor(fixed + [0] * (params["steps"] - len(fixed)))}  # idle steps cost nothing here


def drawn(logits: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    """The references' draw: argmax e^logit / (-ln u)^temperature."""
    if temperature == 0:
        return logits.argmax(-1)
    return (logits - temperature * (-uniforms.log()).log()).argmax(-1)


def llada_step(case: Case) -> Got:
    """One step after the draw of the case; without temperature also by the sampler itself."""
    params, tensors = case["params"], inputs(case)
    prompt, logits, weight = tensors["prompt"], tensors["logits"], params["cfg_scale"]
    if weight > 0:
        logits = (1 + weight) * logits - weight * tensors["logits_unconditional"]
    mask_id, length = params["mask_index"], logits.shape[1]
    ids = drawn(logits, tensors["u"], params["temperature"])
    surety = confidence_of(logits.softmax(-1), ids, "probability")
    surety[:, : params["prompt_length"]] = -torch.inf
    free = torch.full((len(prompt), length - prompt.shape[1]), mask_id)
    text = torch.cat([prompt, free], dim=1)
    number = torch.full((len(prompt), 1), params["tokens_this_step"])
    text = torch.where(surest(surety, number), ids, text)
    if params["temperature"] == 0:
        family = get_family("masked", vocab_size=params["V"], mask_id=mask_id)
        states: list[Tensor] = []
        steps = free.shape[1] // params["tokens_this_step"]
        generate(
            lambda ids, t: logits.expand(len(ids), -1, -1), family, range(len(prompt)), length, steps=steps,
            sampler="confidence", prompt=prompt, watch=lambda draft: states.append(draft.ids.clone()),
        )  # fmt: skip
        close(states[1], text, case)
    return {"x": text, "confidence": surety, "ids": ids}


def surety_of(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """The ids drawn, the text with them at its masks, and their confidence, -inf elsewhere."""
    params, tensors = case["params"], inputs(case)
    logits, x = tensors["logits"], tensors["x"]
    ids = drawn(logits, tensors.get("u", torch.zeros(())), params.get("temperature", 0.0))
    masked = x == params["mask_index"]
    surety = confidence_of(logits.softmax(-1), ids, "probability").where(masked, -torch.inf)
    return ids, torch.where(masked, ids, x), surety


def fast_threshold(case: Case) -> Got:
    _, text, surety = surety_of(case)
    return {"ids": text, "fixed": above(surety, case["params"]["threshold"]).long()}


def factor(case: Case) -> Got:
    surety = surety_of(case)[2]
    return {"fixed": above_factor(surety, case["params"]["factor"]).long()}


def lowered_threshold(case: Case) -> Got:
    surety = surety_of(case)[2]
    return {"fixed": above_lowered(surety, case["params"]["threshold"]).long()}


def dream_confidence(case: Case) -> Got:
    params = case["params"]
    probs = filters_of(case)(predicted(inputs(case)["logits"], None))
    kind = "margin" if "margin_confidence" in params else "probability"
    kind = "negative_entropy" if "neg_entropy" in params else kind
    ids = probs.argmax(-1)
    return {"confidence": confidence_of(probs, ids, kind), "ids": ids}


STRATEGIES = {
    "low_confidence_static": {"sampler": "confidence"},
    "low_confidence_dynamic": {"sampler": "threshold", "rule": "dynamic"},
    "sequential": {"sampler": "confidence", "order": "left_to_right"},
}


def sdar_block(case: Case) -> Got:
    """One block by the whole sampler: logits[i] answer call i."""
    params, logits = case["params"], inputs(case)["logits"]
    family = get_family("masked", vocab_size=params["V"], mask_id=params["mask_index"])
    calls = iter(logits)
    options = dict(STRATEGIES[params["strategy"]])
    if options.get("rule") == "dynamic":
        options["threshold"] = params["threshold"]
    options["steps"] = params["denoising_steps"]
    texts = generate(lambda ids, t: next(calls)[None], family, [1], params["block_length"], **options)
    return {"x": texts.ids[0], "calls": tensor(texts.calls)}


FAMILIES: dict[str, Runners] = {
    "parallel_decoding": {
        "llada_tokens_per_step_*": counts,
        "llada_step_*": llada_step,
        "fastdllm_threshold_*": fast_threshold,
        "dinfer_factor_*": factor,
        "dinfer_threshold_*": lowered_threshold,
        "dream_confidence_*": dream_confidence,
        "sdar_block_*": sdar_block,
    }
}
