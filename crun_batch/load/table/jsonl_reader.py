"""JSON objects as rows: one per line (JSONL, NDJSON), or the elements of one array.

The rules:
- Columns are the keys, in order of first sight; a key that a line lacks is null there; blank lines are no rows.
- A column's type is taken over the whole file: text, int64, float64 (whole numbers among them allowed), bool.
  Numbers that neither type holds exactly are text, as they stand in the line.
- An object or array is delivered as text: the very characters that stand in the file (key order, number forms,
  escapes, white space), so that a request body can be sent byte for byte.
- Other mixtures in one column are refused, with the first line of each kind.
- NaN, Infinity and half of a surrogate pair, which Python's json module writes, are no JSON: such a cell has no
  value (null, or a text with U+FFFD), and its row can only be left out.

msgspec checks each line's whole syntax while it skips what is kept raw; UTF-8 it does not check there, so we do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.arrays import array_of
from crun_batch.load.table.json_array import elements
from crun_batch.load.table.json_damage import MOST_DAMAGE, cells_without_value, column_before, repaired
from crun_batch.load.table.source import Damage, Spans, numbered
from crun_batch.load.table.text import lines
from crun_batch.load.table.types import RAW_JSON

_BATCH_ROWS = 4096
_BATCH_BYTES = 8 << 20
_KINDS = {ord('"'): "text", ord("{"): "nested", ord("["): "nested", ord("t"): "boolean", ord("f"): "boolean"}
_NULL = ord("n")
_EXACT_IN_FLOAT = 2**53
_TYPES = (
    (frozenset[str](), pa.null()),
    (frozenset({"text"}), pa.string()),
    (frozenset({"boolean"}), pa.bool_()),
    (frozenset({"nested"}), RAW_JSON),
    (frozenset({"integer", "long integer"}), pa.int64()),
    (frozenset({"integer", "number"}), pa.float64()),
)
_NOT_AN_OBJECT = "each line must be one JSON object"
_NO_OBJECT = "each element must be one JSON object"
_NUMBERS = frozenset({"integer", "long integer", "huge integer", "number"})
_MOST_DEPTH = 1_000
_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{\]}]')
"""Or a text, in which brackets count for nothing."""
_STEP = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_WORDS = {"text": "a text", "nested": "an object or array", "boolean": "true or false"}
_PYTHON = {pa.string(): str | None, pa.bool_(): bool | None, pa.int64(): int | None, pa.float64(): float | None}


Records = Callable[[Path], Iterator[tuple[int, bytes]]]
"""Makes of a file the texts of its objects, each with its line, from 1."""


class JsonlPart(Struct, frozen=True):
    """One file of objects. `raw` names the columns whose JSON text is delivered as it stands."""

    path: Path
    records: Records
    schema: pa.Schema
    rows: int
    raw: frozenset[str]
    damage: tuple[Damage, ...] = ()
    from_text: bool = False
    sparse: bool = True

    def read(self, columns: Sequence[str], _spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]:
        """These columns in their own types, raw JSON as text, in order."""
        return numbered(self._batches(columns), self.rows)

    def line(self, place: int) -> int | None:
        """The line, from 1, of the row at this place of the file."""
        return next((number for number, _ in islice(self.records(self.path), place, None)), None)

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        fields = [f"f{number}" for number in range(len(columns))]
        decode = self._decoder(columns, fields).decode
        place = 0
        damaged = {each.place for each in self.damage}
        for chunk in _chunks(self.records(self.path)):
            if damaged:
                chunk = [repaired(line) if number in damaged else line for number, line in enumerate(chunk, place)]
                place += len(chunk)
            records = [decode(line) for line in chunk]
            arrays = [
                self._array(name, [getattr(record, field) for record in records])
                for name, field in zip(columns, fields, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def _decoder(self, columns: Sequence[str], fields: Sequence[str]) -> msgspec.json.Decoder[Any]:
        typed: list[tuple[str, Any, Any]] = []
        for name, field in zip(columns, fields, strict=True):
            python = None if name in self.raw else _PYTHON.get(self.schema.field(name).type)
            typed.append((field, msgspec.Raw, msgspec.Raw()) if python is None else (field, python, None))
        renamed = dict(zip(fields, columns, strict=True))
        return msgspec.json.Decoder(msgspec.defstruct("Line", typed, rename=renamed))

    def _array(self, name: str, values: list[Any]) -> pa.Array:
        kind = self.schema.field(name).type
        if name in self.raw:
            texts = [bytes(value).decode() for value in values]
            return array_of([None if text in ("", "null") else text for text in texts], pa.string())
        return array_of(values, kind)


def open_jsonl(path: Path) -> JsonlPart:
    """Checks the whole file. Raises InputError with the line of the first mistake."""
    return _open(path, _lines, _NOT_AN_OBJECT)


def open_json_array(path: Path) -> JsonlPart:
    """As `open_jsonl`; the rows are the elements of the file's one array."""
    return _open(path, elements, _NO_OBJECT)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(lines(path), 1) if line.strip())


def _open(path: Path, records: Records, not_an_object: str) -> JsonlPart:
    decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
    columns: dict[str, dict[str, int]] = {}
    rows = 0
    damage: list[Damage] = []
    for number, line in records(path):
        record = _record(decoder, line, RecordPlace(path, rows, number, not_an_object), damage)
        rows += 1
        for name, value in record.items():
            kinds = columns.setdefault(name, {})
            kind = _kind(value)
            if kind is not None and kind not in kinds:
                kinds[kind] = number
    if rows and not columns:
        raise InputError(Mistake("has objects without any key, so there is no column to use", file=str(path)))
    schema, raw = _schema(columns, path)
    return JsonlPart(path, records, schema, rows, raw, tuple(damage))


class RecordPlace(NamedTuple):
    """A row of a file, from 0, its line, from 1, and what is said where there is no object."""

    path: Path
    row: int
    line: int
    not_an_object: str


def _record(
    decoder: msgspec.json.Decoder[dict[str, msgspec.Raw]],
    line: bytes,
    place: RecordPlace,
    damage: list[Damage],
) -> dict[str, msgspec.Raw]:
    """The line's cells; adds to `damage` those without a value."""
    try:
        line.decode()
        record = decoder.decode(line)
        _check_depth(line)
        return record
    except UnicodeDecodeError as error:
        column = column_before(line[: error.start])
        where = f"character {error.start + 1}" if column is None else f"column `{column}`"
        found = f"{where}: byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8"
    except msgspec.ValidationError:
        found = place.not_an_object
    except (msgspec.DecodeError, RecursionError) as error:
        found = f"is not valid JSON: {error}"
        cells = cells_without_value(line)
        if cells and len(damage) < MOST_DAMAGE:
            damage += [Damage(place.row, place.line, column, reason) for column, reason in cells]
            return decoder.decode(repaired(line))
        found = f"column `{cells[0][0]}`: {cells[0][1]}" if cells else found
        if place.line == 1 and line.strip() in (b"[", b"{"):
            found = f"{_NOT_AN_OBJECT}; this is one document over many lines, and .json if it is an array"
    raise InputError(Mistake(found, file=str(place.path), line=place.line, row=place.row))


def _check_depth(line: bytes) -> None:
    """Raises RecursionError for JSON that other readers refuse, whatever this Python bears."""
    if line.count(b"[") + line.count(b"{") <= _MOST_DEPTH:
        return
    depth = 0
    for token in _BRACKET.finditer(line):
        depth += _STEP.get(token[0], 0)
        if depth > _MOST_DEPTH:
            raise RecursionError(f"it is nested more than {_MOST_DEPTH:,} levels deep")


def _kind(value: msgspec.Raw) -> str | None:
    first = memoryview(value)[0]
    kind = _KINDS.get(first)
    if kind is not None or first == _NULL:
        return kind
    text = bytes(value)
    if b"." in text or b"e" in text or b"E" in text:
        return "huge integer" if float(text) in (float("inf"), float("-inf")) else "number"
    size = abs(int(text)) if len(text) < 20 else 2**63
    if size <= _EXACT_IN_FLOAT:
        return "integer"
    return "long integer" if size < 2**63 else "huge integer"


def _schema(columns: dict[str, dict[str, int]], path: Path) -> tuple[pa.Schema, frozenset[str]]:
    fields, raw, mistakes = [], set(), []
    for name, kinds in columns.items():
        kind = next((kind for allowed, kind in _TYPES if kinds.keys() <= allowed), None)
        if kind is None and not kinds.keys() <= _NUMBERS:
            mistakes.append(_mixed(name, kinds, path))
            continue
        if kind is None or kind == RAW_JSON:
            raw.add(name)
        fields.append((name, kind or pa.string()))
    if mistakes:
        raise InputError(mistakes)
    return pa.schema(fields), frozenset(raw)


def _mixed(name: str, kinds: dict[str, int], path: Path) -> Mistake:
    words = sorted((line, _WORDS.get(kind, "a number")) for kind, line in kinds.items())
    first, before = words[0]
    line, found = next(pair for pair in words if pair[1] != before)
    message = f"column `{name}` has {found} here and {before} in line {first}; use one kind in the whole column"
    return Mistake(message, file=str(path), line=line)


def _chunks(records: Iterator[tuple[int, bytes]]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for _, text in records:
        chunk.append(text)
        size += len(text)
        if len(chunk) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
