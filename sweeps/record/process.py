"""The recorder as a process of its own (`python -m sweeps.record.process`), and how the driver runs it.

MLflow's imports and waits thus cost the driver nothing, and a recorder that dies is started again. When its
input ends, it catches up for at most its grace time, and ends. So the records of a driver that is killed are
complete, too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from analysis.text import without_secrets
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.owner import Owner
from sweeps.record.recorder import GRACE_S, SLOW, Recorder, read_note, waiting_for

URI_VARIABLE = "SCALING_RECORD_TO"
"""The store's URI may hold a password, which a command line would show to everybody."""
RESTART_S = 5.0
START_S = 40.0
"""How long it may take to start; it may have to end just after it was started."""


@dataclass(slots=True)
class RecorderProcess:
    """Records the sweep of `ledger` in the store at `uri` from `start` to `close`."""

    ledger: Ledger
    sweep: str
    uri: str
    grace_s: float = GRACE_S
    """How long the end of the sweep may wait for a store that fails."""
    _popen: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _code: int | None = field(default=None, init=False)
    """Exit code of the last process."""
    _started: float = field(default=-float("inf"), init=False)
    _kill_reason: str | None = field(default=None, init=False)

    def __enter__(self) -> RecorderProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # an exception ends the sweep: the recorder catches up by itself, nobody waits for it
            self._end_input()

    def start(self) -> None:
        self._started = time.monotonic()
        log = (self.ledger.folder / "recorder.log").open("ab")
        command = [sys.executable, "-P", "-m", "sweeps.record.process", str(self.ledger.folder), self.sweep]
        with log:
            self._popen = subprocess.Popen(
                [*command, str(self.grace_s)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, URI_VARIABLE: self.uri},
                start_new_session=True,  # Ctrl-C in the terminal is for the driver
            )

    def check(self) -> None:
        """Start it again if it has died, but not all the time."""
        died = self._popen is not None and self._popen.poll() is not None
        if died and time.monotonic() - self._started >= RESTART_S:
            self._end_input()
            self.start()

    def close(self, give_up: Callable[[], bool] = lambda: False) -> int:
        """Let it catch up and end. Returns how many runs are not up to date in the store.

        It is killed if it has not ended START_S after its grace time.
        """
        if self._popen is not None:
            if self._popen.poll() is not None:  # it died and nobody has looked since
                self._end_input()
                self.start()
            self._end_input()
            patience_s = SLOW * self.grace_s + START_S
            end = time.monotonic() + patience_s
            while self._popen.poll() is None:
                if give_up():
                    self._kill_reason = "it was not waited for"
                elif time.monotonic() > end:
                    self._kill_reason = f"the recorder did not end within {patience_s:.0f} s"
                if self._kill_reason:
                    self._popen.kill()
                time.sleep(0.05)
            self._code = self._popen.returncode
            self._popen = None
        return waiting_for(self.ledger, self.uri)

    def _end_input(self) -> None:
        if self._popen is not None and self._popen.stdin is not None:
            self._popen.stdin.close()

    @property
    def trouble(self) -> str | None:
        """Why the last try to record failed, or how the process died; None if it was only slow."""
        reason = self._kill_reason or read_note(self.ledger, self.uri)["trouble"]
        if reason is None and self._code:
            how = f"was killed by signal {-self._code}" if self._code < 0 else f"ended with code {self._code}"
            return f"the recorder {how}, see {self.ledger.folder / 'recorder.log'}"
        return reason


def main() -> None:
    """Record until the input ends, then catch up."""
    folder, sweep, grace_s = sys.argv[1:]
    uri = os.environ[URI_VARIABLE]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner = Owner.this_process("recorder")
    with Ledger(Path(folder), owner=owner) as ledger, ledger.driving():
        recorder = Recorder(ledger, sweep, uri)
        recorder.start()
        sys.stdin.read()
        waiting = recorder.close(float(grace_s))
    print(json.dumps({"store": without_secrets(uri), "waiting": waiting, "trouble": recorder.trouble}))
    sys.stdout.flush()
    os._exit(0)  # a thread that hangs in a call to a dead server must not keep the process


if __name__ == "__main__":
    main()
