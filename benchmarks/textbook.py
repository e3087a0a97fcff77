"""The network and losses as a textbook would write them: the yardstick of benchmarks/training.py.

A DiT with adaLN (arXiv 2212.09748) and rotary positions for text, plain modules, every position through the
head, losses in eager mode, torch.optim.AdamW as it comes. Same mathematics as scaling.models and
scaling.families, which its tests check; nothing here is made to be fast or slow.

B batch, L length, D hidden, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaling.ladder import Size

EARLIEST = 1e-3


class TextbookBlock(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        hidden = size.hidden
        self.num_heads = size.num_heads
        self.norm1 = nn.LayerNorm(hidden, bias=False)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.norm2 = nn.LayerNorm(hidden, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, 4 * hidden), nn.GELU(approximate="tanh"), nn.Linear(4 * hidden, hidden)
        )
        self.modulation = nn.Linear(size.cond_dim, 6 * hidden)

    def forward(self, x: Tensor, condition: Tensor, cos: Tensor, sin: Tensor, causal: bool) -> Tensor:
        parts = self.modulation(condition)[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        x = x + gate1 * self.attend(self.norm1(x) * (1 + scale1) + shift1, cos, sin, causal)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, causal: bool) -> Tensor:
        batch, length, hidden = x.shape
        query, key, value = (
            part.view(batch, length, self.num_heads, -1).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, hidden))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Textbook(nn.Module):
    """Ids (B, L) and noise levels (B,) to logits (B, L, num_predicted)."""

    def __init__(self, size: Size, vocab_size: int, num_predicted: int, length: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocab_size, size.hidden)
        self.time = nn.Sequential(
            nn.Linear(size.time_features, size.cond_dim), nn.SiLU(), nn.Linear(size.cond_dim, size.cond_dim)
        )
        self.blocks = nn.ModuleList(TextbookBlock(size) for _ in range(size.num_layers))
        self.norm = nn.LayerNorm(size.hidden, bias=False)
        self.modulation = nn.Linear(size.cond_dim, 2 * size.hidden)
        self.head = nn.Linear(size.hidden, num_predicted)
        half = size.head_dim // 2
        angles = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(half) / half)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        half = size.time_features // 2
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(-math.log(10000.0) * torch.arange(half) / half))

    def forward(self, ids: Tensor, noise: Tensor) -> Tensor:
        angles = noise.float()[:, None] * self.frequencies
        condition = F.silu(self.time(torch.cat([angles.cos(), angles.sin()], dim=-1)))
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, condition, self.cos, self.sin, self.causal)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.head(self.norm(x) * (1 + scale) + shift)


# -- losses: each draws its noise, calls the network, and returns nats per token ----------------------


def draw_times(count: int, device: torch.device) -> Tensor:
    uniforms = (torch.rand(count, device=device) + torch.arange(count, device=device)) / count
    return EARLIEST + (1 - EARLIEST) * uniforms


def ar_loss(model: Textbook, x0: Tensor, vocab_size: int, t: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of every token behind a start id, the last of the vocabulary."""
    inputs = torch.cat([torch.full_like(x0[:, :1], vocab_size - 1), x0[:, :-1]], dim=1)
    logits = model(inputs, torch.zeros(len(x0), device=x0.device)).float()
    return F.cross_entropy(logits.flatten(0, 1), x0.flatten())


def masked_loss(model: Textbook, x0: Tensor, vocab_size: int, t: Tensor | None = None) -> Tensor:
    """Low-variance objective: cross-entropy of the masked tokens, per token of the sequence."""
    t = draw_times(len(x0), x0.device) if t is None else t
    masked = torch.rand(x0.shape, device=x0.device) < t[:, None]
    logits = model(torch.where(masked, vocab_size - 1, x0), torch.zeros_like(t)).float()
    nats = F.cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none").view(x0.shape)
    return (nats * masked).mean()


def uniform_loss(model: Textbook, x0: Tensor, vocab_size: int, t: Tensor | None = None) -> Tensor:
    """The continuous-time bound of uniform-state diffusion (arXiv 2506.10892, eq. 17).

    With xbar = V alpha onehot(x0) + 1 - alpha, xbar_theta likewise, z the noisy token:
    1 / (V alpha) [ V / theta_z - V / xbar_z + sum_j xbar_j / xbar_z log(xbar_j theta_z / (xbar_z theta_j)) ]
    where theta stands for xbar_theta.
    """
    t = draw_times(len(x0), x0.device) if t is None else t
    alpha = (1 - t)[:, None]
    noisy = torch.rand(x0.shape, device=x0.device) < t[:, None]
    z = torch.where(noisy, torch.randint(vocab_size, x0.shape, device=x0.device), x0)
    log_probs = model(z, -torch.log(alpha[:, 0]).clamp(min=math.log(1e-3))).float().log_softmax(-1)

    xbar_theta = vocab_size * alpha[..., None] * log_probs.exp() + (1 - alpha[..., None])
    log_xbar_theta = xbar_theta.log()
    theta_z = xbar_theta.gather(-1, z[..., None])[..., 0]
    theta_x = log_xbar_theta.gather(-1, x0[..., None])[..., 0]
    peak, floor = vocab_size * alpha + 1 - alpha, (1 - alpha).expand(x0.shape)
    xbar_z = torch.where(z == x0, peak, floor)
    # sum_j xbar_j log(xbar_j / xbar_theta_j): one entry at the peak, V - 1 at the floor
    log_ratio = floor * ((vocab_size - 1) * floor.log() - (log_xbar_theta.sum(-1) - theta_x))
    log_ratio = log_ratio + peak * (peak.log() - theta_x)
    inner = (log_ratio + vocab_size * (theta_z / xbar_z).log()) / xbar_z
    return ((vocab_size / theta_z - vocab_size / xbar_z + inner) / (vocab_size * alpha)).mean()


LOSSES = {"ar": ar_loss, "masked": masked_loss, "uniform": uniform_loss}
