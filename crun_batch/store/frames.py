"""A segment as two tables: its attempts and its finals, in the columns that users see.

The lines' checksums are checked and the lines sorted by kind here; parsing is Polars' work and the rest Arrow's,
outside the interpreter lock. Owns: what each column is computed from. Must not know: where the tables go.
"""

from __future__ import annotations

import io
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from msgspec import Struct

from crun_batch.errors import RunDamaged
from crun_batch.store.carried import decode_column
from crun_batch.store.events import INHERITED, payload_of
from crun_batch.store.schema import (
    MOMENT,
    MONEY,
    SEQUENCE,
    SUPERSEDES,
    TOKENS,
    RunSchema,
    attempts_schema,
    money_column,
    parts_schema,
)

_COUNTS = (*TOKENS, "cost_usd", "cost_credits", "latency_us", "started_at", "finished_at")
_INHERITED_TYPES = {name: pl.Int64() if name in _COUNTS else pl.String() for name in INHERITED}
_KEYS = {"id": pl.String(), "variant": pl.String(), "repeat": pl.Int32()}
_END_TYPES = {
    "n": pl.Int64(),
    "body": pl.String(),
    "body64": pl.String(),
    "headers": pl.Struct({"x-request-id": pl.String(), "request-id": pl.String()}),
}
_READ_TYPES: dict[str, pl.DataType] = {
    "n": pl.Int64(),
    **_KEYS,
    "turn": pl.Int32(),
    "purpose": pl.String(),
    "judge": pl.String(),
    "attempt": pl.Int32(),
    "outcome": pl.String(),
    "http_status": pl.Int32(),
    **_INHERITED_TYPES,
    "held_usd": pl.Int64(),
    "held_credits": pl.Int64(),
    "reported_usd": pl.String(),
    "assembled": pl.String(),
}
_DEFAULTS: dict[str, Any] = {
    "repeat": 0,
    "turn": 0,
    "purpose": "answer",
    "attempt": 1,
    "started_at": 0,
    "request_hash": "",
}
_HIGHEST = 2**63
Columns = dict[str, pa.Array]


class Lines(Struct, frozen=True):
    """The payloads of a segment's lines by kind, each with its line numbers, from 0."""

    ends: list[bytes]
    reads: list[bytes]
    read_numbers: list[int]
    finals: list[bytes]
    final_numbers: list[int]

    def add(self, payload: bytes, number: int) -> None:
        """Take a payload by the first letters of its kind; heads and starts are not needed."""
        kind = payload[5:10]
        if kind == b'"end"':
            self.ends.append(payload)
        elif kind == b'"read':
            self.reads.append(payload)
            self.read_numbers.append(number)
        elif kind == b'"fina':
            self.finals.append(payload)
            self.final_numbers.append(number)


def segment_tables(path: Path, number: int, schema: RunSchema, *, live: bool) -> tuple[pa.Table, pa.Table]:
    """(attempts, finals) of a segment, in `attempts_schema` and `parts_schema`.

    `live`: bytes at the end that are no whole line are somebody's unfinished write, and left out; otherwise
    every line must be whole. Raises RunDamaged, naming the line.
    """
    lines = _sorted_lines(path, live=live)
    if not (lines.reads or lines.finals):
        return attempts_schema(schema).empty_table(), parts_schema(schema).empty_table()
    ends, reads, finals = _parse(lines, {**_END_TYPES, **_READ_TYPES, "final": _final_type(schema)})
    reads |= {name: pc.fill_null(reads[name], value) for name, value in _DEFAULTS.items()}
    reads[SEQUENCE] = pa.array(lines.read_numbers, pa.int64())
    finals[SEQUENCE] = pa.array(lines.final_numbers, pa.int64())
    return _attempts_table(reads, ends, schema), _parts_table(reads, finals, number, schema)


def _sorted_lines(path: Path, *, live: bool) -> Lines:
    lines = Lines([], [], [], [], [])
    bad: int | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file):
            payload = payload_of(line)
            if payload is None:
                bad = number if bad is None else bad
            elif bad is not None:
                break
            else:
                lines.add(payload, number)
        else:
            if bad is None or live:
                return lines
    raise RunDamaged(f"{path}, line {bad + 1}: its checksum does not fit")


def _parse(lines: Lines, types: dict[str, pl.DataType]) -> list[Columns]:
    """The columns of the ends, the reads and the finals: all columns of each, those of another kind null."""
    payloads = [*lines.ends, *lines.reads, *lines.finals]
    try:
        frame = pl.read_ndjson(io.BytesIO(b"\n".join(payloads)), schema=types)
    except pl.exceptions.ComputeError:
        bounded = [orjson.dumps(_bounded(msgspec.json.decode(payload))) for payload in payloads]
        frame = pl.read_ndjson(io.BytesIO(b"\n".join(bounded)), schema=types)
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    columns = {name: _whole(table.column(name)) for name in types}
    counts = [len(lines.ends), len(lines.reads), len(lines.finals)]
    starts = [0, *accumulate(counts[:2])]
    return [
        {name: column.slice(start, count) for name, column in columns.items()}
        for start, count in zip(starts, counts, strict=True)
    ]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _bounded(value: Any) -> Any:
    """A hostile reply's count that no column can hold is unknown; the reply's body still has it."""
    if isinstance(value, dict):
        return {name: _bounded(part) for name, part in value.items()}
    if isinstance(value, int) and not -_HIGHEST <= value < _HIGHEST:
        return None
    return value


def _final_type(schema: RunSchema) -> pl.Struct:
    fields: dict[str, Any] = {
        "status": pl.String(),
        "as_read": pl.Boolean(),
        **_INHERITED_TYPES,
        "attempt_count": pl.Int32(),
        "unknown_attempts": pl.Int32(),
        "output": pl.String(),
        "outputs": pl.List(pl.String()),
        "supersedes": pl.Boolean(),
    }
    if schema.carried.names:
        fields["carried"] = pl.Struct(dict.fromkeys(schema.carried.names, pl.String()))
    return pl.Struct(fields)


def _attempts_table(reads: Columns, ends: Columns, schema: RunSchema) -> pa.Table:
    last = _last_place(reads["n"], ends["n"])
    headers = ends["headers"]
    assembled, body = reads["assembled"], ends["body"].take(last)
    request_id = pc.coalesce(*(pc.struct_field(headers, name) for name in ("x-request-id", "request-id")))
    columns = {
        **reads,
        "serial": reads["n"],
        "request_id": request_id.take(last),
        "reply_body": pc.coalesce(assembled, body),
        "reply_base64": pc.if_else(assembled.is_null(), ends["body64"].take(last), None),
        "latency_seconds": _seconds(reads["latency_us"]),
    }
    return _table(columns, {}, attempts_schema(schema), schema)


def _last_place(wanted: pa.Array, present: pa.Array) -> pa.Array:
    """Where each serial stands in `present` for the last time; null where it does not."""
    backwards = present.take(pa.arange(len(present) - 1, -1, -1))
    return pc.subtract(len(present) - 1, pc.index_in(wanted, value_set=backwards))


def _parts_table(reads: Columns, finals: Columns, number: int, schema: RunSchema) -> pa.Table:
    columns = _in_order(reads, finals)
    parts = {field.name: pc.struct_field(columns["final"], field.name) for field in columns["final"].type}
    as_read = pc.fill_null(parts["as_read"], fill_value=False)
    inherited = {name: pc.coalesce(parts[name], pc.if_else(as_read, columns[name], None)) for name in INHERITED}
    columns |= {
        **inherited,
        "repeat": pc.fill_null(columns["repeat"], 0),
        SEQUENCE: pc.add(columns[SEQUENCE], number * 2**32),
        SUPERSEDES: pc.fill_null(parts["supersedes"], fill_value=False),
        "status": parts["status"],
        "outputs": parts["outputs"],
        "attempt_count": pc.fill_null(parts["attempt_count"], 1),
        "unknown_attempts": pc.fill_null(parts["unknown_attempts"], 0),
        "output_text": inherited["text"],
        "latency_seconds": _seconds(inherited["latency_us"]),
    }
    special = {
        field.name: decode_column(pc.struct_field(parts["carried"], field.name).cast(pa.string()), field.type)
        for field in schema.carried
    }
    if schema.output is not None:
        special["output"] = _typed_output(parts["output"], schema.output)
    return _table(columns, special, parts_schema(schema), schema)


def _in_order(reads: Columns, finals: Columns) -> Columns:
    """The reads that conclude a unit and the finals without an attempt, in the order of their lines."""
    concluded = pc.is_valid(pc.struct_field(reads["final"], "status"))
    columns = {name: reads[name].filter(concluded) for name in (*_KEYS, SEQUENCE, "final", *INHERITED)}
    if not len(finals[SEQUENCE]):
        return columns
    joined = {name: pa.concat_arrays([column, finals[name]]) for name, column in columns.items()}
    order = pc.sort_indices(joined[SEQUENCE])
    return {name: column.take(order) for name, column in joined.items()}


def _seconds(microseconds: pa.Array) -> pa.Array:
    return pc.divide(microseconds.cast(pa.float64()), 1e6)


def _table(columns: Columns, special: Columns, target: pa.Schema, schema: RunSchema) -> pa.Table:
    axes = {field.name for field in schema.axis_fields}
    chosen = []
    for field in target:
        if field.name in special:
            chosen.append(special[field.name])
        elif field.name == schema.id_name:
            chosen.append(_arrow(columns["id"], field.type))
        elif field.name in axes:
            chosen.append(axis_column(columns["variant"].cast(pa.string()), field, schema))
        else:
            chosen.append(_arrow(columns[field.name], field.type))
    return pa.Table.from_arrays(chosen, schema=target)


def axis_column(variants: pa.Array, field: pa.Field, schema: RunSchema) -> pa.Array:
    """The values of one axis column, from the variants' names."""
    coded = variants.dictionary_encode()
    values = [schema.axis_values(name)[field.name] for name in coded.dictionary.to_pylist()]
    return pa.array(values, field.type).take(coded.indices)


def _arrow(array: pa.Array, data_type: pa.DataType) -> pa.Array:
    if data_type == MONEY:
        return money_column(array)
    if data_type == MOMENT:
        return array.view(MOMENT)
    return array if array.type == data_type else array.cast(data_type)


def _typed_output(texts: pa.Array, data_type: pa.DataType) -> pa.Array:
    """The objects as their type. One that does not fit its columns is null; `output_text` has it."""
    if len(texts) == 0:
        return pa.array([], data_type)
    lines = b"\n".join(b'{"value":%b}' % (text or "null").encode() for text in texts.to_pylist())
    options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([pa.field("value", data_type)]), unexpected_field_behavior="ignore"
    )
    reading = pyarrow.json.ReadOptions(block_size=len(lines) + 1)
    try:
        table = pyarrow.json.read_json(io.BytesIO(lines), read_options=reading, parse_options=options)
        return table.column("value").combine_chunks()
    except pa.ArrowInvalid:
        return pa.concat_arrays([_one_output(text, data_type) for text in texts.to_pylist()])


def _one_output(text: str | None, data_type: pa.DataType) -> pa.Array:
    try:
        return pa.array([orjson.loads(text) if text is not None else None], data_type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.nulls(1, data_type)
