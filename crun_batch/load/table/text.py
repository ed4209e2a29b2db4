"""The bytes of a text file: packed or not, without a byte order mark, line by line. Knows no format.

What is packed is unpacked as it is read, a little at a time: how much a file becomes is no danger, only how long
one of its lines is, and that has a bound.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from crun_batch.errors import InputError, Mistake

MOST_RECORD_BYTES = 1 << 28
"""The longest line, and the longest element of an array, that is read."""
PACKINGS = {".gz": "gzip", ".zst": "zstd"}
"""Suffix of a packed file -> the name of its packing."""
_READ_BYTES = 1 << 18


def packing(path: Path) -> str | None:
    """How the file is packed, by its last suffix."""
    return PACKINGS.get(path.suffix.lower())


def too_long(path: Path, what: str, line: int) -> InputError:
    """A line or an element over the bound, which no prompt has."""
    message = f"{what} is longer than {MOST_RECORD_BYTES >> 20} MB, so this is no table of prompts"
    return InputError(Mistake(message, file=str(path), line=line))


@contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked. Raises InputError where a packed file is cut short or not what its name says."""
    packed = packing(path)
    try:
        with _OPEN[packed](path) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _not_whole(path, packed, error) from error
    except OSError as error:
        if packed is None or error.errno is not None:
            raise
        raise _not_whole(path, packed, error) from error


def _open_zstd(path: Path) -> BinaryIO:
    return cast("BinaryIO", io.BufferedReader(pa.input_stream(str(path), compression="zstd"), _READ_BYTES))


_OPEN: dict[str | None, Callable[[Path], BinaryIO]] = {
    None: lambda path: path.open("rb"),
    "gzip": lambda path: cast("BinaryIO", gzip.GzipFile(path, "rb")),
    "zstd": _open_zstd,
}


def _not_whole(path: Path, packed: str | None, error: Exception) -> InputError:
    return InputError(Mistake(f"is not a whole {packed} file: {error}; fetch or write it again", file=str(path)))


def lines(path: Path) -> Iterator[bytes]:
    r"""The lines with their `\n`, one at a time. Raises InputError as `open_unpacked`, and for an endless line."""
    with open_unpacked(path) as file:
        each_line = iter(partial(file.readline, MOST_RECORD_BYTES), b"")
        for number, line in enumerate(each_line, 1):
            if len(line) == MOST_RECORD_BYTES:
                raise too_long(path, "the line", number)
            yield line if number > 1 else line.removeprefix(codecs.BOM_UTF8)
