"""Which of a gateway's batches may be one whose creation got no reply, and what decides it. No I/O.

A batch of a file is known by it. One whose requests went inline has nothing in the list that names it: all that
fit in time, model and count are its suspects, and while there are any its requests are not sent again. What a
suspect has left when it is over says, by the custom ids, whose it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crun_batch.gateway.batches.asking import FILE_SECONDS
from crun_batch.gateway.batches.form import BatchLineRead, BatchTold
from crun_batch.session.batching.live import serial_of
from crun_batch.store.batches import BatchEntry

MARGIN_SECONDS = 600.0
"""Clocks differ: batches that are so much older, or younger, than the call are looked at too."""


def since_seconds(entry: BatchEntry) -> float:
    """From when on the list of batches is of interest; seconds since 1970."""
    return (entry.asked_at or entry.at) / 1e6 - MARGIN_SECONDS


def suspects_of(entry: BatchEntry, listed: Iterable[BatchTold], not_it: frozenset[str]) -> Sequence[BatchTold]:
    """The listed batches that may be this one; what a gateway does not tell rules nothing out."""
    return [one for one in listed if one.id not in not_it and _may_be(entry, one)]


def _may_be(entry: BatchEntry, told: BatchTold) -> bool:
    until = (entry.asked_at or entry.at) / 1e6 + FILE_SECONDS + MARGIN_SECONDS
    return told.requests in (None, entry.requests) and (
        not told.created_at or since_seconds(entry) <= told.created_at <= until
    )


def is_it(entry: BatchEntry, lines: Iterable[BatchLineRead | None]) -> bool | None:
    """Whether what a suspect has left is of this batch; None: it has left nothing that says it."""
    names = [line.custom_id for line in lines if line is not None]
    if not names:
        return None
    return any(serial_of(name, entry) is not None for name in names)
