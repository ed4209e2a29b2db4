"""A sheet of a workbook as a table: which row is the header, what a column's cells have in common.

The rules:
- The first row with a cell is the header; rows without any value are no rows, as blank lines of a CSV are none.
- A column has one kind of cell. Whole numbers only are int64 (a sheet does not tell 5 from 5.0), dates only are
  date32, dates with times are timestamps without a zone. No cell is null, an empty text is an empty text.
- Of a formula, the value that was saved with it is taken. An error (#N/A) and a formula without a saved value have
  none: such a row can only be left out. Merged cells are refused: all but the first have no value.
- Hidden rows and columns are rows and columns. Without a name of a sheet, a workbook must have just one.

The sheet is read once, at the opening; its cells are kept as texts in a temporary file and take the type of their
column as they are read.
"""

from __future__ import annotations

import datetime
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.arrays import array_of
from crun_batch.load.table.arrow_reader import ArrowPart, mapped, temporary_file
from crun_batch.load.table.json_damage import MOST_DAMAGE
from crun_batch.load.table.source import BATCH_ROWS, Damage, Spans
from crun_batch.load.table.workbook import (
    Cell,
    Sheet,
    SheetRow,
    Workbook,
    column_letters,
    column_number,
    open_workbook,
)

_SHOWN = 5
_EXACT_IN_FLOAT = 2**53
_DAY_MICROSECONDS = 86_400_000_000
_MOMENT = pa.timestamp("us")
_TYPES = (
    (frozenset[str](), pa.null()),
    (frozenset({"text"}), pa.string()),
    (frozenset({"true or false"}), pa.bool_()),
    (frozenset({"whole number", "long number"}), pa.int64()),
    (frozenset({"whole number", "number"}), pa.float64()),
    (frozenset({"date"}), pa.date32()),
    (frozenset({"date", "date with a time"}), _MOMENT),
    (frozenset({"time of day"}), pa.time64("us")),
    (frozenset({"duration"}), pa.duration("us")),
)
"""(kinds that a column may have together, its type)."""


class _NoValue(Exception):
    """Why a cell that is not empty has no value."""


class XlsxPart(Struct, frozen=True):
    """One sheet. `cells` are its rows as texts, `numbers` their row numbers in the sheet."""

    path: Path
    cells: ArrowPart
    numbers: array[int]
    schema: pa.Schema
    damage: tuple[Damage, ...]
    from_text: bool = False
    sparse: bool = False

    @property
    def rows(self) -> int:
        """The number of rows below the header that have a value."""
        return self.cells.rows

    def line(self, place: int) -> int | None:
        """The number of the row in its sheet, from 1."""
        return self.numbers[place]

    def read(self, columns: Sequence[str], spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]:
        """These columns in their types, in order."""
        for place, batch in self.cells.read(columns, spans):
            fields = [self.schema.field(name) for name in columns]
            arrays = [_typed(batch.column(field.name), field.type) for field in fields]
            yield place, pa.RecordBatch.from_arrays(arrays, names=list(columns))


def open_xlsx(path: Path, sheet: str | None) -> XlsxPart:
    """Reads the whole sheet. Raises InputError with the cells that are in the way."""
    merged: list[str] = []
    with open_workbook(path) as workbook, temporary_file() as kept:
        rows = workbook.rows(_chosen(path, workbook, sheet), merged)
        table = _Table(path, next(rows, None), counts_from_1904=workbook.counts_from_1904)
        schema = pa.schema([(name, pa.string()) for name in table.names])
        with pa.ipc.new_file(str(kept), schema) as writer:
            while batch := list(islice(table.values(rows), BATCH_ROWS)):
                arrays = [array_of(column, pa.string()) for column in zip(*batch, strict=True)]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        table.refuse_merged(merged)
        return XlsxPart(path, mapped(kept), table.numbers, table.schema(), tuple(table.damage))


def _chosen(path: Path, workbook: Workbook, name: str | None) -> Sheet:
    names = ", ".join(f"`{sheet.name}`" for sheet in workbook.sheets)
    found = [sheet for sheet in workbook.sheets if name is None or sheet.name == name]
    if len(found) == 1:
        return found[0]
    message = f"has no sheet `{name}`; its sheets are {names}" if name else f"has the sheets {names}; name one"
    raise InputError(Mistake(message, file=str(path), key="input.sheet"))


class _Table:
    """The columns of a sheet, and what is found in them."""

    def __init__(self, path: Path, header: SheetRow | None, *, counts_from_1904: bool) -> None:
        self._path = path
        if header is None:
            raise InputError(Mistake("has no cells in its sheet; a header row is needed", file=str(path)))
        self._header = header
        named = [cell for cell in header.cells if cell.text]
        self.names = [str(cell.text) for cell in named]
        self._places = {cell.column: number for number, cell in enumerate(named)}
        twice = [f"`{name}`" for name, count in Counter(self.names).items() if count > 1]
        if twice:
            message = f"the header names {', '.join(twice)} more than once; names must be unique"
            raise InputError(Mistake(message, file=str(path), line=header.number))
        self._kinds: list[dict[str, int]] = [{} for _ in named]
        self._day_zero = datetime.datetime(1904, 1, 1) if counts_from_1904 else datetime.datetime(1899, 12, 30)
        self.numbers = array("I")
        self.damage: list[Damage] = []

    def values(self, rows: Iterator[SheetRow]) -> Iterator[list[str | None]]:
        """The rows' cells as texts."""
        for row in rows:
            values: list[str | None] = [None] * len(self.names)
            damaged = len(self.damage)
            for cell in row.cells:
                self._take(cell, row.number, values)
            if len(self.damage) > damaged or any(value is not None for value in values):
                self.numbers.append(row.number)
                yield values

    def _take(self, cell: Cell, line: int, values: list[str | None]) -> None:
        number = self._places.get(cell.column)
        if number is None:
            if cell.text is not None:
                raise self._nameless(cell, line)
            return
        try:
            found = _value(cell, self._day_zero)
        except _NoValue as reason:
            if len(self.damage) == MOST_DAMAGE:
                raise InputError(Mistake("has too many cells without a value", file=str(self._path))) from None
            message = f"cell {column_letters(cell.column)}{line} {reason}"
            self.damage.append(Damage(len(self.numbers), line, self.names[number], message))
            return
        if found is not None:
            kind, values[number] = found
            self._kinds[number].setdefault(kind, line)

    def _nameless(self, cell: Cell, line: int) -> InputError:
        letters = column_letters(cell.column)
        message = (
            f"cell {letters}{line} has a value, and {letters}{self._header.number} has no name for the column; the"
            " first row with a cell must be the header"
        )
        return InputError(Mistake(message, file=str(self._path), line=line))

    def schema(self) -> pa.Schema:
        """The columns' types. Raises InputError for every column of several kinds."""
        fields, mistakes = [], []
        for name, kinds in zip(self.names, self._kinds, strict=True):
            kind = next((kind for allowed, kind in _TYPES if kinds.keys() <= allowed), None)
            if kind is None:
                mistakes.append(self._mixed(name, kinds))
            else:
                fields.append((name, kind))
        if mistakes:
            raise InputError(mistakes)
        return pa.schema(fields)

    def _mixed(self, name: str, kinds: dict[str, int]) -> Mistake:
        (first, before), (line, found), *_ = sorted((line, kind) for kind, line in kinds.items())
        message = (
            f"column `{name}` has a {found} here and a {before} in row {first} of the sheet; use one kind in the"
            " whole column, such as texts"
        )
        return Mistake(message, file=str(self._path), line=line)

    def refuse_merged(self, merged: Sequence[str]) -> None:
        """Raises InputError where cells of the table are merged."""
        mistakes = []
        for area in merged:
            first, _, last = area.partition(":")
            columns = range(column_number(first), column_number(last or first) + 1)
            line, end = (int("".join(filter(str.isdigit, place))) for place in (first, last or first))
            if end >= self._header.number and any(column in self._places for column in columns):
                message = (
                    f"the cells {area} are merged, so only the first has a value; unmerge and fill each of them"
                )
                mistakes.append(Mistake(message, file=str(self._path), line=line))
        if mistakes:
            raise InputError(mistakes[:_SHOWN])


def _value(cell: Cell, day_zero: datetime.datetime) -> tuple[str, str] | None:
    """(kind, text) of a cell; None where it is empty. Times are microseconds. Raises _NoValue."""
    if cell.type == "e":
        raise _NoValue(f"is the error {cell.text}; correct it, or leave the row out by input.where")
    if cell.text is None or (not cell.text and cell.type != "text"):
        if cell.is_formula:
            raise _NoValue("is a formula without a saved value; open and save the file in a spreadsheet program")
        return None
    if cell.type == "text":
        return "text", cell.text
    if cell.type == "b":
        return "true or false", "true" if cell.text.strip() == "1" else "false"
    try:
        if cell.type == "d":
            return _moment(datetime.datetime.fromisoformat(cell.text).replace(tzinfo=None), cell.format)
        return _serial(cell.text, cell.format, day_zero) if cell.format else _number(cell.text)
    except (ValueError, OverflowError) as error:
        raise _NoValue(f"holds {cell.text[:40]}, which is no {cell.format or 'number'}; correct it") from error


def _number(text: str) -> tuple[str, str]:
    try:
        whole = int(text)
    except ValueError:
        number = float(text)
        if number != number or number in (float("inf"), float("-inf")):
            raise
        if not number.is_integer() or abs(number) > _EXACT_IN_FLOAT:
            return "number", repr(number)
        whole = int(number)
    if abs(whole) <= _EXACT_IN_FLOAT:
        return "whole number", str(whole)
    return ("long number", str(whole)) if -(2**63) <= whole < 2**63 else ("number", repr(float(whole)))


def _serial(text: str, shown_as: str, day_zero: datetime.datetime) -> tuple[str, str]:
    """A count of days, to the millisecond: more is not in it."""
    days = float(text)
    microseconds = round(days * 86_400_000) * 1_000
    if shown_as == "duration":
        return "duration", str(microseconds)
    if days < 0:
        raise ValueError("before the first day")
    if shown_as == "time" and microseconds < _DAY_MICROSECONDS:
        return "time of day", str(microseconds)
    if day_zero.year < 1900 and days < 61:
        if days >= 60:
            raise ValueError("29 February 1900, which never was")
        microseconds += _DAY_MICROSECONDS
    return _moment(day_zero + datetime.timedelta(microseconds=microseconds), shown_as)


def _moment(moment: datetime.datetime, shown_as: str | None) -> tuple[str, str]:
    since = moment - datetime.datetime(1970, 1, 1)
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    is_date = shown_as != "moment" and not microseconds % _DAY_MICROSECONDS
    return "date" if is_date else "date with a time", str(microseconds)


_FROM_TEXT: dict[pa.DataType, Callable[[pa.Array], pa.Array]] = {
    pa.string(): lambda texts: texts,
    pa.null(): lambda texts: pa.nulls(len(texts)),
    pa.date32(): lambda texts: pc.cast(pc.cast(pc.cast(texts, pa.int64()), _MOMENT), pa.date32()),
    **{
        kind: lambda texts, kind=kind: pc.cast(pc.cast(texts, pa.int64()), kind)  # type: ignore[misc]
        for kind in (_MOMENT, pa.time64("us"), pa.duration("us"))
    },
    **{
        kind: lambda texts, kind=kind: pc.cast(texts, kind)  # type: ignore[misc]
        for kind in (pa.bool_(), pa.int64(), pa.float64())
    },
}


def _typed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    return _FROM_TEXT[kind](texts)
