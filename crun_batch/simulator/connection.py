"""HTTP/1.1 on one connection: bytes to requests, deliveries to bytes. Knows no path, no model, no money.

The gateway decides at once and gives a `Delivery`, a script of bytes and waits; this module plays it. A
connection is kept open for the next request unless either side says otherwise; requests that come early wait.
Why an own parser: a request costs 10 us here, and faults need the raw connection.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Literal, cast

from msgspec import Struct

MAX_HEAD_BYTES = 64 * 1024
_SINGLE = frozenset({"content-length", "transfer-encoding", "host"})
_LINGER_RESET = struct.pack("ii", 1, 0)


class ReceivedRequest(Struct, frozen=True):
    """A whole request. Header names are lower case; `path` is without the query."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Delivery(Struct, frozen=True):
    """What is sent for a request: (seconds to wait, bytes) in order, and what becomes of the connection then.

    `stall` says nothing more and closes after `stall_seconds`; `reset` ends with a TCP reset.
    """

    steps: list[tuple[float, bytes]]
    end: Literal["keep", "close", "reset", "stall"] = "keep"
    stall_seconds: float = 0.0
    finished: Callable[[], None] | None = None
    """Called once, when the delivery is over or its client has gone."""


Handler = Callable[[ReceivedRequest], Delivery]


class BadRequest(Exception):
    """Bytes that are no HTTP request: the status to answer with, before the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Head(Struct, frozen=True):
    method: str
    path: str
    query: str
    headers: dict[str, str]
    keep: bool
    length: int | None
    """Bytes of the body; None: it is chunked."""


class ServerConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, handle: Handler, max_body_bytes: Callable[[], int], opened: set[ServerConnection]) -> None:
        self._handle = handle
        self._max_body_bytes = max_body_bytes
        self._opened = opened
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._delivery: Delivery | None = None
        self._step = 0
        self._keep = True
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._opened.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client has gone, or we have closed: nothing more is to be sent."""
        self._opened.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._finish()

    def close(self) -> None:
        """Close at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        self._buffer += data
        if self._delivery is None:
            self._advance()

    def _advance(self) -> None:
        while self._delivery is None and self._buffer and not self._transport.is_closing():
            try:
                request = self._next_request()
            except BadRequest as error:
                body = str(error).encode()
                self._transport.write(reply_bytes(error.status, body, "text/plain", (("Connection", "close"),)))
                self._transport.close()
                return
            if request is None:
                return
            self._play(self._handle(request))

    def _next_request(self) -> ReceivedRequest | None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > MAX_HEAD_BYTES:
                    raise BadRequest(431, "the header is too long")
                return None
            self._head = _read_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            self._check_length()
        body = self._take_body(self._head)
        if body is None:
            return None
        head, self._head = self._head, None
        self._keep = head.keep
        return ReceivedRequest(head.method, head.path, head.query, head.headers, body)

    def _check_length(self) -> None:
        assert self._head is not None
        if self._head.length is not None and self._head.length > self._max_body_bytes():
            raise BadRequest(413, "the request body is too long")
        expects = self._head.headers.get("expect")
        if expects is not None and expects.lower() != "100-continue":
            raise BadRequest(417, "only 100-continue can be expected")
        if expects is not None and not self._buffer:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take_body(self, head: _Head) -> bytes | None:
        if head.length is None:
            found = read_chunks(self._buffer, self._max_body_bytes())
        else:
            found = (bytes(self._buffer[: head.length]), head.length) if len(self._buffer) >= head.length else None
        if found is None:
            return None
        body, end = found
        del self._buffer[:end]
        return body

    def _play(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._step = 0
        self._run()

    def _run(self) -> None:
        delivery = self._delivery
        assert delivery is not None
        while self._step < len(delivery.steps):
            wait, data = delivery.steps[self._step]
            if wait > 0 and self._timer is None:
                self._timer = self._loop.call_later(wait, self._go_on)
                return
            self._timer = None
            self._step += 1
            if data:
                self._transport.write(data)
        self._end(delivery)

    def _go_on(self) -> None:
        self._run()
        if self._delivery is None:
            self._advance()

    def _end(self, delivery: Delivery) -> None:
        if delivery.end == "stall":
            self._timer = self._loop.call_later(delivery.stall_seconds, self._transport.abort)
            return
        self._finish()
        if delivery.end == "reset":
            self._reset()
        elif delivery.end == "close" or not self._keep:
            self._transport.close()

    def _reset(self) -> None:
        connected = socket.socket(fileno=socket.dup(self._transport.get_extra_info("socket").fileno()))
        with connected:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self._transport.abort()

    def _finish(self) -> None:
        delivery, self._delivery = self._delivery, None
        if delivery is not None and delivery.finished is not None:
            delivery.finished()


def _read_head(head: bytes) -> _Head:
    lines = head.decode("latin-1").lstrip("\r\n").split("\r\n")
    request = lines[0].split(" ")
    if len(request) != 3 or request[2] not in ("HTTP/1.1", "HTTP/1.0") or not request[1].startswith("/"):
        raise BadRequest(400, "this is no HTTP/1.1 request line")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name[-1] in " \t" or name[0] in " \t":
            raise BadRequest(400, "this is no header line")
        name = name.lower()
        if name in headers:
            if name in _SINGLE:
                raise BadRequest(400, f"{name} was sent twice")
            value = f"{headers[name]}, {value.strip()}"
        headers[name] = value.strip()
    path, _, query = request[1].partition("?")
    connection = headers.get("connection", "").lower()
    keep = "keep-alive" in connection if request[2] == "HTTP/1.0" else "close" not in connection
    return _Head(request[0], path, query, headers, keep, _length(headers))


def _length(headers: dict[str, str]) -> int | None:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is None:
        if length is None:
            return 0
        if not length.isascii() or not length.isdigit():
            raise BadRequest(400, "content-length is no number")
        return int(length)
    if coding.lower() != "chunked":
        raise BadRequest(501, "the only transfer coding known is chunked")
    if length is not None:
        raise BadRequest(400, "content-length and transfer-encoding exclude each other")
    return None


def read_chunks(buffer: bytes | bytearray, max_bytes: int) -> tuple[bytes, int] | None:
    """A chunked body and where it ends in the buffer, or None while it is incomplete; trailers are dropped."""
    body, place = bytearray(), 0
    while True:
        line_end = buffer.find(b"\r\n", place)
        if line_end < 0:
            return None
        digits = bytes(buffer[place:line_end]).partition(b";")[0].strip()
        if not digits or any(digit not in b"0123456789abcdefABCDEF" for digit in digits):
            raise BadRequest(400, "this is no chunk length")
        size, place = int(digits, 16), line_end + 2
        if len(body) + size > max_bytes:
            raise BadRequest(413, "the request body is too long")
        if size == 0:
            break
        if len(buffer) < place + size + 2:
            return None
        if buffer[place + size : place + size + 2] != b"\r\n":
            raise BadRequest(400, "a chunk does not end where it says")
        body += buffer[place : place + size]
        place += size + 2
    while True:
        line_end = buffer.find(b"\r\n", place)
        if line_end < 0:
            return None
        if line_end == place:
            return bytes(body), line_end + 2
        place = line_end + 2


def reply_head(status: int, content_type: str, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """Status line and headers, without the empty line and without the length."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n"


_PLAIN_HEAD = reply_head(200, "application/json")


def reply_bytes(
    status: int,
    body: bytes,
    content_type: str = "application/json",
    headers: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """A whole reply."""
    plain = status == 200 and not headers and content_type == "application/json"
    head = _PLAIN_HEAD if plain else reply_head(status, content_type, headers)
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def whole(request: ReceivedRequest, reply: bytes) -> Delivery:
    """The delivery of a whole reply at once; to a HEAD request, its head only."""
    return Delivery([(0.0, reply[: reply.find(b"\r\n\r\n") + 4] if request.method == "HEAD" else reply)])


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)
