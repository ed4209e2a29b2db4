"""Paths and globs to parts: finds the files of a table and opens each in its format.

Reads the disk. Owns the list of formats and the readers of Parquet and Arrow; the text formats have their own
modules.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from msgspec.structs import replace

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.arrow_reader import open_arrow
from crun_batch.load.table.csv_reader import CsvDialect, open_csv
from crun_batch.load.table.jsonl_reader import open_json_array, open_jsonl
from crun_batch.load.table.source import (
    BATCH_ROWS,
    Damage,
    Part,
    Source,
    Spans,
    Stamp,
    numbered,
    source_of,
    stamp_of,
)
from crun_batch.load.table.text import PACKINGS
from crun_batch.load.table.types import plain_schema
from crun_batch.paths import is_file, is_folder

KEY = "input.table"
_READ_BUFFER_BYTES = 1 << 20
_BATCH_BYTES = 8 << 20
_LITTLE = 8
"""Rows of a row group are few when so many times as many are still fewer than it has."""
_LONG_BYTES = 64 << 20
_SLICES_AT_ONCE = 2
_COMPRESSIONS = {"UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD"}
_PLAIN_TYPES = {pa.string(), pa.large_string(), pa.bool_(), pa.float32(), pa.float64(), pa.date32()}


class ParquetPart(Struct, frozen=True):
    """One Parquet file, read by pages: a row group need not fit into memory."""

    path: Path
    schema: pa.Schema
    rows: int
    from_text: bool = False
    sparse: bool = False
    damage: tuple[Damage, ...] = ()

    def read(self, columns: Sequence[str], spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]:
        """These columns, in order, in batches of about 8 MB at most, as far as row groups have what is needed."""
        with pq.ParquetFile(self.path, buffer_size=_READ_BUFFER_BYTES, pre_buffer=False) as file:
            first = 0
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                needed = spans(first, first + rows)
                is_little = sum(end - start for start, end in needed) * _LITTLE < rows
                if is_little and _is_long(file, number, columns) and _is_plain(file, number, columns):
                    yield from self._slices(columns, needed, _rows_at_once(file, number, columns))
                elif needed:
                    batches = numbered(_row_group(file, number, columns), rows)
                    yield from _up_to(needed[-1][1], first, batches)
                first += rows

    def line(self, _place: int) -> int | None:
        """None: there are no lines."""
        return None

    def _slices(
        self, columns: Sequence[str], spans: Sequence[tuple[int, int]], at_once: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """These rows alone: polars passes over the pages before them at a tenth of the cost of reading them."""
        import polars as pl  # loaded for large tables only

        scan = pl.scan_parquet(self.path, glob=False, hive_partitioning=False).select(columns)
        places = [
            (place, min(at_once, end - place)) for start, end in spans for place in range(start, end, at_once)
        ]

        def read(place: int, rows: int) -> pa.Table:
            try:
                return scan.slice(place, rows).collect().to_arrow()
            except pl.exceptions.PolarsError as error:
                raise pa.ArrowInvalid(str(error)) from error

        with ThreadPoolExecutor(_SLICES_AT_ONCE) as executor:
            for first in range(0, len(places), _SLICES_AT_ONCE):
                together = places[first : first + _SLICES_AT_ONCE]
                tables = executor.map(read, *zip(*together, strict=True))
                for (place, rows), table in zip(together, tables, strict=True):
                    batches = numbered(table.to_batches(), rows)
                    yield from ((place + offset, batch) for offset, batch in batches)


def open_parquet(path: Path) -> ParquetPart:
    """Reads the footer only."""
    with pq.ParquetFile(path) as file:
        return ParquetPart(path, plain_schema(file.schema_arrow), file.metadata.num_rows)


def _row_group(file: pq.ParquetFile, number: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    at_once = _rows_at_once(file, number, columns)
    for batch in file.iter_batches(at_once, row_groups=[number], columns=list(columns)):
        yield batch.select(list(columns))


def _rows_at_once(file: pq.ParquetFile, number: int, columns: Sequence[str]) -> int:
    """So many rows of a row group that they have about 8 MB in these columns."""
    chunks = _chunks(file, number, columns)
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    fitting: int = _BATCH_BYTES * file.metadata.row_group(number).num_rows // max(size, 1)
    return max(1, min(BATCH_ROWS, fitting))


def _chunks(file: pq.ParquetFile, number: int, columns: Sequence[str]) -> list[pq.ColumnChunkMetaData]:
    group = file.metadata.row_group(number)
    chunks = (group.column(index) for index in range(group.num_columns))
    return [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]


def _up_to(
    end: int, first: int, batches: Iterator[tuple[int, pa.RecordBatch]]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    for place, batch in batches:
        if first + place >= end:
            return
        yield first + place, batch


def _is_long(file: pq.ParquetFile, number: int, columns: Sequence[str]) -> bool:
    """Whether reading these columns of a row group takes longer than loading polars."""
    size: int = sum(chunk.total_uncompressed_size for chunk in _chunks(file, number, columns))
    return size > _LONG_BYTES


def _is_plain(file: pq.ParquetFile, number: int, columns: Sequence[str]) -> bool:
    """Whether polars reads these columns of a row group just as pyarrow does."""
    types = [file.schema_arrow.field(name).type for name in columns]
    compressions = {chunk.compression for chunk in _chunks(file, number, columns)}
    return compressions <= _COMPRESSIONS and all(
        kind in _PLAIN_TYPES or pa.types.is_integer(kind) for kind in types
    )


class CsvLike(Protocol):
    """The job's `input.csv`: what is not None is not as usual."""

    @property
    def delimiter(self) -> str | None: ...
    @property
    def encoding(self) -> str | None: ...
    @property
    def quote(self) -> str | None: ...


def _dialect(spec: CsvLike | None, usual: str) -> CsvDialect:
    if spec is None:
        return CsvDialect(usual)
    quote = {None: '"', "none": None}.get(spec.quote, spec.quote)
    return CsvDialect(spec.delimiter or usual, spec.encoding or "utf-8", quote, spec.delimiter is not None)


DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Suffix of a text file of cells -> its usual delimiter."""
_TEXTS: dict[str, Callable[[Path], Part]] = {
    ".jsonl": open_jsonl,
    ".ndjson": open_jsonl,
    ".json": open_json_array,
}
WORKBOOK = ".xlsx"
OPENERS: dict[str, Callable[[Path], Part]] = {
    ".parquet": open_parquet,
    **{suffix + packed: opener for suffix, opener in _TEXTS.items() for packed in ("", *PACKINGS)},
    ".arrow": open_arrow,
    ".feather": open_arrow,
}
SUFFIXES = (
    ".parquet",
    *(suffix + packed for suffix in DELIMITERS for packed in ("", *PACKINGS)),
    *OPENERS,
    WORKBOOK,
)
_ALLOWED = (
    f"{', '.join((*DELIMITERS, *_TEXTS))} (also with {' or '.join(PACKINGS)}), .parquet, .arrow, .feather, .xlsx"
)
_SIGNATURES = (
    (b"\x1f\x8b", ".gz", "packed with gzip; let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", ".zst", "packed with zstd; let its name end in .zst"),
    (b"PAR1\x15", ".parquet", "Parquet; let its name end in .parquet"),
    (b"ARROW1\0\0", ".arrow", "Arrow; let its name end in .arrow"),
    (b"PK\x03\x04", ".xlsx", "a zip archive or a workbook; unpack it, or let its name end in .xlsx"),
)
"""(first bytes that no text begins with, suffix of such a file, what it is and what to do)."""


def _open_xlsx(path: Path, sheet: str | None) -> Part:
    """Few tables are workbooks, and none else needs a reader of XML."""
    from crun_batch.load.table.xlsx_reader import open_xlsx

    return open_xlsx(path, sheet)


class HowWritten(NamedTuple):
    """What the job says of its files besides their names: how cells are written, which sheet is meant."""

    csv: CsvLike | None = None
    sheet: str | None = None


def open_files(table: str | Sequence[str], base_dir: Path, how: HowWritten) -> Source:
    """The source over a path, glob or list of them. Raises InputError with every file's first mistake.

    A mistake's row is its position over all files; where an earlier file has mistakes, only its line is known.
    """
    paths = find_files([table] if isinstance(table, str) else table, base_dir)
    refuse_needless_sheet(paths, how)
    stamps: list[Stamp] = []
    parts: list[Part] = []
    mistakes: list[Mistake] = []
    for path in paths:
        try:
            stamps.append(stamp_of(path))
            parts.append(open_file(path, how))
        except InputError as error:
            before = None if mistakes else sum(part.rows for part in parts)
            mistakes.extend(over_all_files(mistake, before) for mistake in error.mistakes)
    if mistakes:
        raise InputError(mistakes)
    return source_of(parts, stamps)


def refuse_needless_sheet(paths: Sequence[Path], how: HowWritten) -> None:
    """Raises InputError where a sheet is named and nothing has sheets."""
    if how.sheet is not None and not any(path.name.lower().endswith(WORKBOOK) for path in paths):
        raise InputError(Mistake("names a sheet, and the table is no .xlsx; remove it", key="input.sheet"))


def over_all_files(mistake: Mistake, rows_before: int | None) -> Mistake:
    """The mistake of one file with its row over all files, where it is known how many are before it."""
    if mistake.row is None:
        return mistake
    return replace(mistake, row=None if rows_before is None else mistake.row + rows_before)


def open_file(path: Path, how: HowWritten) -> Part:
    """One file, in the format that its name says. Raises InputError where it is none, or cannot be read."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        message = f"is of a format that is not known; allowed are {_ALLOWED}"
        raise InputError(Mistake(message, file=str(path), key=KEY))
    try:
        _refuse_misnamed(path, suffix)
        if suffix == WORKBOOK:
            return _open_xlsx(path, how.sheet)
        usual = DELIMITERS.get(f".{suffix.split('.')[1]}")
        return OPENERS[suffix](path) if usual is None else open_csv(path, _dialect(how.csv, usual))
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise InputError(Mistake(message, file=str(path), key=KEY)) from error
    except pa.ArrowException as error:
        raise InputError(Mistake(f"is damaged or of another format: {error}", file=str(path), key=KEY)) from error


def _refuse_misnamed(path: Path, suffix: str) -> None:
    """Raises InputError where a text's first bytes are those of another format."""
    with path.open("rb") as file:
        start = file.read(8)
    for signature, named, words in _SIGNATURES:
        if start.startswith(signature) and f".{suffix.split('.')[-1]}" not in (named, ".feather"):
            raise InputError(Mistake(f"is no {suffix} but {words}", file=str(path), key=KEY))


def find_files(patterns: Sequence[str], base_dir: Path) -> list[Path]:
    """The files in the order of the list, those of one glob sorted by name. Raises InputError."""
    found: list[Path] = []
    mistakes: list[Mistake] = []
    seen: dict[Path, Path] = {}
    for pattern in patterns:
        matches = _matches(pattern, base_dir)
        if not matches:
            mistakes.append(Mistake(_nothing(pattern, base_dir), key=KEY))
        for path in matches:
            first = seen.setdefault(path.resolve(), path)
            if first is not path:
                mistakes.append(Mistake("is given twice; each row would run twice", file=str(path), key=KEY))
            found.append(path)
    if mistakes or not found:
        raise InputError(mistakes or Mistake("names no file; give a path, a glob or a list of them", key=KEY))
    return found


def _matches(pattern: str, base_dir: Path) -> list[Path]:
    path = base_dir / pattern
    if is_file(path):
        return [path]
    if not glob.has_magic(pattern):
        return []
    names = sorted(glob.glob(pattern, root_dir=base_dir, recursive=True))  # noqa: PTH207 (may be absolute)
    return [base_dir / name for name in names if is_file(base_dir / name)]


def _nothing(pattern: str, base_dir: Path) -> str:
    if is_folder(base_dir / pattern):
        return f"`{pattern}` is a folder; name its files, such as `{pattern.rstrip('/')}/*.parquet`"
    kind = "no file matches" if glob.has_magic(pattern) else "there is no file"
    return f"{kind} `{pattern}` in {base_dir}; paths are relative to the job file"
