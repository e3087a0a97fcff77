"""Parameter and FLOP counts of the shared transformer in closed form, every convention in one place.

Symbols: d hidden, B layers, c conditioning width, f time features, V vocabulary, L context length.
A multiply-add counts as two FLOPs. Training is three forward passes (backward costs two).

Not covered: optimizer arithmetic, data loading, evaluation, and what a family computes beyond one
forward pass of the network per training sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from scaling.errors import UserError
from scaling.ladder import Size

ParamKind = Literal["total", "non_embedding", "body"]
Convention = Literal["exact", "sahoo2026", "2nd"]
CONVENTIONS: tuple[str, ...] = get_args(Convention)
TRAINING_PASSES = 3
"""Forward plus a backward pass of twice its cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Parameters by part; the total is their sum."""

    embedding: int
    blocks: int
    """Attention, MLP and norm weights of all blocks, without their conditioning."""
    conditioning: int
    """Time embedder and every adaLN projection."""
    final_norm: int
    head: int

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))


def params_by_part(size: Size, vocab_size: int) -> Params:
    d, c, f, layers = size.hidden, size.cond_dim, size.time_features, size.num_layers
    embedder = f * c + c + c * c + c
    adaln = layers * 6 * d * (c + 1) + 2 * d * (c + 1)
    return Params(
        embedding=vocab_size * d,
        blocks=layers * (12 * d * d + 7 * d),  # qkv, out, two MLP matrices; two norm gains, two MLP biases
        conditioning=embedder + adaln,
        final_norm=d,
        head=vocab_size * d + vocab_size,
    )


def param_count(size: Size, vocab_size: int, kind: ParamKind = "total") -> int:
    """Number of parameters.

    `total`: all. `non_embedding`: without the input embedding, with the output head; the N of
    arXiv 2602.15014. `body`: without either V x d matrix (the head's bias stays, as in the study's table).
    """
    total = params_by_part(size, vocab_size).total
    if kind == "total":
        return total
    if kind == "non_embedding":
        return total - vocab_size * size.hidden
    if kind == "body":
        return total - 2 * vocab_size * size.hidden
    raise UserError(f"unknown parameter count {kind!r}; known: {', '.join(get_args(ParamKind))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardFlops:
    """Matrix-product FLOPs of one forward pass over one sequence, by part."""

    blocks: float
    attention: float
    """Scores Q K^T and their product with V."""
    head: float
    conditioning: float

    @property
    def total(self) -> float:
        return sum(getattr(self, f.name) for f in fields(self))


def flops_by_part(size: Size, vocab_size: int, context_length: int, *, causal: bool = False) -> ForwardFlops:
    """Exact matrix-product FLOPs; a causal layout pays for the L(L+1)/2 pairs it attends to."""
    d, c, length = size.hidden, size.cond_dim, context_length
    pairs = length * (length + 1) / 2 if causal else length * length
    return ForwardFlops(
        blocks=2.0 * size.num_layers * length * 12 * d * d,
        attention=2.0 * size.num_layers * 2 * d * pairs,
        head=2.0 * length * d * vocab_size,
        conditioning=2.0 * (size.time_features * c + c * c + size.num_layers * 6 * c * d + 2 * c * d),
    )


def forward_flops(
    size: Size,
    vocab_size: int,
    context_length: int,
    convention: Convention = "exact",
    *,
    causal: bool = False,
) -> float:
    """FLOPs of one forward pass over one sequence of `context_length` tokens.

    `exact`: every matrix product, attention scores included, half of them for a causal layout.
    `sahoo2026`: the count behind the published budgets (calflops on arXiv 2602.15014's network): no
    attention scores, but softmax, norms and activations; the same for causal and full attention.
    `2nd`: 2 N L with N the non-embedding parameters, so that training costs 6 N D.
    """
    if convention == "exact":
        return flops_by_part(size, vocab_size, context_length, causal=causal).total
    if convention == "sahoo2026":
        parts = flops_by_part(size, vocab_size, context_length)
        matmuls = parts.total - parts.attention
        d, length = size.hidden, context_length
        per_block = size.num_heads * length * length + 12 * length * d
        return matmuls + size.num_layers * per_block + 4 * length * d + 2 * size.cond_dim
    if convention == "2nd":
        return 2.0 * param_count(size, vocab_size, "non_embedding") * context_length
    raise UserError(f"unknown FLOP convention {convention!r}; known: {', '.join(CONVENTIONS)}")


def training_flops(
    size: Size,
    vocab_size: int,
    context_length: int,
    sequences: int,
    convention: Convention = "exact",
    *,
    causal: bool = False,
) -> float:
    """FLOPs of training on `sequences` sequences: three forward passes each."""
    forward = forward_flops(size, vocab_size, context_length, convention, causal=causal)
    return TRAINING_PASSES * sequences * forward


def sequences_for(
    budget: float,
    size: Size,
    vocab_size: int,
    context_length: int,
    convention: Convention = "exact",
    *,
    causal: bool = False,
) -> int:
    """The most whole sequences that `budget` training FLOPs pay for."""
    forward = forward_flops(size, vocab_size, context_length, convention, causal=causal)
    return int(budget // (TRAINING_PASSES * forward))
