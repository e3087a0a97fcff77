"""A connection that can be slow or refused: a small TCP proxy whose mood a test sets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

PASS, SLOW, REFUSE = "pass", "slow", "refuse"
SLOW_S = 2.0


class Proxy:
    """Listens on `port` and passes everything on to `target`, unless its mood is otherwise."""

    def __init__(self, target: int) -> None:
        self.target, self.mood = target, PASS
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.mood == REFUSE:
            client.close()
            return
        if self.mood == SLOW:
            time.sleep(SLOW_S)
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            client.close()
            return
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()
        client.close()
        server.close()

    def close(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
