"""Golden cases of the samplers that keep keys and values, and the logits of their caches."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import Family
from scaling.models import Cache, Doubled
from scaling.sampling.any_order import block_autoregressive_rank, block_rank, decode_in_order, one_by_one
from scaling.sampling.blocks import Ending, Reading, semi_autoregressive, text_ends
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Noise, Purpose
from scaling.sampling.plan import NEVER, groups_by_time
from scaling.sampling.reader import Reader
from tests.golden_runners.common import Case, Got, Runners, close, inputs, tensor
from tests.golden_runners.dit import published_network
from tests.golden_runners.sampling.draws import filters_of, race


class Order(Noise):
    """Numbers of the order as they are handed over; in place of those of clean ids, the place itself."""

    def __init__(self, order: Tensor) -> None:
        super().__init__(range(len(order)))
        self.order = order

    def everywhere(self, step: int, purpose: Purpose, count: int) -> Tensor:
        places = torch.arange(count, dtype=torch.float64).expand_as(self.order)
        return self.order if purpose == Purpose.ORDER else places


class Raw(Reader):
    """Logits in place of distributions."""

    def __call__(self, ids: Tensor, t: Any = 0.0, where: Any = None, **view: Any) -> Tensor:
        return self.logits(ids, t, where, **view)


def draft_of(family: Family, reader: Reader, order: Tensor, ids: Tensor, free: Tensor, steps: int) -> Draft:
    lengths = torch.full((len(ids),), ids.shape[1])
    return Draft(
        family=family, reader=reader, noise=Order(order), steps=steps, ids=ids, free=free, lengths=lengths
    )


# -- block -------------------------------------------------------------------------------------------


def block_step(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    family = get_family(
        "block", vocab_size=params["V"], mask_id=params["mask_index"], block_size=params["block_size"]
    )
    last = slice(-params["block_size"], None)
    filters = filters_of(case, drop_crossing=params["top_p"] < 1)
    probs = filters(family.restored(tensors["logits"][:, last]))
    t, xt = tensors["t"], tensors["xt"][:, last]
    q = family.posterior(probs, xt, t, t - params["dt"])
    return {"q": q, "row_sum": q.sum(-1)}


def first_hitting(case: Case) -> Got:
    """The whole sampler, its random numbers replaced: the order that the case's draws of places make, and a
    race in place of inversion. Times are computed here: the sampler has none."""
    params, tensors = case["params"], inputs(case)
    size, length = params["block_size"], params["length"]
    table, bias = tensors["table"], tensors["place_bias"]
    family = get_family("block", vocab_size=params["V"], mask_id=params["mask_index"], block_size=size)
    ids = torch.zeros(1, length, dtype=torch.long)
    ids[0, 0] = params["bos"]
    free = torch.arange(length)[None] > 0
    order, times, call = torch.zeros(1, length, dtype=torch.float64), [], 0
    for start in range(0, length, size):
        masked, t = [place for place in range(start, start + size) if free[0, place]], 1.0
        while masked:
            t *= float(tensors["u_time"][call]) ** (1 / len(masked))
            times.append(t)
            order[0, masked.pop(int(tensors["u_place"][call] * len(masked)))] = 1 / (2 + call)
            call += 1

    def model(ids: Tensor, t: Tensor, layout: Any = None) -> Tensor:
        assert layout is None or layout == Doubled(size)
        before = torch.cat([torch.zeros(1, 1), ids[:, :-1]], dim=1).long()
        before[:, length:] = 0  # what it makes of the clean copy is asked by nobody
        places = torch.arange(ids.shape[1]) % (ids.shape[1] if layout is None else ids.shape[1] // 2)
        return table[before] + bias[places]

    numbers = iter(tensors["u_ids"])

    def draw(probs: Tensor, place: Tensor) -> Tensor:
        return race(probs, next(numbers)[place.long() % size])

    reader = Reader(model, family)
    draft = draft_of(family, reader, order, ids, free, steps=size)
    with patch("scaling.sampling.blocks.choose", draw):
        for _ in semi_autoregressive(draft, first_hitting=True):
            pass
    calls = tensor(reader.calls)
    return {"x": draft.ids, "calls": calls, "times": tensor(times), "nfe_reported": calls}


def stop(case: Case) -> Got:
    """A text of fixed length keeps its length and is thrown away by the reference when it stops."""
    params, ids = case["params"], inputs(case)["ids"]
    varies = bool(params["var_length"])
    end = params["eos"] if varies else None
    about = {"least_entropy": params["least_entropy"], "window": params["window"]}
    stops, kept, entropy = text_ends(ids, Ending(end=end, ends=2, **about))
    length = kept if varies else torch.full_like(kept, ids.shape[1])
    return {"stop": stops.long()[0], "length": length[0], "entropy": entropy[0]}


# -- esoteric ----------------------------------------------------------------------------------------


def counts(case: Case) -> Got:
    """Numbers that fall into each step as often as the binomials said; steps without any make no call."""
    params, drawn = case["params"], inputs(case)["binomial_draws"]
    family = get_family("esoteric", vocab_size=5, alpha_0=params["alpha_0"], schedule_eps=params["eps"])
    shares = family.noise_share(torch.linspace(1, 0, params["steps"] + 1, dtype=torch.float64))
    middles = (shares[:-1] + shares[1:]) / 2
    left = params["length"] - int(drawn.sum())
    uniforms = torch.cat([middles.repeat_interleave(drawn), (shares[-1:] / 2).expand(left)])[None]
    group = groups_by_time(uniforms, torch.ones_like(uniforms, dtype=torch.bool), shares)[0]
    return {
        "probabilities": 1 - shares[1:] / shares[:-1],
        "counts": group[group != NEVER].bincount(),
        "left_for_sequential": (group == NEVER).sum(),
    }


def order_of(rank: Tensor) -> Got:
    return {"order": rank.argsort(dim=1, stable=True), "tokens_per_call": rank[0].bincount()}


def diffusion_order(case: Case) -> Got:
    """Ours decodes falling numbers first, the reference rising ones."""
    numbers, u = tensor(case["params"]["counts"]), inputs(case)["u"]
    group_of_rank = torch.full((u.shape[1],), NEVER)
    group_of_rank[: int(numbers.sum())] = torch.arange(len(numbers)).repeat_interleave(numbers)
    group = group_of_rank[u.argsort(dim=1).argsort(dim=1)]
    group, keys = one_by_one(group, torch.ones_like(group, dtype=torch.bool), 1 - u)
    return order_of(group) | {"order": keys.argsort(dim=1, stable=True)}


def block_order(case: Case) -> Got:
    params = case["params"]
    length = params["sub_context_length"] * params["num_parallel_decode"]
    return order_of(block_rank(inputs(case)["u"], length))


def block_autoregressive_order(case: Case) -> Got:
    params = case["params"]
    sub_context, together = params["sub_context_length"], params["num_parallel_decode"]
    rank = block_autoregressive_rank(sub_context * together * params["sar_steps"], sub_context, together)
    return order_of(rank.expand(len(case["expected"]["order"]), -1))


# -- caches ------------------------------------------------------------------------------------------


def ar_cache(case: Case) -> Got:
    tensors, model = inputs(case), published_network(case, causal=True)
    cache, logits = Cache(case["params"]["length"]), []
    for place in range(case["params"]["length"]):
        logits.append(model(tensors["x"][:, place : place + 1], tensors["sigma"], cache=cache, slots=place))
    return {"logits": torch.cat(logits, dim=1)}


def esoteric_cache(case: Case) -> Got:
    """The sampler's own loop, which is handed the tokens to draw."""
    params, tensors = case["params"], inputs(case)
    order, tokens = tensors["order"], tensors["tokens"]
    family = get_family("esoteric", vocab_size=params["V"], mask_id=params["mask_index"])
    reader = Raw(published_network(case, causal=True), family)
    sizes = tensor(params["groups"])
    in_order = torch.arange(len(sizes)).repeat_interleave(sizes).expand_as(order)
    group = torch.empty_like(order).scatter_(1, order, in_order)
    draft = draft_of(
        family, reader, order.double(), torch.zeros_like(order), torch.ones_like(order, dtype=torch.bool), 1
    )
    logits, parts = [], iter(tokens.split(params["groups"], dim=1))

    def draw(predicted: Tensor, uniforms: Tensor) -> Tensor:
        logits.append(predicted.view(len(order), -1, params["V"]))
        return next(parts).flatten()

    with patch("scaling.sampling.any_order.choose", draw):
        for _ in decode_in_order(draft, order, group, cache=True):
            pass
    assert torch.equal(draft.ids.gather(1, order), tokens)
    return {"logits": torch.cat(logits, dim=1)}


def block_cache(case: Case) -> Got:
    """As the sampler reads: each noisy block with the finished one before it; and without a cache, by the
    sampler and by the two copies of training."""
    params, tensors = case["params"], inputs(case)
    size, length = params["block_size"], params["length"]
    family = get_family("block", vocab_size=params["V"], mask_id=params["mask_index"], block_size=size)
    model = published_network(case, causal=False)
    shape = (len(tensors["clean"]), size)
    rows, columns = torch.ones(shape).nonzero(as_tuple=True)
    out = {}
    for name, cached in (("logits", True), ("logits_without_cache", False)):
        ids, parts = tensors["clean"].clone(), []
        read = Reading(Raw(model, family), ids, family, cached)
        for start in range(0, length, size):
            ids[:, start : start + size] = tensors["noisy"][:, start : start + size]
            parts.append(read(start, rows, columns).view(*shape, -1))
            ids[:, start : start + size] = tensors["clean"][:, start : start + size]
        out[name] = torch.cat(parts, dim=1)
    both = torch.cat([tensors["noisy"], tensors["clean"]], dim=1)
    close(model(both, torch.zeros(len(both)), layout=Doubled(size)), out["logits"], case)
    return out


FAMILIES: dict[str, Runners] = {
    "bd3lm_sampling": {"bd3_step_*": block_step, "bd3_first_hitting_run": first_hitting, "bd3_stop_*": stop},
    "esolm_sampling": {
        "eso_counts_*": counts,
        "eso_order_ancestral": diffusion_order,
        "eso_order_block_autoregressive_*": block_autoregressive_order,
        "eso_order_block": block_order,
    },
    "kv_cache": {
        "ar_cached_logits": ar_cache,
        "esolm_cached_logits": esoteric_cache,
        "bd3lm_cached_logits": block_cache,
    },
}
