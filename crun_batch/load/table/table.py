"""The prompt table: opened once, read as often as needed, in order, without ever holding it.

Owns what a row is: its position in the source (from 0, over all files in order, before where, sample and
limit), its id, and whether it is selected. It must not know what the columns are for. Formats, frames and SQL
are its siblings'.

Opening finds every mistake before anything is sent: the files' shape, the predicate, unknown, null or
duplicated ids. Ids must be unique in the whole source, selected or not: the selection may change between
sessions, a row's identity may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from msgspec.structs import replace

from crun_batch.errors import InputError, Mistake
from crun_batch.load.folders import Folders
from crun_batch.load.table import sql
from crun_batch.load.table.files import CsvLike, HowWritten
from crun_batch.load.table.frames import open_frame, spill
from crun_batch.load.table.ids import KEYS_AT_ONCE, Identities, places_of, repeated_keys, with_ids
from crun_batch.load.table.opening import open_source
from crun_batch.load.table.selection import Selection, select_all, select_positions
from crun_batch.load.table.source import Source, source_of
from crun_batch.load.table.types import convert, suggestion, with_shortest_floats
from crun_batch.records import Row

POSITION_ID = "row"
"""The name of the default id: the row's position."""
_ROWS = 1024
_EXAMPLES = 5
_COUNTED = "rows are counted from 0 over all files"
_POSITION_BATCH_ROWS = 1 << 16


class SampleLike(Protocol):
    """How many rows, and the seed of their choice."""

    @property
    def rows(self) -> int: ...
    @property
    def seed(self) -> int: ...


class InputLike(Protocol):
    """The job's `input` section."""

    @property
    def table(self) -> str | Sequence[str] | None: ...
    @property
    def query(self) -> str | None: ...
    @property
    def where(self) -> str | None: ...
    @property
    def id(self) -> str | None: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def sample(self) -> SampleLike | None: ...
    @property
    def csv(self) -> CsvLike | None: ...
    @property
    def sheet(self) -> str | None: ...


class Table(Struct, frozen=True):
    """An opened prompt table.

    `id_type` is int64 or string. One iterator at a time; any thread may run it. Raises InputError wherever a
    file turns out to have changed since it was opened.
    """

    source: Source
    id_column: str | None
    id_type: pa.DataType
    selection: Selection

    @property
    def schema(self) -> pa.Schema:
        """All columns of the source with their types; text is `string`, times are in microseconds at most."""
        return self.source.schema

    @property
    def id_name(self) -> str:
        """The id's name in the results: its column's, or `row`."""
        return self.id_column if self.id_column is not None else POSITION_ID

    @property
    def source_rows(self) -> int:
        """All rows, before any selection."""
        return self.source.rows

    @property
    def selected_rows(self) -> int:
        """The rows that `rows` gives."""
        return self.selection.rows

    @property
    def selected(self) -> pa.BooleanArray:
        """A bit for every row of the source: whether `rows` gives it."""
        return self.selection.bits(self.source_rows)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files in reading order; empty for a query or a frame."""
        return self.source.files

    def rows(
        self, columns: Sequence[str], *, key: str | None = None, wanted: pa.BooleanArray | None = None
    ) -> Iterator[list[Row]]:
        """The selected rows in source order, in lists of at most 1,024, with the values of these columns.

        `wanted` has a bit for every row of the source: those where it is not set are passed over, at little cost.

        Values: int, float, str, bool, None, date, datetime, time, timedelta, Decimal, bytes; list and dict for
        nested types. Raises InputError for an unknown column, at once, naming the job key `key`.
        """
        self._known(columns, key)
        return self._rows(tuple(dict.fromkeys(columns)), self._among(wanted))

    def count(self, wanted: pa.BooleanArray | None = None) -> int:
        """How many rows `rows` gives."""
        return self._among(wanted).rows

    def random_rows(self, count: int, seed: int, columns: Sequence[str]) -> list[Row]:
        """`count` of the selected rows, in source order: those with the smallest hash(seed, id).

        So they nest: a larger count with the same seed has all of a smaller one. Raises InputError as `rows`.
        """
        self._known(columns, None)
        return list(chain.from_iterable(self._rows(tuple(dict.fromkeys(columns)), self._sampled(count, seed))))

    def spread_rows(
        self, count: int, seed: int, columns: Sequence[str], wanted: pa.BooleanArray | None = None
    ) -> list[Row]:
        """`count` of the selected rows (that are `wanted`), in source order, from places evenly spread over them.

        Seeded; of a large Parquet table only these places are read. Raises InputError as `rows`.
        """
        self._known(columns, None)
        selection = self._among(wanted).spread(count, seed)
        return list(chain.from_iterable(self._rows(tuple(dict.fromkeys(columns)), selection)))

    def fingerprint(self) -> str:
        """A sha256, in hex, over the content of the files in order or, for a query or a frame, over all values.

        Reads everything; may run in a thread of its own beside `rows`.
        """
        return self.source.digest()

    def unselected(self) -> Table:
        """The same table with every row of the source selected."""
        return replace(self, selection=select_all(self.source_rows))

    def positions_of(self, finished: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """The batches with `position` (int64) in place of their column `id`, numbers or text, in any order.

        Ids that no row of the source has are left out. Memory is bounded whatever the number of either.
        """
        if self.id_column is None:
            return chain.from_iterable(_by_position(batch, self.source_rows) for batch in finished)
        everything = self.identities(select_all(self.source_rows))
        if self.source_rows > KEYS_AT_ONCE:
            return sql.join_positions(finished, everything, self.id_type)
        return places_of(everything, self.source_rows, self.id_type).find(finished)

    def _among(self, wanted: pa.BooleanArray | None) -> Selection:
        return self.selection if wanted is None else self.selection.among(wanted)

    def _known(self, columns: Sequence[str], key: str | None) -> None:
        unknown = [name for name in dict.fromkeys(columns) if name not in self.schema.names]
        if unknown:
            names = self.schema.names
            raise InputError(
                [
                    Mistake(f"no column `{name}` in the table; {suggestion(name, names)}", key=key)
                    for name in unknown
                ]
            )

    def _rows(self, columns: tuple[str, ...], selection: Selection) -> Iterator[list[Row]]:
        for positions, batch in self._selected(columns, selection):
            for start in range(0, len(batch), _ROWS):
                piece = batch.slice(start, _ROWS)
                places = positions.slice(start, _ROWS).to_pylist()
                ids = places if self.id_column is None else self._ids(piece).to_pylist()
                values = [self._values(piece, name, places) for name in columns]
                cells = zip(*values, strict=True) if values else ((),) * len(places)
                yield [
                    Row(position, row_id, dict(zip(columns, row, strict=True)))
                    for position, row_id, row in zip(places, ids, cells, strict=True)
                ]

    def _selected(
        self, columns: Sequence[str], selection: Selection
    ) -> Iterator[tuple[pa.Int64Array, pa.RecordBatch]]:
        needed = [*columns, *([self.id_column] if self.id_column is not None else ())]
        names = list(dict.fromkeys(needed)) or self.schema.names[:1]
        for start, batch in self.source.batches(names, selection.spans):
            if start >= selection.end:
                return
            yield selection.of(batch, start)

    def _values(self, batch: pa.RecordBatch, name: str, positions: Sequence[int]) -> list[object]:
        column = with_shortest_floats(batch.column(name))
        try:
            values: list[object] = column.to_pylist()
        except (ValueError, OverflowError):
            return [self._value(value, name, place) for value, place in zip(column, positions, strict=True)]
        return values

    def _value(self, value: pa.Scalar, name: str, position: int) -> object:
        try:
            return value.as_py()
        except (ValueError, OverflowError) as error:
            found = f"column `{name}` has a value that is no {value.type}: {error}"
            raise InputError(Mistake(found, file=self.source.place(position), row=position)) from error

    def _ids(self, batch: pa.RecordBatch) -> pa.Array:
        return convert(batch.column(self.id_column), self.id_type)

    def identities(self, selection: Selection) -> Identities:
        """A maker of streams of (position, id) over a selection."""

        def by_column() -> Iterator[pa.RecordBatch]:
            for positions, batch in self._selected((), selection):
                ids = self._ids(batch)
                if ids.null_count:
                    raise InputError(self._null_ids(positions.filter(pc.is_null(ids)).to_pylist()))
                yield pa.record_batch({"position": positions, "id": ids})

        def by_position() -> Iterator[pa.RecordBatch]:
            for start in range(0, selection.end, _POSITION_BATCH_ROWS):
                positions = pa.arange(start, min(start + _POSITION_BATCH_ROWS, selection.end))
                positions, _ = selection.of(pa.record_batch({"position": positions}), start)
                yield pa.record_batch({"position": positions, "id": positions})

        return by_position if self.id_column is None else by_column

    def _null_ids(self, positions: Sequence[int]) -> Mistake:
        first, *others = positions
        shown = ", ".join(f"row {position}" for position in others[: _EXAMPLES - 1])
        more = len(others) - len(others[: _EXAMPLES - 1])
        also = f", and in {shown}" + (f" and {more:,} more at least" if more else "") if others else ""
        message = f"the id `{self.id_column}` is null here{also}; every row needs one ({_COUNTED})"
        return self.source.mistake(message, first, "input.id")

    def _duplicated_ids(self) -> list[Mistake]:
        if self.id_column is None:
            return []
        everything = self.identities(select_all(self.source_rows))
        suspects = repeated_keys(everything, self.source_rows)
        if suspects is None:
            return []
        found = sql.duplicates(everything, self.id_type, suspects, _EXAMPLES)
        return [self._duplicate(each) for each in found]

    def _duplicate(self, found: sql.Duplicate) -> Mistake:
        first, *others = found.positions
        places = ", ".join(self._place(position) for position in others)
        message = (
            f"the id {found.row_id!r} in column `{self.id_column}` stands also in {places}"
            f"{' and more' if found.rows > len(found.positions) else ''}; ids must be unique ({_COUNTED})"
        )
        return self.source.mistake(message, first, "input.id")

    def _place(self, position: int) -> str:
        file, line = self.source.place(position), self.source.line(position)
        where = "" if file is None else f" ({Path(file).name}{'' if line is None else f', line {line}'})"
        return f"row {position}{where}"

    def _sampled(self, count: int, seed: int) -> Selection:
        if count >= self.selection.rows:
            return self.selection
        chosen = sql.smallest_hashes(self.identities(self.selection), self.id_type, count, seed)
        return select_positions(chosen, self.source_rows)

    def _matching(self, where: str, columns: Sequence[str], folders: Folders) -> Selection:
        position = "crun_batch_position"
        while position in {name.casefold() for name in self.schema.names}:
            position += "_"
        fields = [pa.field(position, pa.int64()), *(self.schema.field(name) for name in columns)]
        schema = pa.schema(fields)
        batches = (
            pa.RecordBatch.from_arrays([positions, *(batch.column(name) for name in columns)], schema=schema)
            for positions, batch in self._selected(columns, self.selection)
        )
        return select_positions(sql.matching(where, batches, schema, folders), self.source_rows)


def open_table(spec: InputLike, *, folders: Folders, frame: object | None = None) -> Table:
    """Opens the job's table, or the `frame` that Python passed in its place, and finds which rows are selected.

    Raises InputError with every mistake that could be found, among them an empty table or selection. A Parquet
    table with the default id costs its footers only; text files, `where`, `sample` and an id column are read
    through.
    """
    source = _source(spec, folders, frame)
    if not source.rows:
        file = next(iter(source.names), None)
        raise InputError(Mistake("the table has no rows", file=file, key="input.table"))
    folders = Folders(folders.base, (*folders.allowed, *source.files))
    columns = _checked(spec, source, folders)
    id_type = pa.int64() if spec.id is None else _id_type(source.schema.field(spec.id).type)
    table = Table(source, spec.id, id_type, select_all(source.rows))
    mistakes = table._duplicated_ids()
    if mistakes:
        raise InputError(mistakes)
    selection = _selection(table, spec, columns, folders)
    if not selection.rows:
        raise InputError(Mistake(f"none of the {source.rows} rows is selected", key=_selecting_key(spec)))
    damaged = source.damaged(selection.bits(source.rows)) if source.is_damaged else []
    if damaged:
        raise InputError(damaged)
    return replace(table, selection=selection)


def _source(spec: InputLike, folders: Folders, frame: object | None) -> Source:
    if frame is not None:
        return open_frame(frame, spec.id)
    if spec.query is not None:
        if spec.id is None:
            message = (
                "a query needs an `id` column: the order of its rows is not certain, so their position is no id"
            )
            raise InputError(Mistake(message, key="input.id"))
        with sql.query_reader(spec.query, folders) as reader:
            return source_of([spill(reader)], [None])
    if spec.table is None:
        raise InputError(Mistake("there is no table; give `table` or `query`", key="input"))
    return open_source(spec.table, folders.base, HowWritten(spec.csv, spec.sheet), spec.id)


def _checked(spec: InputLike, source: Source, folders: Folders) -> tuple[str, ...]:
    """The columns that `where` reads. Raises InputError with the mistakes of id and where together."""
    mistakes: list[Mistake] = []
    columns: tuple[str, ...] = ()
    if spec.id is not None:
        mistakes += _id_mistakes(spec.id, source.schema)
    if spec.where is not None:
        try:
            columns = sql.predicate_columns(spec.where, source.schema, folders)
        except InputError as error:
            mistakes += error.mistakes
    if mistakes:
        raise InputError(mistakes)
    return columns


def _id_mistakes(name: str, schema: pa.Schema) -> list[Mistake]:
    if name not in schema.names:
        return [Mistake(f"no column `{name}` in the table; {suggestion(name, schema.names)}", key="input.id")]
    kind = schema.field(name).type
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_nested(kind) or _is_binary(kind):
        allowed = "a whole number or text (or a date, time or decimal, taken as text)"
        found = f"column `{name}` is {kind}; an id is {allowed}"
        return [Mistake(found, key="input.id")]
    return []


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _id_type(kind: pa.DataType) -> pa.DataType:
    return pa.int64() if pa.types.is_integer(kind) and kind != pa.uint64() else pa.string()


def _selection(table: Table, spec: InputLike, columns: Sequence[str], folders: Folders) -> Selection:
    """Where, then sample, then limit."""
    if spec.where is not None:
        table = replace(table, selection=table._matching(spec.where, columns, folders))
    if spec.sample is not None:
        table = replace(table, selection=table._sampled(spec.sample.rows, spec.sample.seed))
    return table.selection if spec.limit is None else table.selection.first(spec.limit)


def _selecting_key(spec: InputLike) -> str:
    keys = (key for key in ("where", "sample", "limit") if getattr(spec, key) is not None)
    return f"input.{next(keys, 'table')}"


def _by_position(batch: pa.RecordBatch, source_rows: int) -> list[pa.RecordBatch]:
    """The default id is the position itself; whatever else stands there is no row of this table."""
    table = with_ids(pa.Table.from_batches([batch]), pa.int64())
    table = table.rename_columns(["position" if name == "id" else name for name in table.column_names])
    positions = table.column("position")
    inside = pc.and_(pc.greater_equal(positions, 0), pc.less(positions, source_rows))
    found: list[pa.RecordBatch] = table.filter(inside).to_batches()
    return found
