"""What a grader takes out of a reply: its last number, the JSON in it.

Owns lenient reading of texts that models write. Must not know graders. Hostile texts cost linear time: a reply
may be long, nested, or full of digits.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from decimal import Context, Decimal
from typing import Any, Final

import orjson

MAX_STARTS = 20
"""Places in a text at which JSON is looked for."""
TAIL_CHARACTERS = 2_000
"""A long text is searched for its last number from here to its end first."""
ABSENT: Final = object()
"""There is no JSON, or no such field; a null is a value."""
NUMBERS = Context(prec=60, traps=[])
"""Arithmetic that never raises: what cannot be computed becomes not-a-number, which equals nothing."""

_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?[$\u20ac\u00a3]?(?:\d{1,3}(?:,\d{3}){1,20}(?![\d,])|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,4})?"
    r"|(?<![\w.])[-+\u2212]?\.\d+"
)
_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)```", re.DOTALL)
_UNREADABLE = (ValueError, RecursionError)


def last_number(text: str) -> Decimal | None:
    """The last number in the text; thousands may be grouped by commas (1,234.5), a sign or currency may lead.

    None where there is none. Digits inside words and after a point are no numbers of their own (GPT4, 1.2.3).
    """
    if len(text) > TAIL_CHARACTERS:
        _, _, tail = text[-TAIL_CHARACTERS:].partition(" ")
        found = last_number(tail)
        if found is not None:
            return found
    matches = deque(_NUMBER.finditer(text), maxlen=1)
    return _decimal(matches[0][0]) if matches else None


def whole_number(text: str) -> Decimal | None:
    """The number that the text is, spaces around it aside; None where it is anything more."""
    found = _NUMBER.fullmatch(text.strip())
    return None if found is None else _decimal(found[0])


def _decimal(digits: str) -> Decimal:
    plain = digits.translate({ord(","): None, ord("$"): None, ord("€"): None, ord("£"): None, ord("\u2212"): "-"})
    return NUMBERS.create_decimal(plain)


def json_value(text: str) -> Any:
    """The JSON in a text: all of it, in a code fence, or the first object or list in it. ABSENT where none is."""
    for candidate in _candidates(text):
        try:
            return orjson.loads(candidate)
        except _UNREADABLE:
            continue
    return _embedded(text)


def _candidates(text: str) -> Iterator[str]:
    yield text
    for _, found in zip(range(MAX_STARTS), _FENCE.finditer(text), strict=False):
        yield found[1]


def _embedded(text: str) -> Any:
    decoder = json.JSONDecoder()
    starts = (found.start() for found in re.finditer(r"[{\[]", text))
    for _, start in zip(range(MAX_STARTS), starts, strict=False):
        try:
            return decoder.raw_decode(text, start)[0]
        except _UNREADABLE:
            continue
    return ABSENT


def field_of(value: Any, path: tuple[str, ...]) -> Any:
    """The value at a path of keys and list positions; ABSENT where it leads nowhere."""
    for part in path:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return ABSENT
    return value
