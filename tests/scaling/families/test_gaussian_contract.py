"""What gaussian answers as a family: options, shapes, parameters and FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scaling.families import get_family
from scaling.families.gaussian import Gaussian
from scaling.flops import flops_by_part, sequence_flops
from scaling.ladder import Size
from tests.scaling.toys import toy_size

SIZES = [toy_size(), Size(name="plain", hidden=24, num_layers=1, num_heads=3, cond_dim=5, time_features=6)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"embed_dim": 1}, "embed_dim is 1, it must be at least 2"),
        ({"gamma_0": 3.0, "gamma_1": 2.0}, r"gamma_0 is 3\.0 and gamma_1 is 2\.0"),
        ({"reconstruction_share": 1.0}, r"reconstruction_share is 1\.0"),
        ({"prior_anneal_share": -0.1}, r"prior_anneal_share is -0\.1"),
        ({"auxiliary_learning_rate": 0.0}, r"auxiliary_learning_rate is 0\.0"),
        ({"schedule_units": 0}, "schedule_units is 0"),
        ({"objective": "low_variance"}, "has no objective 'low_variance'"),
        ({"embed_dims": 8}, r"no option 'embed_dims'; did you mean 'embed_dim'\?"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        get_family("gaussian", vocab_size=7, **options)


def test_without_a_model_it_answers_with_vectors_and_a_schedule_of_its_own() -> None:
    family = Gaussian(7, embed_dim=4)
    t = torch.linspace(0, 1, 9, dtype=torch.float64, requires_grad=True)
    alpha, slope = family.schedule(t)
    (derivative,) = torch.autograd.grad(alpha.sum(), t)
    torch.testing.assert_close(slope, derivative, rtol=1e-12, atol=0)
    x0 = torch.randint(7, (9, 5), generator=torch.Generator().manual_seed(0))
    t = t.detach()
    z, again = (family.corrupt(x0, t, torch.Generator().manual_seed(1)) for _ in range(2))
    assert z.shape == (9, 5, 4)
    assert torch.equal(z, again)
    model = family.build_model(toy_size(), torch.Generator().manual_seed(0))
    logits = model(z, family.conditioning(t))
    nats = family.token_bound(logits, x0, z, t)
    assert nats.shape == (9, 5)
    assert nats.dtype == torch.float32
    assert (nats >= 0).all()
    sure = torch.full_like(logits, -60.0).scatter_(-1, x0[..., None], 60.0)
    assert float(family.token_bound(sure, x0, z, t).abs().max()) < 1e-9, "the truth costs nothing"
    assert not torch.equal(family.corrupt(x0, t, torch.Generator().manual_seed(1), model), z)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
@pytest.mark.parametrize("options", [{}, {"embed_dim": 3, "schedule_units": 5}])
def test_parameters_of_the_built_network(size: Size, options: dict[str, Any]) -> None:
    family = Gaussian(19, **options)
    named = dict(family.build_model(size, torch.Generator().manual_seed(0)).named_parameters())
    total = sum(p.numel() for p in named.values())
    assert family.param_count(size) == total
    schedule = sum(p.numel() for n, p in named.items() if n.startswith("schedule."))
    without = total - schedule - named["embedding"].numel()
    assert family.param_count(size, "non_embedding") == without
    assert family.param_count(size, "body") == without - named["head.weight"].numel()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_flops_are_what_a_counter_sees(size: Size) -> None:
    """A pass to the token, and a training step with its self-conditioned quarter to its inputs' gradient."""
    vocab, length, count = 19, 13, 8
    family = Gaussian(vocab, embed_dim=6)
    model = family.build_model(size, torch.Generator().manual_seed(0))
    x0 = torch.randint(vocab, (count, length), generator=torch.Generator().manual_seed(1))
    z = family.corrupt(x0, torch.full((count,), 0.5), torch.Generator().manual_seed(2))
    work = family.work(length)
    forward = flops_by_part(size, vocab, length, work).total
    unseen = 2 * length * 6 * vocab  # the output prior, added in place: the counter does not know addmm_
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            model.restore(z, torch.zeros(count, dtype=torch.float64), x0, guess=z)
        assert counter.get_total_flops() + count * unseen == count * forward
        batch = family.training_batch(x0, torch.Generator().manual_seed(3), 1.0)
        with FlopCounterMode(display=False) as counter:
            family.training_loss(model, batch).backward()
    counted = counter.get_total_flops() + count * 1.25 * unseen
    expected = count * sequence_flops(size, vocab, length, work=work)
    assert 0.98 * expected < counted <= expected, "what reads the noise level or the guess needs no gradient"
