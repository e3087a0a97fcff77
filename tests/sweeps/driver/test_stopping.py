"""Wishes to stop, from signals: the first one saves, the second ends runs at once, the third leaves."""

from __future__ import annotations

import signal

import pytest

from sweeps.driver.stopping import stop_on_signals


def test_signals_are_counted_and_the_third_leaves():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert (stop.count, stop.reason) == (1, "SIGHUP")
        signal.raise_signal(signal.SIGINT)
        assert (stop.count, stop.reason) == (2, "SIGHUP")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
