"""Replies that come when the disk is full: a file whose place was taken beforehand, as much as may come.

What may come is the requests in flight times the largest reply so far; until there is one, a typical one is
assumed. Where the disk has no room for that, fewer may be in flight. A batch gives its replies as often as it is
asked: no place need be taken for them. Owns: that file, how much of it is taken, and which requests are in flight.
Must not know: when the disk counts as full.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from crun_batch.errors import DiskFailed
from crun_batch.paths import is_there
from crun_batch.records import is_batch_lane
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import write_all
from crun_batch.store.events import StartEvent

TYPICAL_REPLY_BYTES = 32 * 2**10
_READ_AT_ONCE_BYTES = 2**20


class OpenStarts:
    """The requests without a recorded reply, by serial."""

    def __init__(self, starts: Iterable[StartEvent]) -> None:
        self.starts: dict[int, StartEvent] = {}
        self._in_batches: set[int] = set()
        self.add(starts)

    def __getitem__(self, serial: int) -> StartEvent:
        return self.starts[serial]

    @property
    def awaited(self) -> int:
        """Those whose replies come but once."""
        return len(self.starts) - len(self._in_batches)

    def add(self, starts: Iterable[StartEvent]) -> None:
        """These have gone."""
        for start in starts:
            self.starts[start.n] = start
            if is_batch_lane(start.endpoint):
                self._in_batches.add(start.n)

    def drop(self, serial: int) -> None:
        """Its end is recorded."""
        self.starts.pop(serial, None)
        self._in_batches.discard(serial)


class LateReplies:
    """The place for replies in flight. Made before the first request. Raises DiskFailed where there is none."""

    def __init__(self, run: RunDirectory, length: int) -> None:
        self._run = run
        self._disk = run.disk
        self._length = length
        self._written = 0
        self._largest = TYPICAL_REPLY_BYTES
        self._largest_start = 0
        self._may_grow = True
        try:
            self._descriptor = self._disk.reserve(run.reserve, length)
        except OSError as error:
            raise DiskFailed(
                f"{run.path}: the disk has no room for the {length} bytes reserved for replies in flight: "
                f"{error.strerror or error}"
            ) from error

    def has_room_for(self, replies: int) -> bool:
        """Whether so many replies could be kept on a full disk; takes more place for them where there is some."""
        needed = self._written + replies * (self._largest + self._largest_start)
        if needed > self._length and self._may_grow:
            self._may_grow = self._grow(needed * 3 // 2, spare=needed // 2)
        return needed <= self._length

    def learn_start(self, length: int) -> None:
        """So long is the line of a request that goes: it is kept with its reply."""
        self._largest_start = max(self._largest_start, length)

    def learn(self, length: int, replies: int) -> None:
        """So long is the line of a reply that came; so many may be as long, and their place is taken now."""
        if length > self._largest:
            self._largest = length
            if not self.has_room_for(replies):
                self._grow(self._written + replies * (length + self._largest_start))

    def ask_again(self) -> None:
        """Time has passed: the disk may have more room than when it refused."""
        self._may_grow = True

    def keep(self, lines: bytes) -> None:
        """Write and sync them. Raises OSError; the next ones then take the place of what was torn."""
        self._disk.seek(self._descriptor, self._written)
        write_all(self._disk, self._descriptor, lines)
        self._disk.sync(self._descriptor)
        self._written += len(lines)

    def close(self) -> None:
        """Close the file; it stays."""
        self._disk.close(self._descriptor)

    def _grow(self, length: int, *, spare: int = 0) -> bool:
        """Take so much, where the disk has that and `spare` bytes more, which are left to the journal."""
        try:
            self._disk.extend(self._descriptor, length + spare)
            grown = True
        except OSError:
            grown = False
        kept = length if grown else self._length
        if spare or not grown:
            with suppress(OSError):  # then it has more than it needs
                self._disk.truncate(self._descriptor, kept)
        self._length = kept
        return grown


def kept_lines(run: RunDirectory) -> bytes:
    """What was written into the place, without the zeros after it; empty where there is no such file."""
    if not is_there(run.reserve):
        return b""
    pieces = []
    with run.reserve.open("rb") as file:
        while piece := file.read(_READ_AT_ONCE_BYTES):
            written, zero, _ = piece.partition(b"\0")
            pieces.append(written)
            if zero:
                break
    return b"".join(pieces)
