"""From features to a loss without holding more logits than needed.

The head reads only positions on which the family's loss depends (masked ones, say), and in chunks of
rows if the vocabulary is large, so that logits never fill memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.models.replicas import affine, by_replica, padded_positions
from scaling.models.transformer import Transformer

RowLoss = Callable[..., Tensor]
"""(logits (n, l, V), tensors of those rows ...) -> (n, l) nats."""

CHUNK_ELEMENTS = 1 << 24
"""Logits computed at once: 64 MiB in float32. Below about 500 rows the head's gradient is memory-bound."""


def head_loss(
    model: Transformer,
    features: Tensor,
    about: tuple[Tensor, ...],
    row_loss: RowLoss,
    *,
    num_ids: int,
    scored: Tensor | None = None,
) -> Tensor:
    """Sum of `row_loss` over all positions of features (B, L, D), in nats: a scalar, or that of each replica
    (R,).

    about: tensors (B, ...) or (B, L, ...) that go with the features, handed to `row_loss` after the logits
    of the first `num_ids` ids. scored: (B, L) True if the loss depends on the logits; the other positions
    count with 0 and never meet the head. Then `row_loss` gets single positions as rows.
    """
    weight, bias = model.head.weight[..., :num_ids, :], model.head.bias[..., :num_ids]
    if model.replicas == 1:
        return _loss_of_one(features, weight, bias, about, row_loss, scored)
    if features[..., 0].numel() * num_ids > CHUNK_ELEMENTS:  # one after the other: each has work enough
        groups = (x.chunk(model.replicas) for x in (features, *about, *(() if scored is None else (scored,))))
        losses = []
        for own_weight, own_bias, rows, *own in zip(weight, bias, *groups, strict=True):
            own_scored = None if scored is None else own.pop()
            losses.append(_loss_of_one(rows, own_weight, own_bias, tuple(own), row_loss, own_scored))
        return torch.stack(losses)
    rows = features
    if scored is not None:
        index = padded_positions(scored, model.replicas)  # those that fill up count 0
        rows = features.flatten(0, 1)[index][:, None]
        about = tuple(_positions(x, index, scored.shape[1]) for x in about)
    return by_replica(row_loss(at_least_float32(affine(rows, weight, bias)), *about), model.replicas)


def _loss_of_one(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    about: tuple[Tensor, ...],
    row_loss: RowLoss,
    scored: Tensor | None,
) -> Tensor:
    """`head_loss` of one network with the head's weight (V, D) and bias (V,)."""
    rows = features
    if scored is not None:
        index = scored.reshape(-1).nonzero().squeeze(-1)
        rows = features.reshape(-1, features.shape[-1])[index][:, None]
        about = tuple(_positions(x, index, scored.shape[1]) for x in about)
    chunk = max(1, CHUNK_ELEMENTS // (len(weight) * rows.shape[1]))
    if len(rows) <= chunk:
        return row_loss(at_least_float32(F.linear(rows, weight, bias)), *about).sum()
    return _ChunkedLoss.apply(rows, weight, bias, about, row_loss, chunk)


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits in the precision of a loss: autocast leaves them in bfloat16."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _positions(x: Tensor, index: Tensor, length: int) -> Tensor:
    """The rows of x that belong to flat positions `index`: (n,) from (B,), (n, 1, ...) from (B, L, ...)."""
    if x.ndim == 1:
        return x[index // length]
    return x.flatten(0, 1)[index, None]


class _ChunkedLoss(torch.autograd.Function):
    """Sum of a row loss over chunks of rows, whose gradient is taken chunk by chunk on the way forward.

    A chunk's logits are gone before the next chunk's are made, and the head runs once, not twice as it
    would under activation checkpointing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        about: tuple[Tensor, ...],
        row_loss: RowLoss,
        chunk: int,
    ) -> Tensor:
        total = rows.new_zeros((), dtype=torch.promote_types(rows.dtype, torch.float32))
        inputs = [rows, weight, bias]
        grads = [torch.empty_like(rows), torch.zeros_like(weight), torch.zeros_like(bias)]
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            leaves = [x.detach().requires_grad_() for x in (rows[part], *inputs[1:])]
            with torch.enable_grad():
                loss = row_loss(at_least_float32(F.linear(*leaves)), *(a[part] for a in about)).sum()
            grad_rows, grad_weight, grad_bias = torch.autograd.grad(loss, leaves)
            grads[0][part] = grad_rows
            grads[1] += grad_weight
            grads[2] += grad_bias
            total += loss.detach()
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_output: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_output[0]
        grad_rows, grad_weight, grad_bias = ctx.saved_tensors
        return grad_rows * scale, grad_weight * scale, grad_bias * scale, None, None, None
