"""What a kill left of requests for several rows: the one raw reply belongs to each that is not read yet."""

from __future__ import annotations

from collections.abc import Iterator

from crun_batch.store.events import EndEvent, StartEvent
from crun_batch.store.recover import Recovered

Recorded = tuple[StartEvent, EndEvent]


def with_replies_of_packs(recovered: Recovered) -> tuple[list[Recorded], list[StartEvent]]:
    """The requests that nobody has read, each with its raw reply; and those without one.

    A row whose own end a torn write has cut off has the reply all the same: it stands with the first of its
    request. One whose first has none, has none.
    """
    started = [*(start for start, _ in recovered.unread), *recovered.in_flight]
    firsts = {start.first_of_pack for start in started if start.pack is not None}
    if not firsts:
        return list(recovered.unread), list(recovered.in_flight)
    own = {start.n: end for start, end in recovered.unread}
    replies = {n: end for n, end in own.items() if n in firsts}
    if firsts - set(replies):  # what the first row has of it may have been read before the kill
        replies |= {end.n: end for end in _ends(recovered) if end.n in firsts}
    unread: list[Recorded] = []
    in_flight: list[StartEvent] = []
    for start in sorted(started, key=lambda one: one.n):
        end = own.get(start.n) if start.pack is None else replies.get(start.first_of_pack)
        if end is None:
            in_flight.append(start)
        else:
            unread.append((start, end))
    return unread, in_flight


def _ends(recovered: Recovered) -> Iterator[EndEvent]:
    return (event for event in recovered.records() if isinstance(event, EndEvent))
