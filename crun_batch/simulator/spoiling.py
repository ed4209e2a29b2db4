"""Replies that are whole and say something that cannot be true, or that nobody listed: counts and finish reasons.

The request is done and charged by its true counts; only the reply lies. Pure: bytes in, bytes out. Knows where the
four endpoints put their usage and their finish reason, and nothing else of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

_FINISH = re.compile(r"finish_([A-Za-z0-9_.\-]{1,80})")
_COMPLETED = "response.completed"
_INCOMPLETE = "response.incomplete"

Counts = dict[str, Any]


def _each(change: Callable[[int], Any]) -> Callable[[Counts], Counts]:
    """All counts of a usage changed, those of its details too; a cost stays."""

    def changed(usage: Counts) -> Counts:
        return {
            name: changed(value)
            if isinstance(value, dict)
            else change(value)
            if isinstance(value, int) and name != "cost"
            else value
            for name, value in usage.items()
        }

    return changed


USAGES: dict[str, Callable[[Counts], Counts | None]] = {
    "usage_zero": _each(lambda count: 0),
    "usage_negative": _each(lambda count: -count),
    "usage_fractional": _each(lambda count: count + 0.5),
    "usage_nan": _each(lambda count: float("nan")),
    "usage_text": _each(str),
    "usage_huge": _each(lambda count: count * 10**30),
    "usage_missing": lambda usage: None,
}
"""Kind -> what becomes of a reply's usage."""
LAST_OF_ZEROS = "usage_zeros_last"
"""A stream says its counts, and then, last, that they are 0. Of a body: `usage_zero`."""
KINDS = frozenset({*USAGES, LAST_OF_ZEROS})


def finish_word(kind: str) -> str | None:
    """The finish reason that a kind `finish_WORD` orders, spelt as it is; `finish_null` is none at all."""
    found = _FINISH.fullmatch(kind)
    return found[1] if found else None


def is_spoiling(kind: str) -> bool:
    """Whether the kind is one of this module's."""
    return kind in KINDS or finish_word(kind) is not None


def spoiled(pieces: Sequence[bytes], kind: str, *, streamed: bool) -> list[bytes]:
    """The reply as the kind wants it: its body, or the events of its stream."""
    word = finish_word(kind)
    if word is not None:
        return [_rewritten(piece, lambda value: _with_finish(value, word), streamed) for piece in pieces]
    zeroed = _with_usage(USAGES["usage_zero"])
    if kind != LAST_OF_ZEROS or not streamed:
        change = zeroed if kind == LAST_OF_ZEROS else _with_usage(USAGES[kind])
        return [_rewritten(piece, change, streamed) for piece in pieces]
    changed = [_rewritten(piece, zeroed, streamed) for piece in pieces]
    last = max(place for place, piece in enumerate(pieces) if changed[place] != piece)
    return [*pieces[: last + 1], changed[last], *pieces[last + 1 :]]


def _with_usage(change: Callable[[Counts], Counts | None]) -> Callable[[Any], Any]:
    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            name: change(part) if name == "usage" and isinstance(part, dict) else changed(part)
            for name, part in value.items()
        }

    return changed


def _with_finish(value: Any, word: str) -> Any:
    """Wherever a finish reason stands it is this one; a whole response is one that ended early for it."""
    if isinstance(value, list):
        return [_with_finish(item, word) for item in value]
    if not isinstance(value, dict):
        return value
    said = None if word == "null" else word
    changed = {name: _with_finish(part, word) for name, part in value.items()}
    for name in ("finish_reason", "stop_reason"):
        if changed.get(name) is not None:
            changed[name] = said
    if changed.get("object") == "response" and changed.get("status") in ("completed", "incomplete"):
        changed |= {"status": "incomplete", "incomplete_details": None if said is None else {"reason": said}}
    if changed.get("type") == _COMPLETED:
        changed["type"] = _INCOMPLETE
    return changed


def _rewritten(piece: bytes, change: Callable[[Any], Any], streamed: bool) -> bytes:
    """The JSON of a body or an event, changed; the same bytes where nothing is."""
    head, mark, data = piece.partition(b"data: ") if streamed else (b"", b"", piece)
    try:
        before = json.loads(data)
    except ValueError:  # [DONE]
        return piece
    after = change(before)
    if after == before:
        return piece
    if isinstance(after, dict) and after.get("type") == _INCOMPLETE:
        head = head.replace(_COMPLETED.encode(), _INCOMPLETE.encode())
    text = json.dumps(after, ensure_ascii=False, separators=(",", ":"))
    return head + mark + text.encode() + (b"\n\n" if streamed else b"")
