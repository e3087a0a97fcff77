"""What is shown may be lost without ending who shows it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

SHOW = """
import sys, time
from sweeps.show.tables import lasting_console
with lasting_console() as out:
    print("ready", file=sys.stderr, flush=True)
    sys.stdin.readline()
    for _ in range(3):
        out.print("a line " * 5000)
sys.exit(7)
"""


def show(stdout) -> subprocess.Popen:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW], stdin=pipe, stdout=stdout, stderr=pipe, text=True
    )
    assert process.stderr.readline() == "ready\n"
    return process


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no file that is always full")
def test_a_full_disk_under_the_output_changes_neither_the_end_nor_the_exit_code():
    with open("/dev/full", "w") as full, show(full) as process:
        assert process.communicate("go\n")[1] == ""
    assert process.returncode == 7


def test_a_terminal_that_is_closed_changes_neither_the_end_nor_the_exit_code():
    ours, theirs = pty.openpty()
    with show(theirs) as process:
        os.close(theirs)
        os.close(ours)
        assert process.communicate("go\n")[1] == ""
    assert process.returncode == 7
