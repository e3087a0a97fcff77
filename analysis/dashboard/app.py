"""The server: a page, its data, its laws, the curve of a run, and the page as one file.

Routes take names of counts and keys of runs; both are looked up among those that are known, and neither is
ever part of a path or a query text.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from analysis.dashboard import page
from analysis.dashboard.board import Board
from analysis.dashboard.children import ChildError

FOREVER = "private, max-age=31536000, immutable"
FRESH = "no-cache"


def build(board: Board, *, title: str, watch: bool = True) -> FastAPI:
    """The application over a board; `watch`: keep the board up to date while it runs."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(board.watch()) if watch else None
        yield
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _static_routes(app, title)
    _data_routes(app, board)

    @app.get("/export.html")
    async def export(start: str = "") -> Response:
        # reading and packing go on elsewhere: the server answers meanwhile
        room = await asyncio.to_thread(page.room_for_curves, board)
        curves = await board.curves(room)
        content = await asyncio.to_thread(page.exported, board, curves, title=title, start=start)
        name = f"attachment; filename={page.file_name(title)}"
        return Response(content, media_type="text/html", headers={"content-disposition": name})

    return app


def _static_routes(app: FastAPI, title: str) -> None:
    files = {
        "/": ("text/html", FRESH, lambda: page.served(title).encode()),
        "/app.js": ("text/javascript", FRESH, lambda: page.script().encode()),
        "/style.css": ("text/css", FRESH, lambda: page.style().encode()),
        "/plotly.js": ("text/javascript", FOREVER, page.library),
    }
    packed: dict[str, tuple[bytes, str]] = {}
    for path, (media, caching, content) in files.items():
        app.add_api_route(path, _static(path, media, caching, content, packed), methods=["GET", "HEAD"])


def _static(path: str, media: str, caching: str, content: Any, packed: dict[str, tuple[bytes, str]]) -> Any:
    def answer(request: Request) -> Response:
        if path not in packed:
            packed[path] = page.pack(content())
        return _packed(request, *packed[path], media=media, caching=caching)

    return answer


def _data_routes(app: FastAPI, board: Board) -> None:
    @app.get("/api/state")
    def state() -> Response:
        return JSONResponse(board.state(), headers={"cache-control": "no-store"})

    @app.get("/api/data")
    def data(request: Request) -> Response:
        if not board.page.content:
            return JSONResponse({"waiting": board.page.problem or "reading the runs"}, 503)
        return _packed(request, board.page.content, board.page.etag)

    @app.get("/api/laws")
    def laws(request: Request, params: str, flops: str) -> Response:
        if not board.knows((params, flops)):
            return JSONResponse({"unknown": "the runs are not counted that way"}, 404)
        told = board.want((params, flops))
        if not told.content:
            return JSONResponse({"waiting": told.problem or "fitting"}, 503)
        return _packed(request, told.content, told.etag)

    @app.get("/api/run")
    async def run(key: str) -> Response:
        try:
            found = await board.run(key)
        except ChildError as error:
            return JSONResponse({"problem": str(error)}, 503)
        return JSONResponse(
            found, 404 if found.get("unknown") else 200, headers={"cache-control": "no-store"}
        )

    @app.exception_handler(404)
    def not_here(request: Request, error: Exception) -> Response:
        return PlainTextResponse("There is nothing at this address.", 404)


def _packed(
    request: Request, content: bytes, etag: str, *, media: str = "application/json", caching: str = FRESH
) -> Response:
    """gzip content with an e-tag: a browser that has it already is told so."""
    headers = {"etag": f'"{etag}"', "cache-control": caching, "vary": "accept-encoding"}
    if f'"{etag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(page.unpack(content), media_type=media, headers=headers)
    return Response(content, media_type=media, headers={**headers, "content-encoding": "gzip"})
