"""Rows that go several in one request, for the estimate: gathered until a request is full, then counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from crun_batch.records import Row
from crun_batch.workload.packed_request import packed_request
from crun_batch.workload.packing import PackFormat, shortest_reply
from crun_batch.workload.request import Request, Variant

SHORTEST_ANSWER = "x"


class Asked(Struct, frozen=True, gc=False):
    """A request of a row, one of its turns, or of several rows; and how often it is sent."""

    request: Request
    body: bytes
    to_send: int
    rows: int = 1


class GatheredRows:
    """The rows of one variant that wait for others; rows that are sent equally often stand together."""

    def __init__(self, variant: Variant, *, compares: bool) -> None:
        """`compares`: each row is sent alone as well, as in a pilot."""
        spec = variant.job.pack
        assert spec is not None
        self._variant = variant
        self._rows = spec.rows
        self._form: PackFormat = spec.format
        self._compares = compares
        self._shares_identical = variant.job.share_identical
        self._seen: set[str] = set()
        self._waiting: dict[int, list[tuple[Row, Asked]]] = {}

    def take(self, row: Row, asked: Sequence[Asked]) -> Iterator[Asked]:
        """What is sent now that this row has come as well; `asked`: its own request, where it has one."""
        for own in asked:
            if self._shares_identical and own.request.unit_hash in self._seen:
                continue
            if self._shares_identical:
                self._seen.add(own.request.unit_hash)
            waiting = self._waiting.setdefault(own.to_send, [])
            waiting.append((row, own))
            if self._compares:
                yield own
            if len(waiting) == self._rows:
                yield self._packed(self._waiting.pop(own.to_send))

    def rest(self) -> Iterator[Asked]:
        """What is sent in the end of the rows that still wait."""
        while self._waiting:
            yield self._packed(self._waiting.popitem()[1])

    def _packed(self, waiting: Sequence[tuple[Row, Asked]]) -> Asked:
        first = waiting[0][1]
        if len(waiting) == 1:
            return first
        request = packed_request(self._variant, [row for row, _ in waiting], self._form).request
        return Asked(request, request.body, first.to_send, len(waiting))

    def shortest_reply(self, rows: int) -> str:
        """To so many rows."""
        is_typed = self._variant.job.output_schema is not None
        return shortest_reply(rows, self._form, is_typed=is_typed) if rows > 1 else SHORTEST_ANSWER


def gathered_rows(variant: Variant, *, compares: bool) -> GatheredRows | None:
    """None where each row is asked alone."""
    return None if variant.job.pack is None else GatheredRows(variant, compares=compares)
