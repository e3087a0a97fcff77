"""What `scaling status` says of runs that nobody runs any more."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from sweeps.ledger.ledger import Ledger
from sweeps.ledger.owner import Owner
from sweeps.ledger.status import runs_with_progress
from sweeps.show.status import show
from tests.sweeps.simulation import entry

NO_PROCESS = 2**22 + 1
"""Beyond the largest process number of Linux."""


def test_a_run_whose_driver_was_killed_is_not_shown_as_running(tmp_path):
    here = Owner.this_process()
    for key, owner in (("alive", here), ("dead", replace(here, id="gone", pid=NO_PROCESS))):
        with Ledger(tmp_path / "ledger", owner=owner) as ledger:
            ledger.enlist()
            ledger.register([entry(key)])
            assert ledger.claim(key) is not None
    out = io.StringIO()
    with Ledger(tmp_path / "ledger") as ledger:
        show(runs_with_progress(ledger), "toy", Console(file=out, width=200))
    lines = {key: line for line in out.getvalue().splitlines() for key in ("alive", "dead") if key in line}
    assert "running" in lines["alive"]
    assert "running" not in lines["dead"]
    assert "its driver is gone" in lines["dead"]
    assert "1 running" in out.getvalue()
