"""Which laws a design can have, before any loss is measured: the rules by which a fit refuses a table."""

from __future__ import annotations

import pandas as pd

from analysis.errors import UserError
from analysis.laws import METHODS, standard_methods
from analysis.table.fit_table import prepare


def design_refusals(runs: pd.DataFrame) -> dict[str, str]:
    """Standard laws that these sizes, tokens and budgets cannot have: method -> reason.

    runs: one row per run of one family, as for a fit but without losses. A law that is not refused here may
    still be refused by its losses: a minimum outside the sizes, say.
    """
    try:
        # the rules of a design do not look at the losses, but a table must have some
        table = prepare(runs.assign(loss=1.0))
    except UserError as error:
        return dict.fromkeys(standard_methods(), str(error))
    refused = {}
    for method in standard_methods():
        try:
            METHODS[method].check_design(table)
        except UserError as error:
            refused[method] = str(error)
    return refused
