"""The page's server as an ASGI application: addresses to answers, each behind the guard.

Whatever goes wrong while an answer is made becomes words for the page; nothing is logged, so that no text of a row
stands anywhere but in the run and in the reader's browser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crun_batch.errors import CrunBatchError, InputError
from crun_batch.page.guard import MOST_BODY_BYTES, PAGE_HEADERS, Policy, denial
from crun_batch.page.rows import as_json

STATIC = Path(__file__).parent / "static"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
Asked = Callable[[Request], Any]
"""Makes the document of an answer; runs in a thread."""


Done = Callable[[Request, bytes], Any]
"""Does something with a body, and makes the document of an answer; runs in a thread."""


def make_app(policy: Policy, answers: Mapping[str, Asked], actions: Mapping[str, Done]) -> ASGIApp:
    """The application: the page's own files, and under /api/ a document for each of `answers` and `actions`."""
    routes = [Route(path, _file(content, kind)) for path, (content, kind) in _files().items()]
    routes += [Route(f"/api/{name}", _answer(ask), methods=["GET"]) for name, ask in answers.items()]
    routes += [Route(f"/api/{name}", _action(do), methods=["POST"]) for name, do in actions.items()]
    return Guard(Starlette(routes=routes), policy)


class Guard:
    """Asks `denial` about every request, and sends PAGE_HEADERS with every answer."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        refused = denial(self._policy, scope["method"], scope["path"], headers)
        guarded = _with_headers(send)
        if refused is not None:
            await _document({"error": refused.words}, refused.status)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


def _with_headers(send: Send) -> Send:
    added = [(name.encode(), value.encode()) for name, value in PAGE_HEADERS.items()]

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return sent


def _files() -> dict[str, tuple[bytes, str]]:
    """Address -> content and kind, all read now: no address is ever looked up on the disk."""
    found = {f"/static/{path.name}": (path.read_bytes(), _KINDS[path.suffix]) for path in sorted(STATIC.iterdir())}
    return {"/": found.pop("/static/index.html"), **found}


def _file(content: bytes, kind: str) -> Callable[[Request], Any]:
    async def endpoint(_: Request) -> Response:
        return Response(content, media_type=kind)

    return endpoint


def _answer(ask: Asked) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return await _in_words(ask, request)

    return endpoint


def _action(do: Done) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BODY_BYTES:
                return _document({"error": f"more than {MOST_BODY_BYTES:,} bytes are no annotation"}, 413)
        return await _in_words(do, request, body)

    return endpoint


async def _in_words(work: Callable[..., Any], *given: Any) -> Response:
    """What the work gives, or what went wrong with it."""
    try:
        return _document(await run_in_threadpool(work, *given))
    except InputError as error:
        return _document({"error": str(error)}, 400)
    except (CrunBatchError, OSError) as error:
        return _document({"error": str(error)}, 500)
    except Exception as error:  # noqa: BLE001 - the page's border: said in one sentence, without any text of a row
        return _document({"error": f"this is a bug of ours ({type(error).__name__})"}, 500)


def _document(document: Any, status: int = 200) -> Response:
    return Response(as_json(document), status, media_type="application/json")
