"""What of each file is on the disk for sure, and what a power cut makes of the rest.

The rest is decided sector by sector, each for itself: one written last may be there while one before it is
not (pages go out in any order), and half a page may be there (pages are torn). A sync that fails brings nothing to
the disk and lets the system forget what it was to bring: no later sync of the same file makes up for it.
"""

from __future__ import annotations

import random
from pathlib import Path

from msgspec import Struct, field

SECTOR_BYTES = 512


class Platter(Struct):
    """One file: how much of it a sync has covered, and which stretches a failed one has lost."""

    synced: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)

    def cover(self, length: int) -> None:
        """A sync succeeded; what an earlier one has lost stays lost."""
        self.synced = length

    def lose(self, length: int) -> None:
        """A sync failed: the system takes its pages for written from now on."""
        if length > self.synced:
            self.lost.append((self.synced, length))
            self.synced = length

    def cut_to(self, length: int) -> None:
        """The file was truncated."""
        self.synced = min(self.synced, length)
        self.lost = [(first, min(end, length)) for first, end in self.lost if first < length]

    def left(self, data: bytes, chance: random.Random) -> bytes:
        """What a power cut leaves of a file that read so before it."""
        kept = bytearray(data[: chance.randint(min(self.synced, len(data)), len(data))])
        survival = chance.choice((0.0, 0.5, 0.9, 1.0))
        for sector in range(self.synced // SECTOR_BYTES, len(kept) // SECTOR_BYTES + 1):
            if chance.random() > survival:
                _erase(kept, max(self.synced, sector * SECTOR_BYTES), (sector + 1) * SECTOR_BYTES)
        for first, end in self.lost:
            _erase(kept, first, end)
        return bytes(kept)


def _erase(data: bytearray, first: int, end: int) -> None:
    end = min(end, len(data))
    if first < end:
        data[first:end] = bytes(end - first)


class Platters(dict[Path, Platter]):
    """The files of a run directory, by the names that they have now. Outlives the processes that write them."""

    def rename(self, source: Path, target: Path) -> None:
        if source in self:  # a link is none
            self[target] = self.pop(source)

    def power_cut(self, chance: random.Random) -> None:
        """Leave of every file what is on the disk; from now on that is all there ever was."""
        for path in [path for path in self if not path.exists()]:
            del self[path]
        for path in sorted(self):
            left = self[path].left(path.read_bytes(), chance)
            path.write_bytes(left)
            self[path] = Platter(len(left))
