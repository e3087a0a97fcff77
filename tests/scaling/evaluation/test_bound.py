"""The reported loss: unbiased, with an honest standard error, and the same noise for every run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scaling.evaluation import bound as bound_module
from scaling.evaluation import estimate_bound
from scaling.families import FAMILIES, family_class, get_family
from scaling.families.base import Family
from scaling.randomness import generator_for
from scaling.spec import EvaluationSpec
from scaling.training import load_run, train
from tests.scaling.enumeration import (
    Planted,
    Predictor,
    arbitrary_predictor,
    as_network,
    best_predictor,
    exact_bound,
    planted,
    told_the_time,
)
from tests.scaling.toys import ToyData, toy_spec

NAMES = sorted(set(FAMILIES) - {"gaussian"})  # of latents: see tests/scaling/families/test_gaussian.py
DIFFUSION = [name for name in NAMES if family_class(name).bound == "upper"]


def over(num_ids: int, name: str, **options: Any) -> Family:
    """A family that tells the predictor, in place of what it tells a network, the time."""
    if name == "block":
        options = {"block_size": 2, **options}
    family = get_family(name, vocab_size=family_class(name).vocab_size_for(num_ids), **options)
    return told_the_time(family)


class Stub:
    """A predictor in place of a network; remembers the ids it was shown."""

    def __init__(self, predictor: Predictor, family: Family, length: int) -> None:
        self.predictor = predictor
        self.network = as_network(predictor, family, length)
        self.seen: list[torch.Tensor] = []

    def __call__(self, ids: torch.Tensor, noise: torch.Tensor, **view: Any) -> torch.Tensor:
        self.seen.append(ids.clone())
        return self.network(ids, noise, **view)


def texts(source: Planted, count: int, seed: int) -> torch.Tensor:
    drawn = torch.multinomial(
        source.probs, count, replacement=True, generator=torch.Generator().manual_seed(seed)
    )
    return source.ids[drawn]


def estimate(family: Family, predictor: Predictor, x0: torch.Tensor, **spec: Any) -> Any:
    stub = Stub(predictor, family, x0.shape[1])
    return estimate_bound(stub, family, x0, EvaluationSpec(**spec))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_unbiased_with_an_honest_error(name: str) -> None:
    """Over 200 fresh texts and noises: the mean hits the exact bound, the spread is what `se` says."""
    source, family = planted(3, 2, 1), over(3, name)
    predictor = arbitrary_predictor(family.vocab_size, 3)
    exact = exact_bound(family, source, predictor) / source.length
    estimates = [
        estimate(family, predictor, texts(source, 128, s), noise_levels=4, seed=s) for s in range(200)
    ]
    values = torch.tensor([e.value for e in estimates], dtype=torch.float64)
    claimed = torch.tensor([e.se for e in estimates], dtype=torch.float64)
    spread = float(values.std())
    assert abs(float(values.mean()) - exact) < 4 * spread / math.sqrt(len(values))
    # the spread of 200 values is known to 5%; se is an estimate as well
    assert float(claimed.square().mean().sqrt()) == pytest.approx(spread, rel=0.2)
    beyond = ((values - exact).abs() > 3 * claimed).double().mean()
    assert float(beyond) <= 0.03, "0.3% for a normal error; 256 tokens in all are a little less than normal"


@pytest.mark.parametrize("name", DIFFUSION)
def test_the_error_does_not_hide_rare_large_values(name: str) -> None:
    """Levels are drawn so that the variance exists: standard errors of different noises agree.

    With t uniform the largest of them is two to four times the smallest.
    """
    family = over(32, name)
    x0 = torch.randint(32, (256, 128), generator=torch.Generator().manual_seed(0))

    def nothing(ids: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1).expand(*ids.shape, family.vocab_size)

    errors = [estimate(family, nothing, x0, noise_levels=8, seed=seed).se for seed in range(12)]
    assert max(errors) < 1.6 * min(errors)


@pytest.mark.parametrize("name", NAMES)
def test_the_best_predictor_scores_the_entropy(name: str) -> None:
    source, family = planted(3, 2, 2), over(3, name)
    got = estimate(family, best_predictor(family, source), texts(source, 4000, 0), noise_levels=8)
    assert abs(got.value - source.entropy / source.length) < 4 * got.se
    assert got.se < 0.03


def test_exact_likelihood_takes_one_pass() -> None:
    source, family = planted(3, 2, 1), over(3, "ar")
    stub = Stub(arbitrary_predictor(family.vocab_size, 3), family, source.length)
    x0 = texts(source, 10, 0)
    got = estimate_bound(stub, family, x0, EvaluationSpec(noise_levels=8))  # type: ignore[arg-type]
    assert len(stub.seen) == 1
    assert got.noise_levels == 1
    state = family.corrupt(x0, torch.zeros(10), torch.Generator())
    logits = stub.predictor(state, torch.zeros(10))
    nats = family.token_bound(logits.float(), x0, state, torch.zeros(10))
    assert got.value == pytest.approx(float(nats.mean()), rel=1e-6)
    assert got.se == pytest.approx(float(nats.mean(1).std()) / math.sqrt(10), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_zero_logits_cost_the_logarithm_of_the_tokens(name: str) -> None:
    family = over(6, name)
    x0 = torch.randint(6, (400, 8), generator=torch.Generator().manual_seed(0))

    def nothing(ids: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, family.vocab_size)

    got = estimate(family, nothing, x0, noise_levels=8)
    if name == "ar":
        assert got.value == pytest.approx(math.log(6), rel=1e-6)
        assert got.se < 1e-6
    assert abs(got.value - math.log(6)) < 4 * got.se + 1e-6


@pytest.mark.parametrize("name", DIFFUSION)
def test_two_runs_meet_the_same_noise(name: str) -> None:
    """Same text, levels and noisy tokens whatever the network: differences are less noisy than losses."""
    source, family = planted(3, 2, 1), over(3, name)
    x0 = texts(source, 200, 0)
    predictors = best_predictor(family, source), arbitrary_predictor(family.vocab_size, 1)
    best, other = (Stub(predictor, family, source.length) for predictor in predictors)
    spec = EvaluationSpec(noise_levels=4, seed=7)
    first = estimate_bound(best, family, x0, spec)  # type: ignore[arg-type]
    second = estimate_bound(other, family, x0, spec)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(best.seen, other.seen, strict=True))
    assert first.value < second.value
    assert estimate_bound(best, family, x0, spec) == first, "and again: the same number"  # type: ignore[arg-type]
    elsewhere = estimate_bound(best, family, x0, EvaluationSpec(noise_levels=4, seed=8))  # type: ignore[arg-type]
    assert elsewhere.value != first.value


@pytest.mark.parametrize("name", NAMES)
def test_batches_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, family = planted(3, 2, 1), over(3, name)
    predictor, x0 = arbitrary_predictor(family.vocab_size, 3), texts(source, 50, 0)
    whole = estimate(family, predictor, x0, noise_levels=3)
    monkeypatch.setattr(bound_module, "TOKENS_PER_BATCH", 14)
    cut = estimate(family, predictor, x0, noise_levels=3)
    assert cut.value == pytest.approx(whole.value, rel=1e-12)
    assert cut.se == pytest.approx(whole.se, rel=1e-9)


@pytest.mark.parametrize("name", DIFFUSION)
def test_the_objective_is_not_what_is_reported(name: str) -> None:
    """Training on another objective leaves the bound of the same network untouched."""
    source = planted(3, 2, 1)
    x0, values = texts(source, 100, 0), set()
    for objective in family_class(name).objectives:
        clip = {"clip": (0.3, 0.8)} if objective == "clipped" else {}
        family = over(3, name, objective=objective, **clip)
        values.add(estimate(family, arbitrary_predictor(family.vocab_size, 1), x0).value)
    assert len(values) == 1


def test_more_levels_less_noise() -> None:
    source, family = planted(3, 2, 1), over(3, "masked")
    best, x0 = best_predictor(family, source), texts(source, 300, 0)
    errors = [estimate(family, best, x0, noise_levels=n).se for n in (1, 4, 32)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_one_level_each_is_spread_over_the_sequences(name: str) -> None:
    """Unbiased over 200 texts and noises, and `se` is their spread, which the usual one would overstate."""
    source, family = planted(3, 2, 1), over(3, name)
    predictor = arbitrary_predictor(family.vocab_size, 3)
    exact = exact_bound(family, source, predictor) / source.length
    estimates = [
        estimate(family, predictor, texts(source, 512, s), noise_levels=1, seed=s) for s in range(200)
    ]
    values = torch.tensor([e.value for e in estimates], dtype=torch.float64)
    claimed = torch.tensor([e.se for e in estimates], dtype=torch.float64)
    usual = torch.tensor([float(e.losses.std()) / math.sqrt(512) for e in estimates])
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(len(values))
    assert float(claimed.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.2)
    assert float(usual.median()) > float(claimed.median())


def test_the_only_levels_of_n_sequences_are_one_in_each_nth_part() -> None:
    places = bound_module._places(50, 0, EvaluationSpec(noise_levels=1, seed=3), torch.device("cpu"))
    parts = (places * 50).ceil().long()
    assert sorted(parts.tolist()) == list(range(1, 51))
    assert parts.tolist() != sorted(parts.tolist()), "in no order of the text"
    several = bound_module._places(50, 1, EvaluationSpec(noise_levels=2, seed=3), torch.device("cpu"))
    generator = generator_for(3, "evaluation", 1, "cpu")
    assert torch.equal(several, 1 - torch.rand(50, generator=generator, dtype=torch.float64)), "as ever"


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_many_sequences_at_one_level_say_more_than_few_at_eight(name: str, tmp_path: Path) -> None:
    """A small trained network, at equal cost: the mean standard error over texts and noises."""
    spec = toy_spec(name, sequences=32 * 150, batch_size=32, optimizer={"learning_rate": 1e-2})
    train(spec, ToyData(), tmp_path, log=lambda _: None)
    model, family = load_run(tmp_path, spec=spec).model, spec.build_family()
    x0 = torch.from_numpy(ToyData().heldout(16 * 1024, spec.data.context_length))
    errors = []
    for sequences, levels in ((128, 8), (1024, 1)):
        bounds = [
            estimate_bound(
                model, family, x0[1024 * s : 1024 * s + sequences],
                EvaluationSpec(sequences=sequences, noise_levels=levels, seed=s),
            )
            for s in range(16)
        ]  # fmt: skip
        errors.append(sum(bound.se for bound in bounds) / len(bounds))
    assert errors[1] < 0.9 * errors[0]


def test_bits_per_byte() -> None:
    bound = bound_module.Bound(value=2.0, se=0.1, sequences=10, noise_levels=4)
    assert bound.bits_per_byte(4.0) == pytest.approx(2 / math.log(2) / 4)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_flops_are_those_that_an_estimate_takes(name: str) -> None:
    """But for pairs of tokens that do not see each other, of which torch counts all here."""
    spec = toy_spec(name, family_options={"block_size": 2} if name == "block" else {})
    family = spec.build_family()
    model = family.build_model(spec.size, torch.Generator().manual_seed(0))
    x0 = torch.from_numpy(ToyData().heldout(5, spec.data.context_length))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        estimate_bound(model, family, x0, spec.evaluation)
    assert spec.evaluation_flops(5) == pytest.approx(counter.get_total_flops(), rel=0.15)
