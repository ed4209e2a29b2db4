r"""CSV and TSV: every cell exactly as the file has it.

The rules, the same for both (they differ in the delimiter):
- UTF-8, with or without a byte order mark; one header line with unique names; quotes are `"`, doubled inside
  a quoted cell; a quoted cell may hold line ends; blank lines are no rows.
- An empty unquoted cell is null; `""` is an empty text; nothing else (NA, NULL) is null.
- A column is int64, float64 or bool only where each of its cells, written back, gives the same characters
  (`007`, `1.50`, `True` and `1e3` make the column text), so that a prompt shows what the file has.

Opening reads the file twice: once with Python's strict parser, which knows lines and sees a quote that swallows
rows, and once with Arrow's, which is fast and does not. Both must count the same rows.
"""

from __future__ import annotations

import bisect
import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.source import Spans, numbered
from crun_batch.load.table.text import lines

_MAX_CELL_CHARACTERS = 1 << 28
_BLOCK_BYTES = 1 << 20
_SHOWN_CHARACTERS = 1 << 20
_PLAIN_FLOAT = r"^-?(0\.(0|0{0,3}[1-9]([0-9]*[1-9])?)|[1-9][0-9]*\.(0|[0-9]*[1-9]))$"
"""What Python writes for a float without an exponent, as far as 15 digits, which every double holds."""
_FLOAT_CHARACTERS = 16
_CANDIDATES = (pa.int64(), pa.float64(), pa.bool_())


class CsvPart(Struct, frozen=True):
    """One CSV or TSV file; `schema` has the types that its cells allow, `read` gives text."""

    path: Path
    delimiter: str
    schema: pa.Schema
    rows: int
    longest_record_bytes: int
    from_text: bool = True
    sparse: bool = False

    def read(self, columns: Sequence[str], _spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The cells of these columns as text, in order."""
        return numbered(_read(self.path, self.delimiter, columns, self.longest_record_bytes), self.rows)


def open_csv(path: Path, delimiter: str = ",") -> CsvPart:
    """Checks the whole file. Raises InputError with the line, and the column where it can be told."""
    header, rows, longest = _check(path, delimiter)
    kinds = dict.fromkeys(header, _CANDIDATES)
    values = dict.fromkeys(header, 0)
    counted = 0
    for batch in _read(path, delimiter, header, longest):
        counted += batch.num_rows
        for name in header:
            cells = batch.column(name)
            values[name] += len(cells) - cells.null_count
            kinds[name] = tuple(kind for kind in kinds[name] if _same_written_back(cells, kind))
    if counted != rows:
        raise InputError(Mistake(f"cannot be split into rows without doubt ({rows} or {counted})", file=str(path)))
    fields = [(name, _kind(kinds[name], values[name])) for name in header]
    return CsvPart(path, delimiter, pa.schema(fields), rows, longest)


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


def _read(path: Path, delimiter: str, columns: Sequence[str], longest: int) -> Iterator[pa.RecordBatch]:
    with pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None) as stream:
        yield from pv.open_csv(
            stream,
            read_options=pv.ReadOptions(block_size=max(_BLOCK_BYTES, 2 * longest)),
            parse_options=pv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pv.ConvertOptions(
                include_columns=list(columns),
                column_types=dict.fromkeys(columns, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )


class _Records:
    """The file's lines as text, and what is known of the record that is being read."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self.path = path
        self.delimiter = delimiter
        self.header: list[str] = []
        self.line = 0
        self.start = 1
        self.record: list[str] = []
        self.record_bytes = 0
        self.longest_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for raw in lines(self.path):
            self.line += 1
            self.record_bytes += len(raw)
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                self.record.append(raw[: error.start].decode())
                found = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
                raise self.wrong(found, self.line, "".join(self.record)) from error
            self.record.append(text)
            yield text

    def next_record(self) -> None:
        self.longest_bytes = max(self.longest_bytes, self.record_bytes)
        self.record_bytes = 0
        self.record.clear()
        self.start = self.line + 1

    def wrong(self, message: str, line: int, until: str | None = None) -> InputError:
        """The mistake with its line and, given the record's text up to it, its column."""
        if until is not None:
            cells = next(csv.reader(io.StringIO(until, newline=""), delimiter=self.delimiter), [""])
            number = max(1, len(cells))
            name = f" (`{self.header[number - 1]}`)" if number <= len(self.header) else ""
            message = f"column {number}{name}: {message}"
        return InputError(Mistake(message, file=str(self.path), line=line))


@contextmanager
def _large_cells() -> Iterator[None]:
    before = csv.field_size_limit(_MAX_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check(path: Path, delimiter: str) -> tuple[list[str], int, int]:
    """The header, the number of rows, the bytes of the longest record."""
    records = _Records(path, delimiter)
    rows = 0
    with _large_cells():
        try:
            for cells in csv.reader(iter(records), delimiter=delimiter, strict=True):
                if not cells:
                    pass
                elif not records.header:
                    records.header = _header(records, cells)
                elif len(cells) == len(records.header):
                    rows += 1
                else:
                    raise _ragged(records, cells)
                records.next_record()
        except csv.Error as error:
            raise _broken(records, error) from error
    if not records.header:
        raise InputError(Mistake("is empty; a header line with the column names is needed", file=str(path)))
    return records.header, rows, records.longest_bytes


def _header(records: _Records, cells: list[str]) -> list[str]:
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
        cut = bisect.bisect_left(range(len(text)), True, key=lambda end: _breaks(text[:end], records.delimiter))
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


def _breaks(text: str, delimiter: str) -> bool:
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            pass
    except csv.Error as error:
        return "expected after" in str(error)
    return False
