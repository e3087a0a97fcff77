"""Tables and sentences fit the terminal, and an output that is lost does not end the program."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from sweeps.show.tables import RowsTable, _Console

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


def printed(what, *, width: int, terminal: bool = True) -> list[str]:
    out = _Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    out.print(what)
    return out.file.getvalue().splitlines()


ROWS = [
    {"budget": "1.0e9", "key": f"key-{i}", "memory": "2.0 GB", "batch": "1024", "host": "", "loss": "2.5"}
    for i in range(2)
]


@pytest.mark.parametrize(
    ("width", "left_out"), [(80, []), (32, ["memory"]), (26, ["memory", "batch"]), (10, ["memory", "batch"])]
)
def test_a_table_gives_up_its_spare_columns_until_it_fits(width, left_out):
    table = RowsTable(title="a title longer than ten", rows=ROWS, once="budget", spare=("memory", "batch"))
    lines = printed(table, width=width)
    if width > 10:
        assert lines[0] == "a title longer than ten"
    text = "\n".join(lines)
    assert [name for name in ("memory", "batch") if name not in text] == left_out
    assert all(len(line) <= width for line in lines[1:])
    assert "host" not in text, "no row says anything about it"
    assert text.count("1.0e9") == 1 or width == 10


def test_sentences_wrap_at_words_on_a_terminal_and_nowhere_else():
    path = "/a/path/" + "x" * 90
    sentence = f"warning: nothing was written to {path}, because the disk is full"
    lines = printed(sentence, width=40)
    assert " ".join(lines) == sentence
    assert f"{path}," in lines, "a path stays whole"
    assert all(len(line) <= 40 for line in lines if path not in line)
    assert printed(sentence, width=40, terminal=False) == [sentence]
