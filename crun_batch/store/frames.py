"""A segment as two tables: its attempts and its finals, in the columns that users see.

The lines' checksums are checked and the lines sorted by kind here; parsing is Polars' work and the rest Arrow's,
outside the interpreter lock. Owns: what each column is computed from. Must not know: where the tables go.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from crun_batch.errors import RunDamaged
from crun_batch.store.carried import decode_column
from crun_batch.store.events import INHERITED, payload_of, synced_bytes
from crun_batch.store.schema import (
    MOMENT,
    MONEY,
    SEQUENCE,
    SUPERSEDES,
    TOKENS,
    RunSchema,
    attempts_schema,
    constant,
    money_column,
    no_rows,
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
    "endpoint": pl.String(),
    "service_tier": pl.String(),
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
_PIECE_BYTES = 4 * 2**20
"""Of a segment, parsed at one go: small enough for the allocators to use the same memory for every piece."""
Columns = dict[str, pa.Array]


def segment_tables(
    path: Path, number: int, schema: RunSchema, *, live: bool, checksum: int | None = None
) -> tuple[pa.Table, pa.Table]:
    """(attempts, finals) of a segment, in `attempts_schema` and `parts_schema`.

    `live`: bytes at the end that may never have been on the disk are left out, as `recover` cuts them; otherwise
    every line must be whole. `checksum`: the CRC-32 of all that was written, where it is known: a file that fits
    it need not be checked line by line. Raises RunDamaged, naming the line.
    """
    length = _whole_length(path, live=live, checksum=checksum)
    read_types = {**_READ_TYPES, "final": _final_type(schema)}
    attempts, parts = [no_rows(attempts_schema(schema))], [no_rows(parts_schema(schema))]
    awaited: Columns | None = None
    no_finals: Columns | None = None
    for lines in _lines(path, length):
        kinds = frozenset(lines["kind"].unique())
        if kinds.isdisjoint(('"end"', '"read', '"fina')):
            continue
        ends, reads = _events(lines, '"end"', _END_TYPES), _events(lines, '"read', read_types)
        if '"fina' in kinds:
            finals = _events(lines, '"fina', read_types)
        else:
            finals = no_finals = no_finals or _decoded_events(lines.clear(), read_types)
        reads |= {name: _filled(reads[name], value) for name, value in _DEFAULTS.items()}
        ends = ends if awaited is None else _joined(awaited, ends)
        attempts.append(_attempts_table(reads, ends, schema))
        parts.append(_parts_table(reads, finals, number, schema))
        unread = pc.invert(pc.is_in(ends["n"], value_set=reads["n"]))
        awaited = {name: column.filter(unread) for name, column in ends.items()}
    return pa.concat_tables(attempts), pa.concat_tables(parts)


def _whole_length(path: Path, *, live: bool, checksum: int | None) -> int:
    """How many bytes of a segment are whole lines, each checked."""
    if checksum is not None and checksum == _file_checksum(path):
        return path.stat().st_size
    data = path.read_bytes()
    start, number = 0, 0
    while end := data.find(b"\n", start) + 1:
        if data[end - 10 : end] != b"\t%08x\n" % crc32(data[start : end - 10]):
            break
        start = end
        number += 1
    if start < len(data) and not (live and _is_torn(data[start:], start)):
        raise RunDamaged(f"{path}, line {number + 1}: its checksum does not fit")
    return start


def _file_checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            checksum = crc32(piece, checksum)
    return checksum


def _is_torn(rest: bytes, start: int) -> bool:
    """Whether the bytes from `start` on may never have been on the disk: no mark says that they were."""
    payloads = filter(None, map(payload_of, rest.splitlines(keepends=True)))
    return all((synced_bytes(payload) or 0) <= start for payload in payloads)


def _lines(path: Path, length: int) -> Iterator[pl.DataFrame]:
    """Payload, kind and number (from 0) of the lines in the first `length` bytes, a piece of the file at a time.

    The kind is what follows `{"e":`, cut to 5 characters.
    """
    columns = {"payload": pl.String(), "checksum": pl.String()}
    first = 0
    with path.open("rb") as file:
        while file.tell() < length:
            data = file.read(min(_PIECE_BYTES, length - file.tell()))
            data += file.readline() if file.tell() < length else b""
            lines = pl.read_csv(data, separator="\t", quote_char=None, has_header=False, schema=columns)
            yield lines.select(
                "payload",
                pl.col("payload").str.slice(5, 5).alias("kind"),
                pl.int_range(first, first + pl.len(), dtype=pl.Int64).alias(SEQUENCE),
            )
            first += lines.height


def _events(lines: pl.DataFrame, kind: str, types: Mapping[str, pl.DataType]) -> Columns:
    """The fields of all events of one kind, and the numbers of their lines."""
    return _decoded_events(lines.filter(pl.col("kind") == kind), types)


def _decoded_events(own: pl.DataFrame, types: Mapping[str, pl.DataType]) -> Columns:
    events = _decoded(own["payload"], types).struct.unnest().with_columns(own[SEQUENCE])
    table = events.to_arrow(compat_level=pl.CompatLevel.oldest())
    return {name: _whole(table.column(name)) for name in table.column_names}


def _decoded(payloads: pl.Series, types: Mapping[str, pl.DataType]) -> pl.Series:
    try:
        return payloads.str.json_decode(pl.Struct(types))
    except pl.exceptions.ComputeError:
        bounded = [orjson.dumps(_bounded(msgspec.json.decode(payload))).decode() for payload in payloads]
        return pl.Series(bounded, dtype=pl.String()).str.json_decode(pl.Struct(types))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _filled(column: pa.Array, value: int | str) -> pa.Array:
    return pc.fill_null(column, constant(value, column.type))


def _joined(first: Columns, second: Columns) -> Columns:
    return {name: pa.concat_arrays([column, second[name]]) for name, column in first.items()}


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
        "reused_from": pl.String(),
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
        "reply_base64": pc.if_else(assembled.is_null(), ends["body64"].take(last), pa.NULL),
        "latency_seconds": _seconds(reads["latency_us"]),
    }
    return _table(columns, {}, attempts_schema(schema), schema)


def _last_place(wanted: pa.Array, present: pa.Array) -> pa.Array:
    """Where each serial stands in `present` for the last time; null where it does not."""
    backwards = pa.arange(len(present) - 1, -1, -1)
    return backwards.take(pc.index_in(wanted, value_set=present.take(backwards)))


def _parts_table(reads: Columns, finals: Columns, number: int, schema: RunSchema) -> pa.Table:
    columns = _in_order(reads, finals)
    parts = {field.name: pc.struct_field(columns["final"], field.name) for field in columns["final"].type}
    as_read = _filled(parts["as_read"], False)
    inherited = {name: _inherited(parts[name], as_read, columns[name]) for name in INHERITED}
    columns |= {
        **inherited,
        "repeat": _filled(columns["repeat"], 0),
        SEQUENCE: pc.add(columns[SEQUENCE], constant(number * 2**32, pa.int64())),
        SUPERSEDES: _filled(parts["supersedes"], False),
        "status": parts["status"],
        "reused_from": parts["reused_from"],
        "outputs": parts["outputs"],
        "attempt_count": _filled(parts["attempt_count"], 1),
        "unknown_attempts": _filled(parts["unknown_attempts"], 0),
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


def _inherited(own: pa.Array, as_read: pa.Array, read: pa.Array) -> pa.Array:
    """What a final says, or where it says nothing and is `as_read`, what the read event says."""
    if own.null_count == len(own) and as_read.false_count == 0:
        return read
    return pc.coalesce(own, pc.if_else(as_read, read, pa.NULL))


def _in_order(reads: Columns, finals: Columns) -> Columns:
    """The reads that conclude a unit and the finals without an attempt, in the order of their lines."""
    concluded = pc.is_valid(pc.struct_field(reads["final"], "status"))
    columns = {name: reads[name].filter(concluded) for name in (*_KEYS, SEQUENCE, "final", *INHERITED)}
    if not len(finals[SEQUENCE]):
        return columns
    joined = _joined(columns, finals)
    order = pc.sort_indices(joined[SEQUENCE])
    return {name: column.take(order) for name, column in joined.items()}


def _seconds(microseconds: pa.Array) -> pa.Array:
    return pc.divide(microseconds.cast(pa.float64()), constant(1e6, pa.float64()))


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
