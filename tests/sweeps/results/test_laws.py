"""The end of a sweep on a planted law: law.json, tables, figures, whom a fit leaves out, status."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from analysis import load_law
from analysis.estimate import Estimate
from scaling.errors import UserError
from sweeps.attempt.journal import JOURNAL, Journal, attempt_folder, run_folder
from sweeps.config.load import SHIPPED, parse_config
from sweeps.driver.sweep import Report
from sweeps.launch import conclude
from sweeps.ledger.ledger import Entry, Ledger, State
from sweeps.ledger.requests import carry_out
from sweeps.ledger.status import of_families, open_ledger, runs_with_progress
from sweeps.plan import prepare
from sweeps.plan.plan import DataFacts, plan_specs
from sweeps.plan.rows import spec_columns
from sweeps.results import laws as results
from sweeps.results import terminal as report
from sweeps.show.status import show
from sweeps.show.tables import console, picture

DATA = DataFacts(corpus="stdlib", tokenizer="bytes", fingerprint="ab" * 8, num_token_ids=256)
CONFIG = """
name: planted
families: [ar, uniform]
grid:
  budgets: [1e11, 3e11, 1e12, 3e12]
  window: {params: 3e4, at_flops: 1e12, exponent: 0.5, span: 5, count: 6}
context_length: 128
learning_rate: {base: 1e-3}
batch: {base_tokens: 1024}
flop_convention: 2nd
sizes:
  - {name: d8, hidden: 8, num_layers: 1, num_heads: 1, cond_dim: 8, time_features: 32}
  - {name: d12, hidden: 12, num_layers: 1, num_heads: 1, cond_dim: 8, time_features: 32}
  - {name: d16, hidden: 16, num_layers: 1, num_heads: 1, cond_dim: 8, time_features: 32}
  - {name: d16x2, hidden: 16, num_layers: 2, num_heads: 1, cond_dim: 8, time_features: 32}
  - {name: d24, hidden: 24, num_layers: 2, num_heads: 1, cond_dim: 8, time_features: 32}
  - {name: d32, hidden: 32, num_layers: 2, num_heads: 2, cond_dim: 8, time_features: 32}
  - {name: d40, hidden: 40, num_layers: 2, num_heads: 2, cond_dim: 8, time_features: 32}
  - {name: d48, hidden: 48, num_layers: 3, num_heads: 2, cond_dim: 8, time_features: 32}
  - {name: d64, hidden: 64, num_layers: 3, num_heads: 2, cond_dim: 8, time_features: 32}
  - {name: d80, hidden: 80, num_layers: 4, num_heads: 2, cond_dim: 8, time_features: 32}
"""
WORSE = {"ar": 1.0, "uniform": 2.0}
"""How much compute a family needs over ar, planted as fewer effective tokens and parameters."""


def planted_loss(spec) -> float:
    """E + A/N^0.5 + B/D^0.5 with the family's N and D shrunk; minima lie within the window."""
    shrink = WORSE[spec.family] ** 0.5
    params = spec_columns(spec)["params"] / shrink
    return 1.0 + 60 / params**0.5 + 600 / (spec.tokens / shrink) ** 0.5


@pytest.fixture(scope="module")
def specs():
    config = parse_config(CONFIG, source="planted.yaml")
    return plan_specs(config, DATA, ("ar", "uniform"))[0]


@pytest.fixture
def folder(tmp_path: Path, specs) -> Path:
    """A finished sweep but for one diverged and one planned run of uniform."""
    folder = tmp_path / "planted"
    with Ledger(folder / "ledger") as ledger, ledger.driving():
        entries = [Entry(spec=s, dataset="x", predicted_s=1.0, columns=spec_columns(s)) for s in specs]
        ledger.register(entries)
        uniform = [spec.key for spec in specs if spec.family == "uniform"]
        for spec in specs:
            if spec.key == uniform[-1]:
                continue
            claim = ledger.claim(spec.key)
            loss = planted_loss(spec)
            result = {"bound": loss, "bound_se": 1e-3, "bits_per_byte": loss / 0.693, "train_s": 2.0}
            if spec.key == uniform[0]:
                ledger.end(claim, State.DIVERGED, sentence="diverged: the loss has exploded at step 3")
            else:
                ledger.end(claim, State.FINISHED, sentence="done", result=result, facts={"host": "here"})
        journal = run_folder(folder, "ar", specs[0].key)
        with Journal(attempt_folder(journal, 1) / JOURNAL) as lines:
            for step in (10, 20):
                lines.append(
                    {
                        "kind": "train",
                        "step": step,
                        "loss": 5 / step,
                        "tokens": step * 1024,
                        "flops": step * 1e8,
                    }
                )
            numbers = {"held_out_loss": 2.5, "held_out_loss_se": 0.5, "tokens": 20480, "flops": 2e9}
            lines.append({"kind": "held_out", "step": 20, **numbers})
    return folder


def said(show, *args) -> str:
    out = console()
    with out.capture() as captured:
        show(*args, out)
    return captured.get()


def test_ledger_becomes_a_run_table(folder, specs):
    table = results.ledger_table(folder, "planted")
    assert len(table.frame) == len(specs)
    assert table.families == ("ar", "uniform")
    assert table.frame.loc["d8 at 1.0e11 FLOPs", "status"].tolist() == ["finished", "diverged"]
    assert table.older == {}
    assert set(results.ledger_table(folder, "planted", families=["ar"]).frame["family"]) == {"ar"}


def test_runs_of_another_config_are_counted_and_left_out(folder, specs):
    keys = [spec.key for spec in specs if spec.budget > 2e11]
    table = results.ledger_table(folder, "planted", keys)
    assert set(table.frame["key"]) == set(keys)
    assert table.older == {"ar": 6, "uniform": 5}
    fits = results.fit(table, "ar", bootstrap=50)
    assert "6 finished runs of an earlier config under the same name" in said(report.show_fits, fits, table)
    with pytest.raises(UserError, match=r"none of the 48 runs under .* belongs to the present config"):
        results.ledger_table(folder, "planted", ["f" * 16])


def test_a_long_list_of_runs_left_out_is_cut_and_rows_of_a_file_are_called_rows(folder, tmp_path):
    frame = results.ledger_table(folder, "planted").of_family("ar").query("status == 'finished'")
    path = tmp_path / "twice.csv"
    pd.concat([frame, frame], ignore_index=True)[["params", "tokens", "flops", "loss"]].to_csv(
        path, index=False
    )
    table = results.store_table(str(path), None)
    text = said(report.show_fits, results.fit(table, None, bootstrap=0), table)
    assert f"left out: row {len(frame)}, repeats row 0" in text
    assert text.count(", repeats row") == 10
    assert f"left out: {len(frame) - 10} more; law.json lists all" in text


def test_no_sweep_no_family_no_table(folder, tmp_path):
    with pytest.raises(UserError, match="sweep 'none' has no runs under"):
        results.ledger_table(tmp_path / "none", "none")
    with pytest.raises(UserError, match="family 'masked' has no runs in this sweep, which has: ar, uniform"):
        results.ledger_table(folder, "planted", families=["masked"])


def test_law_is_found_told_and_written(folder):
    table = results.ledger_table(folder, "planted")
    fits = results.fit(table, "uniform", bootstrap=100)
    law = fits.laws["surface"]
    assert float(law.alpha) == pytest.approx(0.5, abs=0.02)
    assert float(law.E) == pytest.approx(1.0, abs=0.05)
    text = said(report.show_fits, fits, table)
    assert "isoflop law: use with care: its warnings say why" in text
    assert "uniform: best size at each budget" in text
    assert "with 95% intervals" in text
    assert "left out: d8 at 1.0e11 FLOPs, status is diverged" in text
    assert "left out: d80 at 3.0e12 FLOPs, status is planned" in text
    losses = results.curves(table.of_family("uniform"), folder, "planted")
    assert not len(losses)
    files = results.write_law(fits, table, folder / "uniform", sweep="planted", losses=losses)
    assert {file.name for file in files} == {
        "law.json",
        "runs.parquet",
        "isoflop.png",
        "isoflop.html",
        "frontier.png",
        "frontier.html",
    }
    assert all(file.stat().st_size > 1000 for file in files)
    content = json.loads((folder / "uniform" / "law.json").read_text())
    assert content["family"] == "uniform"
    assert content["laws"]["isoflop"]["exponents"]["params"]["value"] == float(
        fits.laws["isoflop"].exponents["params"]
    )
    assert all(row["status"] == "bracketed" for row in content["laws"]["isoflop"]["minima"])
    again = results.store_table(str(folder / "uniform" / "runs.parquet"), None)
    assert results.fit(again, "uniform", bootstrap=0).laws["surface"].sha256 == law.sha256
    loaded = load_law(folder / "uniform" / "law.json")
    assert loaded.to_dict()["optima"] == law.to_dict()["optima"]


def test_laws_and_comparisons_fit_eighty_columns(folder):
    table = results.ledger_table(folder, "planted")
    comparison, _ = results.compare(table, "ar", bootstrap=20)
    for show_it, values in (
        (report.show_fits, (results.fit(table, "uniform", bootstrap=20), table)),
        (report.show_comparison, (replace(comparison, warnings=()),)),
    ):
        out = Console(file=io.StringIO(), width=80)
        show_it(*values, out)
        text = out.file.getvalue()
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text


def test_loss_curves_come_from_the_journals(folder, specs):
    table = results.ledger_table(folder, "planted")
    losses = results.curves(table.of_family("ar"), folder, "planted")
    assert losses["key"].tolist() == [specs[0].key] * 2
    assert losses["step"].tolist() == [10, 20]
    assert losses["loss"].tolist() == [0.5, 0.25]
    assert losses["flops"].tolist() == [1e9, 2e9]
    assert losses[["held_out_loss", "held_out_loss_se"]].to_numpy()[1].tolist() == [2.5, 0.5]
    assert losses["held_out_loss"].isna().tolist() == [True, False]


def test_comparison_recovers_the_planted_multiplier(folder):
    table = results.ledger_table(folder, "planted")
    comparison, refused = results.compare(table, "ar", bootstrap=100)
    assert refused == {}
    assert comparison.multipliers["multiplier"].to_numpy() == pytest.approx(WORSE["uniform"], rel=0.1)
    text = said(report.show_comparison, comparison)
    assert "compute over ar at equal loss" in text
    assert "uniform" in text
    files = results.write_comparison(comparison, folder)
    assert {"compare.json", "compare.png", "compare.html"} <= {file.name for file in files}
    assert json.loads((folder / "compare.json").read_text())["reference"] == "ar"
    with pytest.raises(ValueError, match="reference family 'masked' has no runs in"):
        results.compare(table, "masked")


def test_a_family_without_a_law_keeps_no_other_from_its_own(folder, tmp_path):
    table = results.ledger_table(folder, "planted")
    short = table.frame[(table.frame["family"] == "ar") | (table.frame["budget"] < 2e11)]
    short = short.assign(family=short["family"].replace({"uniform": "aaa"})).sort_values("family")
    table, refused, lines = replace(table, frame=short), {}, []
    fitted = list(results.fit_each(table, refused, bootstrap=0, report=lines.append))
    assert [fits.family for fits in fitted] == ["ar"]
    assert list(refused) == ["aaa"]
    assert "no law can be fitted to 'aaa'" in refused["aaa"]
    assert lines == ["fitting aaa (0 resamples)", "fitting ar (0 resamples)"]
    with pytest.raises(UserError, match="no law can be fitted to 'aaa'"):
        results.compare(table, "ar", bootstrap=0)
    three = pd.concat([short, results.ledger_table(folder, "planted").of_family("uniform")])
    comparison, refused = results.compare(replace(table, frame=three), "ar", bootstrap=0)
    assert set(comparison.laws) == {"ar", "uniform"}
    assert list(refused) == ["aaa"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Estimate(3.9e-6, 3.9e-6, 1.36), "0 [0, 1.36]"),
        (Estimate(3.9e-6), "0"),
        (Estimate(1.5, 1.4, 1.6), "1.50 [1.40, 1.60]"),
        (Estimate(0.2, 2e-6, 0.4), "0.200 [0, 0.400]"),
    ],
)
def test_an_entropy_that_vanished_is_written_as_zero(value, text):
    assert report._parameter("E", value) == text
    assert report._parameter("A", value) == str(value)


def test_exit_codes_tell_missing_laws_and_missing_records(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "write_law", lambda *_, **__: [])
    table = results.ledger_table(folder, "planted")
    monkeypatch.setattr(results, "ledger_table", lambda *_, **__: table)
    with Ledger(folder / "ledger") as ledger:
        runs = [run for run in ledger.runs() if run.state == State.FINISHED]
    request = prepare.Request(
        config=parse_config(CONFIG, source="x"), families=("ar",), out=tmp_path, sweep="smoke"
    )
    plan = SimpleNamespace(keys=None, families=("ar",))

    def code(waiting: int) -> int:
        ended = Report(
            runs=runs, stopped_by="", interrupted=False, capped=None,
            waiting_records=waiting, tracking_trouble=None, wall_s=1.0,
        )  # fmt: skip
        return conclude(request, None, plan, ended, 0, console())

    assert (code(0), code(2)) == (0, 3)
    table = replace(table, frame=table.frame.groupby("family").head(2))
    assert code(2) == 1


def test_runs_that_are_not_finished_are_named_in_place_of_a_missing_column(folder):
    table = results.ledger_table(folder, "planted")
    waiting = replace(table, frame=table.frame.assign(status="running").drop(columns="loss"))
    with pytest.raises(UserError, match=r"no law can be fitted to 'ar' .*: no run is finished \(\d+ runs: "):
        results.fit(waiting, "ar")


@pytest.mark.parametrize("name", ["ar", "GPT-3", "a.b", "x" * 80])
def test_plain_names_are_folders_as_they_are(name):
    assert results.folder_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "../../up",
        "/etc",
        "..",
        ".",
        "",
        "a/b",
        "ledger",
        "data",
        "mlflow.db",
        "law.json",
        "x" * 300,
        "a\x1bb",
        "-x",
    ],
)
def test_names_that_lead_elsewhere_become_folders_of_their_own(name, tmp_path):
    folder = tmp_path / results.folder_name(name)
    folder.mkdir()
    assert folder.resolve().parent == tmp_path
    assert folder.name not in ("ledger", "data", "mlflow.db", "law.json")
    assert results.folder_name(name) != results.folder_name(f"{name}/")


def test_rows_without_a_family_are_named_beside_those_that_have_one(folder, tmp_path):
    frame = results.ledger_table(folder, "planted").of_family("ar").drop(columns="status")
    frame = frame.assign(family=["ar"] * (len(frame) - 2) + [None] * 2)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    table = results.store_table(str(tmp_path / "runs.csv"), None)
    assert table.families == ("ar",)
    left_out = results.fit(table, "ar", bootstrap=0).laws["surface"].excluded
    assert [run.reason for run in left_out] == ["no family, which other rows have"] * 2


def test_a_published_table_without_losses_is_refused():
    with pytest.raises(UserError, match="sahoo2026_ladder holds no runs to fit: it has no column family, "):
        results.store_table("published:sahoo2026_ladder", None)


def test_a_table_without_a_law_says_why(tmp_path):
    frame = pd.DataFrame({"params": [1e4, 2e4], "tokens": [1e6, 1e6], "loss": [3.0, 2.9]})
    path = tmp_path / "few.csv"
    frame.to_csv(path, index=False)
    table = results.store_table(str(path), None)
    with pytest.raises(UserError, match=r"no law can be fitted to .*few.csv: .*runs"):
        results.fit(table, None)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_tables_survive_writing_and_reading(folder, tmp_path, ending):
    table = results.ledger_table(folder, "planted")
    path = tmp_path / f"table{ending}"
    results.save_table(table.frame, path)
    again = results.store_table(str(path), None).frame
    columns = ["key", "params", "tokens", "flops", "loss", "loss_se", "budget"]
    pd.testing.assert_frame_equal(again[columns], table.frame[columns])
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".tmp"] == []


def test_tables_need_a_known_ending(tmp_path):
    for name, says in (("t.txt", "this name has '.txt'"), ("t", "this name has no ending")):
        with pytest.raises(UserError, match=says):
            results.check_table_path(tmp_path / name)
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        results.check_table_path(tmp_path / "d.csv")


def shown(folder: Path, *families: str) -> str:
    with open_ledger(folder, "planted") as ledger:
        return said(show, of_families(runs_with_progress(ledger), families), "planted")


def wish(folder: Path, *arguments) -> str:
    with open_ledger(folder, "planted") as ledger:
        return carry_out(ledger, *arguments)


def test_status_shows_every_run(folder):
    text = shown(folder)
    assert "sweep planted: 48 runs: 1 planned, 46 finished, 1 diverged" in text
    assert "diverged: the loss has exploded at step 3" in " ".join(text.split())
    assert "± 0.0010" in text
    assert "24 runs: 24 finished" in shown(folder, "ar")


def test_cancel_takes_what_is_not_done(folder, specs):
    waiting = specs[-1].key
    with pytest.raises(UserError, match="no run's key begins with 'zz'"):
        wish(folder, "cancel", [], ["zz"])
    assert wish(folder, "cancel", ["ar"], []) == "0 runs cancelled; 24 others were in no state for it"
    assert wish(folder, "cancel", [], [waiting[:10]]) == "1 run cancelled"
    assert "1 cancelled" in shown(folder)


def test_next_steps_fit_what_is_there(tmp_path):
    desk = prepare.request("desk", None, ["uniform"], Path("runs"))
    steps = report.next_steps(desk, ["uniform"])
    assert steps[0].startswith("make sweep FAMILY=ar ")
    assert any("SWEEP=evening" in step for step in steps)
    for family in ("ar", "uniform"):
        (tmp_path / "out $x" / "smoke" / family).mkdir(parents=True)
        (tmp_path / "out $x" / "smoke" / family / "law.json").write_text("{}")
    smoke = prepare.request("smoke", None, ["uniform"], tmp_path / "out $x")
    compare = next(step for step in report.next_steps(smoke, ["uniform"]) if "compare" in step)
    assert shlex.split(compare)[:6] == [
        "scaling",
        "compare",
        "--sweep",
        "smoke",
        "--out",
        f"{tmp_path}/out $x",
    ]


def test_next_steps_of_a_config_of_ones_own_name_its_file(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text((SHIPPED / "smoke.yaml").read_text().replace("name: smoke", "name: mine"))
    steps = report.next_steps(prepare.request(None, config, ["uniform"], Path("runs")), ["uniform"])
    assert len(steps) == 1
    assert steps[0].startswith(f"scaling sweep --family ar --config {config} --out runs ")


def test_picture_marks_every_state():
    cells = [(1e9, "a", 10.0, "finished"), (1e9, "b", 20.0, "failed"), (3e9, "a", 10.0, "planned")]
    lines = picture(cells).plain.splitlines()
    assert lines[0].split() == ["b", "20", "✗", "·"]
    assert lines[1].split() == ["a", "10", "●", "○"]
    assert lines[2].split() == ["1.0e9", "3.0e9"]
    assert lines[3] == "○ planned  ● finished  ✗ failed"


def test_a_report_of_a_sweep_says_which_family_has_no_law(folder, specs, tmp_path):
    table = results.ledger_table(folder, "planted")
    path, missing = results.write_report(table, tmp_path, "planted", reference="ar", bootstrap=20)
    assert missing == {}
    page = path.read_text()
    assert path == tmp_path / "report.html"
    assert "planted: scaling laws" in page
    assert "Families compared" in page
    few = replace(table, frame=table.frame.groupby("family").head(2))
    with pytest.raises(UserError, match=r"no law to report.*no law can be fitted to 'ar'"):
        results.write_report(few, tmp_path / "few", "planted", reference="ar", bootstrap=0)
    assert not (tmp_path / "few").exists()
    with pytest.raises(UserError, match="the reference family 'foo' has no runs"):
        results.write_report(table, tmp_path / "foo", "planted", reference="foo", bootstrap=0)
