"""Laws that a design cannot have: the same as a fit refuses, in the same words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import fit_law
from analysis.checks.design import design_refusals
from analysis.errors import UserError
from analysis.laws import standard_methods
from tests.analysis.planted import isoflop_table


def designs() -> dict[str, pd.DataFrame]:
    whole = isoflop_table(sizes=5)
    first = whole["budget"] == 1e17
    place = np.tile(np.arange(5), 5)
    return {
        "whole": whole,
        "two budgets": whole[whole["budget"] <= 1e18],
        "one budget": whole[first],
        "a budget of two sizes": whole[first | ((whole["budget"] == 1e18) & (place < 2))],
        "two sizes each": whole[place < 2],
        "few runs": whole[(place == 2) & (whole["budget"] < 1e19)],
        "none": whole[whole["budget"] < 0],
    }


@pytest.mark.parametrize("name", designs())
def test_a_design_is_refused_as_its_runs_would_be(name):
    design = designs()[name]
    refused = {}
    for method in standard_methods():
        try:
            fit_law(design, method, bootstrap=0)
        except UserError as error:
            refused[method] = str(error)
    assert design_refusals(design.drop(columns="loss")) == refused


def test_the_designs_differ_in_what_they_allow():
    allowed = {name: set(standard_methods()) - set(design_refusals(d)) for name, d in designs().items()}
    assert allowed["whole"] == allowed["two budgets"] == {"surface", "isoflop"}
    assert allowed["a budget of two sizes"] == {"surface"}
    assert allowed["one budget"] == allowed["few runs"] == allowed["none"] == set()
