"""The recorder as a process of its own, and the loop that process runs (`python -m sweeps.record.process`).

So MLflow's imports and waits cost the driver nothing, and a recorder that dies is started again. It ends
when its input does: it then catches up for as long as it was allowed to. A driver that is killed thus leaves
its records in order.
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
from typing import IO

from analysis.text import without_secrets
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.owner import Owner
from sweeps.record.recorder import GRACE_S, SLOW, Recorder, trouble_of, waiting_for

URI_VARIABLE = "SCALING_RECORD_TO"
"""The store's URI may hold a password, which a command line would show to everybody."""
RESTART_S = 5.0
START_S = 40.0
"""How long it may take to start, which it may just have begun when it is told to end."""


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
    _ended_because: str | None = field(default=None, init=False)
    """Why it was killed; None if it was not."""

    def __enter__(self) -> RecorderProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # the sweep broke off: the recorder catches up by itself, nobody waits for it
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
        if self._popen is None or self._popen.poll() is None:
            return
        if time.monotonic() - self._started >= RESTART_S:
            self._end_input()
            self.start()

    def close(self, give_up: Callable[[], bool] = lambda: False) -> int:
        """Let it catch up and end. Returns of how many runs the store does not know the latest.

        One that hangs, after what it is allowed and START_S, is killed.
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
                    self._ended_because = "it was not waited for"
                elif time.monotonic() > end:
                    self._ended_because = f"the recorder did not end within {patience_s:.0f} s"
                if self._ended_because:
                    self._popen.kill()
                time.sleep(0.05)
            self._code = self._popen.returncode
            self._popen = None
        return waiting_for(self.ledger, self.uri)

    def _end_input(self) -> None:
        pipe: IO[bytes] | None = self._popen.stdin if self._popen is not None else None
        if pipe is not None:
            pipe.close()

    @property
    def trouble(self) -> str | None:
        """Why the last try to record failed, or how the process died; None if it was only slow."""
        said = self._ended_because or trouble_of(self.ledger, self.uri)
        if said is None and self._code:
            how = f"was killed by signal {-self._code}" if self._code < 0 else f"ended with code {self._code}"
            return f"the recorder {how}, see {self.ledger.folder / 'recorder.log'}"
        return said


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
