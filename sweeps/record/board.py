"""The board: a sweep's status and people's wishes, as tags of its experiment in the tracking store.

Whoever reaches the tracking server can thus see and steer a sweep from any machine. The recorder, which sits
beside the ledger, pins the status up whenever it changes, and carries out the wishes it finds. Anybody who
may write to the server may do so: that is what the server's own login is for.

The status is one compressed text in numbered pieces, for a tag holds 5000 characters. A wish is a tag
`scaling.wish.<id>`; it is answered by `scaling.answer.<id>` and then removed. A recorder that dies between
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
from collections.abc import Mapping, Sequence
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
"""Of its time, at most, that a recorder spends pinning up the status."""


class Tags(Protocol):
    """The tags of a sweep's experiment."""

    def tags(self) -> dict[str, str]: ...

    def set_tag(self, name: str, value: str) -> None: ...

    def delete_tag(self, name: str) -> None: ...


# -- the recorder's side ------------------------------------------------------------------------


class Board:
    """Keeps the board of one sweep up to date. Any call may raise whatever the store raises."""

    def __init__(self, ledger: Ledger, store: Tags) -> None:
        self.ledger, self.store = ledger, store
        self._pinned: list[list[Any]] | None = None
        self._not_before = 0.0

    def attend(self) -> None:
        """Carry out wishes, and pin up the status if it has changed."""
        tags = self.store.tags()
        for name, text in sorted(tags.items()):
            if name.startswith(WISH):
                self.store.set_tag(ANSWER + name.removeprefix(WISH), self._grant(text)[:PIECE])
                self.store.delete_tag(name)
        if time.monotonic() >= self._not_before:
            self._pin(tags)

    def _grant(self, text: str) -> str:
        try:
            wish = json.loads(text)
            action, families, keys = wish["action"], wish["families"], wish["keys"]
            return carry_out(self.ledger, str(action), [*map(str, families)], [*map(str, keys)])
        except (ValueError, KeyError, TypeError) as error:  # a UserError, too, is the asker's
            return f"refused: {error}"

    def _pin(self, tags: Mapping[str, str]) -> None:
        rows = [to_brief(run) for run in runs_with_progress(self.ledger)]
        if rows == self._pinned:
            return
        began = time.monotonic()
        pieces = packed(rows)
        for number, piece in enumerate(pieces):
            if tags.get(f"{STATUS}.{number}") != piece:
                self.store.set_tag(f"{STATUS}.{number}", piece)
        head = {"at": time.time(), "pieces": len(pieces), "version": BRIEF_VERSION}
        self.store.set_tag(STATUS, json.dumps(head))
        self._pinned = rows
        self._not_before = time.monotonic() + (time.monotonic() - began) / BUSY_SHARE


def packed(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows as texts of at most PIECE characters; `unpacked` is the way back."""
    data = zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 6)
    text = base64.b85encode(data).decode()
    return [text[start : start + PIECE] for start in range(0, len(text), PIECE)]


def unpacked(pieces: Sequence[str]) -> list[list[Any]]:
    """ValueError where the pieces do not belong together."""
    try:
        rows: list[list[Any]] = json.loads(zlib.decompress(base64.b85decode("".join(pieces))))
    except zlib.error as error:
        raise ValueError(f"the pieces do not belong together: {error}") from error
    return rows


# -- the side of whoever asks -------------------------------------------------------------------


def read_status(store: Tags, sweep: str) -> tuple[list[Run], float]:
    """The runs as last pinned up, and how many seconds ago that was. UserError where there is none."""
    for _ in range(5):
        tags = store.tags()
        if STATUS not in tags:
            break
        head = json.loads(tags[STATUS])
        try:
            rows = unpacked([tags[f"{STATUS}.{number}"] for number in range(head["pieces"])])
        except (ValueError, KeyError):  # it is being pinned up just now
            time.sleep(POLL_S)
            continue
        try:
            if head.get("version", 1) != BRIEF_VERSION:
                raise ValueError(f"version {head['version']}")
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
    """Pin up a wish and wait for its answer. What was done, or that nobody has answered yet."""
    assert action in ACTIONS, "the command line offers no other"
    number = uuid.uuid4().hex[:12]
    wish = {"action": action, "families": [*families], "keys": [*keys], "by": _who(), "at": time.time()}
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
    return "nobody drives the sweep now; the wish is pinned up and carried out as soon as somebody does"


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container's user without a name
        return socket.gethostname()
