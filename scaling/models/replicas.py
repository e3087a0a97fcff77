"""Several networks of one shape as one: every parameter has a leading dimension of replicas.

Small networks leave a processor idle between operations. Stacked, R of them share each operation: R times the
arithmetic, once the overhead. Rows of a batch stand replica by replica: R groups of B rows, of which each
group meets the weights of its own replica, so that nothing a replica computes depends on another.

R replicas, B rows of each, I and O widths, V vocabulary, D hidden size, P parameters of one network.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Linear(nn.Linear):
    """A linear map, or one for each replica."""

    def forward(self, input: Tensor) -> Tensor:
        return affine(input, self.weight, self.bias)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (N, ..., I) times weight (O, I) and plus bias (O,), (N, ..., O).

    With weight (R, O, I) and bias (R, O) each R-th of the rows meets its own.
    """
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    rows = x.reshape(len(weight), -1, x.shape[-1])
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        out = _Affine.apply(rows, weight, bias)
    elif bias is None:
        out = torch.bmm(rows, weight.mT)
    else:
        out = torch.baddbmm(bias[:, None], rows, weight.mT)
    return out.view(*x.shape[:-1], weight.shape[1])


NARROW = 16
"""A CPU computes the transpose of a product with fewer columns than this up to four times as fast."""


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a (R, M, K) times b (R, K, N), contiguous."""
    narrow = b.shape[2] < min(NARROW, a.shape[1])
    return torch.bmm(b.mT, a.mT).mT.contiguous() if narrow else torch.bmm(a, b)


class _Affine(torch.autograd.Function):
    """Rows (R, n, I) times weight (R, O, I) plus bias (R, O), each product in the orientation that is fast on
    a CPU."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.biased = bias is not None
        out = _product(rows, weight.mT)
        return out if bias is None else out.add_(bias[:, None])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        (grad,) = grads
        to_rows = _product(grad, weight) if ctx.needs_input_grad[0] else None
        return to_rows, _product(grad.mT, rows), grad.sum(1) if ctx.biased else None


def look_up(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of table (V, D) by ids (N, ...): (N, ..., D). Of table (R, V, D) each R-th of the ids has one."""
    if table.ndim == 2:
        return F.embedding(ids, table)
    return torch.cat([F.embedding(*own) for own in zip(ids.chunk(len(table)), table, strict=True)])


def per_row(values: Tensor, count: int) -> Tensor:
    """values (R, ...), one of each replica, as (count, ...), one of each row of a batch."""
    return values.repeat_interleave(count // len(values), dim=0)


def by_replica(values: Tensor, replicas: int) -> Tensor:
    """Sum of values (N, ...): a scalar, or (R,) over each replica's rows if there are several."""
    return values.sum() if replicas == 1 else values.view(replicas, -1).sum(1)


def padded_positions(chosen: Tensor, replicas: int) -> Tensor:
    """Flat positions of the True ones of chosen (N, ...), as many of each replica: the first of each group of
    them are its chosen ones, and those of a replica that has fewer are filled up with others."""
    own = chosen.view(replicas, -1)
    most = int(own.sum(1).max())
    first = own.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    starts = torch.arange(replicas, device=chosen.device)[:, None] * own.shape[1]
    return (first + starts).flatten()


def stack(networks: Sequence[Network], flat: Tensor) -> Network:
    """`networks` of one shape as one, which shares their memory.

    flat: (R, P), of which row r is the vector that the parameters of network r are views of. The stacked
    network's parameters are views of all rows, so that a network and the stack change together.
    """
    stacked = copy.deepcopy(networks[0])
    stacked.replicas = len(networks)  # type: ignore[assignment]
    places = dict(networks[0].named_parameters())
    for name, parameter in stacked.named_parameters():
        own = places[name]
        first = own.storage_offset() - flat.storage_offset()
        parameter.data = flat[:, first : first + own.numel()].view(len(flat), *own.shape)
    return stacked
