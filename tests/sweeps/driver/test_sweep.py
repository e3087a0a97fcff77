"""A whole sweep in this process: nobody who only looks at it can end it or hold it up."""

from __future__ import annotations

import pytest

from sweeps.driver.sweep import run_sweep
from sweeps.ledger.ledger import Ledger
from sweeps.pools.base import PoolOptions
from sweeps.pools.processes import ProcessPool
from sweeps.record.process import RecorderProcess
from tests.sweeps.tiny import tiny_data, tiny_entry


@pytest.fixture
def sweep(tmp_path):
    """Run a sweep of one tiny run."""
    data = tiny_data(tmp_path / "data")

    def run(**how):
        with Ledger(tmp_path / "s" / "ledger") as ledger:
            pool = ProcessPool(PoolOptions(cpus=1, gpus=0))
            uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
            return run_sweep([tiny_entry(data)], ledger, pool, sweep="s", tracking=uri, **how)

    return run


class Broken:
    """A picture of the sweep with a bug."""

    def show(self, view) -> None:
        raise KeyError("loss")

    def close(self) -> None:
        raise KeyError("loss")


def test_a_watcher_that_fails_does_not_end_the_sweep(sweep, caplog):
    report = sweep(watchers=[Broken()])
    assert report.counts == {"finished": 1}
    assert [message for message in caplog.messages if "cannot be shown" in message] == caplog.messages
    assert len(caplog.messages) == 1, "once, not once a round"


def test_a_crash_of_the_driver_does_not_wait_for_the_recorder(sweep, tmp_path, monkeypatch):
    def crash(self) -> None:
        raise ZeroDivisionError

    recorders: list[RecorderProcess] = []
    start = RecorderProcess.start
    monkeypatch.setattr(RecorderProcess, "start", lambda self: (recorders.append(self), start(self)))
    monkeypatch.setattr(RecorderProcess, "close", lambda *_: pytest.fail("it waits for its recorder"))
    monkeypatch.setattr("sweeps.driver.driver.Driver.run", crash)
    with pytest.raises(ZeroDivisionError):
        sweep()
    assert recorders[0]._popen.wait(60) == 0, "the recorder catches up and ends by itself"
    assert "waiting" in (tmp_path / "s" / "ledger" / "recorder.log").read_text()
