"""Remasking and Psi: rates that keep the marginals, limits that are ancestral, prompts and bad values."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from scaling.errors import UserError
from scaling.families import get_family
from scaling.sampling import FREE, generate
from scaling.sampling.remasking import (
    REMASKING_ETA,
    flow_matching_moves,
    loop_alphas,
    mask_moves,
    psi_weights,
    remasking_rates,
)
from tests.scaling.sampling.test_loop import LENGTH, SEEDS, family_and_model


def alphas(steps: int) -> torch.Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


@pytest.mark.parametrize("name", ["masked", "uniform", "hybrid"])
def test_kappa_one_is_ancestral_id_for_id(name):
    family, model = family_and_model(name)
    plain = generate(model, family, SEEDS, LENGTH, steps=9)
    one = generate(model, family, SEEDS, LENGTH, steps=9, sampler="psi", kappa=1.0)
    assert torch.equal(plain.ids, one.ids)
    assert plain.calls == one.calls
    zero = generate(model, family, SEEDS, LENGTH, steps=9, sampler="psi", kappa=0.0)
    assert not torch.equal(plain.ids, zero.ids)


def test_a_rate_of_zero_is_ancestral_id_for_id():
    family, model = family_and_model("masked")
    plain = generate(model, family, SEEDS, LENGTH, steps=9)
    for schedule in ("cap", "rescale"):
        about = {"sampler": "remasking", "schedule": schedule, "eta": 0.0}
        assert torch.equal(generate(model, family, SEEDS, LENGTH, steps=9, **about).ids, plain.ids)


@pytest.mark.parametrize("schedule", ["cap", "rescale", "forward_backward"])
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_remasking_keeps_the_share_of_masks(schedule, steps):
    """The expected share of tokens after every step is alpha_s, and no probability is negative."""
    levels = alphas(steps)
    moves = mask_moves(levels, remasking_rates(schedule, levels, 0.3))
    for (unmask, remask), alpha_t, alpha_s in zip(moves, levels[:-1], levels[1:], strict=True):
        assert 0 <= float(unmask) <= 1 + 1e-12
        assert 0 <= float(remask) <= 1
        share = alpha_t * (1 - remask) + (1 - alpha_t) * unmask
        assert float(share) == pytest.approx(float(alpha_s), abs=1e-12)
    assert float(moves[-1][0]) == pytest.approx(1), "the last step leaves no mask"
    assert float(moves[-1][1]) == 0


def test_the_loop_holds_its_level():
    times = torch.linspace(1, 0, 101, dtype=torch.float64)
    levels = loop_alphas(times, 0.55, 0.05, 0.9)
    held = levels[(times <= 0.55) & (times > 0.05)]
    assert torch.equal(held, torch.full_like(held, 0.9))
    assert bool((levels.diff() >= -1e-12).all())
    assert levels[[0, -1]].tolist() == [0, 1]


def test_the_corrector_of_flow_matching_takes_shorter_steps_and_ends_without_masks():
    moves = flow_matching_moves(16)
    assert len(moves) > 16
    assert [float(x) for x in moves[-1]] == [1, 0]
    assert all(0 <= float(u) <= 1 and 0 <= float(r) <= 1 for u, r in moves)
    share = 0.0
    for unmask, remask in moves[:-1]:
        share += (1 - share) * float(unmask) - share * float(remask)
    assert 1 - share == pytest.approx(1 / 16, abs=1 / 32), "the share of masks follows the time"


def test_psi_with_masks_is_remasking():
    """sigma = (1 - kappa)(1 - alpha_s)."""
    family = get_family("masked", vocab_size=5)
    present = torch.tensor([4, 2])
    t, s, kappa = (torch.tensor(x, dtype=torch.float64) for x in (0.7, 0.5, 0.6))
    weights = psi_weights(family, torch.zeros(2, dtype=torch.float64), present, t, s, float(kappa))
    rate = ((1 - kappa) * s)[None]
    ((unmask, remask),) = mask_moves(1 - torch.stack([t, s]), rate)
    expected = torch.stack([torch.stack([1 - unmask, unmask, 0 * unmask]),
                            torch.stack([1 - remask, 0 * remask, remask])])  # fmt: skip
    # a mask that Psi's corrector decodes and noises again stays a mask
    weights[0] = torch.stack([weights[0, 0] + weights[0, 2], weights[0, 1], torch.zeros_like(t)])
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("schedule", REMASKING_ETA)
def test_given_tokens_are_never_taken_back(schedule):
    family, model = family_and_model("masked")
    prompt = torch.tensor([1, FREE, FREE, 2, FREE, 3])
    for seed in range(20):
        states: list[torch.Tensor] = []
        generate(
            model, family, [seed], LENGTH, prompt=prompt, sampler="remasking", schedule=schedule, steps=12,
            watch=lambda draft, states=states: states.append(draft.ids[0, [0, 3, 5]].clone()),
        )  # fmt: skip
        assert all(state.tolist() == [1, 2, 3] for state in states)


def test_tokens_are_taken_back_and_decoded_anew():
    family, model = family_and_model("masked")
    states: list[torch.Tensor] = []
    generate(
        model, family, range(50), LENGTH, sampler="remasking", schedule="rescale", eta=0.5, steps=12,
        watch=lambda draft: states.append(draft.ids == family.mask_id),
    )  # fmt: skip
    back = [bool((after & ~before).any()) for before, after in pairwise(states)]
    assert any(back)
    assert not bool(states[-1].any())


def test_a_step_of_psi_that_changes_nothing_costs_no_call():
    """The loop's plateau begins on a time twice, and its last step keeps kappa at 1."""
    family, model = family_and_model("uniform")
    texts = generate(model, family, SEEDS, LENGTH, sampler="psi", schedule="loop", steps=40)
    still = 2  # 41 times: 18 down to the plateau, 20 on it, 3 from it
    assert texts.calls == 40 - still


@pytest.mark.parametrize(
    ("name", "about", "sentence"),
    [
        ("masked", {"sampler": "remasking", "schedule": "cop"}, "did you mean 'cap'"),
        ("masked", {"sampler": "remasking", "schedule": "conf", "eta": 0.1}, "has no rate: leave eta out"),
        ("masked", {"sampler": "remasking", "eta": -0.1}, r"eta is -0.1, it must lie in \[0, 1\]"),
        ("masked", {"sampler": "remasking", "t_on": 0.1, "t_off": 0.2}, "0 <= t_off <= t_on <= 1"),
        ("uniform", {"sampler": "psi", "kappa": 1.5}, r"kappa is 1.5, it must lie in \[0, 1\]"),
        ("uniform", {"sampler": "psi", "schedule": "rescle"}, "did you mean 'rescale'"),
        ("uniform", {"sampler": "psi", "schedule": "constant"}, "needs kappa"),
        ("uniform", {"sampler": "psi", "schedule": "cap,fixed"}, "2 phases, it must have one or three"),
        ("uniform", {"sampler": "psi", "high_share": 0.6, "middle_share": 0.6}, "nor more than 1"),
        (
            "uniform",
            {"sampler": "psi", "kappa": 0.5, "schedule": "cap"},
            "kappa has no part in schedule 'cap'",
        ),
        ("uniform", {"sampler": "psi", "kappa": 0.5, "eta": 0.1}, "eta has no part in schedule 'constant'"),
        ("uniform", {"sampler": "psi", "plateau": 1.5}, r"plateau is 1.5, it must lie in \(0, 1\)"),
        ("uniform", {"sampler": "remasking"}, "has no sampler 'remasking'"),
    ],
)
def test_values_out_of_range_are_refused(name, about, sentence):
    family, model = family_and_model(name)
    with pytest.raises(UserError, match=sentence):
        generate(model, family, SEEDS, LENGTH, **about)
