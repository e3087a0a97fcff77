"""A recorder that comes and goes, for tests that want a tracking store with something in it."""

from __future__ import annotations

from pathlib import Path

from sweeps.ledger.ledger import Ledger
from sweeps.record.recorder import Recorder


def record(sweep: str, out: Path, uri: str) -> int:
    """Carry over all there is; how many runs the store does not know the latest of."""
    with Ledger(out / sweep / "ledger") as ledger:
        recorder = Recorder(ledger, sweep, uri)
        for _ in range(2):  # the second pass tells what came of wishes that the first one found
            recorder.pass_once()
        return recorder.waiting()
