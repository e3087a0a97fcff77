"""Every case of tests/golden and its folders, or of the folder named by GOLDEN_DIR, within its own tolerance.

A file or a case id that no runner knows fails. Runners look at a case's
id, parameters and shapes, never at its values, so the same ids may come with other inputs.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests.golden_runners import RUNNERS, Case, Got, close, tensor

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden")

INFORMATION = ("_reference_float32",)
"""Endings of expected keys that are not meant to be matched."""
OTHER_MODELS = {
    # Masks of variants that the published study and this project do without: bidirectional attention among
    # masked (mixed) or clean tokens (mixed2), and a clean half whose shuffled prefix sees itself whole.
    "eso_attention_masks": ("mixed", "mixed2", "sequential_prefix_lm_2L")
}
"""Expected keys of a case that describe something no family here does."""


def runner_for(family: str, case_id: str) -> Callable[[Case], Got]:
    """What runs a case; fails on what nobody knows."""
    for pattern, runner in RUNNERS.get(family, {}).items():
        if fnmatchcase(case_id, pattern):
            return runner
    pytest.fail(f"no runner for case {case_id!r} of {family!r}")


def load(folder: Path) -> list[Any]:
    """(family, case) of every JSON file, with readable ids."""
    out = []
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for case in content["cases"]:
            out.append(pytest.param(content["family"], case, id=f"{path.stem}-{case['id']}"))
    return out


CASES = load(FOLDER)


@pytest.mark.parametrize(("family", "case"), CASES)
def test_case(family: str, case: Case) -> None:
    got = runner_for(family, case["id"])(case)
    for key, value in case["expected"].items():
        if key.endswith(INFORMATION) or key in OTHER_MODELS.get(case["id"], ()):
            continue
        assert key in got, f"nothing computes the expected {key!r} of case {case['id']!r}"
        close(got[key], tensor(value), case)


def test_there_are_cases() -> None:
    assert CASES, f"{FOLDER} holds no cases"


@pytest.mark.parametrize(("family", "case_id"), [("mdlm", "no_such_case"), ("no_such_family", "x")])
def test_an_unknown_case_fails(family: str, case_id: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="no runner"):
        runner_for(family, case_id)


def test_a_number_out_of_tolerance_fails() -> None:
    case = {"tolerance": {"rtol": 1e-9, "atol": 1e-12}}
    close(tensor([1.0, math.inf]), tensor([1 + 5e-10, math.inf]), case)
    for got in (1 + 2e-9, math.nan, math.inf):
        with pytest.raises(AssertionError, match="off by"):
            close(tensor([got]), tensor([1.0]), case)
