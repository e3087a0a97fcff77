"""The transformer all families share: adaLN conditioning, rotary positions, attention by layout.

Architecture of arXiv 2602.15014 (DiT): pre-LayerNorm without bias, GELU-tanh MLP of four times the
width, every residual branch scaled, shifted and gated by the noise level, untied output head.
Zero-initialised gates make every block the identity and every logit 0 at the start.

B batch, L length, H heads, K head dimension, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaling.ladder import Size
from scaling.models.attention import CAUSAL, FULL, Cache, Layout
from scaling.models.clusters import ClusterHead
from scaling.models.parametrization import STANDARD, Parametrization
from scaling.models.replicas import Linear, affine, look_up, per_row

LAYER_NORM_EPS = 1e-5
ROPE_BASE = 10000.0

Attend = Callable[[Tensor, int], Tensor]
"""(queries, keys and values (B, n, 3, H, K), number of outputs) -> mixed values (B, H, outputs, K)."""

Modulation = list[tuple[Tensor, ...]]
"""For each block shift, 1 + scale and gate of attention, then of the MLP; last, shift and 1 + scale of the
end. Each is (B, 1, D), or (1, 1, D) for all texts."""


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm; modulation comes from outside."""

    def __init__(self, size: Size, query_factor: float = 1.0) -> None:
        super().__init__()
        hidden = size.hidden
        self.num_heads, self.query_factor = size.num_heads, query_factor
        self.norm_attention = nn.Parameter(torch.empty(hidden))
        self.qkv = Linear(hidden, 3 * hidden, bias=False)
        self.out = Linear(hidden, hidden, bias=False)
        self.norm_mlp = nn.Parameter(torch.empty(hidden))
        self.up = Linear(hidden, 4 * hidden)
        self.down = Linear(4 * hidden, hidden)

    def forward(self, x: Tensor, modulation: tuple[Tensor, ...], attend: Attend, outputs: int) -> Tensor:
        """x (B, n, D) -> (B, outputs, D): the first `outputs` tokens, all n having lent keys and values.

        modulation: shift, 1 + scale, gate of attention, then of the MLP, each (B, 1, D). attend: see Attend.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
        normed = _modulated_norm(x, self.norm_attention, shift_a, scale_a)
        x = torch.addcmul(x[:, :outputs], gate_a, self.attention(normed, attend, outputs))
        inner = F.gelu(self.up(_modulated_norm(x, self.norm_mlp, shift_m, scale_m)), approximate="tanh")
        return torch.addcmul(x, gate_m, self.down(inner))

    def attention(self, x: Tensor, attend: Attend, outputs: int) -> Tensor:
        batch, length, hidden = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, hidden // self.num_heads)
        if self.query_factor != 1:
            qkv = qkv * qkv.new_tensor([self.query_factor, 1, 1])[:, None, None]
        mixed = attend(qkv, outputs)
        return self.out(mixed.transpose(1, 2).reshape(batch, outputs, hidden))


class Transformer(nn.Module):
    """Ids and a noise level in, logits out. Several networks may be stacked as one, see `models.replicas`.

    `trunk` gives the features the head reads, so that a loss may call the head for some positions only.
    classes: how many labels a text may have; 0: the network reads none. A label's vector is added to the
    conditioning; they start at 0, so that the network starts as one without. clustered: the labels are
    clusters of the network's own features, found by a head beside it.
    """

    replicas = 1
    """Networks that are stacked in this one."""

    def __init__(
        self,
        size: Size,
        vocab_size: int,
        *,
        causal: bool = False,
        classes: int = 0,
        clustered: bool = False,
        parametrization: Parametrization = STANDARD,
    ) -> None:
        super().__init__()
        self.size, self.vocab_size, self.classes = size, vocab_size, classes
        self.parametrization = parametrization
        self.layout: Layout = CAUSAL if causal else FULL
        hidden, cond = size.hidden, size.cond_dim
        self.embedding = nn.Parameter(torch.empty(vocab_size, hidden))
        # the last row is the null label's
        self.label_vectors = nn.Parameter(torch.zeros(classes + 1, cond)) if classes else None
        self.time_in = Linear(size.time_features, cond)
        self.time_out = Linear(cond, cond)
        # Every adaLN projection in one matrix: six rows of D per block, then shift and scale of the end.
        self.modulation = Linear(cond, (6 * size.num_layers + 2) * hidden)
        self.blocks = nn.ModuleList(Block(size, parametrization.query) for _ in range(size.num_layers))
        self.norm_final = nn.Parameter(torch.empty(hidden))
        self.head = Linear(hidden, vocab_size)
        self.clusters = ClusterHead(hidden, classes) if clustered else None
        self._rotations: Tensor | None = None

    def forward(self, ids: Tensor, noise: Tensor | Modulation, **view: Any) -> Tensor:
        """ids (B, L) and conditioning (B,) -> logits (B, L, V); `view`: keyword arguments of `trunk`."""
        return self.predict(self.trunk(ids, noise, **view), self.vocab_size)

    def trunk(
        self,
        ids: Tensor,
        noise: Tensor | Modulation,
        *,
        layout: Layout | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
        slots: int | Tensor = 0,
        until: Tensor | None = None,
        end: int | None = None,
        labels: Tensor | None = None,
        num_blocks: int | None = None,
    ) -> Tensor:
        """Features (B, outputs, D) after the last normalisation.

        ids: (B, n), or their embeddings (B, n, D). noise: (B,), or what `modulate` makes of it. layout: of
        the attention, the network's own by default. positions: (B, n), each token's place in the text; by
        default the layout's, with a cache the slots. cache, slots, until, end: write keys and values there
        and see those of earlier passes, see `Cache.reading`; without gradient. labels: as of `modulate`.
        num_blocks: stop after so many blocks, fewer than all, and return their output (B, n, D) as it is.
        """
        layout = layout or self.layout
        x = ids if ids.is_floating_point() else look_up(ids, self.embedding)
        *parts, ending = self.modulate(noise, labels) if isinstance(noise, Tensor) else noise
        if cache is not None:
            rotary = self._rotary_of_slots(x, cache, slots if positions is None else positions)
            reading = cache.reading(x, slots, until, end)
            for i, block in enumerate(self.blocks):

                def attend_cached(qkv: Tensor, outputs: int, i: int = i) -> Tensor:
                    return reading.attend(i, _rotated_in_place(qkv, rotary))

                x = block(x, parts[i], attend_cached, x.shape[1])
            return _modulated_norm(x, self.norm_final, *ending)

        rotary = self._rotary(x, layout, positions)

        def attend(qkv: Tensor, outputs: int) -> Tensor:
            query, key, value = _RotatedHeads.apply(qkv, rotary)
            return layout.attend(query[:, :, :outputs], key, value)

        last = self.size.num_layers - 1
        for i, block in enumerate(self.blocks):
            if i == num_blocks:
                return x
            x = block(x, parts[i], attend, layout.outputs(x.shape[1]) if i == last else x.shape[1])
        return _modulated_norm(x, self.norm_final, *ending)

    def modulate(self, noise: Tensor, labels: Tensor | None = None) -> Modulation:
        """What the noise level (B,) and the label do to every block, times the parametrization's factors of
        residual branches and of the features that the head reads. Where the network is told neither, one
        call with a single 0 serves all texts and all passes.

        labels: (B,), each below `classes` or that number, the null label; by default null.
        """
        features = _sinusoids(noise, self.size.time_features).to(self.embedding.dtype)
        condition = F.silu(self.time_out(F.silu(self.time_in(features))))
        if self.label_vectors is not None:
            condition = condition + self._label(labels, len(noise))
        assert labels is None or self.classes, "a network without labels is given none"
        parts = self.modulation(condition)[:, None].chunk(6 * self.size.num_layers + 2, dim=-1)
        branch, head = self.parametrization.branch, self.parametrization.head
        out: Modulation = []
        for i in range(self.size.num_layers):
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts[6 * i : 6 * i + 6]
            if branch != 1:
                gate_a, gate_m = gate_a * branch, gate_m * branch
            out.append((shift_a, 1 + scale_a, gate_a, shift_m, 1 + scale_m, gate_m))
        ending = (parts[-2], 1 + parts[-1])
        return [*out, ending if head == 1 else (ending[0] * head, ending[1] * head)]

    def _label(self, labels: Tensor | None, rows: int) -> Tensor:
        """The vectors of labels (B,), or the null label's, as `modulate` adds them."""
        vectors = self.label_vectors
        assert vectors is not None, "a network without labels is given none"
        if vectors.ndim == 2:
            return vectors[-1 if labels is None else labels]
        return per_row(vectors[:, -1], rows) if labels is None else look_up(labels, vectors)

    def predict(self, features: Tensor, num_ids: int) -> Tensor:
        """Logits (..., num_ids) of the first `num_ids` ids."""
        return affine(features, self.head.weight[..., :num_ids, :], self.head.bias[..., :num_ids])

    def _rotary(self, x: Tensor, layout: Layout, positions: Tensor | None) -> Tensor:
        """Complex rotations of x's n tokens, (n, 1, 1, K/2); (B, n, 1, 1, K/2) with given positions."""
        count = x.shape[1]
        if positions is not None:
            return self._rotary_table(int(positions.max()) + 1, x)[positions]
        places = layout.positions(count)
        table = self._rotary_table(places, x)
        return table if places == count else torch.cat([table] * (count // places))

    def _rotary_of_slots(self, x: Tensor, cache: Cache, places: int | Tensor) -> Tensor:
        """Complex rotations of x's n tokens in a text of at most the cache's size, whose places are (B, n)
        or follow on the first."""
        table = self._rotary_table(cache.capacity + 1, x)
        return table[places : places + x.shape[1]] if isinstance(places, int) else table[places]

    def _rotary_table(self, length: int, like: Tensor) -> Tensor:
        """(L, 1, 1, K/2) complex: e to the i times position times falling frequencies."""
        table = self._rotations
        kind = torch.complex128 if like.dtype == torch.float64 else torch.complex64
        if table is None or len(table) < length or (table.dtype, table.device) != (kind, like.device):
            half = self.size.head_dim // 2
            frequencies = ROPE_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
            angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
            table = torch.polar(torch.ones_like(angles), angles)[:, None, None].to(like.device, kind)
            self._rotations = table
        return table[:length]


def _modulated_norm(x: Tensor, gain: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    if gain.ndim == 2:  # of each replica
        scale = scale * per_row(gain, len(x))[:, None]
        return torch.addcmul(shift, F.layer_norm(x, gain.shape[1:], eps=LAYER_NORM_EPS), scale)
    return torch.addcmul(shift, F.layer_norm(x, gain.shape, gain, eps=LAYER_NORM_EPS), scale)


def _sinusoids(noise: Tensor, num_features: int) -> Tensor:
    """(B,) -> (B, num_features) in float64: cosines, then sines, of noise times falling frequencies."""
    half = num_features // 2
    exponents = torch.arange(half, dtype=torch.float64, device=noise.device) / half
    angles = noise.double()[:, None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class _RotatedHeads(torch.autograd.Function):
    """(B, L, 3, H, K) -> queries, keys and values (B, H, L, K), the first two rotated by their positions.

    Rotary embedding on neighbouring pairs of dimensions, as one complex product: on a CPU a third of
    the time of rotating halves. The published network pairs dimension j with j + K/2; its query and key
    weights fit here after `interleave_heads`. One function, so that the gradient is written straight
    into one buffer of the input's shape.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(rotary)
        query, key = _rotate(qkv[:, :, :2], rotary).transpose(1, 3).unbind(2)
        return query, key, qkv[:, :, 2].transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rotary,) = ctx.saved_tensors
        query, key, value = (g.transpose(1, 2) for g in grads)
        out = query.new_empty((*query.shape[:2], 3, *query.shape[2:]))
        torch.stack([query, key, value], dim=2, out=out)
        out[:, :, :2] = _rotate(out[:, :, :2], rotary.conj())
        return out, None


def _rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """x (B, L, ..., K) times rotary (L or B, L, 1, 1, K/2), each neighbouring pair a complex number."""
    pairs = torch.view_as_complex(x.to(rotary.real.dtype).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary).flatten(-2).to(x.dtype)


def _rotated_in_place(qkv: Tensor, rotary: Tensor) -> Tensor:
    """`_RotatedHeads` without gradient: queries, keys and values (B, L, 3, H, K) in the memory of qkv."""
    if qkv.dtype == rotary.real.dtype:
        torch.view_as_complex(qkv[:, :, :2].unflatten(-1, (-1, 2))).mul_(rotary)
    else:
        qkv[:, :, :2] = _rotate(qkv[:, :, :2], rotary)
    return qkv


def interleave_heads(rows: Tensor, num_heads: int) -> Tensor:
    """Reorder the rows (D, ...) of a query or key matrix from halves to neighbouring pairs, per head."""
    heads = rows.unflatten(0, (num_heads, 2, -1))
    return heads.transpose(1, 2).reshape(rows.shape)


def build_model(
    size: Size,
    vocab_size: int,
    *,
    causal: bool,
    generator: torch.Generator,
    classes: int = 0,
    clustered: bool = False,
    parametrization: Parametrization = STANDARD,
) -> Transformer:
    """A Transformer with fresh weights drawn from `generator` (a CPU generator) in a fixed order.

    Initial values as in the published code: embeddings and linear maps uniform within 1/sqrt(fan-in),
    norm gains 1, modulation, head and labels 0; times the parametrization's factor of each.
    """
    model = Transformer(
        size, vocab_size, causal=causal, classes=classes, clustered=clustered,
        parametrization=parametrization,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            owner = name.rpartition(".")[0]
            if owner in ("modulation", "head") or name == "label_vectors":
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                linear = model.get_submodule(owner) if owner else None
                bound = 1 / math.sqrt(linear.in_features if isinstance(linear, nn.Linear) else size.hidden)
                bound *= parametrization.factors(name).init
                parameter.uniform_(-bound, bound, generator=generator)
    return model
