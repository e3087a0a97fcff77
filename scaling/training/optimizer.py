"""AdamW over one flat vector of all parameters, and the course of its learning rate.

Holding parameters, gradients and moments as single vectors makes clipping, the update and a checkpoint
one operation each, however many layers there are.
"""

from __future__ import annotations

import math
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
    """AdamW (decoupled weight decay on every parameter) over the model's parameters as one vector."""

    def __init__(self, model: nn.Module, spec: OptimizerSpec) -> None:
        self.spec = spec
        self._parameters = list(model.parameters())
        with torch.no_grad():
            flat = torch.cat([p.reshape(-1) for p in self._parameters])
            offset = 0
            for parameter in self._parameters:
                count = parameter.numel()
                parameter.data = flat[offset : offset + count].view_as(parameter)
                offset += count
        self.flat = nn.Parameter(flat)
        self.flat.grad = torch.zeros_like(flat)
        self._adamw = torch.optim.AdamW(
            [self.flat],
            lr=spec.learning_rate,
            betas=spec.betas,
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            fused=True,
        )

    def add_gradient(self, loss: Tensor, *, first: bool) -> None:
        """Backpropagate `loss` into the flat gradient, replacing it where `first`."""
        assert self.flat.grad is not None, "the flat gradient exists from construction on"
        parts = [g.reshape(-1) for g in torch.autograd.grad(loss, self._parameters)]
        if first:
            torch.cat(parts, out=self.flat.grad)
        else:
            self.flat.grad += torch.cat(parts)

    def gradient_norm(self) -> float:
        assert self.flat.grad is not None, "the flat gradient exists from construction on"
        return float(torch.linalg.vector_norm(self.flat.grad))

    def step(self, learning_rate: float, gradient_norm: float) -> None:
        """Clip to `clip_norm` and update."""
        assert self.flat.grad is not None, "the flat gradient exists from construction on"
        if self.spec.clip_norm is not None and gradient_norm > self.spec.clip_norm:
            self.flat.grad *= self.spec.clip_norm / gradient_norm
        self._adamw.param_groups[0]["lr"] = learning_rate
        self._adamw.step()

    def state(self) -> dict[str, Any]:
        moments = self._adamw.state[self.flat]
        return {
            "parameters": self.flat.detach().cpu(),
            "moments": {name: value.cpu() for name, value in moments.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.flat.copy_(state["parameters"])
        device = self.flat.device
        moments = state["moments"].items()
        self._adamw.state[self.flat] = {name: value.to(device, copy=True) for name, value in moments}
