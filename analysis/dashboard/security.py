"""Who may ask the server, and what a browser may do with its answers.

On loopback there is no token: whoever can reach it has an account here. What has to be kept out there is a
foreign web page, so the Host header must be a name of this machine: a page that rebinds its own name to
127.0.0.1 still sends its own name. With another address a token is needed, in a cookie after the first visit.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NOTES = "/api/notes"
"""The one address to which something may be written."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OWN_STYLES = (
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' "
    "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='"
)
"""plotly.js makes an empty style element, which it fills by rules, and one for its maps, which is not used
here; a policy allows them by these hashes."""
# style-src-attr: plotly.js sets style attributes; they can neither load nor run anything under this policy
POLICY = (
    "default-src 'none'; script-src 'self'; style-src-elem 'self' {empty}; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY.format(empty=OWN_STYLES),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """The application behind checks of host, method and token; every answer carries `HEADERS`."""

    def __init__(self, app: App, *, host: str = "127.0.0.1", token: str | None = None,
                 names: Iterable[str] = ()) -> None:  # fmt: skip
        """token: None if none is needed. names: further host names under which the page is reached."""
        self.app, self.token = app, token
        self.any_address = not is_loopback(host)
        of_machine = {host, socket.gethostname(), socket.getfqdn()} if self.any_address else set()
        self.names = {name.lower() for name in {*LOOPBACK_NAMES, *names, *of_machine}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":  # no web sockets here
            answer = self.refusal(Request(scope)) or self.app

            async def send_with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    have = {name for name, _ in message["headers"]}
                    own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                    message["headers"] = [*message["headers"], *(pair for pair in own if pair[0] not in have)]
                await send(message)

            await answer(scope, receive, send_with_headers)

    def refusal(self, request: Request) -> Response | None:
        """The answer to a request that may not reach the application; None if it may."""
        headers = request.headers
        if not self.is_own_name(headers.get("host", "")):
            return refuse(403, "This server does not go by that name; open it by its address.")
        # a browser asks before it sends PUT to another site, and OPTIONS is refused
        is_note = request.method == "PUT" and request.scope["path"].endswith(NOTES)
        if request.method not in ("GET", "HEAD") and not is_note:
            return refuse(405, "This server only answers GET and HEAD.")
        origin = headers.get("origin")
        if is_note and origin is not None and origin.partition("://")[2] != headers.get("host"):
            return refuse(403, "Another web site may not write here.")
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and headers.get("sec-fetch-mode") != "navigate":
            return refuse(403, "Another web site may not read this page.")
        # one per port: a browser sends a host's cookies to all its ports, and each server has its own token
        cookie = f"scaling_token_{(request.scope.get('server') or ('', ''))[1]}"
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if self.token is None or self.is_token(request.cookies.get(cookie, "")):
            return None
        if kind.lower() == "bearer" and self.is_token(bearer.strip()):
            return None
        # a right token in the address becomes a cookie, and the address is opened again without it
        if request.scope["path"] == "/" and self.is_token(request.query_params.get("token", "")):
            redirect = RedirectResponse("/", 303, {"cache-control": "no-store"})
            redirect.set_cookie(cookie, self.token, httponly=True, samesite="strict")
            return redirect
        return refuse(401, "Open the address with its token, as the server printed it at its start.")

    def is_own_name(self, header: str) -> bool:
        """Whether a Host header names this server. Any address may be one of this machine's own, and no
        name can be rebound to it; so only names are checked if it is bound to more than loopback."""
        parts = re.fullmatch(r"(?:\[([^]]+)\]|([^:\[\]]+))(?::\d*)?", header.strip().lower())
        name = (parts[1] or parts[2]) if parts else ""
        try:
            return name in self.names or (self.any_address and bool(ipaddress.ip_address(name)))
        except ValueError:
            return False

    def is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), (self.token or "").encode()) and bool(self.token)


def refuse(status: int, sentence: str) -> Response:
    return PlainTextResponse(sentence, status, {"cache-control": "no-store"})
