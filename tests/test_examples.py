"""The examples of docs/extending.md do what the page says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples import own_family
from scaling.families import FAMILIES
from tests.scaling.families.test_conformance import DIFFUSION, VARIANTS
from tests.scaling.families.test_conformance import TestEveryDiffusion as EveryDiffusion
from tests.scaling.families.test_conformance import TestEveryFamily as EveryFamily

CHECKS = [
    getattr(group(), name)
    for group in (EveryFamily, EveryDiffusion)
    for name in dir(group)
    if "test_" in name
]


@pytest.fixture
def timed() -> Iterator[str]:
    """The example's family, known to the table of families and to the conformance tests."""
    own_family.register()
    VARIANTS["timed"] = ("timed", {})
    yield "timed"
    del FAMILIES["timed"], VARIANTS["timed"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_family_of_ones_own_passes_the_conformance_tests(check: object, timed: str) -> None:
    assert callable(check)
    assert "masked" in DIFFUSION, "the same checks that the shipped families pass"
    check(name=timed)


def test_a_family_of_ones_own_trains(timed: str) -> None:
    nothing_learned = 2.079 - 1.247  # log of 8 ids, less the entropy of the source
    assert 0 < own_family.main(steps=60) < 0.8 * nothing_learned
