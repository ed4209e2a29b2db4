r"""CSV and TSV: every cell exactly as the file has it.

The rules, the same for both (they differ in the delimiter):
- UTF-8, with or without a byte order mark, unless the job names another encoding; one header line with unique
  names; quotes are `"`, doubled inside a quoted cell, unless the job names another or none; a quoted cell may
  hold line ends; blank lines are no rows.
- A delimiter is never guessed: where another one would fit, that is said.
- An empty unquoted cell is null; `""` is an empty text; nothing else (NA, NULL) is null.
- A column is int64, float64 or bool only where each of its cells, written back, gives the same characters
  (`007`, `1.50`, `True` and `1e3` make the column text), so that a prompt shows what the file has.

Opening reads the file twice: once with Python's strict parser, which knows lines and sees a quote that swallows
rows, and once with Arrow's, which is fast and does not. Both must count the same rows.
"""

from __future__ import annotations

import bisect
import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
from msgspec import Struct
from msgspec.structs import replace

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.arrays import array_of
from crun_batch.load.table.source import Damage, Spans, numbered
from crun_batch.load.table.text import lines, open_unpacked, packing

_MAX_CELL_CHARACTERS = 1 << 28
_BLOCK_BYTES = 1 << 20
_SHOWN_CHARACTERS = 1 << 20
_PLAIN_FLOAT = r"^-?(0\.(0|0{0,3}[1-9]([0-9]*[1-9])?)|[1-9][0-9]*\.(0|[0-9]*[1-9]))$"
"""What Python writes for a float without an exponent, as far as 15 digits, which every double holds."""
_FLOAT_CHARACTERS = array_of([16], pa.int64())[0]
_CANDIDATES = (pa.int64(), pa.float64(), pa.bool_())


_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
_TRIED_RECORDS = 20


class CsvDialect(Struct, frozen=True):
    """How bytes are cells: one ASCII delimiter, a Python codec, a quote or None where nothing is quoted."""

    delimiter: str = ","
    encoding: str = "utf-8"
    quote: str | None = '"'
    is_given: bool = False
    """The job names the delimiter: no other one is looked for."""

    def reader(self, texts: Iterable[str], *, strict: bool = False) -> Iterator[list[str]]:
        """Python's parser over lines of text."""
        if self.quote is None:
            return csv.reader(texts, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=strict)
        return csv.reader(texts, delimiter=self.delimiter, quotechar=self.quote, strict=strict)


class CsvPart(Struct, frozen=True):
    """One CSV or TSV file; `schema` has the types that its cells allow, `read` gives text."""

    path: Path
    dialect: CsvDialect
    schema: pa.Schema
    rows: int
    longest_record_bytes: int
    from_text: bool = True
    sparse: bool = False
    damage: tuple[Damage, ...] = ()

    def read(self, columns: Sequence[str], _spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The cells of these columns as text, in order."""
        return numbered(_read(self.path, self.dialect, columns, self.longest_record_bytes), self.rows)

    def line(self, place: int) -> int | None:
        """The line, from 1, in which the row at this place of the file begins."""
        records = _Records(self.path, self.dialect)
        with _large_cells():
            for cells in self.dialect.reader(records):
                if cells and not records.header:
                    records.header = cells
                elif cells and records.rows == place:
                    return records.start
                elif cells:
                    records.rows += 1
                records.next_record()
        return None


def open_csv(path: Path, dialect: CsvDialect) -> CsvPart:
    """Checks the whole file. Raises InputError with line and row, and the column where it can be told."""
    header, rows, longest = _check(path, dialect)
    kinds = dict.fromkeys(header, _CANDIDATES)
    values = dict.fromkeys(header, 0)
    counted = 0
    for batch in _read(path, dialect, header, longest):
        counted += batch.num_rows
        for name in header:
            cells = batch.column(name)
            values[name] += len(cells) - cells.null_count
            kinds[name] = tuple(kind for kind in kinds[name] if _same_written_back(cells, kind))
    if counted != rows:
        raise InputError(Mistake(f"cannot be split into rows without doubt ({rows} or {counted})", file=str(path)))
    fields = [(name, _kind(kinds[name], values[name])) for name in header]
    return CsvPart(path, dialect, pa.schema(fields), rows, longest)


def _kind(allowed: tuple[pa.DataType, ...], values: int) -> pa.DataType:
    if not values:
        return pa.null()
    return allowed[0] if allowed else pa.string()


def _same_written_back(cells: pa.Array, kind: pa.DataType) -> bool:
    """True where no cell would read differently: 1.50 as 1.5, 1e3 as 1000.0, 007 as 7."""
    if pa.types.is_floating(kind):
        short = pc.less_equal(pc.binary_length(pc.utf8_ltrim(cells, "-")), _FLOAT_CHARACTERS)
        return bool(pc.all(pc.and_(short, pc.match_substring_regex(cells, _PLAIN_FLOAT)), min_count=0).as_py())
    try:
        written = pc.cast(pc.cast(cells, kind), pa.string())
    except pa.ArrowInvalid:
        return False
    return bool(pc.all(pc.equal(written, cells), min_count=0).as_py())


def _read(path: Path, dialect: CsvDialect, columns: Sequence[str], longest: int) -> Iterator[pa.RecordBatch]:
    with pa.input_stream(str(path), compression=packing(path)) as stream:
        yield from pv.open_csv(
            stream,
            read_options=pv.ReadOptions(block_size=max(_BLOCK_BYTES, 2 * longest), encoding=_arrow_name(dialect)),
            parse_options=pv.ParseOptions(
                delimiter=dialect.delimiter, quote_char=dialect.quote or False, newlines_in_values=True
            ),
            convert_options=pv.ConvertOptions(
                include_columns=list(columns),
                column_types=dict.fromkeys(columns, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )


def _arrow_name(dialect: CsvDialect) -> str:
    return "utf8" if _is_utf8(dialect) else dialect.encoding


def _is_utf8(dialect: CsvDialect) -> bool:
    return codecs.lookup(dialect.encoding).name in ("utf-8", "utf-8-sig")


class _Records:
    """The file's lines as text, and what is known of the record that is being read."""

    def __init__(self, path: Path, dialect: CsvDialect) -> None:
        self.path = path
        self.dialect = dialect
        self.header: list[str] = []
        self.rows = 0
        self.line = 0
        self.start = 1
        self.record: list[str] = []
        self.record_bytes = 0
        self.longest_bytes = 0

    def __iter__(self) -> Iterator[str]:
        if "\n".encode(self.dialect.encoding) != b"\n":
            yield from self._wide()
            return
        is_utf8 = _is_utf8(self.dialect)
        for raw in lines(self.path):
            self.line += 1
            try:
                text = raw.decode(self.dialect.encoding)
            except UnicodeDecodeError as error:
                self.record.append(raw[: error.start].decode(self.dialect.encoding))
                found = f"byte 0x{raw[error.start]:02x} is not {self._encoding()}; {self._other_encoding(raw)}"
                raise self.wrong(found, self.line, "".join(self.record)) from error
            self.record_bytes += len(raw) if is_utf8 else len(text.encode())
            self.record.append(text)
            yield text

    def _wide(self) -> Iterator[str]:
        """The lines of an encoding in which a line end is more than one byte."""
        with (
            open_unpacked(self.path) as file,
            io.TextIOWrapper(file, self.dialect.encoding, newline="\n") as texts,
        ):
            try:
                for text in texts:
                    self.line += 1
                    self.record_bytes += len(text.encode())
                    self.record.append(text)
                    yield text
            except UnicodeError as error:
                found = f"is not {self._encoding()} from here on, or soon after; write another input.csv.encoding"
                raise self.wrong(found, self.line + 1) from error

    def _encoding(self) -> str:
        return "UTF-8" if _is_utf8(self.dialect) else self.dialect.encoding

    def _other_encoding(self, raw: bytes) -> str:
        if not _is_utf8(self.dialect):
            return "write another input.csv.encoding"
        is_utf16 = self.line == 1 and raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        other = "utf-16" if is_utf16 else "cp1252"
        origin = "" if is_utf16 else ", which Western European spreadsheets write"
        return f"save the file as UTF-8, or name its encoding in input.csv.encoding ({other}{origin})"

    def next_record(self) -> None:
        self.longest_bytes = max(self.longest_bytes, self.record_bytes)
        self.record_bytes = 0
        self.record.clear()
        self.start = self.line + 1

    def wrong(self, message: str, line: int, until: str | None = None, key: str | None = None) -> InputError:
        """The mistake with its line and row and, given the record's text up to it, its column."""
        if until is not None:
            cells = next(self.dialect.reader(io.StringIO(until, newline="")), [""])
            number = max(1, len(cells))
            name = f" (`{self.header[number - 1]}`)" if number <= len(self.header) else ""
            message = f"column {number}{name}: {message}"
        row = self.rows if self.header else None
        return InputError(Mistake(message, file=str(self.path), line=line, row=row, key=key))


@contextmanager
def _large_cells() -> Iterator[None]:
    before = csv.field_size_limit(_MAX_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check(path: Path, dialect: CsvDialect) -> tuple[list[str], int, int]:
    """The header, the number of rows, the bytes of the longest record."""
    records = _Records(path, dialect)
    with _large_cells():
        try:
            for cells in dialect.reader(records, strict=True):
                if not cells:
                    pass
                elif not records.header:
                    records.header = _header(records, cells)
                elif len(cells) == len(records.header):
                    records.rows += 1
                else:
                    raise _separated_otherwise(path, dialect) or _ragged(records, cells)
                records.next_record()
        except csv.Error as error:
            raise _broken(records, error) from error
    if not records.header:
        raise InputError(Mistake("is empty; a header line with the column names is needed", file=str(path)))
    if len(records.header) == 1 and (otherwise := _separated_otherwise(path, dialect)):
        raise otherwise
    return records.header, records.rows, records.longest_bytes


def _separated_otherwise(path: Path, dialect: CsvDialect) -> InputError | None:
    """That another delimiter splits the first records evenly; None where none does, or the job names its own."""
    if dialect.is_given:
        return None
    for delimiter, name in _DELIMITERS.items():
        if delimiter == dialect.delimiter or not _splits_evenly(path, replace(dialect, delimiter=delimiter)):
            continue
        shown = json.dumps(delimiter)
        message = (
            f"the cells are separated by {name}, not by {_DELIMITERS[dialect.delimiter]}, it seems; write"
            f" csv: {{delimiter: {shown}}} under input (or {json.dumps(dialect.delimiter)}, where that is meant)"
        )
        return InputError(Mistake(message, file=str(path), line=1, key="input.csv.delimiter"))
    return None


def _splits_evenly(path: Path, dialect: CsvDialect) -> bool:
    """Whether the header and the first records all have the same number of cells, more than one."""
    try:
        found = islice(filter(None, dialect.reader(_Records(path, dialect), strict=True)), _TRIED_RECORDS)
        counts = [len(cells) for cells in found]
    except (csv.Error, InputError):
        return False
    return len(counts) > 1 and counts[0] > 1 and len(set(counts)) == 1


def _header(records: _Records, cells: list[str]) -> list[str]:
    if cells[0].lower().startswith("sep=") and len("".join(cells)) <= len("sep=;"):
        raise records.wrong("is a note for Excel and no header; remove this line", records.start)
    twice = [name for name, count in Counter(cells).items() if count > 1]
    if twice:
        names = ", ".join(f"`{name}`" for name in twice)
        raise records.wrong(f"the header names {names} more than once; names must be unique", records.start)
    return cells


def _ragged(records: _Records, cells: list[str]) -> InputError:
    wanted = len(records.header)
    if len(cells) > wanted:
        found = f"column {wanted + 1}: the row has {len(cells)} cells where the header has {wanted}"
    else:
        name = records.header[len(cells)]
        found = f"column {len(cells) + 1} (`{name}`): the row has {len(cells)} cells where the header has {wanted}"
    return records.wrong(f"{found}; quote cells that hold the delimiter or a line end", records.start)


def _broken(records: _Records, error: csv.Error) -> InputError:
    text = "".join(records.record)[:_SHOWN_CHARACTERS]
    if "expected after" in str(error):
        cut = bisect.bisect_left(range(len(text)), True, key=lambda end: _breaks(text[:end], records.dialect))
        return records.wrong(
            'a quoted cell goes on after its closing quote; write a quote inside a cell as ""',
            records.start,
            text[:cut],
        )
    if "unexpected end" in str(error) or "larger than" in str(error):
        return records.wrong("a quote is opened here and never closed", records.start, text)
    if "new-line character" in str(error):
        return records.wrong("a lone carriage return; end lines with LF or CR LF, or quote the cell", records.line)
    return records.wrong(str(error), records.line)


def _breaks(text: str, dialect: CsvDialect) -> bool:
    try:
        for _ in dialect.reader(io.StringIO(text, newline=""), strict=True):
            pass
    except csv.Error as error:
        return "expected after" in str(error)
    return False
