"""A disk whose process can be killed before, within or after any of its operations; or that fails from then on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from crun_batch.store.disk import Disk

from .pages import Platter, Platters

When = Literal["before", "within", "after", "full", "short", "sync"]
"""Death at an operation; or from it on: no room, short writes, syncs that fail."""
DEADLY = ("before", "within", "after")


class Killed(BaseException):
    """The process ended here. Not an Exception: nothing may catch it and go on."""


class MortalDisk(Disk):
    """Counts its operations; at operation `at` it dies, and from then on nothing reaches the disk any more."""

    def __init__(self, at: int | None = None, when: When = "before", platters: Platters | None = None) -> None:
        self.at = at
        self.when = when
        self.operations = 0
        self.dead = False
        self.died_in = ""
        self._open: set[int] = set()
        self._reserved: int | None = None
        self._paths: dict[int, Path] = {}
        self.platters = Platters() if platters is None else platters
        self.after_write: Callable[[], None] | None = None

    def _step(self, name: str, act: Callable[[], Any], halfway: Callable[[], object] | None = None) -> Any:
        if self.dead:
            raise Killed(name)
        self.operations += 1
        fatal = self.when in DEADLY and self._is_due()
        if fatal and self.when == "before":
            self._die(name)
        if fatal and self.when == "within" and halfway is not None:
            halfway()
            self._die(name)
        result = act()
        if fatal:
            self._die(name)
        return result

    def _die(self, name: str) -> None:
        self.dead = True
        self.died_in = f"{self.when} {name}"
        raise Killed(name)

    def _is_due(self) -> bool:
        return self.at is not None and self.operations >= self.at

    def bury(self) -> None:
        """Close what the dead process had open, as the system does."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()

    def create(self, path: Path) -> int:
        return self._step(f"create {path.name}", lambda: self._made(Disk.create(self, path), path))

    def reopen(self, path: Path) -> int:
        return self._step(f"reopen {path.name}", lambda: self._opened(Disk.reopen(self, path), path))

    def reserve(self, path: Path, length: int) -> int:
        self._reserved = self._step(
            f"reserve {path.name}", lambda: self._made(Disk.reserve(self, path, length), path)
        )
        return self._reserved

    def extend(self, descriptor: int, length: int) -> None:
        if self._is_due() and self.when == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        self._step("extend", lambda: Disk.extend(self, descriptor, length))

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if self.after_write is not None:
            self.after_write()
        half = memoryview(data)[: len(data) // 2]
        if self._is_due() and descriptor != self._reserved:
            if self.when == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            if self.when == "short" and len(half):
                return self._step("short write", lambda: Disk.write(self, descriptor, half))
        return self._step(
            "write", lambda: Disk.write(self, descriptor, data), lambda: Disk.write(self, descriptor, half)
        )

    def sync(self, descriptor: int) -> None:
        platter, length = self.platters[self._paths[descriptor]], os.fstat(descriptor).st_size
        if self._is_due() and self.when == "sync":
            platter.lose(length)
            raise OSError(errno.EIO, "Input/output error")
        self._step("sync", lambda: platter.cover(length))

    def truncate(self, descriptor: int, length: int) -> None:
        self._step("truncate", lambda: self._truncated(descriptor, length))

    def rename(self, source: Path, target: Path) -> None:
        self._step(f"rename {target.name}", lambda: self._renamed(source, target))

    def unlink(self, path: Path) -> None:
        self._step(f"unlink {path.name}", lambda: Disk.unlink(self, path))

    def symlink(self, target: str, path: Path) -> None:
        self._step(f"symlink {path.name}", lambda: Disk.symlink(self, target, path))

    def make_folder(self, path: Path, *, private: bool = True) -> None:
        self._step(f"make folder {path.name}", lambda: Disk.make_folder(self, path, private=private))

    def sync_folder(self, path: Path) -> None:
        self._step(f"sync folder {path.name}", lambda: None)

    def close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.discard(descriptor)
            os.close(descriptor)

    def _made(self, descriptor: int, path: Path) -> int:
        self.platters[path] = Platter()
        return self._opened(descriptor, path)

    def _truncated(self, descriptor: int, length: int) -> None:
        Disk.truncate(self, descriptor, length)
        self.platters[self._paths[descriptor]].cut_to(length)

    def _renamed(self, source: Path, target: Path) -> None:
        Disk.rename(self, source, target)
        self.platters.rename(source, target)

    def _opened(self, descriptor: int, path: Path) -> int:
        self._open.add(descriptor)
        self._paths[descriptor] = path
        self.platters.setdefault(path, Platter(os.fstat(descriptor).st_size))
        return descriptor
