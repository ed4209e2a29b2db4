"""A workbook (.xlsx) as rows of cells, each with the kind that the file states. Knows no columns and no table.

A zip of XML, read by the standard library a few hundred kB at a time: only the texts that cells share are held.
The readers there are for it give an empty cell for an error (#N/A) and for a formula that was never calculated:
a prompt would be sent without it. Hence this one, after ECMA-376 part 1 (sections 18.2 to 18.8, 22.9.2.19).
"""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

from crun_batch.errors import InputError, Mistake

MOST_ROWS, MOST_COLUMNS = 1 << 20, 1 << 14
"""What a sheet holds in every spreadsheet program."""
_MOST_ROW_CHARACTERS = 1 << 28
_MOST_SHARED_BYTES = 1 << 31
_READ_BYTES = 1 << 18
_BROKEN = (zipfile.BadZipFile, expat.ExpatError, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError)
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
_BUILT_IN_FORMATS = {
    **dict.fromkeys((14, 15, 16, 17, *range(27, 32), *range(34, 37), *range(50, 59)), "date"),
    **dict.fromkeys((18, 19, 20, 21, 32, 33, 45, 47), "time"),
    22: "moment",
    46: "duration",
}
_NO_LETTERS = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?!h+\]|m+\]|s+\])[^\]]*\]|General|AM/PM|A/P', re.IGNORECASE)


class Cell(NamedTuple):
    """One cell with a value: its column from 0, its type and its number format's kind, its text, if it has one."""

    column: int
    type: str
    format: str | None
    text: str | None
    is_formula: bool


class SheetRow(NamedTuple):
    """A row that has cells, by its number in the sheet, from 1."""

    number: int
    cells: list[Cell]


class Sheet(NamedTuple):
    """A worksheet's name and where it is in the archive."""

    name: str
    member: str


class Workbook:
    """An open workbook. Every reading raises InputError for what is broken."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        (self._book,) = self._related("", "officeDocument").values()
        self.counts_from_1904 = False
        self.sheets = self._sheets()
        self._shared: SharedTexts | None = None
        self._formats: list[str | None] | None = None

    def rows(self, sheet: Sheet, merged: list[str]) -> Iterator[SheetRow]:
        """The rows in order; adds to `merged` the ranges of merged cells, such as A1:B2."""
        if self._shared is None:
            self._shared = SharedTexts()
            for member in self._related(self._book, "sharedStrings").values():
                self._parse(member, self._shared)
        if self._formats is None:
            styles = _Styles()
            for member in self._related(self._book, "styles").values():
                self._parse(member, styles)
            self._formats = styles.kinds()
        reader = _SheetReader(self._shared, self._formats, merged)
        for _ in self._parsing(sheet.member, reader):
            yield from reader.finished
            reader.finished.clear()

    def _sheets(self) -> list[Sheet]:
        members = self._related(self._book, "worksheet")
        found: list[tuple[str, str]] = []

        def start(name: str, attributes: dict[str, str]) -> None:
            if name == "workbookPr":
                self.counts_from_1904 = attributes.get("date1904") in ("1", "true")
            if name == "sheet":
                reference = next(value for key, value in attributes.items() if key.endswith(" id"))
                found.append((attributes["name"], reference))

        self._parse(self._book, _Started(start))
        return [Sheet(name, members[reference]) for name, reference in found if reference in members]

    def _related(self, member: str, kind: str) -> dict[str, str]:
        """Reference -> member of the archive, of the relations of this kind."""
        folder, name = posixpath.split(member)
        found: dict[str, str] = {}

        def start(name: str, attributes: dict[str, str]) -> None:
            if name == "Relationship" and attributes["Type"].endswith(f"/{kind}"):
                target = posixpath.normpath(posixpath.join("/", folder, attributes["Target"]))
                found[attributes["Id"]] = target.removeprefix("/")

        self._parse(posixpath.join(folder, "_rels", f"{name}.rels"), _Started(start))
        return found

    def _parse(self, member: str, reader: Any) -> None:
        for _ in self._parsing(member, reader):
            pass

    def _parsing(self, member: str, reader: Any) -> Iterator[None]:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = lambda name, attributes: reader.start(name.rpartition(" ")[2], attributes)
        parser.EndElementHandler = lambda name: reader.end(name.rpartition(" ")[2])
        parser.CharacterDataHandler = reader.characters
        parser.StartDoctypeDeclHandler = _refuse_doctype
        with self._archive.open(member) as file:
            for piece in iter(partial(file.read, _READ_BYTES), b""):
                parser.Parse(piece)
                yield
        parser.Parse(b"", True)
        yield


@contextmanager
def open_workbook(path: Path) -> Iterator[Workbook]:
    """The workbook, for as long as it is read. Raises InputError where it is broken or no .xlsx."""
    with path.open("rb") as file:
        start = file.read(4)
        if start == b"\xd0\xcf\x11\xe0":
            message = "is an .xls, or has a password; save it as .xlsx without one"
            raise InputError(Mistake(message, file=str(path)))
        try:
            with zipfile.ZipFile(file) as archive:
                yield Workbook(path, archive)
        except (*_BROKEN, ValueError, StopIteration) as error:
            message = f"is no whole .xlsx workbook: {error}; save or fetch it again"
            raise InputError(Mistake(message, file=str(path))) from error


def _refuse_doctype(*_: object) -> None:
    raise expat.ExpatError("it declares a document type, which no spreadsheet program writes")


class _Started:
    """Reads only what begins, and nothing between."""

    def __init__(self, start: Callable[[str, dict[str, str]], None]) -> None:
        self.start = start

    def end(self, name: str) -> None: ...
    def characters(self, text: str) -> None: ...


class SharedTexts:
    """The texts that cells refer to by number, as one block of bytes: a million of them cost their characters."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])
        self._is_text = False
        self._phonetic = 0

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        self._phonetic += name == "rPh"
        self._is_text = name == "t" and not self._phonetic

    def end(self, name: str) -> None:
        self._phonetic -= name == "rPh"
        self._is_text = False
        if name == "si":
            self._ends.append(len(self._bytes))

    def characters(self, text: str) -> None:
        if self._is_text:
            self._bytes += text.encode()
            if len(self._bytes) > _MOST_SHARED_BYTES:
                raise zipfile.BadZipFile("its texts unpack to more than 2 GB")

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self._ends) - 1:
            raise zipfile.BadZipFile(f"there is no text number {number}")
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode()


class _Styles:
    """What cells' style numbers say of dates and times."""

    def __init__(self) -> None:
        self._codes: dict[int, str] = {}
        self._numbers: list[int] = []
        self._is_cell = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "numFmt":
            self._codes[int(attributes["numFmtId"])] = attributes["formatCode"]
        elif name == "cellXfs":
            self._is_cell = True
        elif name == "xf" and self._is_cell:
            self._numbers.append(int(attributes.get("numFmtId", 0)))

    def end(self, name: str) -> None:
        self._is_cell = self._is_cell and name != "cellXfs"

    def characters(self, text: str) -> None: ...

    def kinds(self) -> list[str | None]:
        return [
            format_kind(self._codes[number]) if number in self._codes else _BUILT_IN_FORMATS.get(number)
            for number in self._numbers
        ]


def format_kind(code: str) -> str | None:
    """What a number format shows: date, time, moment (both), duration, or None for a number."""
    letters = _NO_LETTERS.sub("", code).split(";")[0].casefold()
    if "[" in letters:
        return "duration"
    has_time = "h" in letters or "s" in letters
    has_date = "y" in letters or "d" in letters or ("m" in letters and not has_time)
    return {(True, True): "moment", (True, False): "date", (False, True): "time"}.get((has_date, has_time))


class _SheetReader:
    """Rows as they come; `finished` are those that are whole."""

    def __init__(self, shared: SharedTexts, formats: list[str | None], merged: list[str]) -> None:
        self.finished: list[SheetRow] = []
        self._shared, self._formats, self._merged = shared, formats, merged
        self._row = 0
        self._cells: list[Cell] = []
        self._cell: dict[str, str] = {}
        self._column = -1
        self._texts: list[str] = []
        self._is_text = self._has_value = self._is_formula = False
        self._phonetic = 0
        self._characters = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "c":
            self._cell, self._texts = attributes, []
            self._has_value = self._is_formula = False
            place = attributes.get("r")
            self._column = self._column + 1 if place is None else column_number(place)
        elif name == "row":
            self._row = int(attributes.get("r", self._row + 1))
            self._cells, self._column, self._characters = [], -1, 0
        elif name == "mergeCell":
            self._merged.append(attributes["ref"])
        elif name == "f":
            self._is_formula = True
        self._phonetic += name == "rPh"
        self._is_text = name == "v" or (name == "t" and not self._phonetic)
        self._has_value = self._has_value or self._is_text

    def end(self, name: str) -> None:
        self._is_text = False
        self._phonetic -= name == "rPh"
        if name == "c" and (self._has_value or self._is_formula):
            self._cells.append(self._finished())
        elif name == "row" and self._cells:
            if self._row > MOST_ROWS or len(self._cells) > MOST_COLUMNS:
                raise zipfile.BadZipFile(f"its sheet has more than {MOST_ROWS:,} rows or {MOST_COLUMNS:,} columns")
            self.finished.append(SheetRow(self._row, self._cells))

    def characters(self, text: str) -> None:
        if self._is_text:
            self._texts.append(text)
            self._characters += len(text)
            if self._characters > _MOST_ROW_CHARACTERS:
                raise zipfile.BadZipFile(f"row {self._row} is longer than {_MOST_ROW_CHARACTERS >> 20} MB")

    def _finished(self) -> Cell:
        kind = self._cell.get("t", "n")
        text = "".join(self._texts) if self._has_value else None
        if kind == "s" and text is not None:
            kind, text = "text", self._shared[int(text)]
        if kind in ("inlineStr", "str"):
            kind = "text"
        if kind == "text" and text is not None and "_x" in text:
            text = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
        style = int(self._cell.get("s", 0))
        shown_as = self._formats[style] if style < len(self._formats) else None
        return Cell(self._column, kind, shown_as, text, self._is_formula)


def column_number(place: str) -> int:
    """The column, from 0, of a place such as BC12."""
    number = 0
    for letter in place:
        if letter < "A":
            break
        number = number * 26 + ord(letter) - 64
    return number - 1


def column_letters(number: int) -> str:
    """A, B, ..., AA for the columns from 0."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(65 + rest) + letters
    return letters
