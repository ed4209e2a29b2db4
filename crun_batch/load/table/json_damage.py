"""Lines that only Python takes for JSON: NaN, Infinity, half of a surrogate pair. Pure.

Python's json module writes them (`allow_nan`, `ensure_ascii`) and no other reader takes them. Owns which cells of
a line they stand in, why they have no value, and the line with a stand-in in their place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

MOST_DAMAGE = 100_000
"""Cells of one file that are kept: beyond, the next one is refused at once."""

_TOKEN = re.compile(rb'"(?:\\.|[^"\\])*"|-?\b(?:NaN|Infinity)\b', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:u([0-9A-Fa-f]{4})|.)", re.DOTALL)
_HIGH, _LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)
_REPLACEMENT = rb"\ufffd"
_KEY = re.compile(r'"((?:\\.|[^"\\])*)"\s*:')


def cells_without_value(line: bytes) -> list[tuple[str, str]]:
    """(column, why and what to write) of each cell for which this is so; empty where all else is wrong too."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return []
    if not isinstance(record, dict) or any(map(_halves, record)):
        return []
    return [(column, reason) for column, value in record.items() if (reason := _reason(value)) is not None]


def repaired(line: bytes) -> bytes:
    """The line as JSON: null for NaN and Infinity, U+FFFD for half of a pair; all else stays as it is."""
    return _TOKEN.sub(lambda match: _whole(match[0]) if match[0][:1] == b'"' else b"null", line)


def column_before(start: bytes) -> str | None:
    """The last key of a line that is cut short, if it can be told."""
    keys = _KEY.findall(start.decode(errors="replace"))
    return keys[-1] if keys else None


def _reason(value: Any) -> str | None:
    for each in _values(value):
        if isinstance(each, float) and not math.isfinite(each):
            name = "NaN" if math.isnan(each) else "Infinity" if each > 0 else "-Infinity"
            return f"{name} is no JSON; write null instead, or leave the row out by input.where"
        if isinstance(each, str) and (half := next(iter(_halves(each)), None)):
            shown = f"\\u{ord(half):04x}"
            return (
                f"{shown} is half of a surrogate pair, which is no character; write \\ufffd instead, or leave the"
                " row out by input.where"
            )
    return None


def _values(value: Any) -> Iterator[Any]:
    """Every value and key within a value."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        yield each
        if isinstance(each, dict):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            waiting += each


def _halves(text: str) -> list[str]:
    return [character for character in text if "\ud800" <= character <= "\udfff"]


def _whole(literal: bytes) -> bytes:
    """A JSON text without halves of pairs."""
    if b"\\u" not in literal:
        return literal
    escapes = list(_ESCAPE.finditer(literal))
    codes = [int(match[1], 16) if match[1] else 0 for match in escapes]
    pieces, end, index = [], 0, 0
    while index < len(escapes):
        match, code = escapes[index], codes[index]
        is_pair = (
            code in _HIGH and index + 1 < len(escapes) and _follows(match, escapes[index + 1], codes[index + 1])
        )
        if not is_pair and (code in _HIGH or code in _LOW):
            pieces += [literal[end : match.start()], _REPLACEMENT]
            end = match.end()
        index += 2 if is_pair else 1
    return b"".join([*pieces, literal[end:]])


def _follows(high: re.Match[bytes], low: re.Match[bytes], code: int) -> bool:
    return high.end() == low.start() and code in _LOW
