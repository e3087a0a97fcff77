"""Tables of numbers as text: aligned on a terminal, as Markdown, LaTeX and HTML, with equal cells."""

from __future__ import annotations

import html
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.text import value_text

if TYPE_CHECKING:
    import pandas as pd

_GREEK = "alpha|beta|gamma|delta|kappa"
_SYMBOL = re.compile(rf"({_GREEK}|[A-Za-z])(?:_([A-Za-z0-9]))?")
_ESCAPES = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "∞": r"$\infty$", "–": "--", "<": "$<$", ">": "$>$",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """Cells as people read them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    plain_head: bool = False
    """The heading says nothing that the cells do not: the terminal leaves it out."""

    def __str__(self) -> str:
        lines = self.rows if self.plain_head else (self.columns, *self.rows)
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        return "\n".join(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def to_markdown(self) -> str:
        """A table of Markdown, with pipes."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in cells)

    def to_latex(self, caption: str = "", label: str = "") -> str:
        r"""A tabular of LaTeX (package booktabs), in a floating table if it has a caption or a label."""
        lines = [" & ".join(map(latex_cell, line)) + r" \\" for line in (self.columns, *self.rows)]
        body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        body = [rf"\begin{{tabular}}{{{'l' * len(self.columns)}}}", *body, r"\end{tabular}"]
        if caption or label:
            head = [rf"\caption{{{latex(caption)}}}"] if caption else []
            head += [rf"\label{{{label}}}"] if label else []
            body = [r"\begin{table}", r"\centering", *head, *body, r"\end{table}"]
        return "\n".join(body)

    def to_html(self) -> str:
        """A table element."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.columns)
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Printed(ABC):
    """A result that is printed as a table of texts, and as Markdown and LaTeX with the same cells."""

    @abstractmethod
    def text_table(self) -> TextTable:
        """The cells, formatted."""

    def to_markdown(self) -> str:
        """The printed table as Markdown."""
        return self.text_table().to_markdown()

    def to_latex(self, caption: str = "", label: str = "") -> str:
        r"""The printed table for LaTeX (package booktabs); a caption or a label makes it a floating table."""
        return self.text_table().to_latex(caption, label)


def latex_cell(text: str) -> str:
    """A cell for LaTeX: like `latex`, with the symbols of laws (alpha, E, R_D) in mathematics."""
    if symbol := _SYMBOL.fullmatch(text):
        letter = rf"\{symbol[1]}" if re.fullmatch(_GREEK, symbol[1]) else symbol[1]
        return f"${letter}_{symbol[2]}$" if symbol[2] else f"${letter}$"
    return latex(text)


def latex(text: str) -> str:
    """Text for LaTeX: numbers in mathematics, everything else escaped."""
    pieces = re.split(r"(?<![\w.])(-?\d+(?:\.\d+)?e-?\d+|-\d+(?:\.\d+)?)(?![\w.])", text)
    for i, piece in enumerate(pieces):
        if i % 2:
            mantissa, _, exponent = piece.partition("e")
            pieces[i] = rf"${mantissa} \times 10^{{{int(exponent)}}}$" if exponent else f"${mantissa}$"
        else:
            pieces[i] = "".join(_ESCAPES.get(character, character) for character in piece)
    return "".join(pieces)


def words(name: str) -> str:
    """A name of a number for people: tokens_per_param is "tokens per param", R_D stays."""
    return re.sub(r"(?<=[a-z]{2})_(?=[a-z]{2})", " ", name)


def ends_of(table: pd.DataFrame) -> list[str]:
    """Names of further intervals of a table with low and high: "allowance" for allowance_low, _high."""
    return [
        str(name)[:-4] for name in table if str(name).endswith("_low") and f"{str(name)[:-4]}_high" in table
    ]


def estimates(table: pd.DataFrame, level: float, *, digits: int = 5) -> TextTable:
    """A table of quantity, value, low, high (and further intervals X_low, X_high) as text."""
    others = ends_of(table)
    rows = []
    for row in table.to_dict(orient="records"):
        name, value = str(row["quantity"]), row["value"]
        cells = [words(name), value_text(name, value, row["low"], row["high"], digits=digits)]
        for other in others:
            both = value_text(name, value, row[f"{other}_low"], row[f"{other}_high"], digits=digits)
            cells.append(both.partition(" ")[2])  # the value stands in the column before
        rows.append(tuple(cells))
    heads = [
        f"value and {level:.0%} interval",
        *(f"{level:.0%} interval, {words(other)}" for other in others),
    ]
    return TextTable(columns=("quantity", *heads), rows=tuple(rows), plain_head=not others)


def notes_html(notes: Sequence[object]) -> str:
    """Warnings below a table of HTML."""
    return f"<ul>{''.join(f'<li>{html.escape(str(note))}</li>' for note in notes)}</ul>" if notes else ""
