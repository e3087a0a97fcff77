"""Runs compared sequence by sequence: honest errors, and much smaller ones than of two means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import compare_sequences, load_sequence_losses, paired_difference
from analysis.comparison.pairwise import pairwise_text
from analysis.errors import UserError


def honest(differences: list[Any], truth: float) -> None:
    """The spread of the differences is what their errors say, and intervals hold the truth."""
    values, errors = ([getattr(d, name) for d in differences] for name in ("difference", "se"))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.15)
    assert np.mean([d.low <= truth <= d.high for d in differences]) > 0.9


def test_common_text_cancels_and_the_error_is_honest() -> None:
    generator, differences = np.random.default_rng(0), []
    for _ in range(300):
        text = 3 + generator.standard_normal(400)
        one, other = (text + 0.2 * generator.standard_normal(400) + shift for shift in (0.05, 0.0))
        differences.append(paired_difference(one, other))
    honest(differences, 0.05)
    assert differences[0].unpaired_se > 4 * differences[0].text_se
    assert not differences[0].seeds


def test_neighbours_of_one_document_are_no_independent_windows() -> None:
    """What the runs differ in is equal for five windows in a row: independent windows would err by 2.2."""
    generator, differences = np.random.default_rng(1), []
    for _ in range(300):
        of_documents = generator.standard_normal(400).repeat(5)
        differences.append(paired_difference(3 + of_documents, np.full(2000, 3.0)))
    values = [d.difference for d in differences]
    errors = np.mean([d.se for d in differences])
    assert 0.8 * np.std(values) < errors < 1.1 * np.std(values)
    assert errors > 1.8 / np.sqrt(2000)


def test_what_differs_from_level_to_level_is_no_error_if_levels_are_even() -> None:
    generator, differences = np.random.default_rng(2), []
    for _ in range(300):
        levels = (generator.permutation(800) + generator.random(800)) / 800
        one = 3 + 2 * levels + 0.3 * generator.standard_normal(800)
        differences.append(paired_difference(one, np.full(800, 3.0), levels=levels))
    honest(differences, 1.0)
    blind = paired_difference(one, np.full(800, 3.0))
    assert blind.se > 1.8 * differences[-1].se


def test_seeds_are_counted_where_both_sides_have_replicas() -> None:
    generator, differences = np.random.default_rng(3), []
    for _ in range(400):
        text = 3 + generator.standard_normal(200)
        seeds = 0.03 * generator.standard_normal((2, 4, 1))
        noise = 0.05 * generator.standard_normal((2, 4, 200))
        differences.append(paired_difference(*(text + seeds + noise)))
    honest(differences, 0.0)
    assert differences[0].seeds
    assert not paired_difference(3 + noise[0], 3 + noise[1][:1]).seeds


def test_losses_that_do_not_pair_are_refused() -> None:
    with pytest.raises(UserError, match="losses of 20 and 30 windows do not pair"):
        paired_difference(np.ones(20), np.ones(30))
    with pytest.raises(UserError, match="needs 8 of both"):
        paired_difference(np.ones(5), np.ones(5))
    lost = np.stack([np.full(20, 3.0), np.full(20, np.nan)])
    assert paired_difference(lost, np.full(20, 2.0)).difference == 1, "a diverged replica does not count"
    with pytest.raises(UserError, match="of both"):
        paired_difference(lost[1:], np.ones(20))


def planted() -> pd.DataFrame:
    generator = np.random.default_rng(4)
    text = 3 + generator.standard_normal(500)
    rows = [
        {
            "family": family, "size": size, "budget": budget, "key": f"{family}{size}{budget}", "levels": [],
            "replica": replica, "losses": (text + above + 0.1 * generator.standard_normal(500)).tolist(),
        }
        for family, size, above in (("ar", "8x1", 0.3), ("ar", "16x1", 0.0), ("masked", "8x1", 0.4),
                                    ("masked", "16x1", 0.9))
        for budget in (1e10, 1e11)
        for replica in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_families_meet_at_every_budget_with_their_best_sizes(tmp_path: Any) -> None:
    table = planted()
    table.to_parquet(tmp_path / "sequence_losses.parquet")
    pairs = compare_sequences(load_sequence_losses(tmp_path))
    assert pairs["flops"].tolist() == [1e10, 1e11]
    assert set(pairs["size"]) == {"8x1"}
    assert set(pairs["reference_size"]) == {"16x1"}
    assert ((pairs["difference"] - 0.4).abs() < 4 * pairs["text_se"]).all()
    assert (pairs["unpaired_se"] > 5 * pairs["text_se"]).all()
    text = str(pairwise_text(pairs))
    assert "masked 8x1" in text
    assert max(map(len, text.splitlines())) <= 80


def test_other_windows_and_missing_families_give_no_rows(tmp_path: Any) -> None:
    table = planted()
    short = table["family"].eq("masked")
    table.loc[short, "losses"] = table.loc[short, "losses"].map(lambda values: values[:100])
    assert not len(compare_sequences(table))
    assert not len(compare_sequences(planted(), "uniform"))
    assert not len(compare_sequences(planted().iloc[:0]))
    with pytest.raises(UserError, match="cannot be read"):
        load_sequence_losses(tmp_path)
    table.drop(columns="levels").to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="has no column levels"):
        load_sequence_losses(tmp_path / "other.parquet")
