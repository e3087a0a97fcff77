"""Parameter and FLOP counts of the shared transformer in closed form, every convention in one place.

Symbols: d hidden, B layers, c conditioning width, f time features, V vocabulary, L context length.
A multiply-add counts as two FLOPs. Training is three forward passes (backward costs two).

A family describes with a `Work` its cost beyond one plain pass of the network: a second copy of the text,
passes without gradient, further products over the vocabulary. Equal compute is then equal.

Not covered: optimizer arithmetic, data loading, evaluation.
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
    """Parameters by part."""

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
class Work:
    """Cost of a training sequence of L tokens, relative to one pass of L tokens that all see each other."""

    inputs: float = 1.0
    """Tokens that enter the network per token of text."""
    outputs: float = 1.0
    """Of those, the tokens that leave its last block: the others lend it keys and values only."""
    pairs: float | None = None
    """Query-key pairs in a block; None for all L^2."""
    last_pairs: float | None = None
    """The same in the last block."""
    passes_without_gradient: float = 0.0
    """Forward passes per training sequence beyond the one that is differentiated."""
    vocabulary_width: float = 0.0
    """Columns of further matrix products with the whole vocabulary, per token (the head has d)."""
    heads: float = 0.0
    """The same in heads: d columns each."""
    input_width: float = 0.0
    """Columns of further d-wide maps of the input, per token."""
    clusters: int = 0
    """Clusters of the network's features, for which each training sequence takes half a pass more."""
    cluster_share: float = 0.0
    """Share of the training sequences from which clusters are learned."""


PLAIN = Work()


def causal(context_length: int) -> Work:
    """Each token sees itself and all before it: L(L+1)/2 pairs."""
    pairs = context_length * (context_length + 1) / 2
    return Work(pairs=pairs, last_pairs=pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardFlops:
    """Matrix-product FLOPs of one forward pass over one sequence, by part."""

    blocks: float
    attention: float
    """Scores Q K^T and their product with V."""
    head: float
    conditioning: float
    extras: float = 0.0
    """Products of the family beside the shared network."""

    @property
    def total(self) -> float:
        return sum(getattr(self, f.name) for f in fields(self))


def flops_by_part(size: Size, vocab_size: int, context_length: int, work: Work = PLAIN) -> ForwardFlops:
    """Exact matrix-product FLOPs of one forward pass over one sequence."""
    d, c, length, layers = size.hidden, size.cond_dim, context_length, size.num_layers
    pairs, last_pairs = (length**2 if p is None else p for p in (work.pairs, work.last_pairs))
    pairs = (layers - 1) * pairs + last_pairs
    # A token that leaves the last block early meets its query, key and value maps there: 3 d^2 of 12.
    early = work.inputs - work.outputs
    return ForwardFlops(
        blocks=2.0 * length * (12 * layers * work.inputs - 9 * early) * d * d,
        attention=2.0 * 2 * d * pairs,
        head=2.0 * length * d * vocab_size,
        conditioning=2.0 * (size.time_features * c + c * c + layers * 6 * c * d + 2 * c * d),
        extras=2.0 * length * ((work.vocabulary_width + work.heads * d) * vocab_size + work.input_width * d),
    )


def forward_flops(
    size: Size, vocab_size: int, context_length: int, convention: Convention = "exact", *, work: Work = PLAIN
) -> float:
    """FLOPs of one forward pass over one sequence of `context_length` tokens.

    `exact`: every matrix product, attention scores included, and the changes by the family's `work`.
    `sahoo2026`: the count behind the published budgets (calflops on arXiv 2602.15014's network): no
    attention scores, but softmax, norms and activations; the same for all families.
    `2nd`: 2 N L with N the non-embedding parameters, so that training costs 6 N D; the same for all families.
    """
    if convention == "exact":
        return flops_by_part(size, vocab_size, context_length, work).total
    if convention == "sahoo2026":
        parts = flops_by_part(size, vocab_size, context_length)
        matmuls = parts.total - parts.attention
        d, length = size.hidden, context_length
        per_block = size.num_heads * length * length + 12 * length * d
        return matmuls + size.num_layers * per_block + 4 * length * d + 2 * size.cond_dim
    if convention == "2nd":
        return 2.0 * param_count(size, vocab_size, "non_embedding") * context_length
    raise UserError(f"unknown FLOP convention {convention!r}; known: {', '.join(CONVENTIONS)}")


def sequence_flops(
    size: Size, vocab_size: int, context_length: int, convention: Convention = "exact", *, work: Work = PLAIN
) -> float:
    """FLOPs of training on one sequence: three forward passes, and (`exact`) those without gradient."""
    forward = forward_flops(size, vocab_size, context_length, convention, work=work)
    if convention != "exact":
        return TRAINING_PASSES * forward
    total = (TRAINING_PASSES + work.passes_without_gradient) * forward
    if work.clusters:
        # two maps and the prototypes, of one vector a sequence
        head = 2.0 * size.hidden * (2 * size.hidden + work.clusters)
        total += feature_flops(size, context_length, work) + head * (1 + 2 * work.cluster_share)
    return total


def feature_flops(size: Size, context_length: int, work: Work = PLAIN) -> float:
    """Exact FLOPs of the features of one sequence: the first half of the blocks, at least one."""
    d, c, length = size.hidden, size.cond_dim, context_length
    pairs = length**2 if work.pairs is None else work.pairs
    conditioning = 2.0 * (size.time_features * c + c * c + size.num_layers * 6 * c * d + 2 * c * d)
    return (
        max(1, size.num_layers // 2) * (24.0 * length * work.inputs * d * d + 4.0 * d * pairs) + conditioning
    )


def training_flops(
    size: Size,
    vocab_size: int,
    context_length: int,
    sequences: int,
    convention: Convention = "exact",
    *,
    work: Work = PLAIN,
) -> float:
    """FLOPs of training on `sequences` sequences; see `sequence_flops`."""
    return sequences * sequence_flops(size, vocab_size, context_length, convention, work=work)


def sequences_for(
    budget: float,
    size: Size,
    vocab_size: int,
    context_length: int,
    convention: Convention = "exact",
    *,
    work: Work = PLAIN,
) -> int:
    """The most whole sequences that `budget` training FLOPs pay for."""
    return int(budget // sequence_flops(size, vocab_size, context_length, convention, work=work))
