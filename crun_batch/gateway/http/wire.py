"""The wire: one POST, and either a whole reply or a fault with its stage. The seam of the hot path.

Owns what every wire shares: the seam's shape, the limits on reply bodies, which URLs and headers can be sent at
all, the file descriptors that a number of connections needs. It knows no protocol, no row and no retry: one call
is at most one POST that reaches a server, and nothing here sends anything twice.

What a fault's stage means: `not_sent` is proven (no byte of the request left this process), and may be sent again
for free; `unknown` is everything else, because the gateway may have billed it. The table of all faults is in
`docs/wire.md`; a test keeps it true.
"""

from __future__ import annotations

import re
import resource
import zlib
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Literal, Protocol
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.records import Fault, Response

MAX_BODY_BYTES = 64 * 2**20
"""Default cap of one decompressed reply body."""
MAX_BYTES_IN_FLIGHT = 512 * 2**20
"""Default cap of all reply bodies that are being read at one time."""
EVIDENCE_BYTES = 256 * 2**10
"""How much of a body that never became a reply a `Fault` keeps."""
IDLE_SECONDS = 4.0
"""A pooled connection is not used again after this time: common servers close theirs after 5 s at the earliest
(uvicorn, Node), and a request that meets a closing connection ends `unknown`."""
USER_AGENT = "crun-batch"
UNPACKED_CHUNK_BYTES = 64 * 2**10
"""Of a compressed body, unpacked at one go."""
OWN_DESCRIPTORS = 256
"""File descriptors that the rest of the process needs: tables, journal, sealed files, libraries."""

_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")


WireKind = Literal["direct", "pyreqwest", "httpx"]


class Wire(Protocol):
    """One way to send a POST. Safe for any number of calls at one time, on one event loop."""

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Awaitable[Response | Fault]:
        """Send once, follow nothing, retry nothing. Ends within `deadline_seconds`, connecting included.

        A network fault is a value. Raises InputError where the URL or a header could never be sent. End a call
        by its deadline, not by cancelling its task: a cancelled request may still reach the server.
        """
        ...

    async def close(self) -> None:
        """Close idle connections. Calls still under way end as faults of unknown outcome."""
        ...


class ByteBudget:
    """Bytes of reply bodies that may be in memory at one time, for all connections together.

    Half of the total is split evenly: every connection may always read its share, so a few huge replies cannot
    starve the small ones. What a body needs beyond its share it borrows from the other half, first come, first
    served; a body that finds it empty is ended. Nothing waits, so nothing can wait for each other.
    """

    def __init__(self, total_bytes: int, connections: int) -> None:
        self.share_bytes = total_bytes // 2 // connections
        self.free_bytes = total_bytes - self.share_bytes * connections

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
        return Fault("unknown", kind, one_line(message), status, self.body()[:EVIDENCE_BYTES])

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


def open_wire(
    kind: WireKind,
    *,
    connections: int,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_bytes_in_flight: int = MAX_BYTES_IN_FLIGHT,
    connect_timeout_seconds: float = 10.0,
    urls: Iterable[str] = (),
) -> Wire:
    """Open the wire of that name for at most `connections` calls at one time.

    `urls`: where calls will go, as far as it is known; what they need is made ready now. Raises InputError where
    the process may not open that many files, or has no certificates to trust.
    """
    ensure_file_descriptors(connections)
    budget = ByteBudget(max_bytes_in_flight, connections)
    settings = WireSettings(budget, max_body_bytes, connect_timeout_seconds, connections)
    if kind == "direct":
        from crun_batch.gateway.http.direct import DirectWire

        return DirectWire(settings, urls)
    if kind == "pyreqwest":
        from crun_batch.gateway.http.pyreqwest_wire import PyreqwestWire

        return PyreqwestWire(settings)
    from crun_batch.gateway.http.httpx_wire import HttpxWire

    return HttpxWire(settings)


def ensure_file_descriptors(connections: int) -> None:
    """Raise this process's soft limit of open files to what that many connections need.

    Raises InputError (key `limits.concurrency`) where the hard limit does not allow it.
    """
    needed = connections + OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InputError(
            Mistake(
                f"{connections:,} requests in flight need {needed:,} open files, this system allows {hard:,}; "
                f"set it to {max(hard - OWN_DESCRIPTORS, 1):,} or less, or raise the limit (ulimit -Hn)",
                key="limits.concurrency",
            )
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def checked_url(url: str) -> SplitResult:
    """The parts of an absolute http or https URL. Raises InputError (key `endpoint.base_url`) for any other."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise unusable_url() from None
    if not usable:
        raise unusable_url()
    return parts


def unusable_url() -> InputError:
    """The complaint about a URL. It does not show it: some URLs carry a key."""
    message = "not a usable URL; it starts with http:// or https:// and names a host"
    return InputError(Mistake(message, key="endpoint.base_url"))


def checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The same headers. Raises InputError (key `endpoint.headers`) naming the first that HTTP cannot carry.

    A value is never shown: it may be the key, and a key pasted with its newline is the usual mistake.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise InputError(Mistake(f"{name!r} is no header name", key="endpoint.headers"))
        if not _HEADER_VALUE.fullmatch(value):
            raise InputError(
                Mistake(
                    f"the value of header {name!r} has a line break or a character outside ASCII in it "
                    "(the value is not shown)",
                    key="endpoint.headers",
                )
            )
    return headers


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine: such requests use no proxy from the environment."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def one_line(text: str, max_characters: int = 200) -> str:
    """A text from elsewhere, made fit for a message: printable, one line, short."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:max_characters]
