"""A segment as two tables: its attempts and its finals, in the columns that users see.

The lines' checksums are checked here, and the lines are told apart; all else, parsing them too, is Arrow's work,
outside the interpreter lock. Owns: what each column is computed from. Must not know: where the tables go.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from crun_batch.errors import RunDamaged
from crun_batch.store.carried import decode_column
from crun_batch.store.event_columns import Columns, EventParser, event_columns, parsed_values, typed
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

_PICO = pa.decimal128(38, 0)
"""Amounts of money, of any size: 64 bits end at nine million credits."""
_COUNTS = (*TOKENS, "latency_us", "started_at", "finished_at")
_NUMBERS = {**dict.fromkeys(_COUNTS, pa.int64()), "cost_usd": _PICO, "cost_credits": _PICO}
_INHERITED_TYPES = {name: _NUMBERS.get(name, pa.string()) for name in INHERITED}
_KEYS = {"id": pa.string(), "variant": pa.string(), "repeat": pa.int32()}
_END = pa.struct(
    {
        "n": pa.int64(),
        "body": pa.string(),
        "body64": pa.string(),
        "headers": pa.struct({"x-request-id": pa.string(), "request-id": pa.string()}),
    }
)
_READ_TYPES: dict[str, pa.DataType] = {
    "n": pa.int64(),
    **_KEYS,
    "turn": pa.int32(),
    "purpose": pa.string(),
    "judge": pa.string(),
    "endpoint": pa.string(),
    "service_tier": pa.string(),
    "attempt": pa.int32(),
    "pack_rows": pa.int32(),
    "pack_place": pa.int32(),
    "outcome": pa.string(),
    "http_status": pa.int32(),
    **_INHERITED_TYPES,
    "held_usd": _PICO,
    "held_credits": _PICO,
    "reported_usd": pa.string(),
    "cache_write_1h_tokens": pa.int64(),
    "other_charges": pa.string(),
    "assembled": pa.string(),
}
_NOT_SHOWN = pa.struct(
    {
        "e": pa.string(),
        "position": pa.int64(),
        "counted": pa.int64(),
        "unknown_retries": pa.int64(),
        "gives_up": pa.bool_(),
    }
)
"""Fields of read and final events that no column is made of; a parser must know what may come."""
_FINAL_NOT_SHOWN = {"replaces": pa.string(), "saved_usd": _PICO, "saved_credits": _PICO}
_DEFAULTS: dict[str, Any] = {
    "repeat": 0,
    "turn": 0,
    "purpose": "answer",
    "attempt": 1,
    "started_at": 0,
    "request_hash": "",
}
_PIECE_BYTES = 2 * 2**20
"""Of a segment, parsed at one go: small enough for the allocators to use the same memory for every piece."""
_CHECKSUM_BYTES = len("\t00000000")
BEGINNING_BYTES = len('{"e":"end"')
"""Of a line: by so many its kind is known from all others."""
_Parse = Callable[[Sequence[bytes]], Columns]


def segment_tables(
    path: Path, number: int, schema: RunSchema, *, live: bool, checksum: int | None = None
) -> tuple[pa.Table, pa.Table]:
    """(attempts, finals) of a segment, in `attempts_schema` and `parts_schema`.

    `live`: bytes at the end that may never have been on the disk are left out, as `recover` cuts them; otherwise
    every line must be whole. `checksum`: the CRC-32 of all that was written, where it is known: a file that fits
    it need not be checked line by line. Raises RunDamaged, naming the line.
    """
    pieces = segment_pieces(path, number, schema, live=live, checksum=checksum)
    attempts, parts = [no_rows(attempts_schema(schema))], [no_rows(parts_schema(schema))]
    for piece in pieces:
        attempts.append(piece[0])
        parts.append(piece[1])
    return pa.concat_tables(attempts), pa.concat_tables(parts)


def segment_pieces(
    path: Path, number: int, schema: RunSchema, *, live: bool, checksum: int | None = None
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The same, of a few MB of the segment at a time. All lines are checked before this returns."""
    return _pieces(path, _whole_length(path, live=live, checksum=checksum), number, schema)


def _pieces(path: Path, length: int, number: int, schema: RunSchema) -> Iterator[tuple[pa.Table, pa.Table]]:
    readable = pa.struct({**_READ_TYPES, "final": _final_type(schema)})
    parsers: dict[str, _Parse] = {
        "end": partial(event_columns, fields=_END),
        "read": EventParser(readable, _NOT_SHOWN).columns,
        "final": EventParser(readable, _NOT_SHOWN).columns,
    }
    awaited: Columns | None = None
    for lines in _lines(path, length):
        found = _told_apart(lines, parsers)
        ends, reads, finals = (_columns(found[kind], parse) for kind, parse in parsers.items())
        if not any(len(events[SEQUENCE]) for events in (ends, reads, finals)):
            continue
        reads |= {name: _filled(reads[name], value) for name, value in _DEFAULTS.items()}
        ends = ends if awaited is None else _joined(awaited, ends)
        yield _attempts_table(reads, ends, schema), _parts_table(reads, finals, number, schema)
        unread = pc.invert(pc.is_in(ends["n"], value_set=reads["n"]))
        awaited = {name: column.filter(unread) for name, column in ends.items()}


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


class _Lines(Struct, frozen=True):
    """Some lines in their order, and the number of the first one, from 0."""

    lines: list[bytes]
    first: int


class _Events(Struct, frozen=True):
    """The events of one kind among some lines, and the numbers of these."""

    objects: list[bytes]
    numbers: array[int]


def _lines(path: Path, length: int) -> Iterator[_Lines]:
    """The lines in the first `length` bytes, a piece of the file at a time."""
    first = 0
    with path.open("rb") as file:
        while file.tell() < length:
            data = file.read(min(_PIECE_BYTES, length - file.tell()))
            end = data.rfind(b"\n") + 1
            if end:
                file.seek(end - len(data), os.SEEK_CUR)
            else:  # one line is longer than a piece
                data += file.readline()
            lines = data.split(b"\n")
            lines.pop()
            yield _Lines(lines, first)
            first += len(lines)


def _told_apart(piece: _Lines, kinds: Iterable[str]) -> dict[str, _Events]:
    """The events of these kinds, in one pass over the lines."""
    found = {kind: _Events([], array("q")) for kind in kinds}
    by_beginning = {(b'{"e":"%b"' % kind.encode())[:BEGINNING_BYTES]: events for kind, events in found.items()}
    for number, line in enumerate(piece.lines, piece.first):
        events = by_beginning.get(line[:BEGINNING_BYTES])
        if events is not None:
            events.objects.append(line[:-_CHECKSUM_BYTES])
            events.numbers.append(number)
    return found


def _columns(events: _Events, parse: _Parse) -> Columns:
    """The fields of the events, and the numbers of their lines."""
    numbers = pa.py_buffer(events.numbers)
    return {
        **parse(events.objects),
        SEQUENCE: pa.Array.from_buffers(pa.int64(), len(events.objects), [None, numbers]),
    }


def _filled(column: pa.Array, value: int | str) -> pa.Array:
    return pc.fill_null(column, constant(value, column.type)) if column.null_count else column


def _joined(first: Columns, second: Columns) -> Columns:
    return {name: pa.concat_arrays([column, second[name]]) for name, column in first.items()}


def _final_type(schema: RunSchema) -> pa.StructType:
    fields: dict[str, pa.DataType] = {
        "status": pa.string(),
        "as_read": pa.bool_(),
        **_INHERITED_TYPES,
        "attempt_count": pa.int32(),
        "unknown_attempts": pa.int32(),
        "output": pa.string(),
        "outputs": pa.list_(pa.string()),
        "supersedes": pa.bool_(),
        "reused_from": pa.string(),
        **_FINAL_NOT_SHOWN,
    }
    if schema.carried.names:
        fields["carried"] = pa.struct(dict.fromkeys(schema.carried.names, pa.string()))
    return pa.struct(fields)


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
    parts = dict(zip(columns["final"].type.names, columns["final"].flatten(), strict=True))
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
    special = _carried(parts["carried"], schema) if schema.carried.names else {}
    if schema.output is not None:
        special["output"] = _typed_output(parts["output"], schema.output)
    return _table(columns, special, parts_schema(schema), schema)


def _carried(texts: pa.StructArray, schema: RunSchema) -> Columns:
    """By their places: to Arrow's own functions a name that begins with a dot or a bracket is a path."""
    fields = zip(schema.carried, texts.flatten(), strict=True)
    return {field.name: decode_column(typed(text, pa.string()), field.type) for field, text in fields}


def _inherited(own: pa.Array, as_read: pa.Array, read: pa.Array) -> pa.Array:
    """What a final says, or where it says nothing and is `as_read`, what the read event says."""
    if own.null_count == len(own) and as_read.false_count == 0:
        return read
    return pc.coalesce(own, pc.if_else(as_read, read, pa.NULL))


def _in_order(reads: Columns, finals: Columns) -> Columns:
    """The reads that conclude a unit and the finals without an attempt, in the order of their lines."""
    concluded = pc.is_valid(pc.struct_field(reads["final"], "status"))
    columns = {name: reads[name] for name in (*_KEYS, SEQUENCE, "final", *INHERITED)}
    if concluded.true_count < len(concluded):
        columns = {name: column.filter(concluded) for name, column in columns.items()}
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
            chosen.append(axis_column(typed(columns["variant"], pa.string()), field, schema))
        else:
            chosen.append(_arrow(columns[field.name], field.type))
    return pa.Table.from_arrays(chosen, schema=target)


def axis_column(variants: pa.Array, field: pa.Field, schema: RunSchema) -> pa.Array:
    """The values of one axis column, from the variants' names."""
    coded = variants.dictionary_encode()
    values = (schema.axis_values(name)[field.name] for name in coded.dictionary.to_pylist())
    return parsed_values(map(orjson.dumps, values), field.type).take(coded.indices)


def _arrow(array: pa.Array, data_type: pa.DataType) -> pa.Array:
    if data_type == MONEY:
        return money_column(array)
    if data_type == MOMENT:
        return array.view(MOMENT)
    return typed(array, data_type)


def _typed_output(texts: pa.Array, data_type: pa.DataType) -> pa.Array:
    """The objects as their type. One that does not fit its columns is null; `output_text` has it."""
    objects = [(text or "null").encode() for text in texts.to_pylist()]
    try:
        return parsed_values(objects, data_type)
    except pa.ArrowInvalid:
        return pa.concat_arrays([_one_output(value, data_type) for value in objects])


def _one_output(value: bytes, data_type: pa.DataType) -> pa.Array:
    try:
        return parsed_values([value], data_type)
    except pa.ArrowInvalid:
        return pa.nulls(1, data_type)
