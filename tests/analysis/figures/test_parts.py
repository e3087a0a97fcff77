"""Pieces of figures: where labels stand, and what they say."""

from __future__ import annotations

import pandas as pd

from analysis.figures import parts


def test_budgets_are_written_where_they_touch_nothing() -> None:
    figure = parts.panels(1, 1, row_px=100)
    marks = [(0.0, 0.0), (50.0, 50.0), (52.0, 50.0), (52.0, 70.0)]  # a mark is 16 pixels wide and high
    labels = [("1e20", None, *mark) for mark in marks[:3]]
    parts.label_points(figure, 1, labels, marks, ((-50, 150), (-50, 150)), (200, 200))
    notes = [(note.x, note.y, note.yanchor) for note in figure.layout.annotations]
    assert notes == [(0.0, 0.0, "top"), (50.0, 50.0, "top")], "above the third is the fourth mark"
    parts.label_points(figure, 1, labels[2:], marks[:3], ((-50, 150), (-50, 150)), (200, 200))
    assert figure.layout.annotations[-1].yanchor == "top"


def test_a_run_is_labelled_by_the_start_of_a_hash_and_by_the_whole_of_any_other_key() -> None:
    runs = pd.DataFrame({"size": ["8x1", "142M"], "key": ["2585c6831234abcd", "sahoo2026-77"]})
    assert parts.with_labels(runs)["label"].tolist() == ["8x1 2585c683", "142M sahoo2026-77"]
