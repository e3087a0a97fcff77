"""AdamW over one vector against torch's own, and learning rates at known steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scaling.ladder import Base
from scaling.models import build_model
from scaling.models.parametrization import Parametrization
from scaling.spec import OptimizerSpec
from scaling.training.optimizer import FlatAdamW, learning_rate_at
from tests.scaling.toys import toy_size


def rates(steps: int, **options: object) -> list[float]:
    spec = OptimizerSpec(learning_rate=1.0, **options)  # type: ignore[arg-type]
    return [learning_rate_at(step, steps, spec) for step in range(steps)]


def test_the_published_course() -> None:
    """arXiv 2602.15014's code: 2e-4 to 2e-5, warm-up of max(1%, 100) steps of T = 1000, steps from 0."""
    spec = OptimizerSpec(learning_rate=2e-4, warmup_steps=100)
    at = {step: learning_rate_at(step, 1000, spec) for step in (0, 49, 99, 100, 550, 999)}
    assert at[0] == pytest.approx(2e-6)
    assert at[49] == pytest.approx(1e-4)
    assert at[99] == pytest.approx(2e-4)
    assert at[100] == pytest.approx(2e-4)
    assert at[550] == pytest.approx(1.1e-4)
    assert at[999] == pytest.approx(2e-5 + 1.8e-4 * 0.5 * (1 + math.cos(math.pi * 899 / 900)))


def test_constant() -> None:
    assert rates(6, schedule="constant", warmup_steps=2) == [0.5, 1, 1, 1, 1, 1]


def test_warm_up_stable_decay() -> None:
    course = rates(10, schedule="wsd", warmup_steps=2, decay_fraction=0.4, final_lr_fraction=0.2)
    assert course == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4])


def test_warm_up_longer_than_the_run() -> None:
    assert rates(4, warmup_steps=100) == pytest.approx([0.25, 0.5, 0.75, 1.0])


@given(
    schedule=st.sampled_from(["cosine", "constant", "wsd"]),
    steps=st.integers(1, 60),
    warmup=st.integers(0, 80),
    final=st.floats(0, 1),
    decay=st.floats(0, 1, exclude_min=True),
)
def test_every_course_stays_between_floor_and_peak(
    schedule: str, steps: int, warmup: int, final: float, decay: float
) -> None:
    course = rates(
        steps, schedule=schedule, warmup_steps=warmup, final_lr_fraction=final, decay_fraction=decay
    )
    assert all(0 <= rate <= 1 + 1e-12 for rate in course)
    assert max(course) == pytest.approx(1) or steps == 1 or warmup >= steps or schedule == "wsd"
    after = course[min(warmup, steps) :]
    assert all(a >= b - 1e-12 for a, b in pairwise(after)), "it only falls after warm-up"
    assert all(rate >= final - 1e-12 for rate in after)


def two_models() -> tuple[nn.Module, nn.Module]:
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)))
    return models[0], models[1]


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e6])
def test_equals_torch_on_separate_parameters(clip_norm: float | None) -> None:
    ours, theirs = two_models()
    spec = OptimizerSpec(learning_rate=1.0, weight_decay=0.1, clip_norm=clip_norm)
    flat = FlatAdamW(ours, spec)
    plain = torch.optim.AdamW(theirs.parameters(), lr=1.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        x, rate = torch.randn(4, 5, generator=generator), 0.02 / (step + 1)
        flat.add_gradient(ours(x).square().mean(), first=True)
        (norm,) = flat.gradient_norms()
        flat.step(rate, [norm])

        plain.zero_grad()
        theirs(x).square().mean().backward()
        limit = math.inf if clip_norm is None else clip_norm
        total = torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit)
        assert norm == pytest.approx(float(total), rel=1e-5)
        plain.param_groups[0]["lr"] = rate
        plain.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_gradients_add_up() -> None:
    model, _ = two_models()
    flat = FlatAdamW(model, OptimizerSpec(learning_rate=1.0))
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    flat.add_gradient(model(x).square().sum(), first=True)
    assert flat.flat.grad is not None
    whole = flat.flat.grad.clone()
    flat.add_gradient(model(x[:2]).square().sum(), first=True)
    flat.add_gradient(model(x[2:]).square().sum(), first=False)
    torch.testing.assert_close(flat.flat.grad, whole)


def test_parameters_are_views_of_one_vector() -> None:
    model, _ = two_models()
    flat = FlatAdamW(model, OptimizerSpec(learning_rate=1.0))
    with torch.no_grad():
        flat.flat.zero_()
    assert all((p == 0).all() for p in model.parameters())


def test_a_restored_optimizer_goes_on_as_if_never_stopped() -> None:
    def step(model: nn.Module, flat: FlatAdamW, number: int) -> None:
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
        flat.add_gradient(model(x).square().mean(), first=True)
        flat.step(0.01, flat.gradient_norms())

    model, other = two_models()
    spec = OptimizerSpec(learning_rate=1.0)
    flat, again = FlatAdamW(model, spec), FlatAdamW(other, spec)
    for number in range(5):
        step(model, flat, number)
    again.restore(flat.state())
    for number in range(5, 9):
        step(model, flat, number)
        step(other, again, number)
    assert torch.equal(flat.flat, again.flat)


# -- rates of their own ----------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A network two of whose parameters have rates of their own, in the middle of the others."""

    own_rates: Mapping[str, tuple[float, float | None]] = {"scale.fast": (0.5, None), "scale": (0.2, 0.0)}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 7)
        self.scale = nn.ParameterDict({"slow": torch.ones(7), "fast": torch.ones(3)})
        self.last = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x)) * self.scale["slow"]) * self.scale["fast"]


def groups_of(model: nn.Module) -> list[list[nn.Parameter]]:
    names = dict(model.named_parameters())
    fast, slow = [names["scale.fast"]], [names["scale.slow"]]
    return [[p for n, p in names.items() if not n.startswith("scale")], fast, slow]


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e6])
def test_groups_equal_torch_groups_on_the_same_course(clip_norm: float | None) -> None:
    """Each with its rate and weight decay, in proportion to the run's rate, and clipped by its own norm."""
    ours, theirs = Mixed(), Mixed()
    flat = FlatAdamW(ours, OptimizerSpec(learning_rate=0.1, weight_decay=0.3, clip_norm=clip_norm))
    rates, decays = (0.1, 0.5, 0.2), (0.3, 0.3, 0.0)
    groups = groups_of(theirs)
    plain = torch.optim.AdamW(
        [{"params": g, "weight_decay": d} for g, d in zip(groups, decays, strict=True)], betas=(0.9, 0.95)
    )
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        x, share = torch.randn(4, 5, generator=generator), 0.2 / (step + 1)
        flat.add_gradient(ours(x).square().mean(), first=True)
        flat.step(0.1 * share, flat.gradient_norms())
        plain.zero_grad()
        theirs(x).square().mean().backward()
        for group, rate, options in zip(groups, rates, plain.param_groups, strict=True):
            torch.nn.utils.clip_grad_norm_(group, math.inf if clip_norm is None else clip_norm)
            options["lr"] = rate * share
        plain.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e6])
def test_shares_of_rate_decay_and_eps_equal_torch_groups_clipped_together(clip_norm: float | None) -> None:
    """A network of CompleteP, every parameter as a group of its own with what its factors say."""
    size = toy_size(hidden=16, num_layers=4)
    parametrization = Parametrization.of(size, Base(4, 2))
    ours, theirs = (
        build_model(
            size, 7, causal=True, generator=torch.Generator().manual_seed(0), parametrization=parametrization
        )
        for _ in range(2)
    )
    spec = OptimizerSpec(learning_rate=0.1, weight_decay=0.3, clip_norm=clip_norm, eps=1e-3)
    flat = FlatAdamW(ours, spec)
    factors = {name: parametrization.factors(name) for name, _ in theirs.named_parameters()}
    plain = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": 0.3 * factors[name].decay, "eps": 1e-3 * factors[name].eps}
            for name, p in theirs.named_parameters()
        ],
        betas=(0.9, 0.95),
    )
    generator = torch.Generator().manual_seed(1)
    for step in range(10):
        ids, rate = torch.randint(7, (4, 6), generator=generator), 0.02 / (step + 1)
        flat.add_gradient(ours(ids, torch.zeros(4)).log_softmax(-1)[..., 2].mean(), first=True)
        flat.step(rate, flat.gradient_norms())
        plain.zero_grad()
        theirs(ids, torch.zeros(4)).log_softmax(-1)[..., 2].mean().backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), math.inf if clip_norm is None else clip_norm)
        for group, factor in zip(plain.param_groups, factors.values(), strict=True):
            group["lr"] = rate * factor.rate
        plain.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_groups_are_saved_as_one_vector_and_go_on() -> None:
    def step(model: nn.Module, flat: FlatAdamW, number: int) -> None:
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
        flat.add_gradient(model(x).square().mean(), first=True)
        flat.step(0.01, flat.gradient_norms())

    models = [Mixed(), Mixed()]
    flat, again = (FlatAdamW(model, OptimizerSpec(learning_rate=0.1)) for model in models)
    for number in range(5):
        step(models[0], flat, number)
    state = flat.state()
    count = sum(p.numel() for p in models[0].parameters())
    assert state["parameters"].shape == (count,)
    assert {name: value.shape for name, value in state["moments"].items() if value.ndim} == {
        "exp_avg": (count,),
        "exp_avg_sq": (count,),
    }
    again.restore(state)
    for number in range(5, 9):
        step(models[0], flat, number)
        step(models[1], again, number)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_parameters_without_a_rate_of_their_own_keep_their_order() -> None:
    """So that checkpoints of networks with a single group stay what they were."""
    model, _ = two_models()
    flat = FlatAdamW(model, OptimizerSpec(learning_rate=1.0))
    assert torch.equal(flat.flat, torch.cat([p.reshape(-1) for p in model.parameters()]))
    mixed = Mixed()
    joined = torch.cat([p.reshape(-1) for group in groups_of(mixed) for p in group])
    assert torch.equal(FlatAdamW(mixed, OptimizerSpec(learning_rate=1.0)).flat, joined)
