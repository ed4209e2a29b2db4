"""The bodies of replies while they are read: the cap of each, the budget of all, gzip in pieces.

Owns what a reply may cost in memory. It knows no connection: whoever reads one fills an `Intake`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from crun_batch.gateway.failures import message_line
from crun_batch.records import Fault

MAX_BODY_BYTES = 64 * 2**20
"""Default cap of one decompressed reply body."""
MAX_BYTES_IN_FLIGHT = 512 * 2**20
"""Default cap of all reply bodies that are being read at one time."""
EVIDENCE_BYTES = 256 * 2**10
"""How much of a body that never became a reply a `Fault` keeps."""
UNPACKED_CHUNK_BYTES = 64 * 2**10
"""Of a compressed body, unpacked at one go."""

_GZIP_MAGIC = b"\x1f\x8b"


class ByteBudget:
    """Bytes of reply bodies that may be in memory at one time, for all connections together.

    Half of the total is split evenly: every connection may always read its share, so a few huge replies cannot
    starve the small ones. What a body needs beyond its share it borrows from the other half, first come, first
    served; a body that finds it empty is ended. Nothing waits, so nothing can wait for each other.
    """

    def __init__(self, total_bytes: int, connections: int) -> None:
        self._total_bytes = total_bytes
        self.share_bytes = total_bytes // 2 // connections
        self.free_bytes = total_bytes - self.share_bytes * connections

    def share_among(self, connections: int) -> None:
        """More connections from now on: smaller shares. A body that has more than that borrows as it grows."""
        self.share_bytes = min(self.share_bytes, self._total_bytes // 2 // connections)

    def borrow(self, byte_count: int) -> bool:
        """Take from the common half; False, and nothing taken, where it has not that much left."""
        if byte_count > self.free_bytes:
            return False
        self.free_bytes -= byte_count
        return True

    def give_back(self, byte_count: int) -> None:
        """Return what was borrowed."""
        self.free_bytes += byte_count


class WireSettings(Struct, frozen=True):
    """What a wire is built with.

    `connect_timeout_seconds` belongs below the deadline of every call: a call that its deadline ends while it
    connects counts as `unknown`, one that the connect timeout ends as `not_sent`.
    """

    budget: ByteBudget
    max_body_bytes: int = MAX_BODY_BYTES
    connect_timeout_seconds: float = 10.0
    connections: int = 2**31
    """How many may be open at one time, where a wire keeps some idle."""


_START_OF_EVENT_BYTES = 200
_LAST_EVENTS = (b"data: [DONE]", b"data:[DONE]", b"message_stop", b"response.completed", b"response.incomplete")


class Intake:
    """The body of one reply while it is being read, under the cap and the budget. Close it in any case."""

    __slots__ = ("_borrowed_bytes", "_budget", "_chunks", "_max_bytes", "size_bytes")

    def __init__(self, settings: WireSettings) -> None:
        self._budget = settings.budget
        self._max_bytes = settings.max_body_bytes
        self._chunks: list[bytes] = []
        self._borrowed_bytes = 0
        self.size_bytes = 0

    def add(self, chunk: bytes) -> str | None:
        """Keep a chunk. A text says why the reply must end here; the chunk is kept as evidence all the same."""
        self._chunks.append(chunk)
        self.size_bytes += len(chunk)
        if self.size_bytes > self._max_bytes:
            return f"the reply is larger than {self._max_bytes:,} bytes"
        missing_bytes = self.size_bytes - self._budget.share_bytes - self._borrowed_bytes
        if missing_bytes > 0:
            if not self._budget.borrow(missing_bytes):
                return "the replies in flight together are larger than their byte budget"
            self._borrowed_bytes += missing_bytes
        return None

    def body(self) -> bytes:
        """All that was read."""
        return b"".join(self._chunks)

    def fault(self, kind: Literal["timeout", "connection", "bad_reply"], message: str, status: int) -> Fault:
        """The fault of a reply whose status was read: its outcome is unknown, its first bytes are evidence."""
        return Fault("unknown", kind, message_line(message), status, self.body()[:EVIDENCE_BYTES])

    def close(self) -> None:
        """Give the borrowed bytes back."""
        self._budget.give_back(self._borrowed_bytes)
        self._borrowed_bytes = 0

    def clear(self) -> None:
        """Close, and be ready for the next body."""
        if self._borrowed_bytes:
            self.close()
        self._chunks.clear()
        self.size_bytes = 0


def says_its_end(events: bytes) -> bool:
    """Whether the last of these server-sent events is one that ends a stream, in any protocol.

    Whether the stream is whole is told where its events are read; this only keeps it from being thrown away.
    """
    whole = events.rstrip()
    start = max(whole.rfind(b"\n\n"), whole.rfind(b"\r\n\r\n")) + 1
    last = whole[start : start + _START_OF_EVENT_BYTES]
    return any(mark in last for mark in _LAST_EVENTS)


class Gunzip:
    """Unpacks a gzip stream in pieces of bounded size. Raises zlib.error for anything that is none."""

    def __init__(self) -> None:
        self._unpacker = zlib.decompressobj(wbits=31)
        self._has_begun = False

    def chunks(self, raw: bytes) -> Iterator[bytes]:
        """What these bytes become, at most UNPACKED_CHUNK_BYTES at a time."""
        self._has_begun = self._has_begun or bool(raw)
        while raw:
            if self._unpacker.eof:
                if not raw.startswith(_GZIP_MAGIC):  # what follows the end of the stream is no part of it
                    return
                self._unpacker = zlib.decompressobj(wbits=31)
            yield self._unpacker.decompress(raw, UNPACKED_CHUNK_BYTES)
            raw = self._unpacker.unconsumed_tail or self._unpacker.unused_data

    def finish(self) -> None:
        """Raises zlib.error where the stream is not whole; nothing at all is: an empty reply, never packed."""
        if self._has_begun and not self._unpacker.eof:
            raise zlib.error("gzip stream cut short")
