"""Disks that fail, and ready-made events, for the tests of the store."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from crun_batch.store.directory import RunDirectory, open_directory
from crun_batch.store.disk import Disk, write_file
from crun_batch.store.events import FinalPart, RawEnd, ReadEvent, StartEvent
from crun_batch.store.manifest import ManifestEntry, append_manifest

SECOND = 1_000_000
START = 1_790_000_000 * SECOND


class Killed(BaseException):
    """The process ended here. Not an Exception: nothing may catch it and go on."""


class KillingDisk(Disk):
    """Counts the operations and ends the process before operation `at`, or within it when that is a write."""

    def __init__(self, at: int | None = None, *, within: bool = False) -> None:
        self.at = at
        self.within = within
        self.log: list[str] = []

    def _step(self, name: str, act: Callable[[], int | None], halfway: Callable[[], object] | None = None):
        if self.at is not None and len(self.log) >= self.at:
            if self.within and halfway is not None and len(self.log) == self.at:
                halfway()
            self.log.append("killed")
            raise Killed(name)
        self.log.append(name)
        return act()

    def create(self, path: Path) -> int:
        return self._step(f"create {path.name}", lambda: Disk.create(self, path))

    def reserve(self, path: Path, length: int) -> int:
        return self._step(f"reserve {path.name}", lambda: Disk.reserve(self, path, length))

    def write(self, descriptor: int, data) -> int:
        half = memoryview(data)[: len(data) // 2]
        return self._step(
            "write", lambda: Disk.write(self, descriptor, data), lambda: Disk.write(self, descriptor, half)
        )

    def sync(self, descriptor: int) -> None:
        self._step("sync", lambda: None)

    def truncate(self, descriptor: int, length: int) -> None:
        self._step("truncate", lambda: Disk.truncate(self, descriptor, length))

    def rename(self, source: Path, target: Path) -> None:
        self._step(f"rename {target.name}", lambda: Disk.rename(self, source, target))

    def unlink(self, path: Path) -> None:
        self._step(f"unlink {path.name}", lambda: Disk.unlink(self, path))

    def symlink(self, target: str, path: Path) -> None:
        self._step(f"symlink {path.name}", lambda: Disk.symlink(self, target, path))

    def sync_folder(self, path: Path) -> None:
        self._step(f"sync folder {path.name}", lambda: None)


class FailingDisk(Disk):
    """A disk with little room, short writes, or a sync that fails once."""

    def __init__(self) -> None:
        self.room_bytes: int | None = None
        self.longest_write: int | None = None
        self.sync_fails = False
        self.syncs = 0
        self.reserved: int | None = None

    def reserve(self, path: Path, length: int) -> int:
        self.reserved = super().reserve(path, length)
        return self.reserved

    def write(self, descriptor: int, data) -> int:
        if descriptor == self.reserved:
            return super().write(descriptor, data)
        allowed = len(data)
        if self.longest_write is not None:
            allowed = min(allowed, self.longest_write)
        if self.room_bytes is not None:
            allowed = min(allowed, self.room_bytes)
            if allowed == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room_bytes -= allowed
        return super().write(descriptor, memoryview(data)[:allowed])

    def sync(self, descriptor: int) -> None:
        self.syncs += 1
        if self.sync_fails:
            raise OSError(errno.EIO, "Input/output error")


class SmallDisk(Disk):
    """A file system of `size` bytes: a write takes what fits, and the next one nothing."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._files: dict[tuple[int, int], int] = {}

    @property
    def free(self) -> int:
        """Bytes that no file has."""
        return self.size - sum(self._files.values())

    def create(self, path: Path) -> int:
        return self._known(super().create(path))

    def reserve(self, path: Path, length: int) -> int:
        if length > self.free:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._known(super().reserve(path, length))

    def extend(self, descriptor: int, length: int) -> None:
        if length - os.fstat(descriptor).st_size > self.free:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().extend(descriptor, length)
        self._known(descriptor)

    def write(self, descriptor: int, data) -> int:
        begins = os.lseek(descriptor, 0, os.SEEK_CUR)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
            begins = os.fstat(descriptor).st_size
        fits = os.fstat(descriptor).st_size - begins + self.free
        if fits <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = super().write(descriptor, memoryview(data)[:fits])
        self._known(descriptor)
        return taken

    def truncate(self, descriptor: int, length: int) -> None:
        super().truncate(descriptor, length)
        self._known(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._gone(target)
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._gone(path)
        super().unlink(path)

    def _known(self, descriptor: int) -> int:
        found = os.fstat(descriptor)
        self._files[found.st_dev, found.st_ino] = found.st_size
        return descriptor

    def _gone(self, path: Path) -> None:
        if path.exists():
            found = path.stat()
            self._files.pop((found.st_dev, found.st_ino), None)


class ManualSyncer:
    """Syncs only when the test says so."""

    def __init__(self) -> None:
        self.wakes = 0
        self.sync: Callable[[], None] = lambda: None

    def start(self, sync: Callable[[], None]) -> None:
        self.sync = sync

    def wake(self) -> None:
        self.wakes += 1

    def stop(self) -> None:
        pass


def open_run(path: Path, disk: Disk | None = None) -> RunDirectory:
    return open_directory(path, started_at="2026-01-01T00:00:00Z", disk=disk)


def start(n: int, row: int | None = None, **fields) -> StartEvent:
    row = n if row is None else row
    fields = {"request_hash": f"hash{row}", "started_at": START + n * SECOND, "held_usd": 5 * 10**9, **fields}
    return StartEvent(n=n, id=str(row), position=row, variant=fields.pop("variant", "base"), **fields)


def end(n: int, body: bytes = b'{"ok": 1}', status: int | None = 200, **fields) -> RawEnd:
    return RawEnd(
        n,
        finished_at=START + n * SECOND + 250_000,
        latency_us=250_000,
        http_status=status,
        headers={"x-request-id": f"req-{n}"},
        body=body,
        **fields,
    )


def read(n: int, row: int | None = None, final: FinalPart | None = None, **fields) -> ReadEvent:
    row = n if row is None else row
    values = {
        "variant": "base",
        "outcome": "done",
        "started_at": START + n * SECOND,
        "finished_at": START + n * SECOND + 250_000,
        "latency_us": 250_000,
        "request_hash": f"hash{row}",
        "held_usd": 5 * 10**9,
        "http_status": 200,
        "input_tokens": 10 + n,
        "cached_input_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 5,
        "reasoning_tokens": 0,
        "cost_usd": 10**9 + n,
        "cost_source": "job",
        "text": f"text {row}",
        "finish_reason": "stop",
        "model": "m",
        "response_id": f"resp{n}",
    }
    return ReadEvent(n=n, id=str(row), position=row, final=final, **{**values, **fields})


OK = FinalPart("ok", as_read=True)


def answer(journal, row: int | None = None, *, final: FinalPart | None = OK, body: bytes = b'{"ok": 1}', **fields):
    """One whole attempt: start, end, read."""
    n = next(journal.serials)
    row = n if row is None else row
    variant = {name: fields[name] for name in ("variant", "repeat") if name in fields}
    journal.append_starts([start(n, row, **variant)])
    journal.append_ends([end(n, body)])
    journal.append_reads([read(n, row, final, **fields)])
    return n


def write_listed(run: RunDirectory, name: str, data: bytes) -> None:
    """Put a file into the run directory, or in the place of one, and its checksum into the manifest."""
    path = run.path / name
    present = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    entry = ManifestEntry(name, 0, len(data), hashlib.sha256(data).hexdigest(), replaces=present)
    if present is not None:
        append_manifest(run, [entry])
    write_file(run.disk, path, data)
    if present is None:
        append_manifest(run, [entry])
