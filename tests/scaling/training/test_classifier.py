"""A classifier of noised text: near the exact posterior of the label, and good enough to guide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.families import get_family
from scaling.ladder import Size
from scaling.sampling import Guidance, generate
from scaling.training.classifier import TextClassifier, train_classifier
from tests.scaling.enumeration import as_network, best_predictor, planted, told_the_time
from tests.scaling.sampling.test_guidance import IDS, Exact, sources

SIZE = Size(name="tiny", hidden=32, num_layers=2, num_heads=2, cond_dim=16, time_features=16)
LENGTH = 3


def batches(step: int) -> tuple[Tensor, Tensor]:
    """Texts of two sources, each the label half of the time."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(2, (256,), generator=generator)
    parts = torch.stack([source.probs for source in sources(LENGTH)[:2]])
    rows = torch.multinomial(parts[labels], 1, generator=generator)[:, 0]
    return sources(LENGTH)[0].ids[rows], labels


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_it_learns_the_label_of_noisy_text_and_guides(name: str) -> None:
    family = get_family(name, vocab_size=IDS + (name != "uniform"))
    classifier = train_classifier(SIZE, family, 2, batches, 300)
    exact = Exact(family, LENGTH)
    x0, _ = batches(10_000)
    for time in (0.2, 0.6):
        t = torch.full((len(x0),), time, dtype=torch.float64)
        xt = family.corrupt(x0, t, torch.Generator().manual_seed(5))
        learned, best = classifier.log_probs(xt, t).double().exp(), exact.log_probs(xt, t).exp()
        # against one that always says a half
        assert float((learned - best).abs().mean()) < 0.5 * float((best - 0.5).abs().mean())
    timed = told_the_time(get_family(name, vocab_size=family.vocab_size))
    network = as_network(best_predictor(timed, sources(LENGTH)[2]), timed, LENGTH)

    def share(scale: float, first_order: bool) -> float:
        """Of texts guided towards label 0, as the exact posterior sees them."""
        guidance = Guidance(label=0, scale=scale, classifier=classifier, first_order=first_order)
        texts = generate(network, timed, range(1500), LENGTH, steps=8, guidance=guidance)
        return float(exact.log_probs(texts.ids, torch.zeros(1500))[:, 0].exp().mean())

    plain = share(0.0, first_order=False)
    assert abs(plain - 0.5) < 0.03
    assert share(4.0, first_order=False) > plain + 0.2
    assert plain + 0.03 < share(4.0, first_order=True)  # a token is no small change of a text


def test_the_same_seed_gives_the_same_classifier() -> None:
    family = get_family("masked", vocab_size=IDS + 1)
    one, two = (train_classifier(SIZE, family, 2, batches, 3) for _ in range(2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_rows_and_ids_give_the_same_answer() -> None:
    family = get_family("uniform", vocab_size=IDS)
    classifier = TextClassifier(SIZE, family, 2)
    torch.nn.init.normal_(classifier.last.weight)
    ids = planted(IDS, LENGTH).ids
    t = torch.full((len(ids),), 0.3, dtype=torch.float64)
    with torch.no_grad():
        rows = torch.nn.functional.one_hot(ids, IDS).double()
        torch.testing.assert_close(classifier.log_probs(rows, t), classifier.log_probs(ids, t))


@pytest.mark.parametrize("name", ["ar", "block", "esoteric", "gaussian"])
def test_other_families_have_nothing_to_guide(name: str) -> None:
    options: dict[str, Any] = {}
    with pytest.raises(UserError, match="for a classifier to guide"):
        TextClassifier(SIZE, get_family(name, vocab_size=8, **options), 2)
