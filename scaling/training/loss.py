"""From features to a loss without holding more logits than needed.

The head is called only where the family's loss depends on it (masked positions, say), and in chunks of
rows where the vocabulary is large, so that logits never fill memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.families.base import Family
from scaling.models import Transformer

TokenLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

CHUNK_ELEMENTS = 1 << 24
"""Logits computed at once: 64 MiB in float32. Below about 500 rows the head's gradient is memory-bound."""


def loss_sum(
    model: Transformer,
    family: Family,
    features: Tensor,
    x0: Tensor,
    xt: Tensor,
    t: Tensor,
    token_loss: TokenLoss,
) -> tuple[Tensor, int]:
    """Sum over all positions of `token_loss`, in nats, and how many positions that is.

    features (B, L, D) of x_t (B, L) at times t (B,). Positions the loss does not depend on count with 0.
    """
    targets = family.targets(x0)
    scored = family.scored(xt)
    rows = features
    if scored is not None:
        index = scored.reshape(-1).nonzero().squeeze(-1)
        rows = features.reshape(-1, features.shape[-1])[index][:, None]
        times = t[index // scored.shape[1]]
        picked = (targets.reshape(-1)[index, None], xt.reshape(-1)[index, None], times)
    else:
        picked = (targets, xt, t)

    chunk = max(1, CHUNK_ELEMENTS // (family.predicted_ids * rows.shape[1]))
    weight, bias = model.head.weight[: family.predicted_ids], model.head.bias[: family.predicted_ids]
    if len(rows) <= chunk:
        total = token_loss(F.linear(rows, weight, bias).float(), *picked).sum()
    else:
        total = _ChunkedLoss.apply(rows, weight, bias, picked, token_loss, chunk)
    return total, targets.numel()


class _ChunkedLoss(torch.autograd.Function):
    """Sum of a token loss over chunks of rows, whose gradient is taken chunk by chunk on the way forward.

    A chunk's logits are gone before the next chunk's are made, and the head runs once, not twice as it
    would under activation checkpointing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        picked: tuple[Tensor, Tensor, Tensor],
        token_loss: TokenLoss,
        chunk: int,
    ) -> Tensor:
        total = rows.new_zeros((), dtype=torch.float32)
        inputs = [rows, weight, bias]
        grads = [torch.empty_like(rows), torch.zeros_like(weight), torch.zeros_like(bias)]
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            leaves = [x.detach().requires_grad_() for x in (rows[part], *inputs[1:])]
            with torch.enable_grad():
                loss = token_loss(F.linear(*leaves).float(), *(a[part] for a in picked)).sum()
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
