"""Several files, or one frame, as one stream of batches in one schema.

Owns the order of the rows (files in their order, rows in theirs: a row's position never depends on what is
selected), the schema over all parts, and the watch that no file changes under a reading run. It must not know
formats: each hands over a `Part`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import pyarrow as pa
from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.types import RAW_JSON, common, convert, delivered, plain

BATCH_ROWS = 4096
"""The most rows in a batch of a source."""
_MAX_MISTAKES = 20
_DAMAGE_SHOWN = 5
_UNREADABLE = (pa.ArrowException, OSError, msgspec.MsgspecError, UnicodeDecodeError)


Spans = Callable[[int, int], list[tuple[int, int]]]
"""What is needed of the rows from one place to another: disjoint blocks of them, in order."""


class Damage(Struct, frozen=True):
    """A cell that has no value: the row's place in its part, its line, its column, why, and what to write."""

    place: int
    line: int
    column: str
    reason: str


class Part(Protocol):
    """One file or frame: its path (None: no file), its columns with their plain types, its exact row count.

    `from_text`: the types are only what cells of text would allow. `sparse`: a missing column is null. `read`
    yields batches of bounded size with these columns, in any type that converts to the schema's, each with the
    place in the part of its first row; rows that `spans` does not name may be left out. `damage`: the cells
    without a value, for which `read` gives a stand-in; a row with one must not be used. `line`: where a row stands
    in a file that has lines, from 1.
    """

    @property
    def path(self) -> Path | None: ...
    @property
    def schema(self) -> pa.Schema: ...
    @property
    def rows(self) -> int: ...
    @property
    def from_text(self) -> bool: ...
    @property
    def sparse(self) -> bool: ...
    @property
    def damage(self) -> tuple[Damage, ...]: ...
    def line(self, place: int) -> int | None: ...
    def read(self, columns: Sequence[str], spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]: ...


class Stamp(Struct, frozen=True):
    """What tells one generation of a file from the next."""

    inode: int
    size_bytes: int
    modified_ns: int


class Source(Struct, frozen=True):
    """All rows, in order. `schema` holds plain types only."""

    parts: tuple[Part, ...]
    schema: pa.Schema
    stamps: tuple[Stamp | None, ...]

    @property
    def rows(self) -> int:
        """The number of rows over all parts, before any selection."""
        return sum(part.rows for part in self.parts)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files in reading order; none for a query or a frame."""
        return tuple(part.path for part in self.parts if part.path is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """What the files are called, in the same order: where they lie, if these are copies."""
        return tuple(name for part in self.parts if (name := _name(part)) is not None)

    def batches(self, columns: Sequence[str], spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of at most BATCH_ROWS rows with these columns in this order, each with its first row's position.

        At least one column is needed. Rows outside of `spans` may be left out. Raises InputError where a file
        changed since it was opened, or cannot be read.
        """
        target = pa.schema([self.schema.field(name) for name in columns])
        first = 0
        for part, stamp in zip(self.parts, self.stamps, strict=True):
            _unchanged(part.path, stamp)
            for place, batch in _reading(part, columns, _shifted(spans, first)):
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    piece = _conform(batch.slice(start, BATCH_ROWS), target, part)
                    yield first + place + start, piece
            _unchanged(part.path, stamp)
            first += part.rows

    def place(self, position: int) -> str | None:
        """The file in which the row at this position stands."""
        for part in self.parts:
            if position < part.rows:
                return _name(part)
            position -= part.rows
        return None

    def line(self, position: int) -> int | None:
        """The line of its file in which the row at this position stands; None where there are no lines."""
        for part in self.parts:
            if position < part.rows:
                return part.line(position)
            position -= part.rows
        return None

    def mistake(self, message: str, position: int, key: str | None = None) -> Mistake:
        """A mistake in the row at this position, with its file and, where there are lines, its line."""
        return Mistake(message, file=self.place(position), line=self.line(position), row=position, key=key)

    @property
    def is_damaged(self) -> bool:
        """Whether any cell has no value."""
        return any(part.damage for part in self.parts)

    def damaged(self, selected: pa.BooleanArray) -> list[Mistake]:
        """The first cells without a value in rows whose bit is set, and how many there are more."""
        found: list[Mistake] = []
        first = 0
        for part in self.parts:
            for each in part.damage:
                row, message = first + each.place, f"column `{each.column}`: {each.reason}"
                if selected[row].as_py():
                    found.append(Mistake(message, file=_name(part), line=each.line, row=row))
            first += part.rows
        others = len(found) - _DAMAGE_SHOWN
        more = Mistake(f"{others:,} cells more are like this; input.where can leave their rows out", key="input")
        return [*found[:_DAMAGE_SHOWN], *([more] if others > 0 else ())]

    def digest(self) -> str:
        """A sha256 over the files' bytes or, without files, over every value of the rows."""
        whole = hashlib.sha256()
        for part, stamp in zip(self.parts, self.stamps, strict=True):
            if part.path is not None:
                _unchanged(part.path, stamp)
                with part.path.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
                _unchanged(part.path, stamp)
        if not self.files:
            whole.update(repr(self.schema.names).encode("utf-8", "surrogatepass"))
            for _, batch in self.batches(self.schema.names, lambda start, end: [(start, end)]):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                whole.update("".join(map(repr, rows)).encode("utf-8", "surrogatepass"))
        return whole.hexdigest()


def source_of(parts: Sequence[Part], stamps: Sequence[Stamp | None]) -> Source:
    """One source over the parts. Raises InputError with every column that does not fit, and in which file."""
    names = list(dict.fromkeys(name for part in parts for name in part.schema.names))
    mistakes = [*_doubled(parts), *_missing(parts, names)]
    fields = []
    for name in names if not mistakes else ():
        try:
            fields.append((name, _type(parts, name)))
        except pa.ArrowException:
            mistakes.append(_different(parts, name))
    if mistakes:
        raise InputError(mistakes[:_MAX_MISTAKES])
    return Source(tuple(parts), pa.schema(fields), tuple(stamps))


def stamp_of(path: Path) -> Stamp:
    """The file's present generation."""
    found = path.stat()
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def _doubled(parts: Sequence[Part]) -> Iterator[Mistake]:
    for part in parts:
        for name, count in Counter(part.schema.names).items():
            if count > 1:
                yield Mistake(f"{count} columns are named `{name}`; names must be unique", file=_name(part))


def _missing(parts: Sequence[Part], names: Sequence[str]) -> Iterator[Mistake]:
    for part in parts:
        for name in () if part.sparse else names:
            if name not in part.schema.names:
                other = next(each for each in parts if name in each.schema.names)
                message = f"has no column `{name}`, which {_name(other)} has; all files must have the same columns"
                yield Mistake(message, file=_name(part))


def _type(parts: Sequence[Part], name: str) -> pa.DataType:
    having = [part for part in parts if name in part.schema.names]
    typed = [plain(part.schema.field(name).type) for part in having if not part.from_text]
    from_text = [part.schema.field(name).type for part in having if part.from_text]
    return delivered(common(typed, from_text))


def _different(parts: Sequence[Part], name: str) -> Mistake:
    kinds = {part.schema.field(name).type: _name(part) for part in reversed(parts) if name in part.schema.names}
    words = [f"{'raw JSON' if kind == RAW_JSON else kind} in {file}" for kind, file in reversed(kinds.items())]
    return Mistake(f"column `{name}` is {', '.join(words)}; the types must fit together", file=_name(parts[-1]))


def _name(part: Part) -> str | None:
    """What a part is called: its path, or the address that it was copied from."""
    return getattr(part, "name", None) or (None if part.path is None else str(part.path))


def _unchanged(path: Path | None, stamp: Stamp | None) -> None:
    try:
        if path is None or stamp_of(path) == stamp:
            return
    except OSError as error:
        raise InputError(Mistake(f"can no longer be read: {error.strerror}", file=str(path))) from error
    raise InputError(
        Mistake("was changed while it was in use; start again with the file as it is now", file=str(path))
    )


def numbered(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches with the number of their first row. Raises pa.ArrowInvalid where they have not just so many rows."""
    found = 0
    for batch in batches:
        yield found, batch
        found += batch.num_rows
    if found != rows:
        raise pa.ArrowInvalid(f"had {rows} rows and now gives {found}")


def _shifted(spans: Spans, first: int) -> Spans:
    def shifted(start: int, end: int) -> list[tuple[int, int]]:
        return [(begin - first, stop - first) for begin, stop in spans(first + start, first + end)]

    return shifted


def _reading(part: Part, columns: Sequence[str], spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The part's batches; foreign errors become ours. A part without any of the columns still gives its rows."""
    present = [name for name in columns if name in part.schema.names] or part.schema.names[:1]
    try:
        yield from part.read(present, spans)
    except _UNREADABLE as error:
        raise InputError(Mistake(f"cannot be read: {error}", file=_name(part))) from error


def _conform(batch: pa.RecordBatch, target: pa.Schema, part: Part) -> pa.RecordBatch:
    arrays = []
    for field in target:
        index = batch.schema.get_field_index(field.name)
        try:
            arrays.append(
                pa.nulls(len(batch), field.type) if index < 0 else convert(batch.column(index), field.type)
            )
        except pa.ArrowException as error:
            message = f"column `{field.name}` has a value that is no {field.type}: {error}"
            raise InputError(Mistake(message, file=_name(part))) from error
    return pa.RecordBatch.from_arrays(arrays, schema=target)
