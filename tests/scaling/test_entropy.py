"""Sources of known entropy: no bound falls below it, the best predictor reaches it, training comes close."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling.data import Dataset, prepare
from scaling.evaluation import estimate_bound
from scaling.families import FAMILIES, family_class, get_family
from scaling.families.base import Family
from scaling.ladder import Size
from scaling.spec import DataSpec, EvaluationSpec, OptimizerSpec, RunSpec
from scaling.training import RunStatus, TrainResult, train
from tests.scaling.enumeration import as_network, noise_at, told_the_time

NAMES = sorted(FAMILIES)
DISCRETE = [name for name in NAMES if name != "gaussian"]
"""Whose best predictor can be written down on noisy tokens; that of latents: tests/scaling/families."""
MARKOV = "synthetic:markov?order=1&vocab=16&seed=0"
CONTEXT = 32

Model = Callable[..., torch.Tensor]


@pytest.fixture(scope="module")
def markov(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(MARKOV, "ids", tmp_path_factory.mktemp("data"))


def entropy(data: Dataset) -> float:
    value = data.entropy_per_token(CONTEXT)
    assert value is not None
    return value


def over(data: Dataset, name: str) -> Family:
    """The family, telling the exact predictor the time in place of what it tells a network."""
    return told_the_time(get_family(name, vocab_size=family_class(name).vocab_size_for(data.num_token_ids)))


def best_model(family: Family, data: Dataset) -> Model:
    """Exact predictions for a Markov source of order 1: forward and backward messages, own token left out."""
    assert data.source is not None
    tokens = data.num_token_ids
    pairs = torch.from_numpy(
        data.source.conditionals(np.stack([np.arange(tokens), np.zeros(tokens, int)], 1))
    )
    first, moves = pairs[0, 0], pairs[:, 1]  # p(x_1), p(x_2 | x_1)

    def evidence(ids: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """(B, L, V): probability of each noisy token were the clean one v, up to a factor."""
        same = torch.nn.functional.one_hot(ids, family.vocab_size)[..., :tokens].double()
        alpha, noise = family.schedule(t)[0][:, None, None], noise_at(family, t).gather(-1, ids)
        return alpha * same + (1 - alpha) * noise[..., None]

    def messages(likelihoods: torch.Tensor) -> torch.Tensor:
        ahead, behind = (
            [first.expand(len(likelihoods), -1)],
            [torch.ones(len(likelihoods), tokens, dtype=torch.float64)],
        )
        for step in range(CONTEXT - 1):
            ahead.append(_normal(ahead[-1] * likelihoods[:, step]) @ moves)
            behind.append(_normal(behind[-1] * likelihoods[:, CONTEXT - 1 - step]) @ moves.T)
        return torch.stack(ahead, 1) * torch.stack(behind[::-1], 1)

    def model(ids: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if family.bound == "exact":
            probs = torch.cat([first.expand(len(ids), 1, -1), moves[ids[:, 1:]]], 1)
        else:
            probs = _normal(messages(evidence(ids, t.double())))
        logits = probs.log().clamp(min=-60)
        return torch.nn.functional.pad(logits, (0, family.vocab_size - tokens))

    return as_network(model, family, CONTEXT)


def _normal(weights: torch.Tensor) -> torch.Tensor:
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", DISCRETE)
def test_the_best_predictor_reaches_the_entropy(name: str, markov: Dataset) -> None:
    """All families bound the same likelihood: with perfect predictions, at any context, they agree."""
    family = over(markov, name)
    x0 = torch.from_numpy(markov.heldout(1500, CONTEXT))
    got = estimate_bound(best_model(family, markov), family, x0, EvaluationSpec(noise_levels=8))  # type: ignore[arg-type]
    assert abs(got.value - entropy(markov)) < 3.5 * got.se
    assert got.se < 0.015, "3.5 standard errors are 3% of the entropy or less"


@pytest.mark.parametrize("name", DISCRETE)
def test_a_worse_predictor_scores_above(name: str, markov: Dataset) -> None:
    """Compared on the same text and noise, a slightly flattened prediction loses."""
    family = over(markov, name)
    best = best_model(family, markov)
    x0, spec = torch.from_numpy(markov.heldout(500, CONTEXT)), EvaluationSpec(noise_levels=8)
    values = [
        estimate_bound(lambda i, t, s=s, **view: s * best(i, t, **view), family, x0, spec).value  # type: ignore[arg-type]
        for s in (1.0, 0.8, 0.5)
    ]
    assert values[0] < values[1] < values[2]


def trained(data: Dataset, folder: Path, name: str, steps: int, rate: float, **size: Any) -> TrainResult:
    shape = {"hidden": 24, "num_layers": 1, "num_heads": 1, "cond_dim": 8, "time_features": 16, **size}
    spec = RunSpec(
        family=name,
        size=Size(name="small", **shape),
        budget=1e12,
        sequences=32 * steps,
        batch_size=32,
        data=DataSpec.of(data, CONTEXT),
        optimizer=OptimizerSpec(learning_rate=rate, warmup_steps=20, weight_decay=0.0),
        evaluation=EvaluationSpec(sequences=512, noise_levels=8),
    )
    result = train(spec, data, folder, log=lambda record: None)
    assert result.status is RunStatus.FINISHED
    assert result.bits_per_byte is None, "a synthetic source has no bytes"
    return result


def check(result: TrainResult, true_entropy: float) -> float:
    """Never below the entropy by more than 3 standard errors; returns the excess as a share."""
    assert result.bound is not None
    assert result.bound_se is not None
    assert result.bound > true_entropy - 3 * result.bound_se
    return result.bound / true_entropy - 1


def test_trained_ar_comes_within_two_percent(markov: Dataset, tmp_path: Path) -> None:
    assert check(trained(markov, tmp_path, "ar", 120, 2e-2), entropy(markov)) < 0.02


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ar"])
def test_trained_bounds_stay_above_the_entropy(name: str, markov: Dataset, tmp_path: Path) -> None:
    excess = check(trained(markov, tmp_path, name, 80, 1e-2), entropy(markov))
    ids = markov.heldout(2000, CONTEXT)
    shares = np.bincount(ids.ravel()) / ids.size
    unigram = float(-(shares * np.log(shares)).sum())
    assert excess < 1.03 * unigram / entropy(markov) - 1, "it has learned the frequencies of tokens at least"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corpus", "reach"),
    [("synthetic:markov?order=2&vocab=16&seed=1", 0.02), ("synthetic:hmm?states=4&vocab=16&seed=1", 0.02)],
)
@pytest.mark.parametrize("name", NAMES)
def test_trained_longer(name: str, corpus: str, reach: float, tmp_path: Path) -> None:
    data = prepare(corpus, "ids", tmp_path / "data")
    true_entropy = entropy(data)
    result = trained(data, tmp_path / "run", name, 2500, 4e-3, hidden=48, num_layers=2, num_heads=2)
    excess = check(result, true_entropy)
    if name == "ar":
        assert excess < reach
