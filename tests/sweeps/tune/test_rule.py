"""The file that a study writes, as a config reads it."""

from __future__ import annotations

import yaml

from analysis.laws.response import fit_response
from sweeps.config.load import parse_config
from sweeps.config.rules import Extent
from sweeps.tune.rule import own_exponents, rule_text, summary_rows
from tests.analysis.planted import tuning_trials
from tests.sweeps.tune.planted import CONFIG, space_of


def test_a_rule_says_the_same_as_the_laws_behind_it() -> None:
    space, runs = space_of(), tuning_trials(noise=0.002).drop(columns="weight_decay")
    response = fit_response(runs, bootstrap=100)
    text = rule_text(space, response, runs)
    assert "64 trials of 2 seeds at 3 points" in text
    config = parse_config(CONFIG.format(corpus="stdlib") + text, source="small.yaml")
    run = Extent(5e3, 6e5, batch=512, steps=1200)
    best = response.laws["learning_rate"].best(params=5e3, steps=1200)
    assert abs(config.rate_rule("ar")(run) / best - 1) < 1e-3
    batch = response.laws["batch"].best(tokens=6e5)
    assert abs(config.batch_rule("ar")(1e9, 32, run) * 32 / batch - 1) < 0.04, "whole sequences"
    tried = config.rate_rule("ar").tried
    assert tried is not None
    assert set(tried) == {"params", "steps"}
    assert config.rate_rule("ar").largest == float(f"{runs['learning_rate'].max():.4g}")
    assert len(summary_rows(response)) == 4


def test_settings_without_a_law_and_exponents_that_were_kept_leave_the_sweeps_own() -> None:
    space = space_of()
    near = {"a": (5e3, 4e5), "b": (5.5e3, 5e5)}
    runs = tuning_trials(points=near, per=24, noise=0.03, batch=512.0).drop(columns="weight_decay")
    response = fit_response(runs, exponents=own_exponents(space), bootstrap=100)
    assert set(response.laws["learning_rate"].kept) == {"params", "steps"}
    rule = yaml.safe_load(rule_text(space, response, runs))["overrides"]["ar"]
    assert set(rule) == {"learning_rate"}
    assert rule["learning_rate"]["exponent"] == -0.5
    assert "steps" not in rule["learning_rate"]
