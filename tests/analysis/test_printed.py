"""Printed tables: the same cells on a terminal, in Markdown, LaTeX and HTML."""

from __future__ import annotations

import pandas as pd
import pytest

import analysis
from analysis.printed import TextTable, estimates, latex, latex_cell
from tests.analysis.planted import isoflop_table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpha", r"$\alpha$"), ("E", "$E$"), ("R_D", "$R_D$"), ("alpha_N", r"$\alpha_N$"),
        ("params at 1.0e20 FLOPs", r"params at $1.0 \times 10^{20}$ FLOPs"),
        ("-0.170 [-1.2e-5, 0.1]", r"$-0.170$ [$-1.2 \times 10^{-5}$, 0.1]"),
        ("5 [1.2, ∞]", r"5 [1.2, $\infty$]"), ("a_b & 95%", r"a\_b \& 95\%"), ("–", "--"),
        ("\\x", r"\textbackslash{}x"),
        ("394M [305M, 502M]", "394M [305M, 502M]"), ("bf16-1.5e3x", "bf16-1.5e3x"),
    ],
)  # fmt: skip
def test_cells_for_latex(text: str, expected: str) -> None:
    assert latex_cell(text) == expected


def test_a_caption_is_no_symbol() -> None:
    assert latex("E") == "E"
    table = TextTable(columns=("name", "value"), rows=(("A", "1"),))
    assert r"\caption{A}" in table.to_latex("A", "tab:a")
    assert r"\begin{table}" not in table.to_latex()


def test_markdown_and_html_escape_what_would_break_the_table() -> None:
    table = TextTable(columns=("name", "value"), rows=(("a|b", "<b>"),))
    assert table.to_markdown().split("\n") == ["| name | value |", "| --- | --- |", r"| a\|b | <b> |"]
    assert "<td>&lt;b&gt;</td>" in table.to_html()


def test_a_law_is_printed_with_equal_cells_in_every_form() -> None:
    law = analysis.fit_law(isoflop_table(noise=0.002, sizes=7), bootstrap=20)
    rows = law.text_table().rows
    assert len(rows) == len(law.summary())
    for row in rows:
        assert f"| {' | '.join(row)} |" in law.to_markdown()
        assert all(cell in text for cell in row for text in (str(law), law._repr_html_()))
    assert r"$\alpha$ & " in law.to_latex()
    assert law.to_latex().count(r"\\") == len(rows) + 1
    assert law.summary()[["value", "low", "high"]].dtypes.map(pd.api.types.is_float_dtype).all()


def test_a_second_interval_is_a_column_of_its_own() -> None:
    columns = {
        "quantity": ["E", "params at 1.0e20 FLOPs"],
        "value": [1.5, 2e8],
        "low": [1.0, 1e8],
        "high": [2.0, 3e8],
    }
    table = pd.DataFrame(columns | {"allowance_low": [0.5, pd.NA], "allowance_high": [2.5, pd.NA]})
    text = estimates(table, 0.95)
    assert text.columns == ("quantity", "value and 95% interval", "95% interval, allowance")
    assert text.rows[0] == ("E", "1.5000 [1.0000, 2.0000]", "[0.50000, 2.5000]")
    assert text.rows[1][2] == ""
    assert str(text).split("\n")[0].split("  ")[1] == "quantity"
