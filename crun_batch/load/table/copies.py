"""Files that lie elsewhere: each is copied once, at the start, and read from its copy like any other file.

So every format is read from everywhere in the same way, as often as needed and as one moment's view; a table's
fingerprint is over the bytes of its files, wherever they lie. A copy is in the folder for temporary files, its
owner's alone, and goes with the process. What is wrong in a copy is told by its address.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
from msgspec import Struct
from msgspec.structs import replace

from crun_batch.errors import DiskFailed, InputError, Mistake
from crun_batch.load.table.source import Damage, Part, Spans

T = TypeVar("T")
KEY = "input.table"
ROOM_LEFT_BYTES = 1 << 28
"""What a copy leaves free on its disk."""
AT_ONCE = 8
_ODD = re.compile(r"[^\w.=-]+")
_LONGEST_NAME = 120


class RemoteFile(NamedTuple):
    """A file elsewhere: its address, without secrets, and what copies it to a path."""

    address: str
    copy_to: Callable[[Path], None]


class CopyFolder:
    """A folder for copies: gone with the object, or with the process."""

    def __init__(self) -> None:
        self.path = Path(_kept(lambda: tempfile.mkdtemp(prefix="crun-batch-")))
        self._removal = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        self._numbers = count(1)

    def copies(self, files: Sequence[RemoteFile]) -> Iterator[tuple[str, Path]]:
        """The address of each file and its copy, in their order. Raises InputError, DiskFailed.

        Several are on their way at one time: with many small ones nearly all of it is waiting.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from zip((file.address for file in files), pool.map(self.copy, files), strict=True)

    def copy(self, file: RemoteFile) -> Path:
        """A copy of the file, whose name ends as the file's does. Raises InputError, DiskFailed."""
        name = _ODD.sub("-", file.address.partition("?")[0].rsplit("/", 1)[-1])[-_LONGEST_NAME:]
        path = self.path / str(next(self._numbers)) / name
        _kept(path.parent.mkdir)
        file.copy_to(path)
        return path


class CopiedPart(Struct, frozen=True):
    """A file that was copied: read from its copy, called by its address."""

    part: Part
    address: str
    folder: CopyFolder
    """Lives as long as the part."""

    @property
    def path(self) -> Path | None:
        """Where the copy is."""
        return self.part.path

    @property
    def name(self) -> str:
        """What mistakes call it."""
        return self.address

    @property
    def schema(self) -> pa.Schema:
        """The copy's columns."""
        return self.part.schema

    @property
    def rows(self) -> int:
        """The copy's rows."""
        return self.part.rows

    @property
    def from_text(self) -> bool:
        """Whether the types are only what cells of text would allow."""
        return self.part.from_text

    @property
    def sparse(self) -> bool:
        """Whether a missing column is null."""
        return self.part.sparse

    @property
    def damage(self) -> tuple[Damage, ...]:
        """The cells without a value."""
        return self.part.damage

    def line(self, place: int) -> int | None:
        """The line of the file in which a row stands."""
        return self.part.line(place)

    def read(self, columns: Sequence[str], spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The copy's batches."""
        try:
            yield from self.part.read(columns, spans)
        except InputError as error:
            raise called_by(self.address, error) from None


def called_by(address: str, error: InputError) -> InputError:
    """The mistakes of a copy, told of the file that was copied."""
    return InputError([replace(one, file=address) for one in error.mistakes], advice=error.advice)


def copied_pieces(pieces: Iterator[bytes], path: Path, *, mode: str = "wb") -> int:
    """Writes the pieces to a file; how many bytes they were.

    Raises DiskFailed where that fails, or room runs out, and what `pieces` raises: the two must not be mixed up.
    """
    written = 0
    with _kept(lambda: path.open(mode)) as file:
        for piece in pieces:
            if written >> 26 != (written + len(piece)) >> 26:
                ensure_room(path.parent, 0)
            _kept(lambda piece=piece: file.write(piece))  # type: ignore[misc]
            written += len(piece)
        _kept(file.flush)
    return written


def _kept(step: Callable[[], T]) -> T:
    """What a step on our own disk gives. Raises DiskFailed where it fails."""
    try:
        return step()
    except OSError as error:
        raise _no_room(error) from error


def ensure_room(folder: Path, size_bytes: int) -> None:
    """Raises DiskFailed where a file of that size does not fit."""
    free = shutil.disk_usage(folder).free
    if free - size_bytes < ROOM_LEFT_BYTES:
        needed = f"{size_bytes / 2**20:,.0f} MB" if size_bytes else "more"
        raise DiskFailed(
            f"a copy of the table needs {needed}, and {folder} has {free / 2**20:,.0f} MB free", advice=_ADVICE
        )


def is_pattern(path: str) -> bool:
    """Whether it names several files by `*`, `?` or `[`."""
    return any(character in path for character in "*?[")


def base_of(pattern: str) -> str:
    """The folder below which everything is that a pattern means, without a slash at its end."""
    parts = pattern.split("/")
    first = next((number for number, part in enumerate(parts) if is_pattern(part)), len(parts) - 1)
    return "/".join(parts[:first])


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern means this path, folder by folder; `**` stands for any number of them."""
    return _match(path.split("/"), pattern.split("/"))


def _match(path: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_match(path[skipped:], pattern[1:]) for skipped in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _match(path[1:], pattern[1:])


def mistake(says: str, address: str) -> InputError:
    """A mistake about a file elsewhere."""
    return InputError(Mistake(says, file=address, key=KEY))


_ADVICE = "make room in the folder for temporary files, or set TMPDIR to another"


def _no_room(error: OSError) -> DiskFailed:
    return DiskFailed(f"a copy of the table could not be kept: {error}", advice=_ADVICE)
