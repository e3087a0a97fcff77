"""Who may ask the server, and what a browser may do with its answers.

On loopback there is no token: whoever can reach it has an account here. What has to be kept out there is a
foreign web page, so the Host header must be a name of this machine: a page that rebinds its own name to
127.0.0.1 still sends its own name. With another address a token is needed, in a cookie after the first visit.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

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


def new_token() -> str:
    return secrets.token_urlsafe(24)


def own_names(host: str, more: Iterable[str] = ()) -> frozenset[str]:
    """Names under which a server bound to `host` answers, lower case, without port."""
    names = {*LOOPBACK_NAMES, *more}
    if not is_loopback(host):
        names |= {host, socket.gethostname(), socket.getfqdn()}
    return frozenset(name.lower() for name in names)


class Guard:
    """The application behind checks of host, method and token; every answer carries `HEADERS`."""

    def __init__(self, app: App, *, host: str = "127.0.0.1", token: str | None = None,
                 names: Iterable[str] = ()) -> None:  # fmt: skip
        """token: None where none is needed. names: further host names under which the page is reached."""
        self.app, self.token = app, token
        self.names = own_names(host, names)
        self.any_address = not is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets here
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self.knows(headers.get("host", "")):
            await _refuse(send, 403, "This server does not go by that name; open it by its address.")
        elif scope["method"] not in ("GET", "HEAD"):
            await _refuse(send, 405, "This server only answers questions.")
        elif _foreign(headers):
            await _refuse(send, 403, "Another web site may not read this page.")
        elif self.token is None or self._shown(headers, cookie_name(scope)):
            await self.app(scope, receive, with_headers(send))
        else:
            await self._visit(scope, send)

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server. Any address may be one of this machine's own, and no
        name can be rebound to it; so only names are checked where it is bound to more than loopback."""
        name = host_of(host)
        if name in self.names:
            return True
        if not self.any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _shown(self, headers: dict[str, str], cookie_name: str) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._right(bearer.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(cookie_name)
        except CookieError:
            return False
        return cookie is not None and self._right(cookie.value)

    def _right(self, token: str) -> bool:
        assert self.token is not None, "asked only where one is needed"
        return hmac.compare_digest(token.encode(), self.token.encode())

    async def _visit(self, scope: Scope, send: Send) -> None:
        """A right token in the address becomes a cookie, and the address is opened again without it."""
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._right(given):
            cookie = f"{cookie_name(scope)}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            await _answer(send, 303, b"", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
            return
        await _refuse(send, 401, "Open the address with its token, as the server printed it at its start.")


def cookie_name(scope: Scope) -> str:
    """One per port: a browser sends a host's cookies to all its ports, and each server has its own token."""
    return f"scaling_token_{(scope.get('server') or ('', ''))[1]}"


def host_of(header: str) -> str:
    """The name of a Host header without its port, lower case; "" for what is no name."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1 : text.find("]")] if "]" in text else ""
    name, _, port = text.partition(":")
    return name if port == "" or port.isdigit() else ""


def _foreign(headers: dict[str, str]) -> bool:
    site = headers.get("sec-fetch-site", "none")
    return site not in ("none", "same-origin") and headers.get("sec-fetch-mode") != "navigate"


def with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            have = {name.lower() for name, _ in message.get("headers", [])}
            extra = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in have]
            message["headers"] = [*message.get("headers", []), *extra]
        await send(message)

    return sending


async def _refuse(send: Send, status: int, sentence: str) -> None:
    await _answer(send, status, sentence.encode(), [(b"content-type", b"text/plain; charset=utf-8")])


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    send = with_headers(send)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
