"""Golden cases of gaussian's samplers: Plaid's step, DDIM, token guidance, and its whole loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scaling.families.duality import latent_scales
from scaling.families.gaussian import Gaussian
from scaling.models.gaussian import NoiseSchedule
from scaling.sampling import latents
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Noise, Purpose
from scaling.sampling.reader import Reader
from tests.golden_runners.common import Case, Got, Runners, inputs


class Stub:
    """Logits of the output prior, a bias and a pull towards the guess; keeps the latents it reads."""

    def __init__(self, case: Case) -> None:
        params, tensors = case["params"], inputs(case)
        self.vectors, self.bias, self.pull = tensors["embedding"], tensors["bias"], params["pull"]
        self.read: list[tuple[Tensor, Tensor]] = []
        if "W1" in tensors:
            units = len(tensors["b1"])
            self.noise = NoiseSchedule(params["gamma_0"], params["gamma_1"], units).double()
            weights = {"steepness": "W1", "offset": "b1", "height": "W2"}
            state = {name: tensors[key].flatten() for name, key in weights.items()}
            self.noise.load_state_dict(state | {"endpoints": self.noise.endpoints.data})

    def rows(self) -> Tensor:
        return self.vectors

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.noise(t)

    def __call__(self, z: Tensor, gamma: Tensor, *, guess: Tensor | None = None) -> Tensor:
        self.read.append((z.detach(), gamma))
        alpha, sigma = latent_scales(gamma[:, None, None])
        return (
            alpha / sigma**2 * z + self.pull * (0 if guess is None else guess)
        ) @ self.vectors.T + self.bias

    def restore(
        self, z: Tensor, gamma: Tensor, ids: Tensor, *, guess: Tensor | None = None
    ) -> tuple[Tensor, None]:
        return self(z, gamma, guess=guess).softmax(-1) @ self.vectors, None


class Normals(Noise):
    """The case's normals: the first array starts, array i serves step i, counted from 1 there."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(range(values.shape[1]))
        self.values = values

    def normals(self, step: int, purpose: Purpose, count: int) -> Tensor:
        return self.values[0 if purpose == Purpose.START else step + 1].flatten(1)


def step(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    z, noise, at, to = (tensors[name] for name in ("z", "noise", "gamma_t", "gamma_s"))
    x = latents.tempered(z, tensors["x_hat"], at, params["score_temperature"])
    if params["ddim"]:
        mean = latents.moved(z, x, at, to, None)
        return {"mean": mean, "z_s": mean}
    mean, got = (latents.moved(z, x, at, to, n) for n in (torch.zeros_like(z), noise))
    return {"mean": mean, "z_s": got, "variance": ((got - mean) / noise).square().mean()}


def run(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    model: Any = Stub(case)
    count, length, width = tensors["noise"].shape[1:]
    family = Gaussian(len(tensors["embedding"]), embed_dim=width)
    reader, ids = Reader(model, family), torch.zeros(count, length, dtype=torch.long)
    draft = Draft(
        family=family, reader=reader, noise=Normals(tensors["noise"]), steps=params["steps"], ids=ids,
        free=torch.ones_like(ids, dtype=torch.bool), lengths=torch.full((count,), length),
    )  # fmt: skip
    with torch.no_grad():
        for _ in latents.released(draft, score_temperature=params["score_temperature"]):
            pass
        moves = latents.released_times(params["steps"])[:-1, 1]
        return {
            "z_at_calls": torch.stack([z for z, _ in model.read]),
            "gamma_at_calls": torch.stack([gamma[0] for _, gamma in model.read]),
            "gamma_s": model.schedule(moves)[0],
            "ids": draft.ids,
            "calls": torch.tensor(reader.calls),
        }


def guided_step(case: Case) -> Got:
    params, tensors = case["params"], inputs(case)
    z, at = tensors["z"], tensors["gamma_t"]
    wishes = [
        latents.TokenWish(token=token, weight=weight, place=place, absent=bool(absent))
        for token, weight, place, absent in params["guidance"]
    ]
    x, push = latents.guided(Stub(case), z, at, None, wishes)
    x = latents.tempered(z, x, at, params["score_temperature"]) + push
    return {"z_s": latents.moved(z, x, at, tensors["gamma_s"], tensors["noise"])}


GAUSSIAN: Runners = {"plaid_step_*": step, "plaid_run_*": run, "plaid_guided_step_*": guided_step}

FAMILIES: dict[str, Runners] = {"plaid_sampling": GAUSSIAN}
