"""Golden cases of single steps of masks and of uniform noise: ancestral, Psi, remasking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import Family
from scaling.sampling import FREE, Filters, generate
from scaling.sampling.discrete import Predictions
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Noise
from scaling.sampling.reader import Reader
from scaling.sampling.remasking import (
    flow_matching_step,
    kappas_at,
    loop_alphas,
    mask_moves,
    mask_weights,
    plateau_times,
    psi_weights,
    remasking_rates,
    shares_by_doubt,
)
from tests.golden_runners.common import Case, Got, Runners, close, inputs, tensor
from tests.golden_runners.sampling.draws import filters_of
from tests.scaling.sampling.laws import mixture


def family_of(case: Case, eps: float | None = None) -> Any:
    params = case["params"]
    name, mask_id = ("masked", params["mask_index"]) if "mask_index" in params else ("uniform", None)
    eps = params.get("eps", 0.0) if eps is None else eps
    return get_family(name, vocab_size=params["V"], mask_id=mask_id, schedule_eps=eps)


def step_law(
    family: Family, probs: Tensor, xt: Tensor, weights: Callable[[Tensor, Tensor, int], Tensor]
) -> Tensor:
    """(B, L, V): the law after a step; weights(x_theta of the present ids, these ids, row): (L, 3)."""
    noise = tensor([1.0 / family.vocab_size] * family.vocab_size)
    if family.mask_id is not None:
        noise = torch.nn.functional.one_hot(torch.tensor(family.mask_id), family.vocab_size).double()
    rows = []
    for row, (p, x) in enumerate(zip(probs, xt, strict=True)):
        rows.append(mixture(weights(p.gather(-1, x[:, None])[:, 0], x, row), p, x, noise))
    return torch.stack(rows)


def ancestral_step(case: Case) -> Got:
    """A step from t to t - dt, or to time 0 where the case removes the noise."""
    params, tensors, family = case["params"], inputs(case), family_of(case)
    t, xt, reader = tensors["t"], tensors["xt"], Reader(lambda ids, t: tensors["logits"], family_of(case))
    probs = filters_of(case)(reader(xt, t).view(tensors["logits"].shape))
    s = t - params["dt"] if isinstance(params["dt"], float) else torch.zeros_like(t)
    if "alpha_t" in tensors:
        close(family.schedule(t)[0], tensors["alpha_t"], case)
        close(family.schedule(s)[0], tensors["alpha_s"], case)
    q = step_law(family, probs, xt, lambda at, x, row: family.posterior_parts(at, x, t[row], s[row]))
    close(q, family.posterior(probs, xt, t, s), case)
    return {
        "q": q,
        "row_sum": q.sum(-1),
        "x_theta": probs,
        "sigma_passed_to_backbone": family.conditioning(t),
        "total": q.sum(-1),
    }


def mask_rate_step(case: Case) -> Got:
    """The same from mask rates; `ddpm_cache` takes t for the rate, which leaves their ratio as it is."""
    tensors = inputs(case)
    family = family_of(case, eps=0.0)
    t, s = tensors["mask_rate_t"], tensors["mask_rate_s"]
    probs = family.restored(tensors["logits"])
    q = step_law(
        family, probs, tensors["xt"], lambda at, x, row: family.posterior_parts(at, x, t[row], s[row])
    )
    return {"q": q, "total": q.sum(-1)}


def last_mask_step(case: Case) -> Got:
    tensors, family = inputs(case), family_of(case)
    t, zero = tensors["t"], torch.tensor(0.0, dtype=torch.float64)
    probs = family.restored(tensors["logits"])
    q = step_law(family, probs, tensors["xt"], lambda at, x, row: family.posterior_parts(at, x, t[row], zero))
    return {"q": q}


def draft_of(family: Family, model: Any, ids: Tensor, steps: int) -> Draft:
    return Draft(
        family=family, reader=Reader(model, family), noise=Noise(range(len(ids))), steps=steps, ids=ids,
        free=torch.ones_like(ids, dtype=torch.bool), lengths=torch.full((len(ids),), ids.shape[1]),
    )  # fmt: skip


def cached_calls(case: Case) -> Got:
    """Calls of `Predictions` along the trajectory."""
    params, trajectory = case["params"], inputs(case)["trajectory"]
    family = family_of(case)
    draft = draft_of(
        family, lambda ids, t: torch.zeros(*ids.shape, params["V"]), trajectory[0], params["steps"]
    )
    predictions, calls = Predictions(draft), [0]
    for state in trajectory[:-1]:
        draft.ids = state
        predictions(torch.tensor(0.5))
        calls.append(draft.reader.calls)
    return {
        "called": tensor(calls).diff(),
        "calls": tensor(calls[-1]),
        "calls_without_cache": tensor(len(trajectory) - 1),
    }


def greedy_tails(case: Case) -> Got:
    """The likeliest ids: of the network by a sampler's tail of that name, of the posterior by its step."""
    params, tensors, family = case["params"], inputs(case), family_of(case)
    model, ids = (lambda ids, t: tensors["logits"]), tensors["xt"]
    about = {"prompt": torch.full_like(ids, FREE), "steps": 2, "filters": Filters()}
    network = generate(model, family, range(len(ids)), ids.shape[1], tail="network", **about)
    assert network.calls == 3, "one more than steps"
    greedy = generate(model, family, range(len(ids)), ids.shape[1], greedy_tail=True, **about)
    assert torch.equal(greedy.ids, network.ids), "the network is a table"
    got = {"argmax_x_theta": network.ids}
    probs = family.restored(tensors["logits"])
    for name in ("t_last", "t_coarse"):
        t = torch.full((len(ids),), params[name], dtype=torch.float64)
        got[f"argmax_posterior_at_{name}"] = family.posterior(probs, ids, t, torch.zeros_like(t)).argmax(-1)
    return got


def psi_step(case: Case) -> Got:
    params, tensors, family = case["params"], inputs(case), family_of(case)
    t, xt, kappa = tensors["t"], tensors["xt"], params["kappa"]
    s = t - params["dt"]
    close(family.schedule(t)[0], tensors["alpha_t"], case)
    close(family.schedule(s)[0], tensors["alpha_s"], case)
    probs = filters_of(case)(family.restored(tensors["logits"]))
    q = step_law(family, probs, xt, lambda at, x, row: psi_weights(family, at, x, t[row], s[row], kappa))
    return {"q": q, "row_sum": q.sum(-1)}


def psi_times(case: Case) -> Got:
    params = case["params"]
    if params["profile"] == "linear":
        times = torch.linspace(1, params["t_last"], params["steps"] + 1, dtype=torch.float64)
    else:
        shares = (params["high_frac"], params["middle_frac"])
        times = plateau_times(params["steps"], params["plateau_time"], *shares, params["t_last"])
    return {"times": times}


PHASES = {
    "pure-posterior": "ancestral",
    "pure-pc": "corrector",
    "constant": "constant",
    "constant-remdm": "fixed",
    "max-capped": "cap",
    "max-rescale": "rescale_released",
}


def psi_kappas(case: Case) -> Got:
    params, times = case["params"], inputs(case)["times"]
    family = get_family("masked", vocab_size=3, schedule_eps=params.get("eps", 0.0))
    phases = [PHASES[mode] for mode in params.get("modes", [params.get("mode")])]
    shares = (params.get("high_frac", 0.0), params.get("middle_frac", 0.0))
    alphas = family.schedule(times)[0]
    return {"kappas": kappas_at(alphas, phases, shares, params.get("kappa"), params.get("eta"))}


REMASKING = {"remdm-cap": "cap", "remdm-rescale": "rescale", "forward-backward": "forward_backward"}


def remasked(case: Case, probs: Tensor, unmask: Tensor, remask: Tensor) -> Tensor:
    """The law of a step; remask: one number, or one for each place (B, L)."""
    family, xt = family_of(case), inputs(case)["xt"]
    rates = remask.expand(xt.shape)
    return step_law(
        family, probs, xt, lambda at, x, row: mask_weights(x == family.mask_id, unmask, rates[row])
    )


def remdm_step(case: Case) -> Got:
    params, tensors, family = case["params"], inputs(case), family_of(case)
    filters = Filters(top_p=params.get("nucleus_p", 1.0), drop_crossing=True)
    probs = filters(family.restored(tensors["logits"]))
    alphas = torch.stack([tensors["alpha_t"][0], tensors["alpha_s"][0]])
    (rate,) = rates = remasking_rates(REMASKING[params["sampler"]], alphas, params.get("eta", 1.0))
    ((unmask, remask),) = mask_moves(alphas, rates)
    q = remasked(case, probs, unmask, remask)
    return {"q": q, "row_sum": q.sum(-1), "sigma": rate}


def remdm_conf(case: Case) -> Got:
    """The confidence of the references is minus the probability when decoded, -inf at masks."""
    tensors, family = inputs(case), family_of(case)
    probs, xt, drawn = family.restored(tensors["logits"]), tensors["xt"], tensors["drawn"]
    alphas = torch.stack([tensors["alpha_t"][0], tensors["alpha_s"][0]])
    rates = remasking_rates("conf", alphas, 1.0)
    ((unmask, remask),) = mask_moves(alphas, rates, shared_out=True)
    sigma = remask * shares_by_doubt(-tensors["confidence"])
    masked, still = xt == family.mask_id, drawn == family.mask_id
    at_new = probs.gather(-1, drawn[..., None])[..., 0]
    confidence = torch.where(masked & ~still, -at_new, tensors["confidence"]).masked_fill(still, -torch.inf)
    return {
        "q": remasked(case, probs, unmask, sigma),
        "sigma": sigma,
        "xs": drawn,
        "new_confidence": confidence,
    }


def remdm_loop(case: Case) -> Got:
    params, tensors, family = case["params"], inputs(case), family_of(case)
    t = tensors["t"][0]
    times = torch.stack([t, t - params["dt"]])
    alphas = loop_alphas(times, params["t_on"], params["t_off"], params["alpha_on"])
    holding = bool(params["t_off"] < t <= params["t_on"])
    rates = remasking_rates("cap", alphas, params["eta"]) * holding
    ((unmask, remask),) = mask_moves(alphas, rates)
    q = remasked(case, family.restored(tensors["logits"]), unmask, remask)
    return {"q": q, "alpha_t": alphas[0], "alpha_s": alphas[1], "sigma": rates[0]}


def flow_matching(case: Case) -> Got:
    tensors, family = inputs(case), family_of(case)
    t = float(tensors["t"][0])
    length, unmask, remask = flow_matching_step(t, case["params"]["steps"])
    q = remasked(case, family.restored(tensors["logits"]), tensor(unmask), tensor(remask))
    return {"q": q, "t_next": tensor(t - length)}


FAMILIES: dict[str, Runners] = {
    "mdlm_sampling": {
        "mdlm_step_*": ancestral_step,
        "mdlm_cached_calls": cached_calls,
        "mdlm_ddpm_*": mask_rate_step,
        "mdlm_analytic_denoiser_*": last_mask_step,
        "mdlm_analytic_*": mask_rate_step,
    },
    "duo_sampling": {"duo_step_*": ancestral_step, "duo_greedy_tail": greedy_tails},
    "psi_sampling": {"psi_step_*": psi_step, "psi_times_*": psi_times, "psi_kappas_*": psi_kappas},
    "remdm_sampling": {
        "remdm_step_conf": remdm_conf,
        "remdm_step_loop_*": remdm_loop,
        "remdm_step_dfm_corrector": flow_matching,
        "remdm_step_*": remdm_step,
    },
}
