"""One connection of the direct wire: a request, then its reply to the end, then the next request.

The parser is llhttp (httptools); here is what it must not know: the cap and the budget of bodies, gzip, the
deadline, what a reply that breaks off becomes. A connection that is in any doubt afterwards is not used again.
"""

from __future__ import annotations

import asyncio
import select
import socket
import zlib
from collections.abc import Callable
from math import inf
from typing import Literal, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from msgspec import Struct

from crun_batch.gateway.http.wire import Gunzip, Intake, WireSettings, one_line
from crun_batch.records import Fault, Response

MAX_HEAD_BYTES = 256 * 2**10
"""Of one reply: status line and headers; and trailers, or whatever else comes that is no body."""
TCP_KEEPALIVE_SECONDS = 30
EARLY_SECONDS = 1.0
"""A server that closes a connection this soon after its reply never meant to keep it, and did not say so."""
NO_BODY = frozenset({204, 304})
GZIP = ("gzip", "x-gzip")

_CLOSED = "the connection was closed before the reply was whole"


class Request(Struct, frozen=True, gc=False):
    """What is sent, and until when its reply is waited for. Its head holds the key, so it is never shown."""

    head: bytes
    """Request line and headers, up to the number of its content-length."""
    body: bytes
    deadline: float
    """A time of the loop's clock."""
    deadline_seconds: float
    """How long that was when the request was made."""

    def __repr__(self) -> str:
        return "Request()"


class Connection(asyncio.Protocol):
    """A connection that is open. `freed` is called when it can take the next request, `lost` when it is gone.

    `lost` is also told whether the server closed it without notice, right after a reply.
    """

    def __init__(
        self,
        settings: WireSettings,
        *,
        freed: Callable[[Connection], None],
        lost: Callable[[Connection, bool], None],
    ) -> None:
        self.idle_since = -inf
        self._is_given_up = False
        self._freed = freed
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._fields: dict[bytes, bytes] = {}
        self.on_header: Callable[[bytes, bytes], None] = self._fields.__setitem__
        """Called by the parser: of a header that comes twice, the last."""
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True, lenient_chunked_length=True
        )
        self._unread = select.poll()
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = inf
        self._answer: asyncio.Future[Response | Fault] | None = None
        self._request: Request | None = None
        self._intake = Intake(settings)
        self._prepare()

    def _prepare(self) -> None:
        """Nothing of a reply is known yet."""
        self._status: int | None = None
        self._bytes_of_no_body = 0
        self._gunzip: Gunzip | None = None
        self._refusal: str | None = None
        self._ends_with_connection = False
        self._response: Response | None = None
        self._can_be_kept = False

    @property
    def is_usable(self) -> bool:
        """Whether a request may go over it. What has come unasked, its end included, has perhaps not been read."""
        return not self._transport.is_closing() and not self._unread.poll(0)

    def exchange(self, request: Request) -> asyncio.Future[Response | Fault]:
        """Send a request; its reply, or the fault that ends it."""
        self._prepare()
        self._answer = answer = self._loop.create_future()
        self._request = request
        body = request.body
        self._transport.write(b"%b%d\r\n\r\n%b" % (request.head, len(body), body))
        if request.deadline < self._rings_at:
            self._set_alarm(request.deadline)
        return answer

    def abort(self) -> None:
        """End it at once; a request that is under way ends as a fault of unknown outcome."""
        if self._answer is not None:
            self._fail("connection", "the wire was closed")
        self._give_up()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        connected = transport.get_extra_info("socket")
        self._unread.register(connected.fileno(), select.POLLIN)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, TCP_KEEPALIVE_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody has asked for this
            self._give_up()
            return
        self._bytes_of_no_body += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._refusal = "the server wants to go over to another protocol"
        except HttpParserError as error:
            self._can_be_kept = False
            if self._response is None:
                self._refusal = self._refusal or f"no HTTP reply: {error}"
        if self._refusal is not None:
            self._fail("bad_reply", self._refusal)
        elif self._response is not None:
            self._succeed(self._response)
        elif self._bytes_of_no_body > MAX_HEAD_BYTES:
            self._fail("bad_reply", f"the reply's headers are larger than {MAX_HEAD_BYTES:,} bytes")

    def eof_received(self) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        silent = self._status is None or self._answer is None
        early = silent and not self._is_given_up and self._loop.time() - self.idle_since < EARLY_SECONDS
        if exc is not None:  # nothing ends properly by being torn off
            self._ends_with_connection = False
        self._ended(f"{_CLOSED}: {exc}" if exc is not None else _CLOSED)
        del self._parser  # which holds this connection: both would stay until a search for cycles
        self._lost(self, early)

    def on_message_begin(self) -> None:
        """Called by the parser, as all that follow."""
        self._fields.clear()
        if self._response is not None:  # a second reply to one request
            self._can_be_kept = False

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._bytes_of_no_body = 0
        if status < 100:
            self._refusal = f"no HTTP reply: status {status}"
        if status < 200 or self._response is not None:
            return
        self._status = status
        self._headers = headers = {
            name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in self._fields.items()
        }
        coding = headers.get("transfer-encoding")
        if coding is not None:
            self._ends_with_connection = not coding.lower().endswith("chunked")
        else:
            self._ends_with_connection = "content-length" not in headers and status not in NO_BODY
        if headers.get("content-encoding", "").lower() in GZIP:
            self._gunzip = Gunzip()

    def on_body(self, data: bytes) -> None:
        self._bytes_of_no_body = 0
        if self._refusal is not None or self._response is not None:
            return
        if self._gunzip is None:
            self._refusal = self._intake.add(data)
            return
        try:
            for chunk in self._gunzip.chunks(data):
                self._refusal = self._refusal or self._intake.add(chunk)
                if self._refusal is not None:
                    return
        except zlib.error as error:
            self._refusal = str(error)

    def on_message_complete(self) -> None:
        if self._status is None or self._response is not None or self._refusal is not None:
            return
        try:
            if self._gunzip is not None:
                self._gunzip.finish()
        except zlib.error as error:
            self._refusal = str(error)
            return
        headers = self._headers
        self._response = Response(self._status, headers, self._intake.body())
        self._can_be_kept = (
            self._parser.should_keep_alive()
            and "close" not in headers.get("connection", "").lower()
            and not ("transfer-encoding" in headers and "content-length" in headers)
        )

    def _succeed(self, response: Response) -> None:
        """Hand the reply over; the connection is free where both sides agree on where the reply ended."""
        kept = self._can_be_kept and not self._ends_with_connection
        self._conclude(response)
        if kept and self._transport.get_write_buffer_size() == 0:
            self.idle_since = self._loop.time()
            self._freed(self)
        else:
            self._give_up()

    def _ended(self, why: str) -> None:
        """No further byte will come."""
        if self._answer is None:
            return
        if self._ends_with_connection:
            self.on_message_complete()
        if self._refusal is not None:
            self._fail("bad_reply", self._refusal)
        elif self._response is not None:
            self._conclude(self._response)
        else:
            self._fail("connection", why)

    def _fail(self, kind: Literal["timeout", "connection", "bad_reply"], why: str) -> None:
        if self._status is None:
            fault = Fault("unknown", kind, one_line(why))
        else:
            fault = self._intake.fault(kind, why, self._status)
        self._conclude(fault)
        self._give_up()

    def _conclude(self, result: Response | Fault) -> None:
        answer, self._answer = self._answer, None
        self._request = self._response = None
        self._intake.clear()
        if answer is not None and not answer.done():
            answer.set_result(result)

    def _give_up(self) -> None:
        self._is_given_up = True
        self._transport.abort()

    def _set_alarm(self, deadline: float) -> None:
        """One alarm serves many requests: set for the first, moved on when it rings early."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._rings_at = self._loop.call_at(deadline, self._ring), deadline

    def _ring(self) -> None:
        self._alarm, self._rings_at = None, inf
        request = self._request
        if request is None:
            return
        if self._loop.time() < request.deadline:
            self._set_alarm(request.deadline)
        else:
            self._fail("timeout", f"no whole reply within {request.deadline_seconds:g} s")
