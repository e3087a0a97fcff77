"""Published run tables and published laws, each with its source, its conventions and its standing.

    analysis.published.runs("sahoo2026")     # one row per run, ready for fit_law and compare
    analysis.published.laws()                # one row per printed law
    analysis.published.tables()              # all run tables, with source and licence

Losses are nats per token. A table's `attrs` carry its record in `tables()`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["laws", "runs", "tables"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """Provenance of one table of this package."""

    name: str
    file: str
    source: str
    licence: str
    status: str
    note: str
    constants: dict[str, str | float] = field(default_factory=dict)
    """Columns with one value for the whole table, added on reading."""


_TABLES = {
    "sahoo2026": PublishedTable(
        name="sahoo2026",
        file="sahoo2026_isoflop.csv",
        source="Sahoo et al. 2026, arXiv 2602.15014: IsoFLOP figure of the project page",
        licence="numbers read off a figure",
        status="digitised, about 0.003 nats; points partly hidden by a marker 0.005",
        note="ar, MDLM with the low-variance objective (masked), Duo (uniform), Eso-LM (esoteric) at 5 "
        "budgets; "
        "params without the input embedding, with adaLN; tokens as the study's code computes them (steps x "
        "524288)",
        constants={
            "flop_convention": "sahoo2026",
            "corpus": "SlimPajama",
            "tokenizer": "Llama-2",
            "context_length": 2048.0,
        },
    ),
    "sahoo2026_ladder": PublishedTable(
        name="sahoo2026_ladder",
        file="sahoo2026_ladder.csv",
        source="s-sahoo/scaling-dllms, configs/flops",
        licence="as released by the authors",
        status="exact to about 3e-5 (rounded by the authors)",
        note="the 28 model sizes: parameters and forward FLOPs per sequence of 2048 tokens; no losses",
    ),
    "hoffmann2022": PublishedTable(
        name="hoffmann2022",
        file="hoffmann2022.csv",
        source="Hoffmann et al. 2022, arXiv 2203.15556, figure 4, read off by Besiroglu et al. 2024, arXiv "
        "2404.10102",
        licence="numbers read off a figure",
        status="digitised",
        note="245 runs; the column excluded marks the 5 outliers that Besiroglu et al. leave out, and fits "
        "obey it; flops = 6 params tokens",
        constants={"family": "ar", "flop_convention": "6nd", "corpus": "MassiveText"},
    ),
    "porian2024": PublishedTable(
        name="porian2024",
        file="porian2024.csv",
        source="Porian et al. 2024, arXiv 2406.19146: RefinedWeb, tuned stage",
        licence="MIT",
        status="as released by the authors",
        note="12 budgets x up to 16 sizes; params count the output layer and the embedding once; "
        "flops = 6 params tokens",
        constants={"family": "ar", "flop_convention": "6nd", "corpus": "RefinedWeb"},
    ),
    "muennighoff2023": PublishedTable(
        name="muennighoff2023",
        file="muennighoff2023.csv",
        source="Muennighoff et al. 2023, arXiv 2305.16264: huggingface/datablations, "
        "utils/parametric_fit.ipynb, final loss on C4 validation",
        licence="Apache-2.0",
        status="as released by the authors",
        note="296 runs that read their text 1 to 9000 times; params in total, with the embedding; tokens are "
        "all that were read, unique_tokens those of the text; the column excluded marks the 114 runs "
        "(outliers, seeds, further epochs) that are not in the published fit, and fits obey it; "
        "flops = 6 params tokens",
        constants={"family": "ar", "flop_convention": "6nd", "corpus": "C4", "tokenizer": "GPT-2"},
    ),
    "chao2026": PublishedTable(
        name="chao2026",
        file="chao2026.csv",
        source="Chao et al. 2026, arXiv 2603.16077: chen-hao-chao/mdm-prime-v2, plot/plot_isoflop_curves.py",
        licence="Apache-2.0",
        status="as released by the authors, three decimals",
        note="ar and MDM (masked) at 7 budgets; params = 12 layers width^2, which leaves out a quarter of "
        "the network's matrices; some points seem to be read off along schedules for longer runs; the third "
        "family of the file is the table chao2026_prime",
        constants={"flop_convention": "6nd", "corpus": "C4", "tokenizer": "GPT-2"},
    ),
    "chao2026_prime": PublishedTable(
        name="chao2026_prime",
        file="chao2026_prime.csv",
        source="Chao et al. 2026, arXiv 2603.16077: chen-hao-chao/mdm-prime-v2, plot/plot_isoflop_curves.py",
        licence="Apache-2.0",
        status="withdrawn: the losses are no bound on the likelihood",
        note="MDM-Prime-v2, sub-token masking; the claim of 21.8 times less compute than ar was withdrawn by "
        "the authors; every row is marked excluded, and no law is fitted to it unless that column is dropped",
        constants={"flop_convention": "6nd", "corpus": "C4", "tokenizer": "GPT-2", "bound": "none"},
    ),
}
_ALIASES = {"sahoo2026_isoflop": "sahoo2026"}
# The published families whose loss is a likelihood; every other one reports a bound from above.
_EXACT = frozenset({"ar"})


def runs(name: str) -> pd.DataFrame:
    """A published run table by name (see `tables`): params, tokens, flops, loss and its other columns.

    UserError (a ValueError) for an unknown name, listing the choices.
    """
    table = _TABLES.get(_ALIASES.get(name, name))
    if table is None:
        raise UserError(f"no published run table is called {name!r}; there are {', '.join(_TABLES)}")
    frame = _read(table.file)
    for column, value in table.constants.items():
        frame[column] = value
    if "family" in frame and "loss" in frame and "bound" not in frame:
        frame["bound"] = frame["family"].map(lambda family: "exact" if family in _EXACT else "upper")
    frame.attrs = asdict(table)
    return frame


def tables() -> pd.DataFrame:
    """One row per run table: name, rows, source, licence, status, note."""
    import pandas as pd

    rows = [
        {
            "name": table.name,
            "rows": len(_read(table.file)),
            "source": table.source,
            "licence": table.licence,
            "status": table.status,
            "note": table.note,
        }
        for table in _TABLES.values()
    ]
    return pd.DataFrame(rows)


def laws() -> pd.DataFrame:
    """Published laws, one row each; a number that was not published is missing (pandas.NA), never a guess.

    Exponents are powers of compute (params: N*, tokens: D*, loss: L*, or L* - E if loss_form is
    "reducible"; the two do not compare). E, A, B, alpha, beta are those of E + A/N^alpha + B/D^beta,
    R_D and R_N those of the effective-data law (`analysis.laws.solver.repeats`).
    params_counted and flops_counted define N and C; evidence is the place of the number in its source; status
    is valid, corrected, withdrawn or disputed.
    """
    frame = _read("laws.csv", text=("arxiv",))
    words = [name for name in frame.columns if frame[name].dtype.kind not in "fi"]
    frame[words] = frame[words].fillna("")
    numbers = [name for name in frame.columns if name not in words]
    return frame.astype(dict.fromkeys(numbers, "Float64"))


def _read(file: str, *, text: tuple[str, ...] = ()) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_csv(Path(__file__).parent / "data" / file, dtype=dict.fromkeys(text, "str"))
    if "excluded" in frame:
        frame["excluded"] = frame["excluded"].fillna("")
    for name in frame.columns:
        # float64 also for counts: 6 x params x tokens of a large run does not fit into int64
        if frame[name].dtype.kind == "i" and name in ("params", "tokens"):
            frame[name] = frame[name].astype("float64")
    return frame
