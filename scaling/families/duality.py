"""The duality of uniform noise and Gaussian noise (Duo, arXiv 2506.10892, section 3), for any vocabulary.

A Gaussian latent w = a onehot(x_0) + s epsilon over V ids, with a^2 = sigmoid(-gamma) and
s^2 = sigmoid(gamma), has the argmax z. Given x_0, z is x_0 with probability alpha plus its share of
1 - alpha spread evenly over all V ids: the corruption of family `uniform`. With mu = a / s = exp(-gamma / 2)
and phi, Phi the standard normal density and distribution (Duo eq. 10, 11):

    P(z = x_0) = integral of phi(z - mu) Phi(z)^(V-1) dz
    alpha      = (V P - 1) / (V - 1)
               = V/(V-1) integral of phi(z) expm1(z mu - mu^2/2) Phi(z)^(V-1) dz     digits kept as alpha -> 0
    1 - alpha  = V/(V-1) integral of phi(z - mu) (1 - Phi(z)^(V-1)) dz               digits kept as alpha -> 1
    d alpha / d mu = V integral of phi(z - mu) phi(z) Phi(z)^(V-2) dz               no term negative

Every integrand is smooth on the whole line and falls like a Gaussian, so the trapezoid rule converges
faster than any power of its step. Only the marginals agree: a path of w does not turn into a path of the
discrete process.

The published code reads the integrals off a table of 100,000 points (nearest entry, slope by differences:
0.2% off; the table shipped for V = 30522 is that of V = 30523), off a series of 150 terms (wrong below
gamma of about -4) or off fitted curves, whose `sigmoid` forms have a wrong slope. The quadrature replaces
them all.

R rows, N quadrature nodes, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from scaling.errors import UserError

STEP = 1 / 20
"""Distance of nodes. Phi^(V-1) rises within about 1/sqrt(2 log V); up to V = 1e9 its error is below 1e-13."""
MARGIN = 10.0
"""How far the nodes reach beyond the outermost peak: integrands fall at least like exp(-distance^2 / 2)."""
LARGEST_SHIFT = 80.0
"""mu is cut here: 1 - alpha is of order exp(-mu^2 / 4) and has left the range of float64 at mu = 60."""
CHUNK_ELEMENTS = 1 << 21
"""Values of an integrand held at once: 16 MiB."""
BISECTIONS = 80
"""Halvings of an interval of length 100 or so: down to the last bit."""


class Signal(NamedTuple):
    """The noise of ids at gamma, float64, each of gamma's shape."""

    alpha: Tensor
    """Signal level."""
    noise: Tensor
    """1 - alpha, with all its digits if alpha is close to 1."""
    slope: Tensor
    """d alpha / d gamma, at most 0."""


def latent_scales(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """a and s, the factors of signal and noise in a latent: sqrt(sigmoid(-gamma)), sqrt(sigmoid(gamma))."""
    return torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()


def to_discrete(gamma: Tensor, vocab_size: int) -> Signal:
    """alpha, 1 - alpha and d alpha / d gamma of the Gaussian latent at gamma = -log SNR, any shape.

    Relative error of each below 1e-12 for vocabularies up to 1e9 and gamma from -30 to 30, down to where
    1 - alpha leaves the range of float64 (below gamma of about -8; 0 from there on). UserError for a
    vocabulary below 2.
    """
    if vocab_size < 2:
        raise UserError(f"vocab_size is {vocab_size}, it must be at least 2")
    shift_R = torch.exp(-gamma.double().reshape(-1) / 2).clamp(max=LARGEST_SHIFT)
    highest = max([math.sqrt(2 * math.log(vocab_size)), *shift_R.tolist()])
    nodes_N = torch.arange(-MARGIN, highest + MARGIN, STEP, dtype=torch.float64, device=gamma.device)
    rows = max(1, CHUNK_ELEMENTS // len(nodes_N))
    parts = [_integrate(part, nodes_N, vocab_size) for part in shift_R.split(rows)]
    return Signal(*(torch.cat(part).view(gamma.shape) for part in zip(*parts, strict=True)))


def _integrate(shift_R: Tensor, nodes_N: Tensor, vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    log_cdf_N = torch.special.log_ndtr(nodes_N)
    log_density_N = -nodes_N.square() / 2 - math.log(2 * math.pi) / 2
    odds = vocab_size / (vocab_size - 1)

    shifted_RN = nodes_N - shift_R[:, None]
    density_RN = torch.exp(-shifted_RN.square() / 2) * (STEP / math.sqrt(2 * math.pi))
    noise_R = odds * density_RN @ -torch.expm1((vocab_size - 1) * log_cdf_N)
    rise_R = vocab_size * density_RN @ torch.exp(log_density_N + (vocab_size - 2) * log_cdf_N)

    alpha_R = 1 - noise_R
    small = noise_R > 0.9  # below, 1 - noise has lost one digit at most
    mu_S1 = shift_R[small, None]
    base_N = STEP * torch.exp(log_density_N + (vocab_size - 1) * log_cdf_N)
    alpha_R[small] = odds * torch.expm1(nodes_N * mu_S1 - mu_S1.square() / 2) @ base_N
    noise_R[small] = 1 - alpha_R[small]
    return alpha_R, noise_R, -shift_R / 2 * rise_R


def gamma_of(alpha: Tensor, vocab_size: int) -> Tensor:
    """The gamma at which the discrete signal level is alpha, float64, any shape; inverse of `to_discrete`.

    UserError if alpha does not lie in (0, 1).
    """
    target = alpha.double()
    if not bool(((target > 0) & (target < 1)).all()):
        raise UserError(f"alpha is {alpha.tolist()}, every value must lie in (0, 1)")
    # alpha < mu always, and 1 - alpha is 0 in float64 at gamma = -9
    low, high = torch.full_like(target, -9.0), -2 * torch.log(target)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        at = to_discrete(middle, vocab_size)
        above = torch.where(target > 0.5, at.noise < 1 - target, at.alpha > target)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2
