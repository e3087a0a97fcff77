"""Columns, counts, curves and laws as the page is sent them."""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import published
from analysis.dashboard import fits, measures, sources, worker
from analysis.dashboard.columns import plain_number, to_columns
from analysis.dashboard.state import State
from analysis.errors import UserError
from tests.analysis.dashboard.dashboard_help import made_up, write_csv


def expand(column: dict, rows: int) -> list:
    """As the page reads it."""
    if column["kind"] == "one":
        return [column["value"]] * rows
    if column["kind"] == "words":
        return [None if at < 0 else column["words"][at] for at in column["at"]]
    return column["values"]


def test_columns_say_what_the_table_says() -> None:
    frame = pd.DataFrame(
        {
            "a": [1.0, float("nan"), math.inf],
            "b": ["x", None, "x"],
            "c": ["same"] * 3,
            "d": pd.to_datetime([1_700_000_000_000, None, 1_700_000_001_000], unit="ms", utc=True),
            "e": [None] * 3,
            "f": pd.array([1, None, 3], dtype="Int64"),
            "g": pd.array([1_234_567_891, None, 3], dtype="Int64"),
            "h": pd.array([2**60 + 1, None, 3], dtype="Int64"),
        }
    )
    answer = to_columns(frame)
    json.dumps(answer, allow_nan=False)
    assert expand(answer["a"], 3) == [1, None, "inf"]
    assert expand(answer["b"], 3) == ["x", None, "x"]
    assert answer["c"] == {"kind": "one", "value": "same"}
    assert expand(answer["d"], 3) == [1_700_000_000, None, 1_700_000_001]
    assert "e" not in answer
    assert expand(answer["f"], 3) == [1, None, 3]
    assert expand(answer["g"], 3) == [1_234_567_891, None, 3]
    assert expand(answer["h"], 3) == [str(2**60 + 1), None, "3"]


@pytest.mark.parametrize(("x", "rounded"), [(2.0, 2), (1.23456789, 1.234568), (1e300, 1e300), (-0.0, 0)])
def test_numbers_keep_seven_digits(x: float, rounded: float) -> None:
    assert plain_number(x) == rounded


def test_counts_offered_are_those_that_every_finished_run_has() -> None:
    frame = made_up()
    assert fits.counts_of(frame)["flops"] == ["flops_exact", "flops_6nd"]
    assert fits.default_counts(frame) == {"params": "params_non_embedding", "flops": "flops_6nd"}
    frame.loc[0, "params_body"] = None
    assert "params_body" not in fits.counts_of(frame)["params"]
    assert fits.counts_of(published.runs("sahoo2026")) == {"params": ["own"], "flops": ["own"]}


def test_budgets_go_on_grouping_runs_however_they_are_counted() -> None:
    frame = made_up()
    counted = fits.counted(frame, "params_total", "flops_exact")
    assert counted["nominal"].tolist() == frame["budget"].tolist()
    groups = counted.groupby(["family", "nominal"])
    assert (groups["budget"].nunique() == 1).all()
    assert (groups["budget"].first().to_numpy() > groups["nominal"].first().to_numpy()).all()
    assert counted["params"].tolist() == frame["params_total"].tolist()


def test_untyped_budgets_are_joined_as_a_fit_joins_them() -> None:
    frame = pd.DataFrame({"flops": [1e18, 1.02e18, 3e18], "params": 1.0, "tokens": 1.0})
    budgets = measures.nominal_budgets(frame)
    assert budgets[0] == budgets[1] == pytest.approx(1.01e18, rel=1e-3)
    assert budgets[2] == pytest.approx(3e18)


def test_many_different_flops_are_no_budgets() -> None:
    assert measures.nominal_budgets(published.runs("muennighoff2023").assign(budget=None)).isna().all()


def test_bits_per_byte_need_one_text_and_tokenizer() -> None:
    frame = made_up()
    assert measures.measures_of(frame)["ratio"] == pytest.approx(0.4)
    frame.loc[0, "bits_per_byte"] *= 1.1
    assert "several texts" in measures.measures_of(frame)["why"]
    assert "no run" in measures.measures_of(frame.drop(columns="bits_per_byte"))["why"]


def test_laws_told_are_those_that_fit_law_gives() -> None:
    import analysis

    frame = fits.counted(made_up(), "params_non_embedding", "flops_6nd")
    own = frame[frame["family"] == "ar"]
    laws, summary = fits.fit_family(own, 40)
    law = analysis.fit_law(own.set_axis(own["key"].tolist(), axis=0), "surface", bootstrap=40)
    assert laws["surface"].sha256 == law.sha256
    a = law.exponents["params"]
    assert summary["laws"]["surface"]["exponents"]["params"] == pytest.approx([a, a.low, a.high], rel=1e-6)
    json.dumps(summary, allow_nan=False)


def everything(frame: pd.DataFrame, bootstrap: int = 0, *, paint: bool = True) -> dict[str, Any]:
    """All that is reported, put together as the worker does."""
    results: dict[str, Any] = {}

    def report(_: str, news: dict[str, Any]) -> None:
        for name, value in news.items():
            results[name] = results.get(name, {}) | value if isinstance(value, dict) else value

    material = fits.Material(fits.counted(frame, "params_non_embedding", "flops_6nd"))
    fits.fit_everything(material, bootstrap, report, paint=paint)
    json.dumps(results, allow_nan=False)
    return results | {"material": material}


def test_a_page_opens_with_figures_and_others_are_made_when_asked_for() -> None:
    results = everything(made_up())
    figures, material = results["figures"], pickle.loads(pickle.dumps(results["material"]))
    assert {name for name, figure in figures.items() if figure} == {"best", "isoflop"}
    assert figures["isoflop"].pop("svg").startswith("<svg")
    assert figures["isoflop"] == material.content("isoflop")
    others = {"measured", "residuals", "frontier/surface", "compare/masked", "checks/isoflop/ar"}
    assert others < set(figures)
    for name in others:
        assert material.content(name)["data"], name
    with pytest.raises(UserError, match="no figure 'nothing'"):
        material.content("nothing")


def test_a_count_that_no_page_opens_with_gets_every_figure_when_asked() -> None:
    assert not any(everything(made_up(), paint=False)["figures"].values())


def test_comparisons_over_all_references_agree_with_compare() -> None:
    import analysis

    results = everything(made_up(), 20)
    other = analysis.compare(
        fits.counted(made_up(), "params_non_embedding", "flops_6nd"), "masked", bootstrap=20
    )
    row = results["compare"]["masked"]["multipliers"][0]
    assert row["multiplier"] == pytest.approx(other.multipliers["multiplier"].iloc[0], rel=1e-4)
    assert row["low"] == pytest.approx(other.multipliers["low"].iloc[0], rel=1e-4)


def test_a_family_without_a_law_says_why_and_does_not_stop_the_others() -> None:
    frame = made_up(("ar", "masked", "odd"))
    results = everything(frame[(frame["family"] != "odd") | (frame["size"] == "s0")])
    assert results["families"]["odd"]["refused"]
    assert results["compare"]["ar"]["multipliers"]
    assert results["health"]["ar"]["surface"]["verdict"]


def test_a_law_of_the_registry_is_fitted_and_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis.laws import METHODS

    another = replace(METHODS["envelope"], name="another", label="Another law", standard=True)
    monkeypatch.setitem(METHODS, "another", another)
    results = everything(made_up(("ar",)))
    assert results["methods"]["another"] == "Another law"
    assert results["families"]["ar"]["laws"]["another"]["exponents"]
    assert results["material"].content("frontier/another")["data"]


def test_outliers_are_those_of_the_checks() -> None:
    from analysis.checks.influence import outliers

    frame = made_up(("ar",))
    frame.loc[3, "loss"] *= 1.05
    frame = fits.counted(frame, "params_non_embedding", "flops_6nd")
    laws, summary = fits.fit_family(frame, 0)
    law = laws["surface"]
    expected = law.runs["key"][outliers(law)].tolist()
    assert frame["key"][3] in expected
    assert [row["key"] for row in summary["laws"]["surface"]["outliers"]] == expected


class TestReader:
    def reader(self, path: Path, cache: Path) -> worker.Reader:
        cache.mkdir(exist_ok=True)
        return worker.Reader(worker.build(sources.spec_of(str(path))), cache)

    def test_reads_again_only_what_changed(self, tmp_path: Path) -> None:
        path, cache = write_csv(made_up(), tmp_path / "runs.csv"), tmp_path / "cache"
        reader = self.reader(path, cache)
        first = next(reader.read({"have": False}))
        assert first["rows"] == 56
        assert next(reader.read({"have": True})) == {"same": True, "end": True}
        write_csv(made_up(seed=1), path)
        assert next(reader.read({"have": True}))["hash"] != first["hash"]
        again = self.reader(path, cache)
        assert next(again.read({"have": True})) == {"same": True, "end": True}, "the snapshot was taken up"

    def test_diverged_and_running_runs_are_there_and_change_no_law(self, tmp_path: Path) -> None:
        frame = made_up()
        extra = frame.head(2).assign(key=["x1", "x2"], status=["diverged", "running"], loss=None)
        before = worker.data_hash(worker.with_keys(frame))
        answer = next(
            self.reader(write_csv(pd.concat([frame, extra]), tmp_path / "runs.csv"), tmp_path / "cache").read(
                {}
            )
        )
        assert answer["rows"] == 58
        assert answer["open"] == 1
        assert before
        content = json.loads(gzip.decompress(Path(answer["file"]).read_bytes()))
        assert expand(content["columns"]["status"], 58)[-2:] == ["diverged", "running"]

    def test_nothing_is_fitted_before_a_run_has_finished(self, tmp_path: Path) -> None:
        state = State({"source": "none", "options": {}}, tmp_path)
        for status, is_fitted in (("planned", False), ("finished", True)):
            frame = made_up().assign(status=status)
            path = write_csv(frame, tmp_path / "runs.csv")
            state.runs.facts = next(self.reader(path, tmp_path / "cache").read({}))
            assert state.runs.facts["rows"] == 56
            assert (state._next_count() is not None) is is_fitted

    def test_a_table_without_keys_gets_some(self, tmp_path: Path) -> None:
        path = write_csv(made_up()[["params", "tokens", "loss"]], tmp_path / "runs.csv")
        answer = next(self.reader(path, tmp_path / "cache").read({}))
        content = json.loads(gzip.decompress(Path(answer["file"]).read_bytes()))
        assert content["columns"]["key"]["values"][0] == "row-00001"

    def test_an_unknown_run_is_unknown(self, tmp_path: Path) -> None:
        reader = self.reader(write_csv(made_up(), tmp_path / "runs.csv"), tmp_path / "cache")
        next(reader.read({}))
        assert next(reader.run({"key": "../../etc/passwd"})) == {"unknown": True, "end": True}


def test_the_fitter_makes_figures_of_its_laws_and_keeps_no_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "nice", lambda by: 0)
    worker.with_keys(made_up()).to_parquet(tmp_path / worker.SNAPSHOT)
    fitter = worker.Fitter(tmp_path)
    job = {"params": "params_total", "flops": "flops_6nd", "bootstrap": 0, "paint": False}
    older, newer = (list(fitter.fit(job | {"hash": name}))[-1]["file"] for name in ("one", "two"))
    assert {path.name.split("-")[1] for path in tmp_path.glob("laws-*")} == {"two"}
    (answer,) = fitter.figure({"laws": newer, "name": "residuals", "format": "json"})
    assert json.loads(gzip.decompress(base64.b64decode(answer["content"])))["data"]
    with pytest.raises(UserError, match="fitted again"):
        next(fitter.figure({"laws": older, "name": "residuals", "format": "json"}))


@pytest.mark.parametrize("name", ["sahoo2026", "hoffmann2022", "chao2026"])
def test_published_tables_can_be_shown(name: str) -> None:
    spec = sources.spec_of(f"published:{name}")
    change = worker.build(spec).read(None)
    assert change is not None
    assert len(change.rows) > 50
    assert "arXiv" in change.note


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("published:nobody", "no published run table"),
        ("nowhere.csv", "does not exist"),
        ("sqlite:///nowhere.db", "does not exist"),
        ("http://127.0.0.1:9", "does not answer"),
        ("gibberish", "which is not one of"),
    ],
)
def test_a_store_that_cannot_be_is_refused_before_anything_starts(store: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        sources.spec_of(store)
