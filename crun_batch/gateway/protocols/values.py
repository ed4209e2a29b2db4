"""Values of somebody else's JSON, read without trust: any may be missing, null or of another type.

What cannot be believed is unknown (None), never 0.
"""

from __future__ import annotations

from crun_batch.gateway.protocols.protocol import JsonObject

MOST_TOKENS = 10**9
"""A larger count is a broken number: no model reads or writes a thousandth of it in one request."""


def word(value: object) -> str | None:
    """A text that says something, else None."""
    return value if isinstance(value, str) and value else None


def json_object(value: object) -> JsonObject:
    """The value itself where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[JsonObject]:
    """The objects of a list; whatever else it holds, or is, is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def tokens(value: object) -> int | None:
    """A believable count of tokens: a whole number from 0 on, however JSON writes it (12 and 12.0 are one)."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None
