"""Pieces of figures: where labels stand, and what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figures import parts


def test_labels_at_the_ends_do_not_touch() -> None:
    figure = parts.panels(1, 1, row_px=300)
    for start in (0.0, 0.5, 0.999):  # at the lower edge, inside, at the upper edge
        figure.layout.annotations = ()
        ends = [(f"law {number}", None, 1.0, start + 0.0001 * number) for number in range(5)]
        parts.label_ends(figure, 1, ends, ((0.0, 2.0), (0.0, 1.0)), (400, 300))
        heights = [note.y * 300 for note in figure.layout.annotations]
        assert len(heights) == 5
        assert (np.diff(heights) > 0.999 * parts.LABEL_PX).all()
        assert 0 <= min(heights) < max(heights) <= 300


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
