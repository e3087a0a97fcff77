"""Tables of samples as files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis.errors import UserError
from tests.analysis.planted import samples_table

SAMPLES = samples_table({"ar": (20.0, 0.0, 1e5)}, texts=3, steps=(4, 8))


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    SAMPLES.to_parquet(tmp_path / "samples.parquet")
    for place in (tmp_path, tmp_path / "samples.parquet", str(tmp_path)):
        pd.testing.assert_frame_equal(analysis.load_samples(place), SAMPLES)
    assert len(analysis.speed_quality(analysis.load_samples(tmp_path)).points) == 2


def test_files_that_are_no_table_of_samples(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there: `scaling sample SWEEP` writes"):
        analysis.load_samples(tmp_path)
    file = tmp_path / "samples.parquet"
    file.write_text("no")
    with pytest.raises(UserError, match="no Parquet file that can be read"):
        analysis.load_samples(file)
    SAMPLES.drop(columns=["steps"]).to_parquet(file)
    with pytest.raises(UserError, match=r"samples\.parquet has no column steps: give a table of samples"):
        analysis.load_samples(file)


def test_options_of_a_sampler_stand_in_its_name() -> None:
    from analysis.speed.samples import point_name

    row = SAMPLES.iloc[0].to_dict() | {"options": '{"eta": 0.02}'}
    assert point_name(row) == "ar ancestral 4 eta=0.02 (ar012345)"
