"""JSON arrays of objects, element by element: a file of any size, a few MB at a time.

Owns where an element begins and ends, and what is wrong around it. What is in an element is JSONL's matter: the
very characters go there.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.json_damage import column_before
from crun_batch.load.table.text import MOST_RECORD_BYTES, open_unpacked, too_long

_PIECE_BYTES = 1 << 20
_BLANKS = re.compile(r"[ \t\n\r]*")
_UNFINISHED = 16
"""A mistake so near to the end of what has been read may be none: a word or an escape that goes on."""
_scan = json.JSONDecoder().raw_decode


def elements(path: Path) -> Iterator[tuple[int, bytes]]:
    """(its first line from 1, its text) of every element. Raises InputError with the place of what is wrong."""
    with open_unpacked(path) as file:
        array = _Array(path, iter(partial(file.read, _PIECE_BYTES), b""))
        array.begin()
        while array.has_more():
            line, text = array.element()
            yield line, text.encode()


class _Array:
    """What has been read of the file and not yet used; `at` is the place in it, `line` that place's line."""

    def __init__(self, path: Path, pieces: Iterator[bytes]) -> None:
        self._path = path
        self._pieces = pieces
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._line = 1
        self._rows = 0
        self._has_ended = False

    def begin(self) -> None:
        first = self._next()
        if first == "[":
            self._at += 1
        elif not first:
            raise self._wrong("is empty; an array of objects is needed", where=False)
        else:
            raise self._wrong(self._no_array(first), where=False)

    def has_more(self) -> bool:
        """Passes the comma before the next element or, False, the array's end."""
        mark = self._next()
        if mark == "]":
            self._at += 1
            if self._next():
                raise self._wrong("goes on after the end of its array; a file holds one array")
            return False
        if self._rows:
            if mark != ",":
                raise self._ended() if not mark else self._wrong("a comma is missing between two elements")
            self._at += 1
            if self._next() == "]":
                raise self._wrong("a comma stands before the array's end; remove it")
        if not self._next():
            raise self._ended()
        return True

    def element(self) -> tuple[int, str]:
        line = self._line
        end = self._end()
        text = self._text[self._at : end]
        self._line += text.count("\n")
        self._at = end
        self._rows += 1
        return line, text

    def _end(self) -> int:
        while True:
            try:
                return _scan(self._text, self._at)[1]
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text)
                if (is_cut or error.pos >= len(self._text) - _UNFINISHED) and self._read_on():
                    continue
                raise self._ended() if is_cut else self._invalid(error) from error
            except RecursionError as error:
                raise self._wrong("is not valid JSON: it is nested too deeply") from error

    def _next(self) -> str:
        """The next character that is no blank, which stays; "" at the end of the file."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            assert blanks is not None
            self._line += self._text.count("\n", self._at, blanks.end())
            self._at = blanks.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def _read_on(self) -> bool:
        """Reads as much again as is waiting, a piece at least; False where the file has ended."""
        if self._has_ended:
            return False  # the text stays as it is: the place of a mistake in it has been told already
        waiting = self._text[self._at :]
        if len(waiting) >= MOST_RECORD_BYTES:
            raise too_long(self._path, "the element", self._line)
        read, wanted = [], max(_PIECE_BYTES, len(waiting))
        while wanted > 0 and not self._has_ended:
            piece = next(self._pieces, b"")
            self._has_ended = not piece
            read.append(self._decoded(piece, waiting))
            wanted -= len(piece)
        self._text, self._at = waiting + "".join(read), 0
        return True

    def _decoded(self, piece: bytes, waiting: str) -> str:
        try:
            return self._decode.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            line = self._line + waiting.count("\n") + error.object[: error.start].count(b"\n")
            message = f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"
            raise InputError(Mistake(message, file=str(self._path), line=line)) from error

    def _no_array(self, first: str) -> str:
        if first != "{":
            return "must be an array of objects: [{...}, {...}]"
        try:
            self._at = self._end()
            has_second = self._next() == "{"
        except InputError:
            has_second = False
        if has_second:
            return "has one object after another and no array; as one object per line its name ends in .jsonl"
        return 'is one object, not an array of objects; write [{...}, {...}] (in pandas: orient="records")'

    def _ended(self) -> InputError:
        return self._wrong("ends within its array: the file is cut short; fetch or write it again")

    def _invalid(self, error: json.JSONDecodeError) -> InputError:
        before = self._text[self._at : error.pos]
        column = column_before(before.encode())
        where = "" if column is None else f"column `{column}`: "
        return self._wrong(f"{where}is not valid JSON: {error.msg}", lines_on=before.count("\n"))

    def _wrong(self, message: str, *, lines_on: int = 0, where: bool = True) -> InputError:
        line, row = (self._line + lines_on, self._rows) if where else (None, None)
        return InputError(Mistake(message, file=str(self._path), line=line, row=row))
