"""Golden cases of Duo's distillation: times, both states, loss and gradient, teacher, moving average."""

from __future__ import annotations

import math
from typing import Any

import torch

from scaling.families.base import noise_times, one_per_slice
from scaling.families.curriculum import gamma_at
from scaling.families.duality import to_discrete
from scaling.families.uniform import Uniform
from scaling.randomness import generator_for
from scaling.spec import DistillationSettings, DistillationSpec
from scaling.training.distillation import Candidates, Distillation, divergence, noisy_ids, step_size, times
from scaling.training.optimizer import WeightAverage
from tests.golden_runners.common import Case, Got, Runners, inputs
from tests.scaling.toys import toy_spec


def loss(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    x0, noise = tensors["x0"], tensors["noise"]
    earlier = noise_times(one_per_slice(tensors["u_t"]), params["sampling_eps"])
    how = DistillationSettings(rounds=5, steps_per_round=1, first_step=1 / params["T"])
    t, s = times(earlier, step_size(how, params["round"]))
    gamma_t, gamma_s = (gamma_at(x, (params["gamma_min"], params["gamma_max"])) for x in (t, s))
    clean = x0[..., None]
    largest, other = noise.scatter(-1, clean, -math.inf).max(-1)
    candidates = Candidates(own=noise.gather(-1, clean)[..., 0], largest=largest, other=other)
    student = tensors["logits_student"].requires_grad_()
    per_token = divergence(student, tensors["logits_teacher"], forward=params["direction"] == "kl-fwd")
    (gradient,) = torch.autograd.grad(per_token.mean(), student)
    alpha_t, alpha_s = (to_discrete(gamma, params["V"]).alpha for gamma in (gamma_t, gamma_s))
    return {
        "t": t,
        "s": s,
        "gamma_t": gamma_t,
        "gamma_s": gamma_s,
        "alpha_t": alpha_t,
        "alpha_s": alpha_s,
        "xt": noisy_ids(x0, candidates, gamma_t),
        "xs": noisy_ids(x0, candidates, gamma_s),
        "per_token": per_token.detach(),
        "mean": per_token.detach().mean(),
        "grad_mean_wrt_student_logits": gradient,
    }


def step_sizes(case: Case) -> Got:
    params, settings = case["params"], dict[str, Any]()
    if "T" in params:
        settings = {"first_step": 1 / params["T"], "steps_per_round": params["update_teacher_every"]}
    else:
        settings = {
            "first_step": params["linear_growth_min"],
            "last_step": params["linear_growth_max"],
            "rounds": 1,
            "steps_per_round": params["max_steps"],
        }
    how = DistillationSettings(**settings)
    sizes = [step_size(how, step) for step in case["inputs"]["step"]]
    return {"dt": torch.tensor(sizes, dtype=torch.float64)}


def teacher(case: Case) -> Got:
    students = inputs(case)["student_before_step"]
    every = case["params"]["update_teacher_every"]
    rounds = -(-len(students) // every)
    how = DistillationSpec(of="parent", rounds=rounds, steps_per_round=every)
    spec = toy_spec("uniform", sequences=8 * rounds * every, distillation=how, optimizer={"ema_decay": 0.9})
    family = spec.build_family()
    assert isinstance(family, Uniform)
    model = family.build_model(spec.size, generator_for(0, "initial weights")).double()
    distillation = Distillation(spec, family, model)
    at_step = []
    for step, value in enumerate(students):
        distillation.refresh(step, value.expand_as(distillation.weights))
        weights = torch.cat([p.reshape(-1) for p in model.parameters()])
        assert bool((weights == weights[0]).all())
        at_step.append(weights[0])
    return {"teacher_at_step": torch.stack(at_step)}


def moving_average(case: Case) -> Got:
    start, *values = inputs(case)["values"][:, None]
    average = WeightAverage(start, case["params"]["decay"])
    out = []
    for step, value in enumerate(values, start=1):
        average.update(value, step)
        out.append(average.values.clone())
    return {"average": torch.cat(out)}


FAMILIES: dict[str, Runners] = {
    "duo_distillation": {
        "dcd_loss_*": loss,
        "dcd_step_sizes*": step_sizes,
        "dcd_teacher_refresh": teacher,
        "dcd_moving_average": moving_average,
    }
}
