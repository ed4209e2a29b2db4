"""Heads of replies that the parser refuses although every client reads them; and those that nobody may read.

Servers and proxies repeat a Content-Length, fold long headers over lines, name the coding `identity`, put the
`Connection: close` of a reply into the 100 Continue before it. None of that leaves a doubt where the reply ends,
and the reply may be paid for. What leaves one is refused: lengths that differ, a length beside chunks. (RFC
9112: 5.2 on folding, 6.1 and 6.3 on lengths; RFC 2616, 3.6 on `identity`.) Pure.
"""

from __future__ import annotations

import re

from msgspec import Struct

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})(?: [^\r\n]*)?")
_BEGINNING = b"HTTP/1."
NO_CODING = (b"identity", b"")
_TLS_ALERT = b"\x15\x03"

DIFFERENT_LENGTHS = "two different content-lengths"
LENGTH_AND_CHUNKS = "both a content-length and a transfer-encoding: where the reply ends is in doubt"
SPEAKS_TLS = "that port speaks TLS, not plain HTTP: write https:// in endpoint.base_url"


class RefusedHead(Struct, frozen=True):
    """A head that nobody may read: why, and what can be kept of the reply."""

    why: str | None
    """None: nothing is wrong that could be named here."""
    status: int | None = None
    rest: bytes = b""
    is_lasting: bool = False
    """It will be so each time, until somebody changes something."""
    is_well_formed: bool = False
    """The head itself has nothing to repair."""


def repaired(raw: bytes) -> bytes | RefusedHead | None:
    """What came of a reply, with a head that the parser reads; None: the head has not come whole yet."""
    if raw.startswith(_TLS_ALERT):
        return RefusedHead(SPEAKS_TLS, is_lasting=True)
    if not raw.startswith(_BEGINNING[: len(raw)]):
        return RefusedHead(None)
    end = _HEAD_END.search(raw)
    if end is None:
        return None
    head, rest = raw[: end.start()], raw[end.end() :]
    status_line, _, block = head.partition(b"\n")
    status = _STATUS_LINE.fullmatch(status_line.rstrip(b"\r"))
    if status is None:
        return RefusedHead(None)
    if status[1].startswith(b"1"):
        found = repaired(rest) if rest else None
        return rest if isinstance(found, RefusedHead) and found.why is None and found.is_well_formed else found
    headers = _unfolded(block)
    if headers is None:
        return RefusedHead(None)
    why = _doubt(headers)
    if why is not None:
        return RefusedHead(why, int(status[1]), rest)
    lines = [status_line.rstrip(b"\r"), *(name + b":" + value for name, value in _once(headers))]
    whole = b"\r\n".join(lines) + b"\r\n\r\n" + rest
    return whole if whole != raw else RefusedHead(None, is_well_formed=True)


def _unfolded(block: bytes) -> list[tuple[bytes, bytes]] | None:
    """Names and values, each header on one line; None where a line is no header."""
    headers: list[tuple[bytes, bytes]] = []
    for line in block.split(b"\n") if block else []:
        text = line.rstrip(b"\r")
        if text[:1] in (b" ", b"\t"):
            if not headers:
                return None
            headers[-1] = headers[-1][0], headers[-1][1].rstrip() + b" " + text.strip()
            continue
        name, colon, value = text.partition(b":")
        if not colon:
            return None
        headers.append((name, value))
    return headers


def _values(headers: list[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    """All values of one header, those in one line too."""
    found = [value for name, value in headers if name.lower() == wanted]
    return [part.strip().lower() for value in found for part in value.split(b",")]


def _doubt(headers: list[tuple[bytes, bytes]]) -> str | None:
    lengths = set(_values(headers, b"content-length"))
    codings = [coding for coding in _values(headers, b"transfer-encoding") if coding not in NO_CODING]
    if len(lengths) > 1:
        return DIFFERENT_LENGTHS
    return LENGTH_AND_CHUNKS if lengths and codings else None


def _once(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The same headers: one length, no coding that is none."""
    kept: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            if any(before.lower() == lower for before, _ in kept):
                continue
            kept.append((name, b" " + value.split(b",")[0].strip()))
        elif lower == b"transfer-encoding":
            codings = [part.strip() for part in value.split(b",") if part.strip().lower() not in NO_CODING]
            kept += [(name, b" " + b", ".join(codings))] if codings else []
        else:
            kept.append((name, value))
    return kept
