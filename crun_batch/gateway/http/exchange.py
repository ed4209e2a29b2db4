"""One connection of the wire: a request, then its reply to the end, then the next request.

The parser is llhttp (httptools); here is what it must not know: TLS, the cap and the budget of bodies, gzip, the
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

from crun_batch.gateway.failures import message_line
from crun_batch.gateway.http.bodies import EVIDENCE_BYTES, Gunzip, Intake, WireSettings, says_its_end
from crun_batch.gateway.http.connecting import Sealing
from crun_batch.gateway.http.heads import RefusedHead, repaired
from crun_batch.records import Fault, Response

MAX_HEAD_BYTES = 256 * 2**10
"""Of one reply: status line and headers; and trailers, or whatever else comes that is no body."""
TCP_KEEPALIVE_SECONDS = 30
EARLY_SECONDS = 1.0
"""A server that closes a connection this soon after its reply never meant to keep it, and did not say so."""
STOOD_STILL_SECONDS = 1.0
"""A deadline that is noticed so late: the machine slept, or this process was stopped."""
READING_SECONDS = 0.5
READING_AFTER_STANDSTILL_SECONDS = 5.0
"""How long what lies there unread at the deadline may take to be read."""
SETTLING_SECONDS = 1.0
"""How long what comes after a standstill is waited for: the other side fills its buffers again."""
LOOK_AGAIN_SECONDS = 0.02
NO_BODY = frozenset({204, 304})
GZIP = ("gzip", "x-gzip")

_CLOSED = "the connection was closed before the reply was whole"
FaultKind = Literal["timeout", "connection", "bad_reply"]


class HeaderNames(dict[bytes, str]):
    """Names as they came -> in lower case. A server sends the same ones with every reply: they are read once."""

    MOST, LONGEST_BYTES = 1_024, 64
    """A server that invents names fills no memory."""

    def __missing__(self, raw: bytes) -> str:
        name = raw.decode("latin-1").lower()
        if len(self) < self.MOST and len(raw) <= self.LONGEST_BYTES:
            self[raw] = name
        return name


_NAMES = HeaderNames()


class WireRequest(Struct, frozen=True, gc=False):
    """What is sent, and until when its reply is waited for. It holds the key, so it is never shown."""

    message: bytes
    """All of it: request line, headers, body."""
    deadline: float
    """A time of the loop's clock."""
    deadline_seconds: float
    """How long that was when the request was made."""

    def __repr__(self) -> str:
        return "WireRequest(...)"


class HttpConnection(asyncio.Protocol):
    """A connection that is open. `freed` is called when it can take the next request, `lost` when it is gone.

    `lost` is also told whether the server closed it without notice, right after a reply.
    """

    def __init__(
        self,
        settings: WireSettings,
        sealing: Sealing | None,
        *,
        freed: Callable[[HttpConnection], None],
        lost: Callable[[HttpConnection, bool], None],
    ) -> None:
        self.idle_since = -inf
        self.sealing = sealing
        self._is_given_up = False
        self._freed = freed
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._fields: dict[bytes, bytes] = {}
        self.on_header: Callable[[bytes, bytes], None] = self._fields.__setitem__
        """Called by the parser: of a header that comes twice, the last."""
        self._parser = self._new_parser()
        self._unread = select.poll()
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = inf
        self._answer: asyncio.Future[Response | Fault] | None = None
        self._request: WireRequest | None = None
        self._intake = Intake(settings)
        self._prepare()

    def _new_parser(self) -> HttpResponseParser:
        parser = HttpResponseParser(self)
        parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        return parser

    def _prepare(self) -> None:
        """Nothing of a reply is known yet."""
        self._status: int | None = None
        self._head = b""
        self._head_error: str | None = None
        self._is_lasting = False
        self._bytes_of_no_body = 0
        self._gunzip: Gunzip | None = None
        self._refusal: str | None = None
        self._ends_with_connection = False
        self._response: Response | None = None
        self._can_be_kept = False
        self._due_since: float | None = None

    @property
    def is_usable(self) -> bool:
        """Whether a request may go over it. What has come unasked, its end included, has perhaps not been read."""
        return not self._transport.is_closing() and not self._unread.poll(0)

    @property
    def is_open(self) -> bool:
        """Whether a first request may go over it. Under TLS a server may have said something of its own before."""
        return self.is_usable if self.sealing is None else not self._transport.is_closing()

    def exchange(self, request: WireRequest) -> asyncio.Future[Response | Fault]:
        """Send a request; its reply, or the fault that ends it."""
        self._prepare()
        self._answer = answer = self._loop.create_future()
        self._request = request
        message = request.message
        self._transport.write(message if self.sealing is None else self.sealing.seal(message))
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
        sealing = self.sealing
        if sealing is None:
            self._take(data)
            return
        opened = sealing.open(data)
        answer = sealing.to_send()
        if answer:
            self._transport.write(answer)
        if opened:
            self._take(opened)
        if sealing.trouble is not None and self._answer is not None:
            self._fail("connection", sealing.trouble)
        elif sealing.is_ended or sealing.trouble is not None:
            self._transport.abort()
        elif not opened and self._answer is None and self.idle_since != -inf:
            self._freed(self)  # it was passed over because of these bytes, which were TLS's own

    def _take(self, data: bytes) -> None:
        """What came, without TLS."""
        if self._answer is None:  # nobody has asked for this
            self._give_up()
            return
        self._bytes_of_no_body += len(data)
        if self._status is None:
            self._head = self._head + data if self._head else data
        if self._head_error is not None:
            self._mend(self._head_error)
        else:
            self._parse(data)
        if self._refusal is not None:
            self._fail("bad_reply", self._refusal)
        elif self._response is not None:
            self._succeed(self._response)
        elif self._bytes_of_no_body > MAX_HEAD_BYTES:
            self._fail("bad_reply", f"the reply's headers are larger than {MAX_HEAD_BYTES:,} bytes")

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._refusal = "the server wants to go over to another protocol"
        except HttpParserError as error:
            self._can_be_kept = False
            if self._response is not None or self._refusal is not None:
                return
            if self._status is None and self._head_error is None:
                self._mend(str(error))
            else:
                self._refusal = f"no HTTP reply: {error}"

    def _mend(self, error: str) -> None:
        """The parser refuses a head that may yet be in no doubt: read it with a head that says the same."""
        self._head_error = error
        found = repaired(self._head)
        if isinstance(found, bytes):
            self._parser = self._new_parser()
            self._parse(found)
            self._head_error = None
        elif isinstance(found, RefusedHead):
            self._refusal = found.why or f"no HTTP reply: {error}"
            self._is_lasting = found.is_lasting
            self._status = found.status
            self._intake.add(found.rest[:EVIDENCE_BYTES])

    def eof_received(self) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        silent = self._status is None or self._answer is None
        early = silent and not self._is_given_up and self._loop.time() - self.idle_since < EARLY_SECONDS
        torn = exc is not None or (self.sealing is not None and not self.sealing.is_ended)
        if torn:  # nothing ends properly by being torn off
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
        self._head = b""
        self._headers = headers = {
            _NAMES[name]: value.decode("latin-1").strip() for name, value in self._fields.items()
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
            self._parser.should_keep_alive() and "close" not in headers.get("connection", "").lower()
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
        # 1. Nobody waits: the connection was idle.
        # 2. The reply has no length, and the connection ended in an orderly way: this is its end.
        # 3. A head that was refused: what came is evidence, whatever came of it.
        # 4. The reply was whole before: it is the answer.
        # 5. Something is missing: the request may have been billed. (Of a stream that said its end nothing is.)
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

    def _fail(self, kind: FaultKind, why: str) -> None:
        if self._status is None:
            result: Response | Fault = Fault("unknown", kind, message_line(why), is_lasting=self._is_lasting)
        elif kind != "bad_reply" and self._is_ended_stream():
            result = Response(self._status, self._headers, self._intake.body())
        else:
            result = self._intake.fault(kind, why, self._status)
        self._conclude(result)
        self._give_up()

    def _is_ended_stream(self) -> bool:
        """Whether events came up to one that says it is the last: what the connection does then says nothing."""
        is_stream = self._headers.get("content-type", "").startswith("text/event-stream")
        return is_stream and self._gunzip is None and says_its_end(self._intake.body())

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
        """The deadline of a request has come, or that of one before it."""
        self._alarm, self._rings_at = None, inf
        request = self._request
        if request is None:
            return
        now = self._loop.time()
        if now < request.deadline:
            self._set_alarm(request.deadline)
        elif self._may_still_read(now, request):
            self._set_alarm(now + LOOK_AGAIN_SECONDS)
        else:
            self._fail("timeout", self._overdue(request))

    def _may_still_read(self, now: float, request: WireRequest) -> bool:
        """What has arrived is read before a deadline is judged: while this process stood still, nobody could."""
        if self._due_since is None:
            self._due_since = now
        stood_still = self._due_since - request.deadline > STOOD_STILL_SECONDS
        since = now - self._due_since
        if stood_still and since < SETTLING_SECONDS:
            return True
        longest = READING_AFTER_STANDSTILL_SECONDS if stood_still else READING_SECONDS
        return since < longest and bool(self._unread.poll(0))

    def _overdue(self, request: WireRequest) -> str:
        late = (self._due_since or request.deadline) - request.deadline
        why = f"no whole reply within {request.deadline_seconds:g} s"
        if late <= STOOD_STILL_SECONDS:
            return why
        return f"{why}; this process stood still for {late:.0f} s or more (stopped, or the machine slept)"
