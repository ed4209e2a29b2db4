"""The figures of a session as Prometheus reads them, on a port of this machine's loopback.

Threads of their own serve them, so that a slow reader costs the event loop nothing: that is asked for figures and
no more, some microseconds. The form is the text format 0.0.4 of Prometheus ("exposition formats" in its manual).
A page in a browser cannot read it under a name of its own: only requests to this machine by its loopback names are
answered.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
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


def metrics_text(figures: Figures) -> str:
    """All figures in the text format."""
    lines = ["# HELP crun_batch_run_info What runs here.", "# TYPE crun_batch_run_info gauge"]
    lines.append(_line("crun_batch_run_info", {"job": figures.job_name}, "1"))
    for family in FAMILIES:
        samples = figures.samples.get(family.name, [])
        name = f"{family.name}_total" if family.kind == "counter" else family.name
        lines += _head(family, name) if samples else []
        lines += [_line(name, labels, value) for labels, value in samples]
    return "\n".join([*lines, *_histogram(figures), ""])


def _head(family: Family, name: str) -> list[str]:
    return [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]


def _line(name: str, labels: dict[str, str], value: str) -> str:
    written = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{written}}} {value}" if written else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram(figures: Figures) -> Iterator[str]:
    yield from _head(LATENCY, LATENCY.name)
    so_far = 0
    for end, count in zip((*map(str, BUCKETS_SECONDS), "+Inf"), figures.histogram.counts, strict=True):
        so_far += count
        yield _line(f"{LATENCY.name}_bucket", {"le": end}, str(so_far))
    yield f"{LATENCY.name}_sum {figures.histogram.total_seconds:.6f}"
    yield f"{LATENCY.name}_count {so_far}"


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


class _Handler(BaseHTTPRequestHandler):
    """Answers GET /metrics."""

    timeout = READER_SECONDS
    server: FiguresServer

    def do_GET(self) -> None:
        host = self.headers.get("host", "").rpartition(":")[0] or self.headers.get("host", "")
        if host not in LOOPBACK_NAMES:
            self.send_error(403, "this is not asked by that name")
        elif self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "the figures are at /metrics")
        else:
            self._answer()

    def _answer(self) -> None:
        try:
            body = metrics_text(self.server.figures.read()).encode()
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
    """Serves the figures of one session. A reader that never reads is left alone at the end."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    figures: FiguresFromLoop

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
async def served(server: FiguresServer, metrics: SessionMetrics) -> AsyncIterator[str]:
    """Serve the figures while what is inside goes on; the address."""
    server.figures = FiguresFromLoop(metrics)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    finally:
        await asyncio.to_thread(server.shutdown)  # a reader may be waiting for the loop
        thread.join()
