"""A run table as it comes from outside: a dict of arrays, columns with other names, several families."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from analysis.errors import UserError
from analysis.text import printable

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, str]
"""Name in the table -> name here, e.g. {"N": "params"}."""
USUAL_NAMES = {
    "params": "n num_params n_params nparams model_size parameters n_parameters num_parameters model_params",
    "tokens": "d num_tokens n_tokens ntokens train_tokens training_tokens tokens_seen",
    "loss": "l val_loss valid_loss validation_loss eval_loss test_loss heldout_loss final_loss nll",
    "flops": "c compute train_flops training_flops total_flops num_flops n_flops",
    "budget": "compute_budget flops_budget flop_budget isoflop",
    "loss_se": "loss_std loss_err loss_stderr val_loss_se",
    "unique_tokens": "u unique num_unique_tokens n_unique_tokens",
}
"""What other tables call these columns, in lower case."""


def as_table(runs: object, columns: Columns | None = None, family: str | None = None) -> pd.DataFrame:
    """`runs` as a DataFrame: a dict of arrays becomes one, `columns` are renamed, one `family` selected.

    UserError, in one sentence, for anything else, arrays of different lengths, a name that the table does not
    have or that two columns would share, and a family without runs.
    """
    import pandas as pd

    if isinstance(runs, Mapping):
        try:
            runs = pd.DataFrame(dict(runs))
        except ValueError as problem:
            raise UserError(f"runs: a dict needs arrays of one length: {problem}") from None
    if not isinstance(runs, pd.DataFrame):
        path = "; analysis.load_runs reads a file or a store" if isinstance(runs, str) else ""
        raise UserError(
            f"runs is a {type(runs).__name__}; give a pandas DataFrame, or a dict of arrays, with columns "
            f"params, tokens, loss{path}"
        )
    table = renamed(runs, columns, "runs")
    if family is None:
        return table
    names = [] if "family" not in table else sorted(map(str, table["family"].dropna().unique()))
    if family not in names:
        has = (
            f"the families are {', '.join(names)}"
            if names
            else "the table has no column family to select from"
        )
        raise UserError(f"family = {family!r} has no runs: {has}")
    return table[table["family"] == family]


def renamed(table: pd.DataFrame, columns: Columns | None, source: str) -> pd.DataFrame:
    """`table` with other names of its columns; UserError for names that do not fit."""
    if columns is None:
        return table
    new_names(table.columns, columns, source)
    return table.rename(columns=dict(columns))


def new_names(names: Iterable[object], columns: Columns, source: str) -> list[object]:
    """The names of a table's columns after `columns`; UserError for names that do not fit."""
    if not isinstance(columns, Mapping) or not all(isinstance(name, str) for name in columns.values()):
        raise UserError(
            f'columns = {columns!r}: give the table\'s names and those here, e.g. {{"N": "params"}}'
        )
    before = list(names)
    has = ", ".join(map(str, before)) or "none"
    for name, target in columns.items():
        if name not in before:
            turned = target in before
            advice = f"; the table's own name stands first: {{{target!r}: {name!r}}}" if turned else ""
            raise UserError(f"columns: {source} has no column {name!r} (columns: {has}){advice}")
    new: list[object] = [columns.get(str(name), name) for name in before]
    for target in columns.values():
        if new.count(target) > 1:
            raise UserError(f"columns: {source} would have more than one column {target!r} (columns: {has})")
    return new


class MissingColumnsError(UserError):
    """A table lacks columns, or has them by other names."""

    def __init__(self, sentence: str, pairs: Mapping[str, str]) -> None:
        """pairs: the table's names of columns that are probably meant -> those here."""
        super().__init__(sentence + _in_python(pairs))
        self.sentence, self.pairs = sentence, pairs


def hint(missing: Iterable[str], has: Iterable[object]) -> str:
    """How to rename the columns that are probably meant, or nothing."""
    return _in_python(likely(missing, has))


def likely(missing: Iterable[str], has: Iterable[object]) -> dict[str, str]:
    """The table's names of the columns that are probably meant -> those here."""
    pairs: dict[str, str] = {}
    for name_here in (*missing, "flops"):
        names = {name_here, *USUAL_NAMES.get(name_here, "").split()}
        same = [str(name) for name in has if str(name).strip().lower().replace(" ", "_") in names]
        if same and name_here not in same:
            pairs[same[0]] = name_here
    return {} if set(pairs.values()) == {"flops"} else pairs


def _in_python(pairs: Mapping[str, str]) -> str:
    if not pairs:
        return ""
    text = ", ".join(f'"{printable(name)}": "{name_here}"' for name, name_here in pairs.items())
    return f"; columns={{{text}}} names them"
