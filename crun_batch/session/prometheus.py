"""The figures of a session as Prometheus reads them, on a port of this machine's loopback.

Threads of their own serve them, so that a slow reader costs the event loop nothing: that is asked for figures and
no more, some microseconds. The form is the text format 0.0.4 of Prometheus ("exposition formats" in its manual).
A page in a browser cannot read it under a name of its own: only requests to this machine by its loopback names are
answered.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from crun_batch.errors import InputError, Mistake
from crun_batch.session.metrics import BUCKETS_SECONDS, FAMILIES, LATENCY, Family, Figures, SessionMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
READER_SECONDS = 5.0
LOOPBACK_NAMES = ("127.0.0.1", "localhost")


def metrics_text(parts: Sequence[tuple[Mapping[str, str], Figures]]) -> str:
    """All figures in the text format: of each part, under the labels that tell it from the others."""
    lines = ["# HELP crun_batch_run_info What runs here.", "# TYPE crun_batch_run_info gauge"]
    lines += [_line("crun_batch_run_info", {**own, "job": figures.job_name}, "1") for own, figures in parts]
    for family in FAMILIES:
        name = f"{family.name}_total" if family.kind == "counter" else family.name
        samples = [
            _line(name, {**own, **labels}, value)
            for own, figures in parts
            for labels, value in figures.samples.get(family.name, [])
        ]
        lines += [*_head(family, name), *samples] if samples else []
    lines += _head(LATENCY, LATENCY.name) if parts else []
    return "\n".join([*lines, *(line for own, figures in parts for line in _histogram(own, figures)), ""])


def _head(family: Family, name: str) -> list[str]:
    return [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]


def _line(name: str, labels: Mapping[str, str], value: str) -> str:
    written = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{written}}} {value}" if written else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram(own: Mapping[str, str], figures: Figures) -> Iterator[str]:
    so_far = 0
    for end, count in zip((*map(str, BUCKETS_SECONDS), "+Inf"), figures.histogram.counts, strict=True):
        so_far += count
        yield _line(f"{LATENCY.name}_bucket", {**own, "le": end}, str(so_far))
    yield _line(f"{LATENCY.name}_sum", own, f"{figures.histogram.total_seconds:.6f}")
    yield _line(f"{LATENCY.name}_count", own, str(so_far))


class FiguresFromLoop:
    """The figures of a session, to other threads."""

    def __init__(self, metrics: SessionMetrics) -> None:
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()

    def read(self) -> Figures:
        """Those of now. Raises TimeoutError where the session does not answer any more."""
        found: Future[Figures] = Future()

        def read() -> None:
            try:
                found.set_result(self._metrics.read())
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                found.set_exception(error)

        self._loop.call_soon_threadsafe(read)
        return found.result(READER_SECONDS)


Pages = Mapping[str, Callable[[], str]]
"""What is served: a path -> what makes its text, in a thread of the reader's."""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET of a page."""

    timeout = READER_SECONDS
    server: FiguresServer

    def do_GET(self) -> None:
        host = self.headers.get("host", "").rpartition(":")[0] or self.headers.get("host", "")
        if host not in LOOPBACK_NAMES:
            self.send_error(403, "this is not asked by that name")
            return
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(404, f"the figures are at {' and '.join(self.server.pages)}")
        else:
            self._answer(page)

    def _answer(self, page: Callable[[], str]) -> None:
        try:
            body = page().encode()
        except (TimeoutError, RuntimeError):  # it is ending
            self.send_error(503, "the session gives no figures now")
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Standard error is the run's."""


class FiguresServer(ThreadingMixIn, TCPServer):
    """Serves the figures of one run. A reader that never reads is left alone at the end."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    pages: Pages

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away."""


def bound(port: int) -> FiguresServer:
    """The port, taken; it answers nobody yet. Port 0: a free one. Raises InputError where it cannot be had."""
    try:
        return FiguresServer(("127.0.0.1", port), _Handler)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is 0 to 65535"
        raise InputError(
            Mistake(f"port {port} of 127.0.0.1 cannot be used: {reason}", key="metrics_port")
        ) from None


@asynccontextmanager
async def served(server: FiguresServer, pages: Pages) -> AsyncIterator[str]:
    """Serve the figures while what is inside goes on; the address before a page's path."""
    server.pages = pages
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        await asyncio.to_thread(server.shutdown)  # a reader may be waiting for the loop
        thread.join()
