"""Server-sent events: the bytes of a whole stream -> its events, after the WHATWG rules.

Owns line ends (CRLF, LF, CR), comments, several `data:` lines, the byte order mark, and a last event without its
blank line. Knows no protocol: what the events mean is told in each protocol's `assemble`.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from crun_batch.gateway.failures import holds_error
from crun_batch.gateway.protocols.protocol import JsonObject, decode

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DONE = b"[DONE]"


class Stream(Struct, frozen=True):
    """The events of one stream, decoded."""

    events: tuple[JsonObject, ...]
    """The JSON objects in order, up to the first that says the request failed."""
    ended: bool
    """Whether `[DONE]` came."""
    damaged: bool
    """Whether an event's data was not JSON: a piece is missing, so nothing may count as whole."""
    error: JsonObject | None
    """The first event that says that the request failed."""


def data_of_events(body: bytes) -> Iterator[bytes]:
    """The data of each event, its lines joined by a newline; events without data are none.

    A last event that no blank line ends is given too, though the rules drop it: servers forget that line, and
    where the event was cut its data is no JSON.
    """
    lines: list[bytes] = []
    for line in body.removeprefix(_BYTE_ORDER_MARK).splitlines():
        if not line:
            if any(lines):
                yield b"\n".join(lines)
            lines = []
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
    if any(lines):
        yield b"\n".join(lines)


def read_stream(body: bytes) -> Stream:
    """All events of a stream, up to `[DONE]` or an error. Never raises."""
    events: list[JsonObject] = []
    damaged = False
    for data in data_of_events(body):
        if data.strip() == _DONE:
            return Stream(tuple(events), True, damaged, None)
        try:
            event = decode(data)
        except ValueError:
            damaged = True
            continue
        if not isinstance(event, dict):
            damaged = True
        elif holds_error(event):
            return Stream(tuple(events), False, damaged, event)
        else:
            events.append(event)
    return Stream(tuple(events), False, damaged, None)
