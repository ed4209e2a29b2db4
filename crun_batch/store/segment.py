"""The open segment of the journal: a file that lines are appended to, and how far of it is on the disk.

After a power cut the pages that were not synced may be there or not, each for itself: whole lines can stand behind
a hole. So the file says itself how far it was synced, in marks between the events: what is unreadable before the
highest mark is damage, what is unreadable after it never reached the disk. Owns: that file, its length, checksum
and marks. Must not know: what the lines say, and what follows from a failure.
"""

from __future__ import annotations

from zlib import crc32

from crun_batch.errors import DiskFailed
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import is_open_at, write_all
from crun_batch.store.events import SyncedMark, encode_line
from crun_batch.store.renewal import sync_or_doubt


class LiveSegment:
    """A segment that is there and wholly on the disk, opened for appending. Raises DiskFailed."""

    def __init__(self, run: RunDirectory, number: int) -> None:
        self.number = number
        self.path = run.segment(number)
        self._run = run
        try:
            self._descriptor = run.disk.reopen(self.path)
        except OSError as error:
            raise DiskFailed(f"{self.path}: cannot be opened: {error.strerror or error}") from error
        present = self.path.read_bytes()
        self.length, self.checksum = len(present), crc32(present)
        self._synced_bytes = self.length
        self._marked_bytes = present.find(b"\n") + 1  # the head has its name only since it is synced

    def append(self, data: bytes) -> None:
        """Write all of `data` at once. Raises OSError; then `cut` takes away what was written of it."""
        if self._run.disk.write(self._descriptor, data) != len(data):
            raise OSError("the disk took only a part of an event")
        self._grown_by(data)

    def append_anew(self, line: bytes) -> None:
        """Cut what a failed write has left, and write the line, in pieces where the disk takes no more at once."""
        self.cut()
        write_all(self._run.disk, self._descriptor, line)
        self._grown_by(line)

    def cut(self) -> None:
        """Take away what stands after the last whole line. Raises OSError."""
        self._run.disk.truncate(self._descriptor, self.length)

    def sync(self) -> None:
        """Return when all that was appended before is on the disk. Raises OSError."""
        length = self.length
        sync_or_doubt(self._run, self._descriptor)
        self._synced_bytes = length

    def mark(self) -> bytes:
        """The line that says how far the file is synced, to be appended; empty where it stands there already."""
        synced = self._synced_bytes
        if synced <= self._marked_bytes:
            return b""
        self._marked_bytes = synced
        return encode_line(SyncedMark(synced))

    def check_in_place(self) -> None:
        """Raise DiskFailed where the file or its run directory is no longer where it was opened."""
        self._run.check_in_place()
        if not is_open_at(self._descriptor, self.path):
            raise DiskFailed(
                f"{self.path} was moved, replaced or deleted while this session wrote to it",
                advice="Nothing more is sent. Put it back where it was, then start the same run again.",
            )

    def close(self) -> None:
        """Close the file."""
        self._run.disk.close(self._descriptor)

    def _grown_by(self, data: bytes) -> None:
        self.length += len(data)
        self.checksum = crc32(data, self.checksum)
