"""AdamW over one flat vector of all parameters, the course of its learning rate, and an average of weights.

Holding parameters, gradients and moments as single vectors makes clipping, the update and a checkpoint
one operation each, however many layers there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scaling.spec import OptimizerSpec


def learning_rate_at(step: int, steps: int, spec: OptimizerSpec) -> float:
    """Learning rate of optimizer step `step` (from 0) of `steps`.

    Linear warm-up, then cosine to `final_lr_fraction` of the peak over the rest (arXiv 2602.15014's
    code), constant, or stable and a linear decay over the last `decay_fraction` of the steps.
    """
    peak, floor = spec.learning_rate, spec.learning_rate * spec.final_lr_fraction
    warmup = min(spec.warmup_steps, steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if spec.schedule == "cosine":
        progress = (step - warmup) / max(1, steps - warmup)
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    if spec.schedule == "wsd":
        decay_steps = max(1, round(spec.decay_fraction * steps))
        left = (steps - step) / decay_steps
        return peak if left >= 1 else floor + (peak - floor) * left
    return peak


class FlatAdamW:
    """AdamW (decoupled weight decay on every parameter) over the model's parameters as one vector.

    A model may give some parameters rates of their own: `own_rates`, a mapping from the beginning of a
    parameter's name to (peak learning rate, weight decay or None for the run's). They follow the course of
    the run's rate, stand behind the others in the vector, and each such group, one per entry, is clipped by
    its own norm, so that a noisy one does not shrink the steps of the rest.
    """

    def __init__(self, model: nn.Module, spec: OptimizerSpec) -> None:
        self.spec = spec
        own_rates: Mapping[str, tuple[float, float | None]] = getattr(model, "own_rates", {})
        members = _members(model, own_rates)
        self._parameters = [p for group in members for p in group]
        flat = flatten(model)
        self.flat = nn.Parameter(flat)
        self.flat.grad = torch.zeros_like(flat)
        # consecutive slices of the vector and its gradient as parameters; the vector itself where it is one
        counts = [sum(p.numel() for p in group) for group in members]
        self._parts = [self.flat]
        if len(counts) > 1:
            self._parts = [nn.Parameter(values) for values in flat.split(counts)]
            for part, gradient in zip(self._parts, self.flat.grad.split(counts), strict=True):
                part.grad = gradient
        rates = [(spec.learning_rate, None), *own_rates.values()]
        self._adamw = torch.optim.AdamW(
            [
                {"params": [part], "lr": rate, "weight_decay": spec.weight_decay if decay is None else decay}
                for part, (rate, decay) in zip(self._parts, rates, strict=True)
            ],
            betas=spec.betas,
            eps=spec.eps,
            fused=True,
        )
        self._rate_shares = [rate / spec.learning_rate for rate, _ in rates]

    def add_gradient(self, loss: Tensor, *, first: bool) -> None:
        """Backpropagate `loss` into the flat gradient, replacing it where `first`."""
        assert self.flat.grad is not None, "the flat gradient exists from construction on"
        parts = [
            g.reshape(-1)
            for g in torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        ]
        if first:
            torch.cat(parts, out=self.flat.grad)
        else:
            self.flat.grad += torch.cat(parts)

    def gradient_norm(self) -> float:
        """Norm of the whole gradient."""
        assert self.flat.grad is not None, "the flat gradient exists from construction on"
        return float(torch.linalg.vector_norm(self.flat.grad))

    def step(self, learning_rate: float, gradient_norm: float) -> None:
        """Clip to `clip_norm` and update. gradient_norm: of the whole gradient."""
        limit = self.spec.clip_norm
        if limit is not None and gradient_norm > limit:
            for part in self._parts:
                assert part.grad is not None, "every part's gradient is a slice of the flat one"
                norm = gradient_norm if len(self._parts) == 1 else float(torch.linalg.vector_norm(part.grad))
                if norm > limit:
                    part.grad *= limit / norm
        for group, share in zip(self._adamw.param_groups, self._rate_shares, strict=True):
            group["lr"] = learning_rate * share
        self._adamw.step()

    def state(self) -> dict[str, Any]:
        """Parameters and moments, each as one vector, on the CPU."""
        states = [self._adamw.state[part] for part in self._parts]
        joined = {
            name: torch.cat([state[name] for state in states]) if value.ndim and len(states) > 1 else value
            for name, value in states[0].items()
        }
        return {
            "parameters": self.flat.detach().cpu(),
            "moments": {name: value.cpu() for name, value in joined.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        with torch.no_grad():
            self.flat.copy_(state["parameters"])
        device, offset = self.flat.device, 0
        for part in self._parts:
            own = slice(offset, offset + part.numel())
            self._adamw.state[part] = {
                name: (value[own] if value.ndim else value).to(device, copy=True)
                for name, value in state["moments"].items()
            }
            offset = own.stop


class WeightAverage:
    """Exponential moving average of the weights, as one vector.

    average += (1 - d)(weights - average) after step n = 1, 2, ..., with d = min(decay, (1 + n) / (10 + n)):
    the initial weights are forgotten early. It starts from the weights that it is given.
    """

    def __init__(self, flat: Tensor, decay: float) -> None:
        self.decay, self.values = decay, flat.detach().clone()

    @torch.no_grad()
    def update(self, flat: Tensor, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1."""
        self.values.lerp_(flat.detach(), 1 - min(self.decay, (1 + step) / (10 + step)))

    @contextmanager
    def in_place_of(self, flat: Tensor) -> Iterator[None]:
        """The network whose weights are `flat` has the average inside the block."""
        weights = flat.detach().clone()
        with torch.no_grad():
            flat.copy_(self.values)
        try:
            yield
        finally:
            with torch.no_grad():
                flat.copy_(weights)


@torch.no_grad()
def flatten(model: nn.Module) -> Tensor:
    """All parameters as one vector, of which the model's own become views."""
    parameters = _in_order(model)
    flat = torch.cat([p.reshape(-1) for p in parameters])
    parts = flat.split([p.numel() for p in parameters])
    for parameter, values in zip(parameters, parts, strict=True):
        parameter.data = values.view_as(parameter)
    return flat


def _in_order(model: nn.Module) -> list[nn.Parameter]:
    own_rates: Mapping[str, tuple[float, float | None]] = getattr(model, "own_rates", {})
    return [p for group in _members(model, own_rates) for p in group]


def _members(
    model: nn.Module, own_rates: Mapping[str, tuple[float, float | None]]
) -> list[list[nn.Parameter]]:
    """The model's parameters by group: first those without a rate of their own, then entry by entry.

    A name belongs to the first entry that it begins with.
    """
    groups: list[list[nn.Parameter]] = [[] for _ in range(1 + len(own_rates))]
    for name, parameter in model.named_parameters():
        entries = (i for i, prefix in enumerate(own_rates, 1) if name.startswith(prefix))
        groups[next(entries, 0)].append(parameter)
    assert all(groups), f"{list(own_rates)} must each name parameters, and leave some to the run's rate"
    return groups
