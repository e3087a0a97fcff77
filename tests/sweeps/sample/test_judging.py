"""The judge of a sweep: the largest run of ar on its corpus, in all sweeps, and never of its own texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.data import prepare
from scaling.errors import UserError
from scaling.spec import DataSpec
from scaling.training.checkpoint import checkpoint_name
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Run, State
from sweeps.sample.judging import Candidate, Judge, choose_judge, finished_runs
from tests.sweeps.sample.test_points import RUNS, run
from tests.sweeps.simulation import SPEC, entry

DATA = SPEC.data
HERE = Path("sweep")
BEST = [RUNS[1].key, RUNS[2].key, RUNS[5].key, RUNS[7].key]


def on(one: Run, data: DataSpec = DATA, **values: object) -> Run:
    """The run on another corpus, or with other values of its spec."""
    return one._replace(spec=replace(SPEC, family=one.family, data=data).to_dict() | values)


def chosen(
    name: str | None, runs: list[Run], sampled: list[str], data: DataSpec = DATA, place: Path = HERE
) -> Judge:
    candidates = [Candidate(each, HERE / each.family / "runs" / each.key) for each in runs]
    return choose_judge(name, candidates, sampled, data, [place])


def test_of_the_most_training_flops_the_lowest_loss_that_is_not_sampled() -> None:
    judge = chosen(None, RUNS[:6], BEST)
    assert judge.name == f"ar 4k at 2.0e9 FLOPs ({RUNS[3].key[:8]})"
    assert judge.folder.endswith(f"sweep/ar/runs/{RUNS[3].key}")
    assert (judge.key, judge.data) == (RUNS[3].key, "")


def test_a_larger_one_of_another_sweep_goes_before_and_only_training_flops_make_it_larger() -> None:
    larger, better = run("ar", 3e9, 2.8), run("ar", 1.5e9, 0.5)
    assert chosen(None, [*RUNS[:6], better, larger], BEST).key == larger.key


def test_the_only_one_of_the_most_flops_judges_even_if_sampled_for_small_judges_tell_little() -> None:
    assert chosen(None, [RUNS[0], RUNS[1], RUNS[2]], BEST).key == RUNS[2].key


def test_labelled_distilled_and_other_runs_do_not_judge() -> None:
    large = run("ar", 9e9, 1.0)
    labelled, distilled = on(large, labels={"of": "kind"}), on(large, distillation={"of": "1"})
    elsewhere = on(large, replace(DATA, corpus="other", fingerprint="other"))
    for other in (labelled, distilled, elsewhere, run("masked", 9e9, 1.0)):
        assert chosen(None, [*RUNS[:6], other], BEST).key == RUNS[3].key
    with pytest.raises(UserError, match="with labels; a judge must be trained on text alone"):
        chosen(large.key, [labelled], BEST)


def test_another_tokenizer_of_the_same_corpus_judges_where_its_corpus_lies(tmp_path: Path) -> None:
    data = prepare("synthetic:markov?vocab=8", "ids", tmp_path / "data")
    other = replace(DATA, tokenizer="bpe:300", fingerprint=data.fingerprint)
    large = on(run("ar", 9e9, 1.0), other)
    judge = chosen(None, [*RUNS[:6], large], BEST, place=tmp_path / "data")
    assert (judge.key, judge.data) == (large.key, str(data.folder.absolute()))
    assert chosen(None, [*RUNS[:6], large], BEST).key == RUNS[3].key, "its tokenizer is not there"
    with pytest.raises(UserError, match="bpe:300, which is not below sweep, so its tokenizer is missing"):
        chosen(large.key, [large], BEST)


def test_one_by_its_key_on_any_corpus_and_one_of_the_hub() -> None:
    assert chosen(RUNS[0].key, RUNS, BEST).folder.endswith(RUNS[0].key)
    assert chosen(RUNS[1].key, RUNS, BEST).key == RUNS[1].key, "its own texts are left out"
    hub = chosen("gpt2-large", RUNS, BEST)
    assert (hub.name, hub.folder, hub.key) == ("gpt2-large", "", "")


def test_refusals() -> None:
    with pytest.raises(UserError, match="is a run of masked; a judge must be one of ar"):
        chosen(RUNS[5].key, RUNS, BEST)
    with pytest.raises(UserError, match="--judge ar2e: 3 runs' keys begin with it"):
        chosen("ar2e", RUNS, BEST)
    with pytest.raises(UserError, match="--judge deadbeef: no finished run's key begins with it"):
        chosen("deadbeef", RUNS, BEST)
    with pytest.raises(UserError, match="--judge is ''; give a run of ar by its key"):
        chosen("", RUNS, BEST)
    with pytest.raises(UserError, match="no sweep has a finished run of ar on -; sweep ar, or give"):
        chosen(None, RUNS[5:], BEST)


def test_finished_runs_are_those_of_all_sweeps_that_can_be_read_and_have_weights(tmp_path: Path) -> None:
    keys = {"mine": ("a" * 16, "b" * 16), "theirs": ("b" * 16, "c" * 16, "d" * 16), "open": ("e" * 16,)}
    for name, own in keys.items():
        with Ledger(tmp_path / name / "ledger") as ledger:
            ledger.register(entry(key) for key in own)
            for key in own if name != "open" else ():
                claim = ledger.claim(key)
                assert claim is not None
                ledger.end(claim, State.FINISHED, sentence="done", result={"bound": 1.5})
    attempt = tmp_path / "theirs" / "uniform" / "runs" / ("c" * 16) / "attempt-001"
    attempt.mkdir(parents=True)
    (attempt / checkpoint_name(SPEC.steps)).touch()
    (attempt.parent / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    (tmp_path / "broken" / "ledger").mkdir(parents=True)
    (tmp_path / "broken" / "ledger" / "ledger.db").write_bytes(b"no database" * 1000)
    runs = {each.run.key: each.folder for each in finished_runs(tmp_path, "mine")}
    assert runs == {
        "a" * 16: tmp_path / "mine" / "uniform" / "runs" / ("a" * 16),
        "b" * 16: tmp_path / "mine" / "uniform" / "runs" / ("b" * 16),
        "c" * 16: attempt.parent,
    }
    for name, storage in (("mine", "s3://lab"), ("theirs", "s3://lab"), ("open", "s3://lab")):
        with Ledger(tmp_path / name / "ledger") as ledger:
            ledger.note_fact("storage", storage)
    keys_there = {each.run.key[0] for each in finished_runs(tmp_path, "mine", "s3://lab")}
    assert keys_there == {*"abcd"}, "those in the same storage, wherever their folders are"
    assert {each.run.key[0] for each in finished_runs(tmp_path, "mine", "s3://other")} == {*"ab"}
