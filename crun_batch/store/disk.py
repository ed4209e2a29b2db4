"""The one seam to the disk: every operation that durability rests on goes through a `Disk`.

Owns: the calls of the operating system, short writes, "what does a crash leave", who may read: the files of a run
hold prompts and answers, so they are their owner's alone, whatever the umask, and no link is followed to one. Must
not know: what is in the files. Tests put a disk in here that fails, writes short, or keeps a log of its steps.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from crun_batch.errors import DiskFailed
from crun_batch.paths import is_file, is_folder, is_there

_sync_data = getattr(os, "fdatasync", os.fsync)
_PIECE_BYTES = 2**20
_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700
_OUR_OWN = os.O_CLOEXEC | os.O_NOFOLLOW


class Disk:
    """The real disk. Each method is one system call; each raises OSError as the system does."""

    def create(self, path: Path) -> int:
        """Open a new file for appending; the descriptor is the caller's. An existing file is emptied."""
        return open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)

    def reopen(self, path: Path) -> int:
        """Open an existing file for appending."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | _OUR_OWN)

    def reserve(self, path: Path, length: int) -> int:
        """Open a new file whose first `length` bytes have their place on the disk, all zero."""
        descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            Disk.extend(self, descriptor, length)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def extend(self, descriptor: int, length: int) -> None:
        """Take the place of the first `length` bytes of a file on the disk; what is in it stays."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, length)
            return
        for position in range(os.fstat(descriptor).st_size, length, _PIECE_BYTES):
            os.pwrite(descriptor, bytes(min(_PIECE_BYTES, length - position)), position)

    def seek(self, descriptor: int, position: int) -> None:
        """Write the next bytes from there on; not for files that are appended to."""
        os.lseek(descriptor, position, os.SEEK_SET)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Write once; returns how many bytes were taken, which may be fewer than given."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Return when the file's data is on the disk."""
        _sync_data(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file to `length` bytes."""
        os.ftruncate(descriptor, length)

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Put `source` in the place of `target` at once."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a file; it may already be gone."""
        path.unlink(missing_ok=True)

    def symlink(self, target: str, path: Path) -> None:
        """Make `path` a link to `target`."""
        path.symlink_to(target)

    def make_folder(self, path: Path, *, private: bool = True) -> None:
        """Make a folder, its owner's alone or as the umask says; it may exist, and is then left as it is."""
        try:
            path.mkdir()
        except FileExistsError:
            if not is_folder(path):
                raise
        else:
            if private:
                path.chmod(_PRIVATE_FOLDER)

    def sync_folder(self, path: Path) -> None:
        """Return when the folder's entries (creations, renames, removals) are on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_private(path: Path, flags: int) -> int:
    """Open or make a file that only its owner may read. A link in its place is an OSError (ELOOP)."""
    descriptor = os.open(path, flags | _OUR_OWN, _PRIVATE_FILE)
    try:
        os.fchmod(descriptor, _PRIVATE_FILE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_open_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that has that name now."""
    try:
        there = path.lstat()
    except OSError:
        return False
    opened = os.fstat(descriptor)
    return (opened.st_dev, opened.st_ino) == (there.st_dev, there.st_ino)


def temporary(path: Path) -> Path:
    """The name a file has until it is whole: begins with a dot, so that readers of a folder pass over it."""
    return path.with_name(f".{path.name}.tmp")


def write_all(disk: Disk, descriptor: int, data: bytes | memoryview) -> None:
    """Write to the end of `data`, through short writes. Raises OSError; what was written until then stays."""
    written = disk.write(descriptor, data)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(view):
        taken = disk.write(descriptor, view[written:])
        if taken == 0:
            raise OSError(f"the disk took {written} of {len(view)} bytes and no more")
        written += taken


def sync_file(disk: Disk, path: Path) -> None:
    """Return when the file's data is on the disk; a file that is gone by now needs nothing. Raises OSError."""
    try:
        descriptor = disk.reopen(path)
    except FileNotFoundError:
        return
    try:
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)


def write_file(disk: Disk, path: Path, data: bytes, unfinished: Path | None = None) -> None:
    """Put a whole file at `path`: temporary name (or `unfinished`) beside it, sync, rename, sync of the folder.

    Raises DiskFailed; `path` is then as it was.
    """
    unfinished = unfinished or temporary(path)
    try:
        descriptor = disk.create(unfinished)
        try:
            write_all(disk, descriptor, data)
            disk.sync(descriptor)
        finally:
            disk.close(descriptor)
        disk.rename(unfinished, path)
        disk.sync_folder(path.parent)
    except OSError as error:
        raise DiskFailed(f"{path}: cannot write: {error}") from error


def make_folder_for(path: Path) -> None:
    """Make the folder that a file named by a person is to stand in, where it is missing. Raises DiskFailed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskFailed(f"{path}: its folder cannot be made: {error.strerror or error}") from error


@contextmanager
def opened_for_people(path: Path) -> Iterator[BinaryIO]:
    """A file named by a person, to write into: whole under its name at the end, else as it was before.

    What is no file (a pipe, a device) is written as it comes. Raises DiskFailed, while it is written too.
    """
    make_folder_for(path)
    try:
        if is_there(path) and not is_file(path):
            with path.open("wb") as stream:
                yield stream
        else:
            with _replacing(path.resolve()) as stream:
                yield stream
    except OSError as error:
        raise DiskFailed(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A dot file of this process beside `path`, that takes its name and its rights when all is written."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as stream:
            if is_there(path):
                unfinished.chmod(path.stat().st_mode & 0o777)
            yield stream
            stream.flush()
            _sync_data(stream.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class DiskFile(io.RawIOBase):
    """A new file, written through the seam in large pieces: what the Parquet writers are given."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._descriptor = disk.create(path)
        self._buffer = bytearray()
        self._position = 0
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        """Yes: that is all it is."""
        return True

    def tell(self) -> int:
        """Bytes given so far."""
        return self._position

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Take all of `data`; it is written at the next full piece, or by `sync`."""
        view = memoryview(data).cast("B")
        self._buffer += view
        self._position += len(view)
        if len(self._buffer) >= _PIECE_BYTES:
            self._write_buffer()
        return len(view)

    def digest(self) -> str:
        """The sha256 of what was written, in hex."""
        return self._hash.hexdigest()

    def sync(self) -> None:
        """Return when everything is on the disk; without it, the end of the file is not even written."""
        self._write_buffer()
        self._disk.sync(self._descriptor)

    def close(self) -> None:
        """Close; closing again does nothing."""
        if not self.closed and hasattr(self, "_descriptor"):  # or it could not be created
            self._disk.close(self._descriptor)
        super().close()

    def _write_buffer(self) -> None:
        piece = bytes(self._buffer)
        self._buffer.clear()
        if piece:
            write_all(self._disk, self._descriptor, piece)
            self._hash.update(piece)
