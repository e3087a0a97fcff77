"""Samples on the page: there where a table of samples lies beside the runs, nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.dashboard import fits, worker
from analysis.dashboard.sources import SAMPLES, StoreSource, files_of
from tests.analysis.dashboard.dashboard_help import (
    made_up,
    open_view,
    served,
    state_of,
    text_of,
    wait_for,
    write_csv,
)
from tests.analysis.planted import samples_table

FAMILIES = {"ar": (20.0, 120.0, 2e5), "masked": (26.0, 60.0, 1.8e5)}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with runs and samples."""
    write_csv(made_up(), tmp_path / "runs.csv")
    samples_table(FAMILIES, noise=0.02).to_parquet(tmp_path / SAMPLES)
    return tmp_path


def test_new_samples_are_noticed_and_their_laws_made_anew(place: Path) -> None:
    source = StoreSource(str(place / "runs.csv"))
    assert place / SAMPLES in files_of(str(place / "runs.csv"))
    cache = place / "cache"
    cache.mkdir()
    reader = worker.Reader(source, cache)
    first = next(reader.read({"have": False}))
    assert next(reader.read({"have": True})) == {"same": True, "end": True}
    samples_table(FAMILIES, seed=1).to_parquet(place / SAMPLES)
    second = next(reader.read({"have": True}))
    (place / SAMPLES).unlink()
    third = next(reader.read({"have": True}))
    assert len({first["hash"], second["hash"], third["hash"]}) == 3
    assert not (cache / SAMPLES).exists()


def test_tables_sentences_and_figure_are_those_of_the_analysis(place: Path) -> None:
    import analysis

    material = fits.Material(made_up(), samples=place / SAMPLES)
    content = json.loads(json.dumps(fits.speed_of(material), allow_nan=False))
    expected = analysis.speed_quality(analysis.load_samples(place))
    assert content["sentence"] == expected.sentence
    assert [row[0] for row in content["leads"][0][1]["rows"]] == [
        row[0] for row in expected.leads_table().rows
    ]
    assert len(content["points"]) == len(expected.points)
    assert material.figures()["speed"]().layout.meta["name"] == "speed_quality"
    of_ar = fits.Material(made_up(("ar",)), samples=place / SAMPLES)
    assert {row["family"] for row in (fits.speed_of(of_ar) or {})["points"]} == {"ar"}


def test_without_samples_there_is_nothing_and_with_bad_ones_a_sentence(place: Path) -> None:
    assert fits.speed_of(fits.Material(made_up())) is None
    assert fits.speed_of(fits.Material(made_up(), samples=place / "none.parquet")) is None
    (place / SAMPLES).write_text("no")
    refused = fits.speed_of(fits.Material(made_up(), samples=place / SAMPLES))
    assert "no Parquet file" in (refused or {})["refused"]
    assert "speed" not in fits.Material(made_up()).figures()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Servers over runs with and without samples."""
    folder = tmp_path_factory.mktemp("speed")
    for name in ("with", "without"):
        (folder / name).mkdir()
        write_csv(made_up(), folder / name / "runs.csv")
    samples_table(FAMILIES).to_parquet(folder / "with" / SAMPLES)
    both = [served(str(folder / name / "runs.csv"), folder / "cache") for name in ("with", "without")]
    with both[0] as (first, _), both[1] as (second, _):
        for address in (first, second):
            wait_for(lambda address=address: '"done":true' in state_of(address), seconds=120)
        yield {"with": first, "without": second}


@pytest.mark.slow
def test_the_view_is_there_where_samples_are(page: Any, addresses: dict[str, str]) -> None:
    open_view(page, addresses["with"], "speed")
    text = text_of(page)
    assert "The best samples at a speed" in text
    for words in ("The best at each speed, many texts", "one text", "masked", "perplexity"):
        assert words in text
    assert page.locator("#tabs a", has_text="Speed").count() == 1
    open_view(page, addresses["without"], "overview")
    assert page.locator("#tabs a", has_text="Speed").count() == 0
