"""The story of a run, in lines that people read."""

from __future__ import annotations

import json

import pytest

from sweeps.attempt.journal import JOURNAL, Journal, Record, attempt_folder, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.status import runs_with_progress
from sweeps.ledger.types import Run, State
from sweeps.show.logs import heading, record_line, show_log
from tests.sweeps.simulation import entry


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "train", "step": 7, "biased_loss": 2.5, "tokens_per_s": 40}, " 7  2.5000 biased "),
        ({"kind": "train", "step": 7}, " 7  – "),
        ({"kind": "resumed", "step": 0}, "begins at step 0"),
        ({"kind": "bound", "bound": 1.5, "bound_se": 0.25}, "bound 1.5000 ± 0.2500 nats per token"),
        (
            {"kind": "held_out", "step": 5, "held_out_loss": 1.5, "held_out_loss_se": 0.25},
            "step       5  held-out loss 1.5000 ± 0.2500",
        ),
        ({"kind": "end"}, "ended: None"),
    ],
)
def test_each_kind_of_record_in_words(values, words):
    line = record_line(Record.parse(json.dumps({"at": 1e9, **values}).encode()))
    assert words in line


def test_damaged_lines_are_counted_where_the_log_is_shown(tmp_path, capsys):
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.register([entry("a")])
        claim = ledger.claim("a")
        path = attempt_folder(run_folder(tmp_path, "uniform", "a"), claim.attempt) / JOURNAL
        with Journal(path) as journal:
            journal.append({"kind": "train", "step": 3, "loss": 2.0})
        with path.open("a") as file:
            file.write('{"kind": "train"}\n')
        show_log(ledger, runs_with_progress(ledger)[0])
    text = capsys.readouterr().out
    assert " 3  2.0000 " in text
    assert "1 damaged lines of its journal" in text


def test_training_records_stand_under_their_names_within_80_columns(tmp_path, capsys):
    values = {"learning_rate": 2.07e-05, "grad_norm": 1.23e-05, "tokens_per_s": 123456.0}
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.register([entry("a")])
        claim = ledger.claim("a")
        path = attempt_folder(run_folder(tmp_path, "uniform", "a"), claim.attempt) / JOURNAL
        with Journal(path) as journal:
            journal.append({"kind": "train", "step": 9_999_999, "biased_loss": 12.3456, **values})
        show_log(ledger, runs_with_progress(ledger)[0])
    names, record = capsys.readouterr().out.splitlines()[-2:]
    assert max(len(names), len(record)) <= 80
    for name, value in {"step": "9999999", "learning rate": "2.07e-05", "gradient": "1.23e-05"}.items():
        assert names.index(name) + len(name) == record.index(value) + len(value)
    assert names.index("loss") == record.index("12.3456 biased")


def test_the_heading_shows_the_key_as_tables_do():
    run = Run(
        key="0123456789abcdef", family="ar", state=State.FAILED, attempt=1, changed=1, size="8x1", budget=1e9
    )
    assert str(heading(run)) == "01234567  ar 8x1 at 1.0e9 FLOPs: failed"
