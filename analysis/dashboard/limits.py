"""How many connections the server keeps, and for how long one may take to ask something.

Anybody who reaches the port can open connections and leave them; uvicorn waits for a request without end, and
the loop that accepts connections writes a line of log for each that finds no descriptor left.
"""

from __future__ import annotations

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 10.0
"""From a connection, or the first byte of a later request, to the end of the request's headers."""
MOST_CONNECTIONS = 256
BACKLOG = 64
"""Connections that the loop may accept at once, before the limit can refuse them."""
_OTHER_FILES = 64


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol with these limits."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # as many as descriptors allow, with some left for files and for those that are being refused
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if len(self.connections) > max(8, min(MOST_CONNECTIONS, allowed - BACKLOG - _OTHER_FILES)):
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watch()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_S, self.transport.abort)

    def _stop_watch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
