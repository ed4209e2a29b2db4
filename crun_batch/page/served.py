"""A page of runs is put together and served: the socket, the token, the server."""

from __future__ import annotations

import errno
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.page.answers import actions, answers
from crun_batch.page.guard import LOOPBACK_NAMES, Policy
from crun_batch.page.shown_runs import ShownRuns
from crun_batch.page.view import View

LOOPBACK = "127.0.0.1"
ANYWHERE = ("0.0.0.0", "::")
STARTS_WITHIN_SECONDS = 20.0
TOKEN_BYTES = 32


class ViewOptions(Struct, frozen=True):
    """Where a page is served, and what it may read beside the runs."""

    host: str = LOOPBACK
    port: int = 0
    """0: a free one."""
    table: object | None = None
    """The table that the run was given from Python."""
    allow_paths: tuple[str | Path, ...] = ()


def serve_page(places: Sequence[Path], options: ViewOptions) -> View:
    """Serve the page of these runs, or of all runs below these folders.

    Raises InputError where there is none, the port cannot be had, or the extra `view` is not installed.
    """
    try:
        import uvicorn

        from crun_batch.page.app import make_app
    except ImportError as error:
        raise InputError(f"the page needs a web server: pip install 'crun-batch[view]' ({error})") from error
    shown_runs = ShownRuns(places)
    shown_runs.listed()
    listening = _listen(options.host, options.port)
    is_loopback = options.host in LOOPBACK_NAMES
    names = LOOPBACK_NAMES if is_loopback else (*LOOPBACK_NAMES, options.host.lower())
    policy = Policy(secrets.token_urlsafe(TOKEN_BYTES), names, any_address=not is_loopback)
    config = uvicorn.Config(
        make_app(
            policy,
            answers(shown_runs, options.table, options.allow_paths, may_steer=is_loopback),
            actions(shown_runs, may_steer=is_loopback),
        ),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,  # no log at all: a message might hold the text of a row
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    view = View(_address(listening, policy.token), server, listening, shown_runs.close)
    began = time.monotonic()
    while not server.started and time.monotonic() - began < STARTS_WITHIN_SECONDS:
        time.sleep(0.005)
    return view


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError where the address cannot be had."""
    try:
        [(family, *_, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        advice = "Leave --port out: then a free one is taken." if is_taken else ""
        raise InputError(
            f"{host}:{port}: cannot be listened on: {error.strerror or error}", advice=advice
        ) from error
    return listening


def _address(listening: socket.socket, token: str) -> str:
    host, port = listening.getsockname()[:2]
    shown = LOOPBACK if host == ANYWHERE[0] else "::1" if host == ANYWHERE[1] else host
    bracketed = f"[{shown}]" if ":" in shown else shown
    return f"http://{bracketed}:{port}/#token={token}"
