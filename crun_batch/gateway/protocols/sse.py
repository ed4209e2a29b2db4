"""Server-sent events: the bytes of a whole stream -> its events, after the WHATWG rules.

Owns line ends (CRLF, LF, CR), comments, several `data:` lines, the byte order mark, and a last event without its
blank line, and what proxies and servers put between the events to keep a connection alive: also as data, which
the rules do not know as a comment (`data: : ping`, `data: ping`, `data: {}`). Knows no protocol: what the events
mean is told in each protocol's `assemble`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from msgspec import Struct

from crun_batch.gateway.failures import holds_error
from crun_batch.gateway.protocols.protocol import JsonObject, decode

_DONE = b"[DONE]"
_MARK = re.compile(rb"\[[^\[\]{}]*\]")
"""A word in brackets, as `[DONE]` is one: no object stands in it."""


class EventStream(Struct, frozen=True):
    """The events of one stream, decoded."""

    events: tuple[JsonObject, ...]
    """The JSON objects in order, up to the first that says the request failed."""
    ended: bool
    """Whether `[DONE]` came."""
    damaged: bool
    """Whether an event's data was an object that is no JSON: a piece is missing, so nothing may count as whole."""
    error: JsonObject | None
    """The first event that says that the request failed."""


class _Event(Struct, frozen=True):
    """One event as it came."""

    name: bytes
    """What its `event:` line says."""
    lines: tuple[bytes, ...]
    """What its `data:` lines say."""


def _events(body: bytes) -> Iterator[_Event]:
    """The events that have data.

    A last event that no blank line ends is given too, though the rules drop it: servers forget that line, and
    where the event was cut its data is no JSON.
    """
    name = b""
    lines: list[bytes] = []
    for line in (*body.removeprefix(codecs.BOM_UTF8).splitlines(), b""):
        if not line:
            if any(lines):
                yield _Event(name, tuple(lines))
            name, lines = b"", []
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip()


def read_stream(body: bytes) -> EventStream:
    """All events of a stream, up to `[DONE]` or an error. Never raises."""
    events: list[JsonObject] = []
    damaged = False
    for data, name in _parts(body):
        if data.strip() == _DONE:
            return EventStream(tuple(events), True, damaged, None)
        event = _object(data, name)
        if event is None:
            damaged = True
        elif holds_error(event):
            return EventStream(tuple(events), False, damaged, event)
        elif event:
            events.append(event)
    return EventStream(tuple(events), False, damaged, None)


def _parts(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(data, event name). Lines that together are no JSON are data each: servers forget the blank line between."""
    for event in _events(body):
        whole = b"\n".join(event.lines)
        if len(event.lines) > 1 and _value(whole) is _NO_JSON:
            yield from ((line, event.name) for line in event.lines)
        else:
            yield whole, event.name


_NO_JSON = object()


def _value(data: bytes) -> object:
    try:
        return decode(data)
    except ValueError:
        return _NO_JSON


def _object(data: bytes, name: bytes) -> JsonObject | None:
    """The event's JSON object; empty for what keeps the connection alive; None for an object that is no JSON.

    No protocol sends anything but objects (Gemini: an error as a list of one), so a number, a text, a word or a
    mark like `[PING]` is no piece of an answer. Whatever an `event: error` says is an error.
    """
    value = _value(data)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and (name != b"error" or holds_error(value)):
        return value
    if name == b"error" and data.strip():
        words = value if isinstance(value, str) else data.decode("utf-8", "replace")
        return {"error": value if isinstance(value, dict) and value else {"message": words}}
    is_piece = data.lstrip()[:1] in (b"{", b"[") and not _MARK.fullmatch(data.strip())
    return None if is_piece else {}
