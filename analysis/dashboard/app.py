"""The server: a page, its runs, laws, answers and figures, the curve of a run, and the page as one file.

Routes take names of counts and figures and keys of runs; each is looked up among those there are, and none is
ever part of a path or a query text. The one thing that is written are stars and notes on runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any, Literal
from urllib.parse import unquote

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from analysis.dashboard import page
from analysis.dashboard.children import ChildError
from analysis.dashboard.security import NOTES, Receive, Scope, Send
from analysis.dashboard.state import State
from analysis.errors import UserError

FOREVER = "private, max-age=31536000, immutable"
FRESH = "no-cache"
QUESTION = ("budget", "gpus", "days", "utilisation", "size", "tokens", "unique", "epochs", "loss")
"""Fields of a question, see `analysis.dashboard.answers`, and loss for what a loss costs."""
LONGEST = 100
MEDIA = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf"}
NOTE_BYTES, NOTE_S = 20_000, 10.0
"""The longest body of a request that is read, and the time it may take to arrive."""
Format = Literal["json", "png", "svg", "pdf"]
Theme = Literal["light", "dark"]


class Sweeps:
    """The applications over the sweeps of a store or of a folder: the first one at /, the others, opened when
    they are asked for, at /sweep/NAME/."""

    def __init__(
        self, state: State, open_sweep: Callable[[str], State], *, title: str, watch: bool = True
    ) -> None:
        """state: of the first; open_sweep: that of another, by its name. watch: see `build`."""
        self.state, self.open_sweep, self.watch = state, open_sweep, watch
        state.has_whole = not state.sweep
        self.first = build(state, title=title, watch=watch)
        self.others: dict[str, FastAPI] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.first
        if scope["type"] == "http" and (place := re.fullmatch(rb"/sweep/([^/]+)(/.*)", scope["raw_path"])):
            name, path = unquote(place[1].decode()), place[2]
            if name == self.state.sweep or name in self.state.sweeps():
                app = self._app_of(name)
                scope = {**scope, "path": unquote(path.decode()), "raw_path": path}
        try:
            await app(scope, receive, send)
        finally:
            if scope["type"] == "lifespan":
                for task in self.tasks:
                    task.cancel()
                await asyncio.gather(*self.tasks, return_exceptions=True)

    def _app_of(self, name: str) -> FastAPI:
        if name == self.state.sweep:
            return self.first
        if name not in self.others:
            state = self.open_sweep(name)
            state.sweep, state.sweeps, state.has_whole = name, self.state.sweeps, self.state.has_whole
            self.others[name] = build(state, title=name, watch=False)
            if self.watch:
                self.tasks.append(asyncio.create_task(state.watch()))
        return self.others[name]


def build(state: State, *, title: str, watch: bool = True) -> FastAPI:
    """The application over a state; `watch`: keep it up to date while the server runs."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(state.watch()) if watch else None
        yield
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    files: dict[str, tuple[str, str, Callable[[], bytes]]] = {
        "/": ("text/html", FRESH, lambda: page.served(title).encode()),
        "/app.js": ("text/javascript", FRESH, lambda: page.script().encode()),
        "/style.css": ("text/css", FRESH, lambda: page.style().encode()),
        "/plotly.js": ("text/javascript", FOREVER, page.library),
    }
    packed = cache(lambda path: page.pack(files[path][2]()))

    def static(request: Request) -> Response:
        media, caching, _ = files[request.url.path]
        return _packed(request, *packed(request.url.path), media=media, caching=caching)

    for path in files:
        app.add_api_route(path, static, methods=["GET", "HEAD"])
    _data_routes(app, state)

    @app.get("/export.html")
    async def export(start: str = "") -> Response:
        # reading and packing run in other threads and processes: the server answers meanwhile
        count = page.count_at(state, start)
        laws = await asyncio.to_thread(page.carried_laws, state, count, await state.figures(count))
        curves = await state.curves(page.room_for_curves(state, laws))
        content = await asyncio.to_thread(page.exported, state, curves, laws, title=title, start=start)
        name = f"attachment; filename={page.file_name(title)}"
        return Response(content, media_type="text/html", headers={"content-disposition": name})

    return app


def _data_routes(app: FastAPI, state: State) -> None:
    @app.get("/api/state")
    def summary() -> Response:
        return JSONResponse(state.summary(), headers={"cache-control": "no-store"})

    @app.get("/api/data")
    def data(request: Request) -> Response:
        if not state.runs.content:
            return JSONResponse({"waiting": state.runs.problem or "reading the runs"}, 503)
        return _packed(request, state.runs.content, state.runs.etag)

    @app.get("/api/laws")
    def laws(request: Request, params: str, flops: str) -> Response:
        if not state.knows((params, flops)):
            return JSONResponse({"unknown": "the runs are not counted that way"}, 404)
        laws = state.want((params, flops))
        if not laws.content:
            return JSONResponse({"waiting": laws.problem or "fitting"}, 503)
        return _packed(request, laws.content, laws.etag)

    @app.get("/api/answer")
    async def answer(request: Request, params: str, flops: str) -> Response:
        if not state.knows((params, flops)):
            return JSONResponse({"unknown": "the runs are not counted that way"}, 404)
        question = {name: value[:LONGEST] for name, value in request.query_params.items() if name in QUESTION}
        try:
            content = await state.answer((params, flops), question)
        except ChildError as error:
            return JSONResponse({"waiting": str(error)}, 503)
        # a bad question is a sentence for the reader: browsers report other codes on their console
        return JSONResponse(content, headers={"cache-control": "no-store"})

    @app.get("/api/figure")
    async def figure(request: Request, params: str, flops: str, name: str, format: Format = "json",
                     theme: Theme = "light", families: str = "", budgets: str = "") -> Response:  # fmt: skip
        if not state.knows((params, flops)):
            return JSONResponse({"unknown": "the runs are not counted that way"}, 404)
        try:
            chosen = [float(budget) for budget in budgets.split(",") if budget]
            filters = {"families": [one for one in families.split(",") if one], "budgets": chosen}
            content = await state.figure((params, flops), name, format=format, theme=theme, **filters)
        except ValueError:
            return JSONResponse({"problem": f"budgets: {budgets[:100]!r} are no FLOPs"}, 422)
        if format == "json":
            return _packed(request, content, hashlib.sha256(content).hexdigest()[:24])
        return Response(content, media_type=MEDIA[format], headers={"cache-control": "no-store"})

    @app.get("/api/run")
    async def run(key: str) -> Response:
        run_of_key = await state.run(key)
        return JSONResponse(
            run_of_key, 404 if run_of_key.get("unknown") else 200, headers={"cache-control": "no-store"}
        )

    @app.exception_handler(ChildError)
    def unavailable(request: Request, error: Exception) -> Response:
        return JSONResponse({"problem": str(error)}, 503)

    @app.get(NOTES)
    def notes() -> Response:
        return JSONResponse(state.notes_of_runs(), headers={"cache-control": "no-store"})

    @app.put(NOTES)
    async def write_note(request: Request, key: str) -> Response:
        try:
            async with asyncio.timeout(NOTE_S):
                change = await _small_body(request)
            await asyncio.to_thread(state.write_note, key, star=change["star"], note=change["note"])
        except UserError as error:
            return JSONResponse({"problem": str(error)}, 422)
        except (TimeoutError, ValueError, KeyError, TypeError):
            return JSONResponse({"problem": 'send {"star": true or false, "note": text}'}, 422)
        return notes()

    @app.exception_handler(404)
    def not_here(request: Request, error: Exception) -> Response:
        return PlainTextResponse("There is nothing at this address.", 404)


async def _small_body(request: Request) -> dict[str, Any]:
    """The star and the note of a request; ValueError or KeyError for anything else."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > NOTE_BYTES:
            raise ValueError("too long")
    change: dict[str, Any] = json.loads(body)
    if not isinstance(change["star"], bool) or not isinstance(change["note"], str):
        raise TypeError("of another type")
    return change


def _packed(
    request: Request, content: bytes, etag: str, *, media: str = "application/json", caching: str = FRESH
) -> Response:
    """gzip content with an e-tag; answers 304 if the browser has it already."""
    headers = {"etag": f'"{etag}"', "cache-control": caching, "vary": "accept-encoding"}
    if f'"{etag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(gzip.decompress(content), media_type=media, headers=headers)
    return Response(content, media_type=media, headers={**headers, "content-encoding": "gzip"})
