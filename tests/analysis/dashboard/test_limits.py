"""Connections that ask nothing: how long they are kept, and how many."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import resource
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from analysis.dashboard import limits, serve


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """An application that takes its time where it is asked to."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(limits, "REQUEST_S", 0.4)
    opened = serve.listen("127.0.0.1", 0)
    config = uvicorn.Config(answer, http=limits.LimitedProtocol, backlog=limits.BACKLOG, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    yield opened.getsockname()[1]
    server.should_exit = True
    thread.join()
    opened.close()


def connect(port: int, first: bytes = b"") -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), timeout=20)
    opened.sendall(first)
    return opened


def closed(opened: socket.socket) -> bool:
    with contextlib.closing(opened):
        try:
            return opened.recv(1) == b""
        except ConnectionResetError:
            return True


def get(port: int, path: str = "/") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("first", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_who_does_not_finish_asking_is_shut_out(port: int, first: bytes) -> None:
    assert closed(connect(port, first))


def test_a_later_request_that_is_not_finished_is_shut_out_too(port: int) -> None:
    opened = connect(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    received = b""
    while not received.endswith(b"ok"):
        received += opened.recv(1000)
    opened.sendall(b"GET / HT")
    assert closed(opened)


def test_an_answer_may_take_longer_than_the_question(port: int) -> None:
    assert get(port, "/slow") == b"ok"


def test_more_connections_than_the_limit_are_refused_and_the_others_served(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_CONNECTIONS", 8)
    monkeypatch.setattr(limits, "REQUEST_S", 60.0)
    kept = [connect(port) for _ in range(8)]
    assert closed(connect(port, b"GET"))
    kept[0].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert kept[0].recv(1000).startswith(b"HTTP/1.1 200")
    for opened in kept:
        opened.close()
    wait_for(lambda: get(port) == b"ok")


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if what():
                return
        time.sleep(0.05)
    pytest.fail("it did not come to that in time")


def test_a_flood_neither_fills_the_log_nor_ends_the_service() -> None:
    """With 256 descriptors and 300 connections that ask nothing."""
    script = """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        import uvicorn
        from analysis.dashboard import limits, serve
        from tests.analysis.dashboard.test_limits import answer

        limits.REQUEST_S = 2.0
        opened = serve.listen("127.0.0.1", 0)
        print(opened.getsockname()[1], flush=True)
        options = {"http": limits.LimitedProtocol, "backlog": limits.BACKLOG, "log_level": "warning"}
        config = uvicorn.Config(answer, **options)
        uvicorn.Server(config).run(sockets=[opened])
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 700:
        pytest.skip("this process may not open that many connections")
    server = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    flood: list[socket.socket] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 700), hard))
        assert server.stdout is not None
        port = int(server.stdout.readline())
        flood += [connect(port, b"GET / HTTP/1.1\r\n") for _ in range(300)]
        wait_for(lambda: get(port) == b"ok")
    finally:
        for opened in flood:
            opened.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        server.terminate()
        errors = server.communicate()[1]
    assert len(errors) < 2000, errors[:2000]
