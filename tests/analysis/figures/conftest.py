"""Laws of the published table, fitted once for all tests of figures."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

import analysis
from analysis.laws.isoflop import IsoflopLaw
from analysis.laws.surface import SurfaceLaw


@pytest.fixture(scope="session")
def runs() -> pd.DataFrame:
    return analysis.published.runs("sahoo2026")


@pytest.fixture(scope="session")
def isoflops(runs: pd.DataFrame) -> dict[str, IsoflopLaw]:
    families = runs.groupby("family")
    return {str(name): analysis.fit_law(part, method="isoflop", bootstrap=100) for name, part in families}


@pytest.fixture(scope="session")
def surface(runs: pd.DataFrame) -> SurfaceLaw:
    return analysis.fit_law(runs[runs["family"] == "uniform"], bootstrap=100)


@pytest.fixture(scope="session")
def comparison(runs: pd.DataFrame) -> Any:
    return analysis.compare(runs, method="isoflop", bootstrap=100)
