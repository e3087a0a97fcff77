"""Muon: momentum whose singular values are all made about 1, for the matrices of blocks.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with the scale of arXiv 2502.16982, at which an update
is as large as AdamW's, so that both share a rate and a weight decay. Queries, keys and values are three
matrices. All matrices of one shape, of all blocks and replicas, are one batch.

R replicas, P parameters, n matrices, O and I widths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scaling.ladder import Size

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
TINY = 1e-7
SCALE = 0.2
"""Root of the mean square of AdamW's updates, as measured in arXiv 2502.16982."""


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, O, I), O at most I, with singular values of about 1, 0.7 to 1.2: five Newton-Schulz
    iterations. A matrix of zeros stays one. In bfloat16 on a GPU, as published."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + TINY)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.to(matrices.dtype)


class Muon:
    """The optimizer of the matrices that are views of one slice of the flat vector."""

    def __init__(self, shapes: Sequence[torch.Size], values: Tensor, gradient: Tensor, decay: float) -> None:
        """shapes: (O, I) or (R, O, I) of the matrices in the order of the slice; O a multiple of I stands
        for queries, keys and values if it is three times I. values, gradient: (R, P)."""
        self.values, self.gradient, self.decay = values, gradient, decay
        self.momentum = torch.zeros_like(values)
        self._shapes = [tuple(shape[-2:]) for shape in shapes]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at this learning rate, with Nesterov momentum and decoupled weight decay."""
        self.momentum.lerp_(self.gradient, 1 - MOMENTUM)
        update = self.gradient.lerp(self.momentum, MOMENTUM)
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for part in self._matrices(update):
            by_shape.setdefault(part.shape[-2:], []).append(part)
        for (rows, columns), parts in by_shape.items():
            batch = torch.cat([part.reshape(-1, rows, columns) for part in parts])
            done = orthogonal(batch) * (SCALE * math.sqrt(columns))
            for part, own in zip(parts, done.split([part[..., 0, 0].numel() for part in parts]), strict=True):
                part.copy_(own.view(part.shape))
        self.values.mul_(1 - rate * self.decay).sub_(update, alpha=rate)

    def _matrices(self, vector: Tensor) -> list[Tensor]:
        """Views (R, ..., O, I) of a vector (R, P), none with O above I."""
        out = []
        counts = [rows * columns for rows, columns in self._shapes]
        for part, (rows, columns) in zip(vector.split(counts, dim=1), self._shapes, strict=True):
            if rows == 3 * columns:
                out.append(part.unflatten(1, (3, columns, columns)))
            else:
                matrix = part.unflatten(1, (rows, columns))
                out.append(matrix.mT if rows > columns else matrix)
        return out


def flops_per_step(size: Size) -> float:
    """Of the products of one step, whatever the batch: 300 D^3 a block. No part of the counted FLOPs.

    An iteration on (O, I) takes two products of 2 O^2 I and one of 2 O^3.
    """
    square, wide = 6 * size.hidden**3, 18 * size.hidden**3
    return float(size.num_layers * ITERATIONS * (4 * square + 2 * wide))
