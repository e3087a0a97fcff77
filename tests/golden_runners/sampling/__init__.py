"""What runs the golden cases of samplers: every module here names its files' families in `FAMILIES`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tests.golden_runners.common import Runners

RUNNERS: dict[str, Runners] = {}
for _module in iter_modules(__path__, f"{__name__}."):
    for _family, _runners in import_module(_module.name).FAMILIES.items():
        assert _family not in RUNNERS, f"two modules run the cases of {_family!r}"
        RUNNERS[_family] = _runners
