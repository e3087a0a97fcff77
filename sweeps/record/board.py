"""The board: a sweep's status and requests to it, as tags of its experiment in the tracking store.

So everybody with access to the tracking server can see and steer a sweep from any machine. The recorder,
which runs beside the ledger, writes the status whenever it changes, and carries out requests. The server's
own login decides who may write to it, and so who may steer a sweep.

The status is one compressed text in numbered pieces, because a tag holds 5000 characters. A request is a tag
`scaling.wish.<id>`; its answer is `scaling.answer.<id>`, and then it is removed. A recorder that dies between
the two carries it out again, which changes nothing.
"""

from __future__ import annotations

import base64
import getpass
import json
import socket
import time
import uuid
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from scaling.errors import UserError
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.requests import ACTIONS, carry_out
from sweeps.ledger.status import BRIEF_VERSION, from_brief, runs_with_progress, to_brief
from sweeps.ledger.types import Run

STATUS, WISH, ANSWER = "scaling.status", "scaling.wish.", "scaling.answer."
PIECE = 4800
ANSWER_S = 20.0
POLL_S = 0.5
BUSY_SHARE = 0.1
"""Largest share of its time that a recorder spends on writing the status."""


class Tags(Protocol):
    """The tags of a sweep's experiment."""

    def tags(self) -> dict[str, str]: ...

    def set_tag(self, name: str, value: str) -> None: ...

    def delete_tag(self, name: str) -> None: ...


# -- the recorder's side ------------------------------------------------------------------------


class Board:
    """Keeps the board of one sweep up to date. Any call may raise any error of the store."""

    def __init__(self, ledger: Ledger, store: Tags) -> None:
        self.ledger, self.store = ledger, store
        self._written: list[list[Any]] | None = None
        self._not_before = 0.0

    def attend(self) -> None:
        """Carry out requests, and write the status if it has changed."""
        tags = self.store.tags()
        for name, text in sorted(tags.items()):
            if not name.startswith(WISH):
                continue
            try:
                wish = json.loads(text)
                action, families, keys = wish["action"], wish["families"], wish["keys"]
                answer = carry_out(self.ledger, str(action), [*map(str, families)], [*map(str, keys)])
            except (ValueError, KeyError, TypeError) as error:  # with UserError, which is a ValueError
                answer = f"refused: {error}"
            self.store.set_tag(ANSWER + name.removeprefix(WISH), answer[:PIECE])
            self.store.delete_tag(name)
        if time.monotonic() < self._not_before:
            return
        rows = [to_brief(run) for run in runs_with_progress(self.ledger)]
        if rows == self._written:
            return
        began = time.monotonic()
        pieces = packed(rows)
        for number, piece in enumerate(pieces):
            if tags.get(f"{STATUS}.{number}") != piece:
                self.store.set_tag(f"{STATUS}.{number}", piece)
        head = {"at": time.time(), "pieces": len(pieces), "version": BRIEF_VERSION}
        self.store.set_tag(STATUS, json.dumps(head))
        self._written = rows
        self._not_before = time.monotonic() + (time.monotonic() - began) / BUSY_SHARE


def packed(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows as texts of at most PIECE characters; `unpacked` is the inverse."""
    data = zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 6)
    text = base64.b85encode(data).decode()
    return [text[start : start + PIECE] for start in range(0, len(text), PIECE)]


def unpacked(pieces: Sequence[str]) -> list[list[Any]]:
    """ValueError if the pieces do not belong together."""
    try:
        rows: list[list[Any]] = json.loads(zlib.decompress(base64.b85decode("".join(pieces))))
    except zlib.error as error:
        raise ValueError(f"the pieces do not belong together: {error}") from error
    return rows


# -- the other machine's side -------------------------------------------------------------------


def read_status(store: Tags, sweep: str) -> tuple[list[Run], float]:
    """The runs in the last status, and its age in seconds. UserError if there is none."""
    for _ in range(5):
        tags = store.tags()
        if STATUS not in tags:
            break
        head = json.loads(tags[STATUS])
        try:
            rows = unpacked([tags[f"{STATUS}.{number}"] for number in range(head["pieces"])])
        except (ValueError, KeyError):  # it is being written just now
            time.sleep(POLL_S)
            continue
        try:
            if head.get("version", 1) != BRIEF_VERSION:
                raise ValueError("another version")
            return [from_brief(row) for row in rows], time.time() - head["at"]
        except ValueError:
            raise UserError(
                f"the status of sweep {sweep!r} in the tracking store is not of this version of the program; "
                "install the version that runs the sweep"
            ) from None
    raise UserError(
        f"the tracking store has no status of sweep {sweep!r}; it is there once `scaling sweep` has recorded"
    )


def ask(
    store: Tags, action: str, families: Sequence[str], keys: Sequence[str], *, patience_s: float = ANSWER_S
) -> str:
    """Leave a request and wait for its answer. Returns what was done, or that there is no answer yet."""
    assert action in ACTIONS, "the command line offers no other"
    user = socket.gethostname()
    with suppress(KeyError, OSError):  # a container's user without a name
        user = f"{getpass.getuser()}@{user}"
    number = uuid.uuid4().hex[:12]
    wish = {"action": action, "families": [*families], "keys": [*keys], "by": user, "at": time.time()}
    store.set_tag(WISH + number, json.dumps(wish))
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        answer = store.tags().get(ANSWER + number)
        if answer is not None:
            store.delete_tag(ANSWER + number)
            if answer.startswith("refused: "):
                raise UserError(answer.removeprefix("refused: "))
            return answer
        time.sleep(POLL_S)
    return "nobody drives the sweep now; the request is carried out as soon as somebody does"
