"""The command line: its options as a snapshot, what it loads, and one sentence for each kind of bad input."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer

from scaling.families import FAMILIES
from sweeps import cli
from sweeps.driver.caps import Caps
from sweeps.launch import Launch, drive
from sweeps.plan import prepare
from sweeps.results import laws as results
from tests.sweeps.command_line import here, quick_machine, refused, scaling, write_table

__all__ = ["here", "quick_machine"]


# --- surface


def test_options_are_as_reviewed():
    command = typer.main.get_command(cli.app)
    options = {
        name: [option for parameter in sub.params for option in (parameter.opts or [parameter.name])]
        for name, sub in command.commands.items()
    }
    which, caps = (
        ["--sweep", "--config", "--data", "--store", "--out"],
        ["--max-flops", "--max-gpu-hours", "--max-hours", "--order"],
    )
    runs = ["--family", "--sweep", "--config", "--data", "--store", "--columns", "--out"]
    assert options == {
        "families": [],
        "sweeps": ["--store", "--columns", "--out"],
        "plan": [
            "--family",
            "--sweep",
            "--config",
            "--data",
            "--out",
            *caps,
            "--cluster",
            "--gpu-price",
            "--page",
        ],
        "sweep": [
            *("--family", *which, *caps, "--address", "--pool", "--bootstrap"),
            *("--priority", "--extend", "--events", "--webhook", "--storage"),
        ],
        "tune": [*which, *caps[:3], "family", "--trials", "--study", "--address", "--pool", "--bootstrap"],
        "status": ["--family", *which, "--watch", "-w", "--all"],
        **{name: ["--family", *which, "run"] for name in ("cancel", "retry", "resume")},
        "logs": [*which, "run", "--lines", "--follow", "-f"],
        "audit": which,
        "ask": [
            *(*runs, "budget", "--gpus", "--days", "--utilisation", "--params", "--tokens"),
            *("--unique-tokens", "--epochs", "--loss", "--tokens-per-s", "--latency-s", "--reference"),
            "--json",
        ],
        "fit": [*runs, "--method", "--bootstrap"],
        **{name: [*runs, "--reference", "--bootstrap"] for name in ("compare", "report")},
        "dashboard": [*runs, "--host", "--port", "--token", "--name", "--bootstrap"],
        "sample": [
            *("--family", "--sweep", "--config", "--data", "--out", "target", "--prompt", "--steps"),
            *("--sampler", "--count", "--seed", "--length", "--temperature", "--top-k", "--top-p", "--min-p"),
            *("--label", "--scale", "--replica", "--wish", "--avoid", "--wish-weight"),
            *("--batch", "--repeats", "--judge", "--rule", "--pool", "--address", "--storage"),
        ],
        "export": [*runs, "file"],
    }


def loaded_after(*arguments: str) -> set[str]:
    """Top-level modules that a fresh `scaling` has loaded at its end."""
    code = (
        "import sys\nfrom sweeps.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    out = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(out.stderr.splitlines()[-1].split())


HEAVY = {"ray", "mlflow", "plotly", "pandas", "optuna", "matplotlib", "sqlalchemy"}


def test_help_loads_nothing_heavy(here):
    loaded = loaded_after("--help")
    assert not loaded & (HEAVY | {"torch", "numpy", "scipy", "pyarrow", "pydantic", "yaml"})
    assert not loaded_after("plan", "--help") & (HEAVY | {"torch"})


def test_plan_and_status_load_no_orchestration(here):
    assert not loaded_after("plan", "--config", "../small.yaml") & HEAVY
    assert not loaded_after("status", "--config", "../small.yaml") & (HEAVY | {"torch"})


def test_plan_shows_the_grid(here, capsys):
    assert scaling("plan", "--config", "../small.yaml", "--family", "uniform") == 0
    text = capsys.readouterr().out
    assert "12 runs, 0 done, 12 to do" in text
    assert "24x1" in text
    assert not (here / "runs" / "small").exists()


def test_plan_of_a_corpus_to_be_fetched_fetches_nothing(here, capsys):
    assert scaling("plan", "--sweep", "sahoo2026", "--family", "masked") == 0
    text = capsys.readouterr().out
    assert "32000 ids, not prepared yet" in text
    assert "finished runs are not known" in text
    assert not (here / "runs").exists()


# --- bad input


def test_unknown_family_lists_the_known_ones(here, capsys):
    text = refused(capsys, "sweep", "--family", "foo", "--config", "../small.yaml")
    assert text == f"scaling: unknown family 'foo' (known: {', '.join(FAMILIES)})\n"
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("budgets:", "budgts:", "small.yaml: unknown key 'budgts' under 'grid'; did you mean 'budgets'?"),
        ("1e8, 2e8", "1e3, 2e8", "run uniform 8x1 at 1.0e3 FLOPs: the budget is too small for one optimizer"),
        ("context_length: 32", "context_length: 100000", "context_length is 100000 and the "),
        ("*.txt", "*.nix", "no file matches"),
        ("*.txt", "*.bin", ": not text"),
        ("*.txt", "*.empty", "is empty"),
        ("text:", "txt:", "did you mean 'text'?"),
        ("24x1", "24x11", "unknown size '24x11'; did you mean '24x1'?"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_nothing_starts_on_wrong_configs(here, capsys, command, old, new, says):
    texts = here.parent / "texts"
    (texts / "x.bin").write_bytes(b"\xff\x00\xfe\x9f" * 100)
    (texts / "x.empty").write_text("")
    config = here.parent / "small.yaml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    output = refused(capsys, command, "--family", "uniform", "--config", "../small.yaml")
    assert says in output
    assert not (here / "runs" / "small").exists()
    assert not (here / "runs" / "mlflow.db").exists()


@pytest.mark.parametrize("command", ["plan", "sweep"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-gpu-hours", "0"], "--max-gpu-hours is 0; it must be a number above 0"),
        (["--max-flops", "-1e9"], "--max-flops is -1e+09; it must be"),
        (["--max-hours", "nan"], "--max-hours is nan; it must be"),
        (["--max-hours", "inf"], "--max-hours is inf; it must be"),
        (["--order", "cheap"], "unknown order 'cheap' (--order); did you mean 'cheapest'?"),
    ],
)
def test_nothing_starts_with_a_wrong_cap_or_order(here, capsys, command, options, says):
    assert says in refused(capsys, command, "--config", "../small.yaml", *options)
    assert not (here / "runs").exists()


def test_unknown_sweeps_and_files(here, capsys):
    assert "unknown sweep 'dek'; did you mean 'desk'?" in refused(capsys, "plan", "--sweep", "dek")
    assert "no.yaml: no such config file" in refused(capsys, "plan", "--config", "no.yaml")
    assert "give one of them" in refused(capsys, "plan", "--config", "../small.yaml", "--sweep", "desk")
    Path("file").write_text("")
    assert "--out file is a file" in refused(capsys, "plan", "--config", "../small.yaml", "--out", "file")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_tracking_server_that_does_not_answer(here, capsys):
    uri = f"http://127.0.0.1:{free_port()}"
    text = refused(capsys, "sweep", "--family", "ar", "--config", "../small.yaml", "--store", uri)
    assert f"tracking server {uri} does not answer" in text
    assert not (here / "runs").exists()


def test_ray_cluster_that_does_not_answer(here, capsys):
    address = f"127.0.0.1:{free_port()}"
    text = refused(capsys, "sweep", "--family", "ar", "--config", "../small.yaml", "--address", address)
    assert address in text
    assert not (here / "runs").exists()


def test_sentences_about_settings_name_the_variable_they_come_from(here, capsys, monkeypatch):
    sweep = ("sweep", "--family", "ar", "--config", "../small.yaml")
    monkeypatch.setenv("RAY_ADDRESS", address := f"127.0.0.1:{free_port()}")
    assert f"no Ray cluster answers at '{address}' (RAY_ADDRESS)" in refused(capsys, *sweep)
    assert f"no Ray cluster answers at '{address}' (--address)" in refused(
        capsys, *sweep, "--address", address
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "t.csv")
    assert "tracking store t.csv (MLFLOW_TRACKING_URI) is not one of" in refused(capsys, *sweep)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///../work")
    assert "sqlite:///../work (MLFLOW_TRACKING_URI) is a folder" in refused(capsys, *sweep)


def test_a_storage_that_cannot_be_used(here, capsys, monkeypatch):
    sweep = ("sweep", "--family", "ar", "--config", "../small.yaml")
    assert "pip install ossfs" in refused(capsys, *sweep, "--storage", "oss://lab/experiments")
    monkeypatch.setenv("SCALING_STORAGE", "s3:/lab")
    assert "storage is 's3:/lab'" in refused(capsys, *sweep)
    assert not (here / "runs").exists()


def test_a_sweep_records_into_a_store_not_a_table(here, capsys):
    assert "t.csv" in refused(capsys, "sweep", "--config", "../small.yaml", "--store", "t.csv")


@pytest.mark.parametrize("command", ["status", "cancel", "fit", "compare"])
def test_commands_that_need_a_sweep_say_so(here, capsys, command):
    assert "sweep 'small' has no runs under runs/small yet" in refused(
        capsys, command, "--config", "../small.yaml"
    )
    assert list(here.iterdir()) == []


def test_export_and_fit_refuse_what_they_cannot_use(here, capsys):
    assert "this name has '.txt'" in refused(capsys, "export", "x.txt")
    assert "nix.csv does not exist" in refused(capsys, "fit", "--store", "nix.csv")
    Path("few.csv").write_text("params,tokens,loss\n1e4,1e6,3\n2e4,1e6,2.9\n")
    assert "no law can be fitted to few.csv" in refused(capsys, "fit", "--store", "few.csv")
    assert [path.name for path in here.iterdir()] == ["few.csv"]


def test_fit_works_on_any_table(here, capsys):
    rows = [
        (params, c / (6 * params), 1 + 60 / params**0.5 + 600 / (c / (6 * params)) ** 0.5)
        for c in (1e11, 3e11, 1e12)
        for params in (3e3 * (c / 1e11) ** 0.5 * 2**i for i in range(5))
    ]
    lines = [",".join(f"{value!r}" for value in row) for row in rows]
    Path("any.csv").write_text("\n".join(["params,tokens,loss", *lines]) + "\n")
    assert scaling("fit", "--store", "any.csv", "--bootstrap", "50") == 0
    text = capsys.readouterr().out
    assert "exponents in compute" in text
    assert Path("runs/any/law.json").stat().st_size > 1000


def test_a_family_that_cannot_be_fitted_is_named_and_the_others_are_written(here, capsys):
    write_table("two.csv", {"short": 1, "sound": 3})
    assert scaling("fit", "--store", "two.csv", "--bootstrap", "0") == 1
    text = capsys.readouterr().out
    assert "no law can be fitted to 'short' of two.csv" in text
    assert Path("runs/two/sound/law.json").exists()
    assert not Path("runs/two/short").exists()
    write_table("none.csv", {"short": 1, "too": 1})
    output = refused(capsys, "fit", "--store", "none.csv", "--bootstrap", "0")
    assert "'short'" in output
    assert "'too'" in output


def test_names_from_a_table_are_shown_as_they_are_and_lead_nowhere(here, capsys):
    names = ["[/b]", "../../../up", f"{here}/abs", "\x1b]0;title\x07", ":smile:"]
    write_table("data.csv", dict.fromkeys(names, 3))
    assert scaling("fit", "--store", "data.csv", "--bootstrap", "0") == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert r"\x1b]0;title\x07: exponents in compute" in text
    for name in ("[/b]", "../../../up", ":smile:"):
        assert f"{name}: exponents in compute" in text
    laws = list(here.parent.rglob("law.json"))
    assert len(laws) == len(names)
    assert all(
        law.is_relative_to(here / "runs") and not law.is_relative_to(here / "runs/data") for law in laws
    )


def test_a_dashboard_of_a_sweep_that_a_store_does_not_have_is_refused(here, capsys):
    write_table("two.csv", {"ar": 3})
    pd.read_csv("two.csv").assign(sweep="desk").to_csv("two.csv", index=False)
    text = refused(capsys, "dashboard", "--store", "two.csv", "--sweep", "smoke")
    assert "sweep 'smoke' is not in two.csv, which has: desk" in text


def test_sentences_on_standard_error_show_control_characters(here, capsys):
    assert r"'\x1b[2J'" in refused(capsys, "plan", "--sweep", "\x1b[2J")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_gets_its_output(here, encoding):

    command = [sys.executable, "-P", "-c", "from sweeps.cli import main; main()", "plan"]
    ended = subprocess.run(
        [*command, "--config", "../small.yaml", "--family", "ar"],
        env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    text = ended.stdout.decode(encoding)
    assert ("○ planned" if encoding == "utf-8" else "o planned") in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [("plan", "--config", "../small.yaml"), ("--help",)])
def test_an_output_that_cannot_be_written_is_told_in_a_sentence(here, arguments):
    command = [sys.executable, "-P", "-c", "from sweeps.cli import main; main()", *arguments]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "scaling: standard output cannot be written (No space left on device)\n"


def test_bugs_show_their_traceback(here, monkeypatch):
    def broken(*_: object) -> None:
        raise ValueError("a bug of ours")

    monkeypatch.setattr("sweeps.plan.prepare.request", broken)
    with pytest.raises(ValueError, match="a bug of ours"):
        scaling("plan")


def test_ctrl_c_ends_with_130(here, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sweeps.plan.prepare.request", interrupted)
    assert scaling("plan") == 130


# --- a whole sweep


def drive_small(family: str, out: Path) -> int:
    """A sweep on plain processes: no cluster to start."""
    how = Launch(pool="local", bootstrap=20)
    return drive(prepare.request(None, Path("../small.yaml"), [family], out), how)


def test_a_capped_sweep_has_the_cheapest_budget_of_every_family_and_a_larger_cap_goes_on(
    here, capfd, monkeypatch
):
    monkeypatch.setattr(results, "save_figures", lambda drawings, folder: [])
    request = prepare.request(None, Path("../small.yaml"), ("ar", "uniform"), Path("runs"))
    facts = prepare.facts_for_plan(request, cli._console())
    plan = prepare.plan(request, facts)
    costs: dict[float, float] = {}
    for run in plan.runs:
        costs[run.spec.budget] = costs.get(run.spec.budget, 0.0) + run.spec.training_flops("exact")

    def budgets_finished(flops: float) -> set[tuple[str, float, int]]:
        drive(request, Launch(pool="local", bootstrap=0, caps=Caps(flops=flops)))
        frame = results.ledger_table(Path("runs/small"), "small").frame
        frame = frame[frame["status"] == "finished"]
        return {(*group, len(rows)) for group, rows in frame.groupby(["family", "budget"])}

    first = budgets_finished(costs[1e8] * 1.01)
    assert first == {("ar", 1e8, 4), ("uniform", 1e8, 4)}
    text = capfd.readouterr().out
    assert "FLOPs: the cheapest budgets, across all families, first" in text
    assert "16 runs are beyond the cap of" in text
    second = budgets_finished((costs[1e8] + costs[2e8]) * 1.01)
    assert second == first | {("ar", 2e8, 4), ("uniform", 2e8, 4)}


def test_a_sweep_runs_once_and_fits_what_the_config_now_says(here, capfd, monkeypatch):
    monkeypatch.setattr(results, "save_figures", lambda drawings, folder: [])  # drawn in test_results
    code = drive_small("ar", Path("runs"))
    first = results.ledger_table(Path("runs/small"), "small")
    assert (first.frame["status"] == "finished").all()
    assert len(first.frame) == 12
    output = capfd.readouterr().out
    assert "12 runs, 0 done, 12 to do" in output
    assert "12 runs: 12 finished" in output
    # Runs this small need not show a minimum; then there is a sentence instead of a law.
    assert ("written to runs/small/ar: law.json" in output) == (code == 0)
    assert ("no law can be fitted to 'ar'" in output) == (code == 1)

    assert drive_small("ar", Path("runs")) == code
    assert "12 runs, all of them done" in capfd.readouterr().out
    again = results.ledger_table(Path("runs/small"), "small")
    pd.testing.assert_frame_equal(again.frame, first.frame)

    config = here.parent / "small.yaml"
    config.write_text(config.read_text().replace("[1e8, 2e8, 4e8]", "[1e8, 2e8]"))
    assert scaling("export", "now.csv", "--config", "../small.yaml") == 0
    assert "12 runs written" in capfd.readouterr().out
    table, name = cli.Chosen(family=[], config=Path("../small.yaml"), out=Path("runs")).runs()
    assert name == "small"
    assert len(table.frame) == 8
    assert table.older == {"ar": 4}


@pytest.mark.parametrize("command", ["fit", "compare", "report"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_fitted(
    here, capsys, monkeypatch, command
):
    write_table("two.csv", {"ar": 3, "masked": 3})
    Path("file").write_text("precious")
    monkeypatch.setattr("analysis.fit_law", lambda *_, **__: pytest.fail("it was fitted"))
    text = refused(capsys, command, "--store", "two.csv", "--out", "file")
    assert "file/two cannot be written (Not a directory)" in text
    assert Path("file").read_text() == "precious"


def test_looking_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    results.check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    results.check_folder(tmp_path / "a")
    assert (tmp_path / "a").is_dir()


# --- wrong command lines


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ask", "-1e20"], "'-1e20': give a number above 0, such as 1e20"),
        (["ask", "--loss", "abc"], "--loss is 'abc': it should be a valid number"),
        (["ask", "--epochs=abc"], "--epochs is 'abc': it should be a valid number"),
        (["fit", "--bootstrap", "-5"], "--bootstrap is '-5': it should be greater than or equal to 0"),
        (["fit", "--bootstrop", "5"], "no such option: --bootstrop"),
        (["fitt"], "no such command 'fitt'"),
        (["logs"], "missing argument 'run'; see `scaling logs --help`"),
        (["ask", ""], "flops = '': give a number of FLOPs"),
        (["ask", "banana"], 'such as "1e20", "10^20" or "2 x 10^21", above 0'),
    ],
)
def test_a_wrong_command_line_is_one_sentence(here, capsys, arguments, sentence):
    write_table("one.csv", {"ar": 3})
    store = ["--store", "one.csv"] if arguments[0] == "ask" else []
    assert sentence in refused(capsys, *arguments, *store)


def test_without_a_command_the_help_is_shown(here, capsys):
    assert scaling() == 2
    captured = capsys.readouterr()
    assert "Usage: scaling" in captured.out + captured.err


# --- columns with other names


def other_names() -> None:
    write_table("own.csv", {"ar": 3, "masked": 3})
    names = {"params": "N", "tokens": "D", "loss": "val loss"}
    pd.read_csv("own.csv").rename(columns=names).to_csv("own.csv", index=False)


NAMED = "N=params,D=tokens,val loss=loss"


@pytest.mark.parametrize(
    "command", [["ask"], ["fit"], ["compare"], ["report"], ["dashboard"], ["export", "x.csv"], ["sweeps"]]
)
def test_a_table_with_other_names_is_refused_with_the_option_that_names_them(
    here, capsys, monkeypatch, command
):
    monkeypatch.setattr("sweeps.results.dashboard.serve", lambda *_, **__: pytest.fail("it was served"))
    other_names()
    text = refused(capsys, *command, "--store", "own.csv")
    assert "own.csv has no column params, tokens or loss: a run table needs" in text
    assert text.endswith(f"; --columns '{NAMED}' names them\n")


def test_columns_are_renamed_by_option(here, capsys):
    other_names()
    assert scaling("export", "ours.csv", "--store", "own.csv", "--columns", NAMED) == 0
    assert {"params", "tokens", "loss"} <= set(pd.read_csv("ours.csv").columns)
    assert scaling("ask", "1e12", "--store", "own.csv", "--columns", NAMED) == 0
    assert "For 1.0e12 FLOPs train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("store", "columns", "sentence"),
    [
        ("own.csv", "N", "--columns is 'N': give the file's names and ours, e.g. N=params,val_loss=loss"),
        ("own.csv", "X=params", "own.csv has no column 'X'"),
        ("published:sahoo2026", "N=params", "columns is for .csv and .parquet files"),
        (None, "N=params", "--columns names the columns of a file; give the file with --store"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "dashboard"])
def test_columns_that_do_not_fit_are_one_sentence(
    here, capsys, monkeypatch, command, store, columns, sentence
):
    monkeypatch.setattr("sweeps.results.dashboard.serve", lambda *_, **__: pytest.fail("it was served"))
    other_names()
    where = ["--store", store] if store else []
    assert sentence in refused(capsys, command, *where, "--columns", columns)
