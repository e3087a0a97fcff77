"""A finished run can be loaded; any other is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scaling.errors import UserError
from scaling.evaluation import estimate_bound
from scaling.families import FAMILIES
from scaling.spec import RunSpec
from scaling.training import load_run, train
from tests.scaling.toys import ToyData, toy_spec


def run_in(folder: Path, spec: RunSpec, attempt: int = 1, **options):
    """As the worker of a sweep leaves it."""
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec.to_dict()))
    return train(spec, ToyData(), folder / f"attempt-{attempt:03d}", log=lambda _: None, **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_loaded_network_has_the_bound_of_its_run(name: str, tmp_path: Path) -> None:
    spec = toy_spec(name, **({"family_options": {"block_size": 2}} if name == "block" else {}))
    result = run_in(tmp_path, spec)
    for folder in (tmp_path, tmp_path / "attempt-001"):
        loaded, family, model = load_run(folder)
        assert loaded == spec
        text = torch.from_numpy(ToyData().heldout(spec.evaluation.sequences, spec.data.context_length))
        assert estimate_bound(model, family, text, spec.evaluation).value == result.bound


def test_the_last_of_several_attempts_counts(tmp_path: Path) -> None:
    spec = toy_spec()
    stops = iter([None] * 8 + ["enough"])
    run_in(tmp_path, spec, should_stop=lambda: next(stops), checkpoint_every_s=0)
    with pytest.raises(UserError, match="has not finished: its furthest checkpoint is of step 9 of 20"):
        load_run(tmp_path)
    run_in(tmp_path, spec, attempt=2, resume_from=[tmp_path / "attempt-001"])
    assert load_run(tmp_path).spec == spec


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no folder of a run: it has no spec\.json"):
        load_run(tmp_path / "nowhere")
    spec = toy_spec()
    run_in(tmp_path, spec, keep_weights=False)
    with pytest.raises(UserError, match=rf"run {spec.key} \(masked toy\) cannot be loaded: .* no checkpoint"):
        load_run(tmp_path)
    for text in ("{", "[1]"):
        (tmp_path / "spec.json").write_text(text)
        with pytest.raises(UserError, match=r"spec\.json cannot be read as the spec of a run"):
            load_run(tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    spec = toy_spec()
    run_in(tmp_path, spec)
    (path,) = tmp_path.glob("*/checkpoint-*.pt")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cannot be loaded: .*checkpoint-0000000020\.pt is damaged"):
        load_run(tmp_path)


def test_folders_of_train_itself_need_the_spec(tmp_path: Path) -> None:
    spec = toy_spec()
    train(spec, ToyData(), tmp_path, log=lambda _: None)
    assert load_run(tmp_path, spec=spec).spec == spec
    with pytest.raises(UserError, match="no folder of a run"):
        load_run(tmp_path)
