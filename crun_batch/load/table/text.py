"""The lines of a text file: compressed or not, without a byte order mark. Reads the disk; knows no format."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, cast

from crun_batch.errors import InputError, Mistake


def open_bytes(path: Path) -> AbstractContextManager[BinaryIO]:
    """The file's bytes, unpacked where its name ends in .gz."""
    if path.name.lower().endswith(".gz"):
        return cast("AbstractContextManager[BinaryIO]", gzip.open(path, "rb"))
    return path.open("rb")


def lines(path: Path) -> Iterator[bytes]:
    r"""The lines with their `\n`, one at a time. Raises InputError for a file that is cut short or no gzip."""
    try:
        with open_bytes(path) as file:
            first = next(iter(file), b"")
            yield first.removeprefix(codecs.BOM_UTF8)
            yield from file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(Mistake(f"is not a whole gzip file: {error}", file=str(path))) from error
