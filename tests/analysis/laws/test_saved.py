"""Laws as files and back: every number to the last bit, and one sentence for any other file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import published
from analysis.errors import UserError
from analysis.frontier import Curve
from analysis.laws import METHODS, register
from analysis.laws.result import Law
from analysis.laws.saved import _digest
from examples.own_law import ENTRY
from tests.analysis.laws.test_registry import table_for
from tests.analysis.planted import isoflop_table

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("surface", {"interval": "allowance"}),
    *((name, {}) for name in METHODS),
    ("surface", {"interval": "bca"}),
    ("surface", {"tied": True, "E": 1.5}),
    ("surface", {"bootstrap": 0}),
    ("isoflop", {"shape": "akima"}),
    ("isoflop", {"correct_bias": True, "interval": "bca"}),
    ("constrained", {"base": (1.69, 406.4, 410.7, 0.34, 0.28)}),
]


def check_equal(law: Law, again: Law) -> None:
    """The same answers with the same ends, and the same bits behind them."""
    assert type(again) is type(law)
    assert again.to_json() == law.to_json()
    assert str(again) == str(law)
    budgets = [1e17, 3.3e18, 1e23]
    pd.testing.assert_frame_equal(again.frontier(budgets), law.frontier(budgets), check_exact=True)
    pd.testing.assert_frame_equal(again.runs, law.runs, check_exact=True)
    for name in ("E", "log_K", "c") if isinstance(law.curve, Curve) else ("log_flops", "losses"):
        assert getattr(again.curve, name).tobytes() == getattr(law.curve, name).tobytes()
    if hasattr(law, "predict"):
        columns = [law.runs[name].to_numpy() for name in law.inputs]
        for kind in ("mean", "run"):
            once = law.predict(*columns, kind=kind)
            pd.testing.assert_frame_equal(again.predict(*columns, kind=kind), once, check_exact=True)
    if hasattr(law, "minima"):
        pd.testing.assert_frame_equal(again.minima, law.minima, check_exact=True)
    assert again.plot().to_json() == law.plot().to_json()


@pytest.mark.parametrize(("method", "options"), OPTIONS)
def test_a_loaded_law_is_the_saved_one_to_the_last_bit(
    method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    law = analysis.fit_law(table_for(METHODS[method]), method, **({"bootstrap": 12} | options))
    assert law.save(tmp_path / "new" / "law.json") == tmp_path / "new" / "law.json"
    check_equal(law, analysis.load_law(tmp_path / "new" / "law.json"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["law.json"]


def test_a_law_registered_from_outside_is_saved_too(tmp_path: Path) -> None:
    register(ENTRY)
    try:
        law = analysis.fit_law(isoflop_table(noise=0.002, sizes=7), "kaplan", bootstrap=5)
        check_equal(law, analysis.load_law(law.save(tmp_path / "law.json")))
    finally:
        del METHODS[ENTRY.name]
    with pytest.raises(UserError, match="law with method 'kaplan', which is not registered here"):
        analysis.load_law(tmp_path / "law.json")
    with pytest.raises(UserError, match=r"holds a KaplanLaw of examples\.own_law, which cannot be saved"):
        law.save(tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_curves_and_a_base_with_resamples_are_saved_though_options_cannot_name_them(tmp_path: Path) -> None:
    runs = table_for(METHODS["constrained"])
    base = analysis.fit_law(runs[runs["tokens"] == runs["unique_tokens"]], bootstrap=12)
    law = analysis.fit_law(runs, "constrained", base=base, bootstrap=12)
    check_equal(law, analysis.load_law(law.save(tmp_path / "constrained.json")))
    steps = np.geomspace(0.02, 1, 30)
    table = isoflop_table(sizes=9, span=8)
    curves = pd.concat(
        [
            pd.DataFrame(
                {"key": str(i), "params": row.params, "step": np.arange(30), "tokens": row.tokens * steps,
                 "flops": row.budget * steps, "loss": row.loss * steps**-0.05}
            )
            for i, row in enumerate(table.itertuples())
        ]
    )  # fmt: skip
    envelope = analysis.fit_law(curves, "envelope", bootstrap=12)
    check_equal(envelope, analysis.load_law(envelope.save(tmp_path / "envelope.json")))


def test_runs_keep_the_types_of_their_columns_and_what_was_left_out(tmp_path: Path) -> None:
    runs = published.runs("sahoo2026").query("family == 'masked'")
    count = len(runs)
    runs = runs.assign(
        seed=pd.array([1, None, *[2**62 + 1] * (count - 2)], dtype="Int64"),
        started=pd.to_datetime([None, *["2026-03-01T10:00:00.123Z"] * (count - 1)], utc=True),
        note=["ü", None, *["b"] * (count - 2)],
        mixed=pd.Series([1, "a", None, float("nan"), *[True] * (count - 4)], index=runs.index, dtype=object),
        kind=pd.Categorical(["x", "y"] * (count // 2) + ["x"] * (count % 2)),
        status=["failed", *["finished"] * (count - 1)],
    )
    law = analysis.fit_law(runs, bootstrap=5)
    again = analysis.load_law(law.save(tmp_path / "law.json"))
    pd.testing.assert_frame_equal(again.runs, law.runs)
    assert again.excluded == law.excluded
    assert again.runs.attrs["source"] == law.runs.attrs["source"]
    assert not again.thetas.flags.writeable
    with pytest.raises(
        UserError, match=r"a surface law, runs, column where of the runs .object. cannot be saved"
    ):
        analysis.fit_law(runs.assign(where=[{1}] * count), bootstrap=0).save(tmp_path / "no.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    law = analysis.fit_law(isoflop_table(noise=0.002, sizes=7), bootstrap=5)
    return law.save(tmp_path_factory.mktemp("laws") / "law.json")


def resigned(content: dict[str, Any]) -> dict[str, Any]:
    """The file as another version of the program would have written it."""
    content.pop("sha256")
    return content | {"sha256": _digest(content)}


def spoil(content: dict[str, Any], how: str) -> Any:
    if how == "an option":
        content["law"]["options"]["delta"] = 0.1
    elif how == "a digit":
        content["state"]["$object"][1]["gradient"] = 0.25
    elif how == "no hash":
        del content["sha256"]
    elif how == "form":
        return content | {"format_version": 99, "code_version": "9.0"}
    elif how == "another program":
        return {"format": "something"}
    elif how == "to_json":
        return content["law"]
    elif how == "a list":
        return [1]
    elif how == "fields":
        content["state"]["$object"][1]["colour"] = 1
        return resigned(content)
    elif how == "numbers":
        content["law"]["parameters"]["alpha"]["value"] *= 1.001
        return resigned(content)
    elif how == "a class":
        content["state"]["$object"][0] = "subprocess:Popen"
        return resigned(content)
    return content


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("an option", "was changed since it was saved: fit the law again"),
        ("a digit", "was changed since it was saved"),
        ("no hash", "was changed since it was saved"),
        ("form", r"was saved by version 9.0 of this program in a form that this version, .*, does not read"),
        ("another program", r"is no saved law: law.save\(path\) writes one"),
        ("to_json", r"holds the numbers of a law, not the law itself: law.save\(path\) writes one"),
        ("a list", "is no saved law"),
        ("fields", "whose laws have other fields: fit the law again"),
        ("numbers", r"which gave parameters.alpha.value = .*; here it is .*: fit the law again"),
        ("a class", "whose laws have other fields"),
    ],
)
def test_a_file_that_is_not_the_saved_law_gets_one_sentence(
    how: str, sentence: str, saved: Path, tmp_path: Path
) -> None:
    path = tmp_path / "law.json"
    path.write_text(json.dumps(spoil(json.loads(saved.read_text()), how)))
    with pytest.raises(UserError, match=f"^{path} .*{sentence}") as caught:
        analysis.load_law(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_json_get_one_sentence(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    for content in (saved.read_bytes()[:-40], b"", b"\x89PNG\xff\xfe", b"E,A\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no saved law, or was cut off"):
            analysis.load_law(path)
    with pytest.raises(UserError, match=r"cannot be read .No such file or directory."):
        analysis.load_law(tmp_path / "other.json")
    with pytest.raises(UserError, match=r"cannot be read .Is a directory."):
        analysis.load_law(tmp_path)


def test_a_place_that_cannot_be_written_gets_one_sentence(saved: Path, tmp_path: Path) -> None:
    law = analysis.load_law(saved)
    for path in (None, 3, ""):
        with pytest.raises(UserError, match=r"path = .*: give the name of a file, e.g. 'law.json'"):
            law.save(path)
        with pytest.raises(UserError, match="give the name of a file"):
            analysis.load_law(path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        law.save(tmp_path / "file" / "law.json")
    assert (tmp_path / "file").read_text() == "mine"
    assert json.loads(law.to_json(tmp_path / "numbers.json")) == json.loads(
        (tmp_path / "numbers.json").read_text()
    )


@pytest.fixture
def of_a_sweep(tmp_path: Path) -> Path:
    """A folder as a sweep leaves it: numbers of two laws, and the runs of both."""
    runs = isoflop_table(noise=0.002, sizes=7).assign(status=["failed", *["finished"] * 34], family="ar")
    runs.to_parquet(tmp_path / "runs.parquet", index=False)
    laws = {method: analysis.fit_law(runs, method, bootstrap=8) for method in ("isoflop", "surface")}
    content = {"sweep": "small", "laws": {method: law.to_dict() for method, law in laws.items()}}
    (tmp_path / "law.json").write_text(json.dumps(content))
    return tmp_path / "law.json"


def test_the_laws_of_a_sweep_come_back_from_its_runs(of_a_sweep: Path) -> None:
    numbers = json.loads(of_a_sweep.read_text())["laws"]
    for method, name in ((None, "surface"), ("approach 2", "isoflop")):
        law = analysis.load_law(of_a_sweep, method)
        assert law.method == name
        assert json.loads(law.to_json())["optima"] == numbers[name]["optima"]


def test_laws_of_a_sweep_that_its_runs_do_not_give_are_refused(of_a_sweep: Path, saved: Path) -> None:
    with pytest.raises(
        UserError, match=r"method = 'envelope': .*law.json has no such law; it has isoflop, surface"
    ):
        analysis.load_law(of_a_sweep, method=1)
    with pytest.raises(UserError, match=r"method = 'isoflop': .*law.json is a law with method 'surface'"):
        analysis.load_law(saved, method="isoflop")
    content = json.loads(of_a_sweep.read_text())
    content["laws"]["surface"]["exponents"]["params"]["low"] += 0.01
    of_a_sweep.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"which gave exponents.params.low = .*; here it is .*: fit the law again"
    ):
        analysis.load_law(of_a_sweep)
    runs = pd.read_parquet(of_a_sweep.with_name("runs.parquet"))
    runs.iloc[:-1].to_parquet(of_a_sweep.with_name("runs.parquet"))
    with pytest.raises(UserError, match=r"which gave data_sha256 = .*; here it is"):
        analysis.load_law(of_a_sweep, "isoflop")
    of_a_sweep.with_name("runs.parquet").unlink()
    with pytest.raises(
        UserError, match=r"holds the numbers of laws: their runs, runs.parquet, must lie beside it"
    ):
        analysis.load_law(of_a_sweep)
