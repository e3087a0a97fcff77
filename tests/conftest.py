"""What every test shares: fixed hypothesis seeds, and a reason instead of a failure where no GPU is."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Ray looks once per process, at its import, which some test does before the program would set it.
os.environ.setdefault("RAY_AUTH_MODE", "token")

# The same examples on every machine and in every run; slow machines are not failures.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch finds none here"))
