"""What runs each golden case: one module per reference file, found by its family name and case id."""

from __future__ import annotations

from tests.golden_runners import (
    ar,
    block,
    curriculum,
    dit,
    esoteric,
    gaussian,
    hybrid,
    masked,
    sampling,
    schedules,
    uniform,
)
from tests.golden_runners.common import Case, Got, Runners, close, tensor

RUNNERS: dict[str, Runners] = {
    "ar": ar.RUNNERS,
    "bd3lm": block.RUNNERS,
    "dit": dit.RUNNERS,
    "duo": uniform.RUNNERS,
    "duo_curriculum": curriculum.RUNNERS,
    "duo_transform": curriculum.TRANSFORM_RUNNERS,
    "esolm": esoteric.RUNNERS,
    "gidd": hybrid.RUNNERS,
    "plaid": gaussian.RUNNERS,
    "mdlm": masked.RUNNERS,
    "schedules": schedules.RUNNERS,
    **sampling.RUNNERS,
}
"""By the family name inside a golden file: patterns of case ids (fnmatch) and the function that runs them."""

__all__ = ["RUNNERS", "Case", "Got", "close", "tensor"]
