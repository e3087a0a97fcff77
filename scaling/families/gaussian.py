"""gaussian (Plaid, arXiv 2305.18619): tokens become unit vectors, Gaussian noise covers them.

Forward: z_t = alpha x + sigma eps, x = e_v the token's learned unit vector, alpha^2 = sigmoid(-gamma),
sigma^2 = sigmoid(gamma), gamma = -log SNR rising along t from gamma_0 to gamma_1 on a learned schedule.
The network's logits, to which the exact log-density of z under each token is added (output prior), give
x_hat = sum_v p_v e_v. The bound (section 2 and appendix A; Kingma et al. 2021, eq. 11 to 14) is per token

    prior            1/2 [ E (sigma_1^2 - 1 - log sigma_1^2) + alpha_1^2 ]
    reconstruction   -log p(token | z_0)                                    z_0 at gamma_0
    diffusion        1/2 integral over t of e^-gamma gamma' |x - x_hat|^2   sum over the E dimensions

so t = 0 means reconstruction here and t > 0 diffusion. Where paper and released code differ (unit norm of
the vectors, variance-preserving noise, conditioning on gamma instead of t) the code is followed; its
numbers are the golden ones.

Self-conditioning: the network also reads x_hat of an earlier pass. In training a quarter of the rows does,
in evaluation every row, so each loss costs two passes there.

Not covered: Plaid's short pieces of sequences in training.

B batch, L length, E embedding width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling import flops
from scaling.families.base import Family, Noised, label_view
from scaling.families.duality import latent_scales
from scaling.ladder import Size
from scaling.models.gaussian import FREQUENCIES, GaussianTransformer, build_gaussian_model, unit
from scaling.models.replicas import by_replica, look_up, padded_positions

SELF_CONDITION_EVERY = 4
"""One row in so many is self-conditioned in training, as published."""


class Gaussian(Family):
    """Diffusion of token embeddings, trained on its bound.

    embed_dim: E; the paper found small best. gamma_0, gamma_1: initial ends of the schedule.
    schedule_units: hidden units of the schedule's network. self_conditioning: off, it saves a pass.
    reconstruction_share: of a batch's rows, those that estimate the reconstruction.
    prior_anneal_share: share of the steps over which the output prior grows from 0 to 1.
    auxiliary_learning_rate: peak rate of vectors and schedule, on the course of the run's own rate.
    """

    name: ClassVar[str] = "gaussian"
    masked: ClassVar[bool] = False
    clusterable: ClassVar[bool] = False
    samplers: ClassVar[Mapping[str, str]] = {
        "ancestral": "scaling.sampling.latents:ancestral",
        "ddim": "scaling.sampling.latents:ddim",
        "released": "scaling.sampling.latents:released",
    }
    tightness: ClassVar[str] = "approached as gamma_0 falls and gamma_1 rises"

    def __init__(
        self,
        vocab_size: int,
        *,
        objective: str | None = None,
        embed_dim: int = 16,
        gamma_0: float = -3.0,
        gamma_1: float = 6.0,
        schedule_units: int = 1024,
        self_conditioning: bool = True,
        reconstruction_share: float = 0.125,
        prior_anneal_share: float = 0.05,
        auxiliary_learning_rate: float = 1e-2,
    ) -> None:
        super().__init__(vocab_size, objective=objective)
        self.require(embed_dim >= 2, f"embed_dim is {embed_dim}, it must be at least 2")
        self.require(schedule_units >= 1, f"schedule_units is {schedule_units}, it must be at least 1")
        ends = f"gamma_0 is {gamma_0} and gamma_1 is {gamma_1}"
        rule = "they must be finite and gamma_0 the smaller"
        self.require(-math.inf < gamma_0 < gamma_1 < math.inf, f"{ends}, {rule}")
        share, anneal, rate = reconstruction_share, prior_anneal_share, auxiliary_learning_rate
        between = "it must lie strictly between 0 and 1"
        self.require(0 < share < 1, f"reconstruction_share is {share}, {between}")
        self.require(0 <= anneal <= 1, f"prior_anneal_share is {anneal}, it must lie in [0, 1]")
        self.require(0 < rate < math.inf, f"auxiliary_learning_rate is {rate}, it must be positive")
        self.embed_dim, self.schedule_units = embed_dim, schedule_units
        self.gamma_0, self.gamma_1 = float(gamma_0), float(gamma_1)
        self.self_conditioning = self_conditioning
        self.reconstruction_share = reconstruction_share
        self.prior_anneal_share = prior_anneal_share
        self.auxiliary_learning_rate = auxiliary_learning_rate

    @classmethod
    def vocab_size_for(cls, num_token_ids: int, **options: Any) -> int:
        return num_token_ids

    # -- the noise process -----------------------------------------------------------------------

    @cached_property
    def vectors(self) -> Tensor:
        """(V, E) unit vectors to be used without a model: the same in every process."""
        generator = torch.Generator().manual_seed(0)
        return unit(torch.randn(self.vocab_size, self.embed_dim, generator=generator, dtype=torch.float64))

    def levels(self, t: Tensor, model: GaussianTransformer | None = None) -> tuple[Tensor, Tensor]:
        """gamma(t) and its derivative, (B,) in float64; without a model the straight line it starts near."""
        if model is not None:
            return model.schedule(t)
        rise = self.gamma_1 - self.gamma_0
        return self.gamma_0 + rise * t.double(), torch.full_like(t, rise, dtype=torch.float64)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha(t) and its derivative for gamma a straight line from gamma_0 to gamma_1.

        A trained model has a schedule of its own (`model.schedule`): the bound does not depend on it,
        only its variance does.
        """
        gamma, slope = self.levels(t)
        alpha = torch.sigmoid(-gamma).sqrt()
        return alpha.to(t.dtype), (-alpha * torch.sigmoid(gamma) * slope / 2).to(t.dtype)

    def noise_share(self, t: Tensor) -> Tensor:
        return 1 - self.schedule(t)[0]

    def conditioning(self, t: Tensor) -> Tensor:
        """gamma(t) on the straight line, (B,): a model's input beside `corrupt`'s latents."""
        return self.levels(t)[0]

    def training_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Times (count,) of diffusion rows in (0, 1]: (i + u) / count with one u in (0, 1]."""
        offset = 1 - torch.rand(1, generator=generator, dtype=torch.float64, device=generator.device)
        return (torch.arange(count, device=generator.device) + offset) / count

    def corrupt(
        self, x0: Tensor, t: Tensor, generator: torch.Generator, model: GaussianTransformer | None = None
    ) -> Tensor:
        """Latents z_t (B, L, E) of the model's vectors and schedule, or of the family's fixed ones."""
        rows = self.vectors.float().to(x0.device) if model is None else model.rows()
        noise = self._noise(x0, generator).to(rows.dtype)
        return latents(F.embedding(x0, rows), noise, self.levels(t, model)[0])

    def _noise(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(*x0.shape, self.embed_dim, generator=generator, device=x0.device)

    # -- losses ----------------------------------------------------------------------------------

    def token_bound(
        self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor, model: GaussianTransformer | None = None
    ) -> Tensor:
        """(B, L) nats: the diffusion term's integrand if t > 0, the reconstruction if t = 0.

        logits (B, L, V) with the output prior in them; xt, the latents, is not looked at. Their bound is
        the mean over t in (0, 1] plus the value at t = 0 plus `prior_nats`.
        """
        rows = (self.vectors.to(x0.device) if model is None else model.rows()).to(logits.dtype)
        gamma, slope = self.levels(t, model)
        x_hat = logits.softmax(-1) @ rows
        diffusion_BL = diffusion_nats(F.embedding(x0, rows), x_hat, gamma, slope)
        first_BL = F.cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none").view(x0.shape)
        return torch.where((t > 0)[:, None], diffusion_BL.to(logits.dtype), first_BL)

    @property
    def ignorance(self) -> float:
        """Loss of a fresh network: all tokens equally likely at gamma_0, and x_hat near 0 everywhere."""
        return math.log(self.vocab_size) + (math.exp(-self.gamma_0) - math.exp(-self.gamma_1)) / 2

    @property
    def mixes_posteriors(self) -> bool:
        return False

    # -- the network -----------------------------------------------------------------------------

    def build_model(self, size: Size, generator: torch.Generator) -> GaussianTransformer:
        return build_gaussian_model(
            size,
            self.vocab_size,
            embed_dim=self.embed_dim,
            endpoints=(self.gamma_0, self.gamma_1),
            schedule_units=self.schedule_units,
            auxiliary_rate=self.auxiliary_learning_rate,
            classes=self.classes,
            parametrization=self.parametrization(size),
            generator=generator,
        )

    def work(self, context_length: int) -> flops.Work:
        """Output prior and x_hat, E columns each; the input maps; a quarter of a pass to self-condition.

        The map of gamma's waves is applied once a sequence. The schedule's network, which sees one number
        per sequence, is not counted.
        """
        return flops.Work(
            passes_without_gradient=1 / SELF_CONDITION_EVERY if self.self_conditioning else 0.0,
            vocabulary_width=2 * self.embed_dim,
            input_width=2 * self.embed_dim + 2 * FREQUENCIES / context_length,
        )

    def evaluation_work(self, context_length: int) -> list[flops.Work]:
        """Diffusion and reconstruction, each given its own first answer where the network has one."""
        return [self.work(context_length)] * (4 if self.self_conditioning else 2)

    def param_count(self, size: Size, kind: flops.ParamKind = "total") -> int:
        """Parameters: `total` is all. `non_embedding` and `body` leave the noise schedule out.

        The schedule does not help to turn latents into logits, and its interior does not move the bound.
        """
        shared = super().param_count(size, kind)
        front = (2 * self.embed_dim + 2 * FREQUENCIES) * size.hidden
        if kind != "total":
            return shared + front
        embedding = self.vocab_size * (self.embed_dim - size.hidden)
        return shared + front + embedding + 3 * self.schedule_units + 2

    # -- one training step -----------------------------------------------------------------------

    def training_batch(self, x0: Tensor, generator: torch.Generator, progress: float) -> Noised:
        """The first rows estimate the reconstruction (t = 0), the others the diffusion term.

        xt holds the Gaussian noise (B, L, E), for latents depend on the model's vectors. Weights are 2 on
        average: the mean over all rows estimates the sum of two terms, each from its own rows. Paper
        (section 3.4) and code split a batch by running estimates of the terms' spread; here the split is
        an option, so that a step depends on nothing but itself: see `reconstruction_share`.
        """
        count, place = len(x0), x0.device
        # how many rows estimate the reconstruction, and a row's probability of being one of them
        share = self.reconstruction_share
        if count == 1:  # one row cannot estimate both: a coin decides
            first = int(torch.rand(1, generator=generator, device=generator.device) < share)
        else:
            first = min(max(1, round(count * share)), count - 1)
            share = first / count
        t = torch.zeros(count, dtype=torch.float64, device=place)
        t[first:] = self.training_times(count - first, generator)
        weight = torch.where(t > 0, 1 / (1 - share), 1 / share)
        turn = torch.randint(SELF_CONDITION_EVERY, (1,), generator=generator, device=place)
        conditioned = (
            torch.arange(count, device=place) % SELF_CONDITION_EVERY == turn
        ) & self.self_conditioning
        strength = 1.0 if not self.prior_anneal_share else min(1.0, progress / self.prior_anneal_share)
        extra = {"conditioned": conditioned, "strength": torch.full_like(t, strength)}
        return Noised(x0, self._noise(x0, generator), t, weight, extra)

    def training_loss(self, model: GaussianTransformer, noised: Noised) -> Tensor:  # type: ignore[override]
        """Sum over all positions of the weighted terms, a scalar in nats, with Plaid's gradient rules.

        The interior of the schedule gets the gradient of the squared diffusion loss of each row, to lower
        the estimate's variance; the ends and all else get the loss's own. Self-conditioned rows reach
        neither schedule nor vectors nor the first pass (appendix and released code).
        """
        conditioned, x0 = noised.extra["conditioned"], noised.x0
        gamma, slope, gamma_1, by_variance = _schedule_for(model, noised.t, conditioned)
        rows = model.rows()
        target = look_up(x0, rows)
        target = torch.where(conditioned[:, None, None], target.detach(), target)
        z = latents(target, noised.xt.to(rows.dtype), gamma)
        strength = noised.extra["strength"]
        with torch.no_grad():
            guess = torch.zeros_like(z)
            if conditioned.any():
                # as many rows of each replica: those that fill up are made for nothing
                part = conditioned if model.replicas == 1 else padded_positions(conditioned, model.replicas)
                first = (x[part] for x in (z, gamma, x0))
                read = label_view(noised.rows(part))
                guess[part] = model.restore(*first, strength=strength[part], rows=rows, **read)[0]
                guess[~conditioned] = 0
        x_hat, nats = model.restore(
            z, gamma, x0, guess=guess, strength=strength, rows=rows, kept=~conditioned, **label_view(noised)
        )
        diffusion = diffusion_nats(target, x_hat, gamma, slope).mean(-1)
        by_variance(diffusion)
        terms = torch.where(noised.t > 0, diffusion, nats.mean(-1).double())
        assert noised.weight is not None, "training_batch weighs its rows"
        prior = prior_nats(gamma_1, self.embed_dim)
        return by_replica((terms * noised.weight + prior) * x0.shape[1], model.replicas)

    # -- the reported loss -----------------------------------------------------------------------

    def evaluation_batch(self, x0: Tensor, place: Tensor, generator: torch.Generator) -> Noised:
        """t = place: the learned schedule has spread the diffusion term's variance evenly over t already.

        Every row brings noise for both terms; see `sequence_bound`.
        """
        noise = self._noise(x0, generator)
        return Noised(x0, noise, place.double(), extra={"first_noise": self._noise(x0, generator)})

    @torch.no_grad()
    def sequence_bound(self, model: GaussianTransformer, noised: Noised) -> Tensor:  # type: ignore[override]
        """Diffusion at t, reconstruction and prior of each sequence, (B,) nats per token.

        Each row is an unbiased estimate by itself; with self-conditioning it takes four passes.
        """
        rows, x0 = model.rows(), noised.x0
        gamma, slope = model.schedule(noised.t)
        start, end = model.schedule(noised.t.new_tensor([0.0, 1.0]))[0]
        target = F.embedding(x0, rows)
        z = latents(target, noised.xt.to(rows.dtype), gamma)
        read = label_view(noised)
        x_hat = self._restored(model, z, gamma, x0, **read)[0]
        first = start.expand_as(gamma)
        z = latents(target, noised.extra["first_noise"].to(rows.dtype), first)
        nats = self._restored(model, z, first, x0, **read)[1].double()
        diffusion = diffusion_nats(target, x_hat, gamma, slope)
        return (diffusion + nats).mean(-1) + prior_nats(end, self.embed_dim)

    def _restored(
        self, model: GaussianTransformer, z: Tensor, gamma: Tensor, ids: Tensor, **labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As the model's `restore`, given its own first answer."""
        if not self.self_conditioning:
            return model.restore(z, gamma, ids, **labels)
        guess = model.restore(z, gamma, ids, **labels)[0]
        return model.restore(z, gamma, ids, guess=guess, **labels)


def _schedule_for(
    model: GaussianTransformer, t: Tensor, conditioned: Tensor
) -> tuple[Tensor, Tensor, Tensor, Callable[[Tensor], None]]:
    """gamma, its derivative and gamma_1, each (B,), with the gradient rules of training.

    The last of the four takes each row's diffusion loss (B,) before the backward pass: what then flows
    into the schedule's interior is multiplied by twice that loss, which makes it the gradient of the square.
    """
    factors: list[Tensor] = []
    course, slope = model.schedule.course(t)
    fixed = conditioned | (t == 0)
    course, slope = (torch.where(fixed, x.detach(), x) for x in (course, slope))
    for x in (course, slope):
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient * factors[0])
    gamma_0, gamma_1 = (torch.where(conditioned, x.detach(), x) for x in model.schedule.ends(len(t)))
    rise = gamma_1 - gamma_0
    by_variance = lambda diffusion: factors.append(2 * diffusion.detach())  # noqa: E731
    return gamma_0 + rise * course, rise * slope, gamma_1, by_variance


def latents(target: Tensor, noise: Tensor, gamma: Tensor) -> Tensor:
    """z = alpha x + sigma eps (B, L, E) from x and eps of that shape and gamma (B,)."""
    alpha, sigma = (level.to(target.dtype)[:, None, None] for level in latent_scales(gamma))
    return alpha * target + sigma * noise


def diffusion_nats(target: Tensor, x_hat: Tensor, gamma: Tensor, slope: Tensor) -> Tensor:
    """1/2 e^-gamma gamma' |x - x_hat|^2, (B, L) nats in float64; target, x_hat (B, L, E), the others (B,)."""
    distance_BL = (target - x_hat).square().sum(-1).double()
    return (torch.exp(-gamma) * slope / 2)[:, None] * distance_BL


def prior_nats(gamma_1: Tensor, embed_dim: int) -> Tensor:
    """KL from q(z_1 | x) to a standard normal, in nats per token, of unit vectors x; shape of gamma_1.

    1/2 [E (sigma^2 - 1 - log sigma^2) + alpha^2], with sigma^2 = 1 - alpha^2 so that nothing cancels.
    """
    alpha2 = torch.sigmoid(-gamma_1)
    return (alpha2 - embed_dim * (alpha2 + torch.log1p(-alpha2))) / 2
