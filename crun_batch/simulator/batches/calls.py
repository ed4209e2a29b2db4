"""One call about files or batches, as the forms see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import orjson
from msgspec import Struct

from crun_batch.simulator.asks import Invalid
from crun_batch.simulator.refusals import Refusal, refusal
from crun_batch.simulator.settings import Settings

_LEAST, _USUAL, _MOST = 1, 20, 100


class Lost(Exception):
    """What was asked is done, and the reply does not come: the fault of this name."""


def not_found(message: str) -> Refusal:
    """404."""
    return refusal(404, message, param="id")


class Call(Struct, frozen=True):
    """A call whose key is known; `name` is the id in its path."""

    key_name: str
    name: str
    headers: Mapping[str, str]
    query: str
    body: bytes
    settings: Settings

    def json(self) -> dict[str, Any]:
        """The body's object. Raises Invalid."""
        try:
            payload = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise Invalid(f"The body is not valid JSON: {error}.") from None
        if not isinstance(payload, dict):
            raise Invalid("The body is no JSON object.")
        return payload

    def asked(self, name: str) -> str | None:
        """What the query says under a name, the first time."""
        return next(iter(parse_qs(self.query).get(name, ())), None)

    def page(self, items: Sequence[tuple[str, dict[str, Any]]], after_name: str) -> dict[str, Any]:
        """The part of a list that the query asks for: those behind an id, so many. Raises Invalid."""
        limit = self.asked("limit") or str(_USUAL)
        if not limit.isdecimal() or not _LEAST <= int(limit) <= _MOST:
            raise Invalid(f"Invalid 'limit': {limit} is not between {_LEAST} and {_MOST}.", "limit")
        ids = [name for name, _ in items]
        after = self.asked(after_name)
        if after is not None and after not in ids:
            raise Invalid(f"Invalid '{after_name}': {after} is not in the list.", after_name)
        first = 0 if after is None else ids.index(after) + 1
        part = items[first : first + int(limit)]
        return {
            "data": [item for _, item in part],
            "first_id": part[0][0] if part else None,
            "last_id": part[-1][0] if part else None,
            "has_more": first + len(part) < len(items),
        }
