"""Laws of repeated text: the authors' own test values, identities, derivatives against finite differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.laws.solver.logsum import LogSum
from analysis.laws.solver.objective import Problem
from analysis.laws.solver.repeats import FORMS, RepeatTerms, constrained_loss, effective_data, repeat_space

MUENNIGHOFF = np.array(
    [[np.exp(0.6254804), np.exp(6.255414), np.exp(7.3049974), 0.3526596, 0.3526596, 15.387756, 5.309743]]
)
"""The published fit: logs of E, A, B, then alpha = beta, R_D, R_N (notebook of huggingface/datablations)."""
ADDITIVE = np.array([[1.9, 250.0, 9000.0, 0.29, 0.42, 0.02, 0.8, 0.6]])


def test_published_values_are_reproduced():
    """Two predictions printed in the README of huggingface/datablations; constants have eight digits."""
    params, tokens = np.array([6.34e9, 8.67e9]), np.array([242e9, 178e9])
    loss = constrained_loss("effective", MUENNIGHOFF, params, tokens, np.full(2, 25e9))[0]
    np.testing.assert_allclose(loss, [2.2256440889984477, 2.2269634075087867], rtol=1e-7)


def test_effective_data_of_the_published_law():
    """D'/D at 2, 4, 8, 16 and 40 epochs with R_D = 15.39."""
    epochs = np.array([1, 2, 4, 8, 16, 40.0])
    share = effective_data(np.array([[15.387756]]), epochs, np.ones(6))[0] / epochs
    np.testing.assert_allclose(share, [1, 0.984, 0.931, 0.828, 0.661, 0.379], atol=5e-4)


@pytest.mark.parametrize("form", FORMS)
def test_text_read_once_gives_the_surface(form):
    theta = MUENNIGHOFF if form == "effective" else ADDITIVE
    E, A, B, alpha, beta = theta[0, :5]
    # sizes that the text feeds: beyond those the effective form also discounts parameters
    params, tokens = np.array([1e7, 1e8, 1e9]), np.array([1e10, 5e10, 1e11])
    loss = constrained_loss(form, theta, params, tokens, tokens)[0]
    np.testing.assert_allclose(loss, E + A / params**alpha + B / tokens**beta, rtol=1e-12)
    # more text than is read changes nothing
    np.testing.assert_array_equal(constrained_loss(form, theta, params, tokens, 2 * tokens)[0], loss)


@settings(max_examples=30, deadline=None)
@given(log_params=st.floats(14, 25), log_unique=st.floats(17, 26), epochs=st.floats(1, 500))
def test_more_epochs_never_hurt_in_the_effective_form(log_params, log_unique, epochs):
    params, unique = np.exp([log_params]), np.exp([log_unique])
    now, more = (
        constrained_loss("effective", MUENNIGHOFF, params, unique * e, unique)[0, 0]
        for e in (epochs, 1.3 * epochs)
    )
    assert more <= now * (1 + 1e-12)


def test_epochs_can_hurt_in_the_additive_form():
    epochs = np.geomspace(1, 1000, 60)
    unique = np.full(60, 1e8)
    loss = constrained_loss("additive", ADDITIVE, np.full(60, 1e9), unique * epochs, unique)[0]
    assert 0 < loss.argmin() < 59


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_that_of_the_objective(form):
    generator = np.random.default_rng(0)
    params, unique = np.exp(generator.uniform(15, 22, 50)), np.exp(generator.uniform(18, 24, 50))
    tokens = unique * np.maximum(generator.uniform(-2, 60, 50), 1.0)
    theta = MUENNIGHOFF if form == "effective" else ADDITIVE
    loss = constrained_loss(form, theta, params, tokens, unique)[0] * np.exp(
        0.05 * generator.standard_normal(50)
    )
    problem = Problem.of(params, tokens, loss)
    terms = RepeatTerms.of(form, problem, tokens, unique)
    space = repeat_space(form, tied=False, held_base=False, one_parameter=False)
    objective = LogSum(terms, problem.z, space)
    rest = np.log([10.0, 4.0]) if form == "effective" else np.array([-3.0, 1.2, 0.8])
    middle = np.array([-0.5, -1.0, -1.0, 0.35, 0.3, *rest])
    theta_Rp = middle + 0.1 * generator.standard_normal((5, len(middle)))
    weight_Rn = generator.integers(0, 3, (5, 50)).astype(float)
    here = objective.at(theta_Rp, weight_Rn, 0.03)
    for j, direction in enumerate(np.eye(len(middle))):
        moved = [objective.at(theta_Rp + s * 1e-6 * direction, weight_Rn, 0.03).f_R for s in (1, -1)]
        # central differences: error of order step^2 plus rounding / step
        np.testing.assert_allclose((moved[0] - moved[1]) / 2e-6, here.gradient_Rp[:, j], rtol=1e-6, atol=1e-8)
    # the user's units describe the same losses
    natural = constrained_loss(form, terms.natural(problem, theta_Rp), params, tokens, unique)
    np.testing.assert_allclose(np.log(loss / natural), objective.residuals(theta_Rp), atol=1e-12)
