"""Samplers of family gaussian: known Gaussian answers, DDIM, wishes, prompts, counted calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.families import get_family
from scaling.families.duality import latent_scales
from scaling.families.gaussian import Gaussian
from scaling.ladder import Size
from scaling.models.gaussian import GaussianTransformer
from scaling.sampling import FREE, Filters, generate
from scaling.sampling.latents import TokenWish, guided, released_times, tempered
from scaling.sampling.noise import Noise, Purpose
from tests.scaling.families.test_gaussian import Exact, pairs

WIDTH = 4
FAMILY = Gaussian(3, embed_dim=WIDTH)


class Cloud:
    """The exact denoiser of vectors that are Gaussian themselves; keeps the latents it reads."""

    def __init__(self, variance: float) -> None:
        self.variance, self.read = variance, []  # type: ignore[var-annotated]

    def rows(self) -> Tensor:
        return torch.eye(3, WIDTH, dtype=torch.float64)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -3 + 9 * t, torch.full_like(t, 9)

    def spread(self, gamma: Tensor) -> Tensor:
        """The variance of the latents."""
        return torch.sigmoid(-gamma) * self.variance + torch.sigmoid(gamma)

    def restore(self, z: Tensor, gamma: Tensor, ids: Tensor, *, guess: Tensor | None = None) -> Any:
        self.read.append(z)
        alpha = torch.sigmoid(-gamma).sqrt()
        return (alpha * self.variance / self.spread(gamma))[:, None, None] * z, None

    def __call__(self, z: Tensor, gamma: Tensor, *, guess: Tensor | None = None) -> Tensor:
        self.read.append(z)
        return z[..., :3]


def ends(sampler: str, steps: int, count: int, **options: Any) -> tuple[Tensor, Tensor, Cloud]:
    """Latents of `count` texts of 3 tokens at the first and the last call."""
    model = Cloud(0.3)
    generate(model, FAMILY, range(count), 3, sampler=sampler, steps=steps, **options)  # type: ignore[arg-type]
    return model.read[0], model.read[-1], model


def test_ddim_follows_the_flow_of_a_gaussian() -> None:
    """The probability flow only scales it, by the ratio of the latents' standard deviations."""
    errors = []
    for steps in (100, 200, 400):
        first, last, model = ends("ddim", steps, 2)
        low, high = model.spread(torch.tensor([-3.0, 6.0], dtype=torch.float64))
        errors.append(float((last / first / (low / high).sqrt() - 1).abs().max()))
    assert errors[2] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1), "its error falls as 1 / steps"
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def test_ancestral_latents_end_with_the_spread_of_the_noised_vectors() -> None:
    first, last, model = ends("ancestral", 200, 3000)
    low = float(model.spread(torch.tensor(-3.0)))
    assert float(first.var()) == pytest.approx(1, abs=0.04)
    assert float(last.var()) == pytest.approx(low, rel=0.04)
    colder = ends("ancestral", 200, 3000, score_temperature=0.9)[1]
    assert float(colder.var()) < 0.95 * low, "less noise than the model predicts"


def test_ddim_needs_no_noise_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Noise.normals

    def normals(self: Noise, step: int, purpose: Purpose, count: int) -> Tensor:
        assert purpose == Purpose.START
        return original(self, step, purpose, count)

    monkeypatch.setattr(Noise, "normals", normals)
    generate(pairs(), FAMILY, [1], 2, sampler="ddim", prompt=torch.tensor([FREE, 1]), steps=4)  # type: ignore[arg-type]


def test_a_temperature_divides_the_noise_that_is_predicted() -> None:
    generator = torch.Generator().manual_seed(0)
    z, x = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64)
    gamma = torch.tensor(0.7, dtype=torch.float64)
    alpha, sigma = latent_scales(gamma)
    noise, colder = ((z - alpha * y) / sigma for y in (x, tempered(z, x, gamma, 0.8)))
    torch.testing.assert_close(colder, noise / 0.8)
    assert tempered(z, x, gamma, 1.0) is x


def small() -> GaussianTransformer:
    """A network in float64 whose every weight is in use."""
    generator = torch.Generator().manual_seed(3)
    family = get_family("gaussian", vocab_size=5, embed_dim=WIDTH, schedule_units=8)
    model = family.build_model(Size(name="tiny", hidden=16, num_layers=1, num_heads=2), generator).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("schedule"):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model.head.weight.mul_(0.1)  # no token is certain
        model.head.bias.zero_()
    return model  # type: ignore[return-value]


WISHES = [
    TokenWish(token=1, weight=1.5, place=2),
    TokenWish(token=0, weight=-0.7, place="any"),
    TokenWish(token=3, place="all", absent=True),
    TokenWish(token=2, place="any", absent=True),
    TokenWish(token=2, then=(0,), weight=1.5, place=1),
    TokenWish(token=0, then=(3, 3), place="any"),
    TokenWish(token=1, then=(1,), place="all", absent=True),
]


@pytest.mark.parametrize("wishes", [[wish] for wish in WISHES] + [WISHES])
def test_wishes_add_the_gradient_by_finite_differences(wishes: list[TokenWish]) -> None:
    model = small()
    generator = torch.Generator().manual_seed(0)
    z, guess = torch.randn(2, 1, 3, WIDTH, generator=generator, dtype=torch.float64)
    gamma = torch.tensor(0.4, dtype=torch.float64)

    def chance(latents: Tensor) -> float:
        probs = model(latents, gamma[None], guess=guess)[0].softmax(-1)
        out = 0.0
        for wish in wishes:
            starts = range(3 - len(wish.then))
            p = torch.stack([probs[range(n, n + len(wish.tokens)), wish.tokens].prod() for n in starts])
            p = 1 - p if wish.absent else p
            value = p.sum().log() if wish.place == "any" else p.log().sum()
            out += wish.weight * float(p[wish.place].log() if isinstance(wish.place, int) else value)
        return out

    with torch.no_grad():
        x, push = guided(model, z, gamma, guess, wishes)
        torch.testing.assert_close(x, model.restore(z, gamma[None], torch.zeros(1, 3).long(), guess=guess)[0])
        slope, step = torch.zeros(z.numel(), dtype=torch.float64), 1e-5
        for number in range(z.numel()):
            shift = torch.zeros(z.numel(), dtype=torch.float64)
            shift[number] = step
            shift = shift.view_as(z)
            slope[number] = (chance(z + shift) - chance(z - shift)) / (2 * step)
    alpha, sigma = latent_scales(gamma)
    torch.testing.assert_close(push.flatten(), sigma**2 / alpha * slope, rtol=1e-6, atol=1e-9)


def law(model: Exact, count: int, **about: Any) -> Tensor:
    """Shares of the listed texts among samples."""
    texts = generate(model, FAMILY, range(count), 2, steps=48, **about)  # type: ignore[arg-type]
    return (texts.ids[:, None] == model.ids).all(-1).double().mean(0)


def distance(shares: Tensor, expected: Tensor) -> float:
    return float((shares - expected / expected.sum()).abs().sum()) / 2


def test_a_wish_of_weight_1_at_one_place_is_bayes_rule() -> None:
    model = pairs()
    shares = law(model, 1200, wishes=[TokenWish(token=2, weight=1.0, place=0)])
    assert distance(shares, model.probs * (model.ids[:, 0] == 2)) < 0.06
    shares = law(model, 1200, wishes=[TokenWish(token=2, weight=1.0, place="all", absent=True)])
    assert float(shares[(model.ids == 2).any(-1)].sum()) < 0.05
    shares = law(model, 1200, wishes=[TokenWish(token=2, weight=1.0)])
    assert float(shares[(model.ids == 2).any(-1)].sum()) > 0.9


def test_a_word_is_wished_for_and_away() -> None:
    model = pairs()
    word = (model.ids == torch.tensor([1, 1])).all(-1)
    plain = float(model.probs[word])
    shares = law(model, 600, wishes=[TokenWish(token=1, then=(1,))])
    assert float(shares[word]) > plain + 3 * (0.25 / 600) ** 0.5
    shares = law(model, 600, wishes=[TokenWish(token=1, then=(1,), place="all", absent=True)])
    assert float(shares[word]) < plain / 2


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_what_follows_a_prompt_has_the_conditional_law(sampler: str) -> None:
    """Two tokens that mostly agree: seen through its noise alone, a prompt would be followed by the other
    tokens in a fifth of all texts."""
    model = pairs()
    for prompt in torch.tensor([[1, FREE], [FREE, 0]]):
        shares = law(model, 1200, sampler=sampler, prompt=prompt)
        fits = ((model.ids == prompt) | (prompt == FREE)).all(-1)
        assert float(shares[~fits].sum()) == 0
        assert distance(shares, model.probs * fits) < 0.06


def test_a_prompt_of_several_tokens_weighs_less_than_their_number() -> None:
    """Without a weight the prompt is seen through noise alone; with the same for each, too much of it."""
    one_class, other = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.7])
    ids = torch.cartesian_prod(*[torch.arange(3)] * 4)
    probs = (one_class[ids].prod(-1) + other[ids].prod(-1)).double()
    model = Exact(ids, probs / probs.sum(), WIDTH)
    prompt = torch.tensor([0, 0, 0, FREE])
    truth = probs.where(((ids == prompt) | (prompt == FREE)).all(-1), 0.0)
    truth = torch.stack([truth[ids[:, 3] == token].sum() for token in range(3)]) / truth.sum()
    off = {}
    for weight in (None, 0.0, 1.0):
        texts = generate(model, FAMILY, range(1000), 4, steps=24, prompt=prompt, prompt_weight=weight)  # type: ignore[arg-type]
        off[weight] = distance(torch.bincount(texts.ids[:, 3], minlength=3) / 1000, truth)
    assert off[None] < 0.05
    assert off[0.0] > off[None] + 0.02
    assert off[1.0] > off[None]


def test_a_prompted_text_is_the_same_beside_others_without_a_prompt() -> None:
    model, prompt = pairs(), torch.tensor([[1, FREE], [FREE, FREE], [FREE, 2]])
    together = generate(model, FAMILY, [4, 5, 6], 2, prompt=prompt, steps=6)  # type: ignore[arg-type]
    for number in range(3):
        alone = generate(model, FAMILY, [4 + number], 2, prompt=prompt[number], steps=6)  # type: ignore[arg-type]
        assert torch.equal(alone.ids[0], together.ids[number])


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "released"])
@pytest.mark.parametrize("about", [{}, {"wishes": [TokenWish(token=0)]}, {"prompt": torch.tensor([1])}])
def test_self_conditioning_costs_no_calls(sampler: str, about: dict[str, Any]) -> None:
    for self_conditioning in (True, False):
        family = get_family(
            "gaussian", vocab_size=5, embed_dim=WIDTH, schedule_units=8, self_conditioning=self_conditioning
        )
        texts = generate(small(), family, [1, 2], 3, sampler=sampler, steps=4, **about)
        assert (texts.calls, texts.tokens) == (5, 5 * 2 * 3)


class Watched:
    """A network whose guesses and answers are kept."""

    def __init__(self, model: GaussianTransformer) -> None:
        self.rows, self.schedule, self.model = model.rows, model.schedule, model
        self.guesses: list[Tensor] = []
        self.answers: list[Tensor] = []

    def __call__(self, z: Tensor, gamma: Tensor, *, guess: Tensor) -> Tensor:
        logits: Tensor = self.model(z, gamma, guess=guess)
        self.guesses.append(guess)
        self.answers.append((logits.softmax(-1) @ self.rows()).detach())
        return logits

    def restore(self, z: Tensor, gamma: Tensor, ids: Tensor, *, guess: Tensor) -> tuple[Tensor, None]:
        self(z, gamma, guess=guess)
        return self.answers[-1], None


@pytest.mark.parametrize("about", [{}, {"wishes": [TokenWish(token=1)]}, {"score_temperature": 0.7}])
def test_every_call_reads_the_plain_answer_of_the_one_before(about: dict[str, Any]) -> None:
    """Before temperature and wishes have moved it."""
    model = Watched(small())
    family = get_family("gaussian", vocab_size=5, embed_dim=WIDTH, schedule_units=8)
    generate(model, family, [1], 3, steps=3, **about)  # type: ignore[arg-type]
    assert (model.guesses[0] == 0).all()
    assert len(model.guesses) == 4
    for guess, answer in zip(model.guesses[1:], model.answers, strict=False):
        torch.testing.assert_close(guess, answer)


def test_the_released_grid_spaces_calls_wider_than_steps() -> None:
    pairs_of_times = released_times(5)
    assert pairs_of_times[:, 0].tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert pairs_of_times[:, 1].tolist() == pytest.approx([0.8, 0.55, 0.3, 0.05, 0])


def test_the_released_sampler_has_the_published_defaults() -> None:
    about: dict[str, Any] = {"sampler": "released", "steps": 5}
    ids = [
        generate(pairs(), FAMILY, range(200), 2, **about, **options).ids  # type: ignore[arg-type]
        for options in ({}, {"score_temperature": 0.9, "greedy_tail": True}, {"greedy_tail": False})
    ]
    assert torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])


def test_filters_act_on_the_last_call() -> None:
    about: dict[str, Any] = {"steps": 5}
    sharp, greedy = (
        generate(pairs(), FAMILY, range(200), 2, **about, **options).ids  # type: ignore[arg-type]
        for options in ({"filters": Filters(top_k=1)}, {"greedy_tail": True})
    )
    assert torch.equal(sharp, greedy)


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"score_temperature": 0.0}, "score_temperature is 0.0, it must be positive"),
        ({"prompt_weight": -1.0}, "prompt_weight is -1.0, it must be at least 0"),
        ({"sampler": "released", "steps": 1}, "needs at least 2"),
        ({"wishes": [TokenWish(token=3)]}, "wishes: token is 3, ids are below 3"),
        ({"wishes": [TokenWish(token=0, then=(3,))]}, "wishes: token is 3, ids are below 3"),
        ({"wishes": [TokenWish(token=0, then=(1, 1))]}, "wishes: it has 3 tokens, the text has 2"),
        ({"wishes": [TokenWish(token=0, then=(1,), place=1)]}, "the text has 2 tokens and the wish 2"),
        ({"wishes": [TokenWish(token=0, place=2)]}, "wishes: place is 2, the text has 2 tokens"),
        ({"wishes": [TokenWish(token=0, place="some")]}, "place is 'some', it must be a number, 'any' or"),  # type: ignore[arg-type]
        ({"wishes": [TokenWish(token=0, weight=float("nan"))]}, "weight is nan, it must be finite"),
    ],
)
def test_bad_input(about: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        generate(pairs(), FAMILY, [1], 2, **about)  # type: ignore[arg-type]
