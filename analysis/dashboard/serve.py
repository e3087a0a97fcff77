"""Serving the page: address, token, cache folder, and an end without noise."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from analysis.dashboard.sources import Place
from analysis.errors import UserError

PORT = 8050


def cache_folder(spec: Mapping[str, Any], bootstrap: int = 1000) -> Path:
    """A folder of this user for snapshots of that source, as this code and so many resamples make them.

    Nothing is ever written beside a store. Laws that another version of the code left may lack what the page
    shows now.
    """
    facts = json.dumps([spec, bootstrap], sort_keys=True, default=str)
    hashed = hashlib.sha256(facts.encode())
    for package in sorted({"analysis", re.split(r"[.:]", str(spec["source"]))[0]}):
        origin = find_spec(package)
        for root in (origin and origin.submodule_search_locations) or ():
            for path in sorted(Path(root).rglob("*.py")):
                hashed.update(path.read_bytes())
    name = hashed.hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for parent in (base, Path(tempfile.gettempdir()) / f"scaling-{os.getuid()}"):
        folder = parent / "scaling" / "dashboard" / name
        with suppress(OSError):
            parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # nobody else may put a file there: laws are read from it as pickles
            if os.access(folder, os.W_OK) and {os.getuid()} == {p.stat().st_uid for p in (parent, folder)}:
                return folder
    raise UserError("dashboard: no cache folder can be written; set XDG_CACHE_HOME to one that can")


def listen(host: str, port: int, *, tries: int = 20) -> socket.socket:
    """A listening socket at `port`, or the next free one; UserError where there is none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"host {host}: no address of this machine ({error.strerror or error})") from None
    problem: OSError | None = None
    for number in range(port, port + tries) if port else [0]:
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((address[0], number, *address[2:]))
        except OSError as error:
            opened.close()
            problem = error
            continue
        opened.listen()
        return opened
    assert problem is not None, "it was tried at least once"
    raise UserError(f"port {port} of {host} cannot be used ({problem.strerror}); choose another with --port")


def serve(
    place: Place,
    *,
    title: str,
    sweep: str = "",
    others: Callable[[], Mapping[str, Place]] | None = None,
    host: str = "127.0.0.1",
    port: int = PORT,
    token: str | None = None,
    names: Iterable[str] = (),
    bootstrap: int = 1000,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page over `place` until Ctrl-C, and those over the other sweeps beside it.

    Beyond loopback a token is needed; one is made if none is given. sweep: the one that `place` holds, if it
    holds one; others: every sweep that can be chosen, by its name, by default those of the store. names:
    further host names of this machine. say: tells a person the address. UserError if host or port cannot be
    used.
    """
    import uvicorn

    from analysis.dashboard import app, limits, security
    from analysis.dashboard.state import State

    # what an address and a cookie hold as it is, or the printed link would not open the page
    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]{8,}", token):
        raise UserError(
            "token: give at least 8 letters, digits or characters of . _ ~ -, or none and one is made"
        )
    if token is None and not security.is_loopback(host):
        token = secrets.token_urlsafe(24)
    opened = listen(host, port)

    def state_over(there: Place) -> State:
        cache = cache_folder(there.spec, bootstrap)
        state = State(there.spec, cache, files=there.files, notes=there.notes, bootstrap=bootstrap)
        state.take_up(cache)
        return state

    def open_sweep(name: str) -> State:
        if others is not None:
            return state_over(others()[name])
        options = {**place.spec["options"], "sweep": name}
        return state_over(replace(place, spec={**place.spec, "options": options}))

    state = state_over(place)
    state.sweep = sweep
    if others is not None:
        state.sweeps = lambda: sorted(others())
    guarded = security.Guard(app.Sweeps(state, open_sweep, title=title), host=host, token=token, names=names)
    # no access log: an address may hold the token
    config = uvicorn.Config(
        guarded,
        http=limits.LimitedProtocol,
        backlog=limits.BACKLOG,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    say(f"dashboard of {title}: {_address(opened, host, token)} (Ctrl-C ends it)")
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[opened])


def _address(opened: socket.socket, host: str, token: str | None) -> str:
    port = opened.getsockname()[1]
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
