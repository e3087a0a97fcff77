"""AdamW or Muon over one flat vector of all parameters, the course of its rate, an average of weights.

Holding parameters, gradients and moments as single vectors makes clipping, the update and a checkpoint
one operation each, however many layers there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scaling.models.parametrization import STANDARD, Factors, Parametrization
from scaling.spec import OptimizerSpec
from scaling.training.muon import Muon


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

    The vector of a model that stacks several networks has a row for each: (R, P). A row is updated as it
    would be alone, clipped by its own norm.

    A model's `parametrization` may give parameters shares of the run's rate, weight decay and eps. Those of
    equal shares stand together in the vector; all are clipped by the norm of all.

    A model may give some parameters rates of their own: `own_rates`, a mapping from the beginning of a
    parameter's name to (peak learning rate, weight decay or None for the run's). They follow the course of
    the run's rate, stand behind the others in the vector, and each such group, one per entry, is clipped by
    its own norm, so that a noisy one does not shrink the steps of the rest.

    Where the parametrization says so, Muon updates the blocks' matrices (`scaling.training.muon`).
    """

    def __init__(self, model: nn.Module, spec: OptimizerSpec, flat: Tensor | None = None) -> None:
        """flat: what `flatten` made of the networks that `model` stacks; by default that of `model`."""
        self.spec = spec
        groups = _groups(model, spec)
        self._parameters = [p for group in groups for p in group.members]
        flat = flatten(model) if flat is None else flat
        self.flat = nn.Parameter(flat)
        self.flat.grad = torch.zeros_like(flat)
        self.replicas = len(flat) if flat.ndim == 2 else 1
        # slices of the vector and its gradient as parameters, by group and replica
        counts = [sum(p.numel() for p in group.members) // self.replicas for group in groups]
        self._parts: list[list[nn.Parameter]] = []
        self._muon: Muon | None = None
        slices = (x.view(self.replicas, -1).split(counts, dim=1) for x in (flat, self.flat.grad))
        for group, values, gradient in zip(groups, *slices, strict=True):
            if group.muon:
                self._muon = Muon([p.shape for p in group.members], values, gradient, group.decay)
                self._muon_share = group.rate / spec.learning_rate
                continue
            self._parts.append([nn.Parameter(own) for own in values])
            for part, slope in zip(self._parts[-1], gradient, strict=True):
                part.grad = slope
        adamw = [group for group in groups if not group.muon]
        # slices of the gradient that are clipped together: all at shares of the run's rate, each other group
        clipped = [sum(counts[: len(counts) - sum(g.is_own for g in groups)])]
        clipped += [count for count, group in zip(counts, groups, strict=True) if group.is_own]
        self._clipped = [row.split(clipped) for row in self.flat.grad.view(self.replicas, -1)]
        self._adamw = torch.optim.AdamW(
            [
                {"params": parts, "lr": group.rate, "weight_decay": group.decay, "eps": group.eps}
                for parts, group in zip(self._parts, adamw, strict=True)
            ],
            betas=spec.betas,
            fused=True,
        )
        self._rate_shares = [group.rate / spec.learning_rate for group in adamw]

    def add_gradient(self, loss: Tensor, *, first: bool) -> None:
        """Backpropagate `loss` into the flat gradient, replacing it where `first`."""
        assert self.flat.grad is not None, "the flat gradient exists from construction on"
        shape = self.flat.shape[:-1]
        parts = [
            g.reshape(*shape, -1)
            for g in torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        ]
        if first:
            torch.cat(parts, dim=-1, out=self.flat.grad)
        else:
            self.flat.grad += torch.cat(parts, dim=-1)

    def gradient_norms(self) -> list[float]:
        """Norm of the whole gradient of each replica."""
        assert self.flat.grad is not None, "the flat gradient exists from construction on"
        norms: list[float] = torch.linalg.vector_norm(self.flat.grad, dim=-1).reshape(-1).tolist()
        return norms

    def clear_gradient(self, replica: int) -> None:
        """Set the gradient of a replica to zero, whatever it is."""
        assert self.flat.grad is not None, "the flat gradient exists from construction on"
        self.flat.grad.view(self.replicas, -1)[replica] = 0

    def step(self, learning_rate: float, gradient_norms: list[float]) -> None:
        """Clip to `clip_norm` and update. gradient_norms: of the whole gradient of each replica."""
        limit = self.spec.clip_norm
        if limit is not None and max(gradient_norms) > limit:
            for parts, norm in zip(self._clipped, gradient_norms, strict=True):
                for part in parts:
                    _clip(part, norm, limit, whole=len(parts) == 1)
        for group, share in zip(self._adamw.param_groups, self._rate_shares, strict=True):
            group["lr"] = learning_rate * share
        self._adamw.step()
        if self._muon is not None:
            self._muon.step(learning_rate * self._muon_share)

    def state(self) -> dict[str, Any]:
        """Parameters, AdamW's moments and Muon's momentum, each as one vector, on the CPU."""
        rows = [[self._adamw.state[part] for part in parts] for parts in zip(*self._parts, strict=True)]
        joined = {
            name: torch.cat([state[name] for row in rows for state in row]).view(*self.flat.shape[:-1], -1)
            if value.ndim
            else value
            for name, value in rows[0][0].items()
        }
        return {
            "parameters": self.flat.detach().cpu(),
            "moments": {name: value.cpu() for name, value in joined.items()},
        } | ({} if self._muon is None else {"momentum": self._muon.momentum.cpu()})

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        with torch.no_grad():
            self.flat.copy_(state["parameters"])
        if self._muon is not None:
            self._muon.momentum.copy_(state["momentum"])
        device, offset = self.flat.device, 0
        for parts in zip(*self._parts, strict=True):
            for part in parts:
                own = slice(offset, offset + part.numel())
                self._adamw.state[part] = {
                    name: (value.flatten()[own] if value.ndim else value).to(device, copy=True)
                    for name, value in state["moments"].items()
                }
                offset = own.stop


def _clip(gradient: Tensor, whole_norm: float, limit: float, *, whole: bool) -> None:
    """Shrink a part of the gradient to `limit` if the whole one is longer, and this.

    whole: it is the only part, whose norm is known.
    """
    if whole_norm > limit:
        norm = whole_norm if whole else float(torch.linalg.vector_norm(gradient))
        if norm > limit:
            gradient *= limit / norm


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
def flatten(*networks: nn.Module) -> Tensor:
    """All parameters as one vector (P,), of several networks of one shape as (R, P), a row for each; the
    networks' own become views of it."""
    ordered = [_in_order(network) for network in networks]
    rows = [torch.cat([p.reshape(-1) for p in parameters]) for parameters in ordered]
    flat = rows[0] if len(rows) == 1 else torch.stack(rows)
    for parameters, row in zip(ordered, flat.view(len(rows), -1), strict=True):
        parts = row.split([p.numel() for p in parameters])
        for parameter, values in zip(parameters, parts, strict=True):
            parameter.data = values.view_as(parameter)
    return flat


def _in_order(model: nn.Module) -> list[nn.Parameter]:
    return [p for group in _groups(model, None) for p in group.members]


class _Group(NamedTuple):
    """Parameters of one peak learning rate, weight decay and eps."""

    members: list[nn.Parameter]
    rate: float
    decay: float
    eps: float
    is_own: bool
    """Whether the rate is the model's own, not a share of the run's."""
    muon: bool = False


def _groups(model: nn.Module, spec: OptimizerSpec | None) -> list[_Group]:
    """The model's parameters by group: those at shares of the run's rate, then by entry of `own_rates`.

    A name belongs to the first entry that it begins with. spec: None for the order of parameters alone.
    """
    spec = spec or OptimizerSpec(learning_rate=1.0)
    own_rates: Mapping[str, tuple[float, float | None]] = getattr(model, "own_rates", {})
    parametrization: Parametrization = getattr(model, "parametrization", STANDARD)
    shared: dict[Factors, list[nn.Parameter]] = {}
    own: dict[str, list[nn.Parameter]] = {prefix: [] for prefix in own_rates}
    for name, parameter in model.named_parameters():
        entry = next((prefix for prefix in own_rates if name.startswith(prefix)), None)
        if entry is None:
            factors = replace(parametrization.factors(name), init=1.0)
            shared.setdefault(factors, []).append(parameter)
        else:
            own[entry].append(parameter)
    assert shared, "some parameters must be left to the run's rate"
    assert all(own.values()), f"{list(own_rates)} must each name parameters"
    groups = [
        _Group(
            members,
            spec.learning_rate * share.rate,
            spec.weight_decay * share.decay,
            spec.eps * share.eps,
            is_own=False,
            muon=share.muon,
        )
        for share, members in shared.items()
    ]
    for prefix, (rate, decay) in own_rates.items():
        own_decay = spec.weight_decay if decay is None else decay
        groups.append(_Group(own[prefix], rate, own_decay, spec.eps, is_own=True))
    return groups
