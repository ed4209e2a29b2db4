"""A segment as two tables: its attempts and its finals, in the columns that users see.

The lines' checksums are checked and the lines sorted by kind here; parsing and joining is Polars' work, outside
the interpreter lock. Owns: what each column is computed from. Must not know: where the tables go.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import orjson
import polars as pl
import pyarrow as pa
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
    ends = _parse(lines.ends, _END_TYPES)
    reads = _parse(lines.reads, {**_READ_TYPES, "final": _final_type(schema)})
    finals = _parse(lines.finals, {**_KEYS, "final": _final_type(schema)})
    reads = reads.with_columns(pl.Series(SEQUENCE, lines.read_numbers, pl.Int64))
    finals = finals.with_columns(pl.Series(SEQUENCE, lines.final_numbers, pl.Int64))
    reads = reads.with_columns(pl.col(name).fill_null(value) for name, value in _DEFAULTS.items())
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


def _parse(payloads: list[bytes], types: dict[str, pl.DataType]) -> pl.DataFrame:
    try:
        return pl.read_ndjson(io.BytesIO(b"\n".join(payloads)), schema=types)
    except pl.exceptions.ComputeError:
        bounded = [orjson.dumps(_bounded(msgspec.json.decode(payload))) for payload in payloads]
        return pl.read_ndjson(io.BytesIO(b"\n".join(bounded)), schema=types)


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


def _attempts_table(reads: pl.DataFrame, ends: pl.DataFrame, schema: RunSchema) -> pa.Table:
    ends = ends.unique("n", keep="last").select(
        "n",
        pl.col("body").alias("_body"),
        pl.col("body64").alias("_body64"),
        pl.coalesce(
            pl.col("headers").struct.field("x-request-id"), pl.col("headers").struct.field("request-id")
        ).alias("request_id"),
    )
    frame = reads.join(ends, on="n", how="left", maintain_order="left").with_columns(
        pl.col("n").alias("serial"),
        pl.coalesce("assembled", "_body").alias("reply_body"),
        pl.when(pl.col("assembled").is_null()).then("_body64").alias("reply_base64"),
        (pl.col("latency_us") / 1e6).alias("latency_seconds"),
    )
    return _table(frame, {}, attempts_schema(schema), schema)


def _parts_table(reads: pl.DataFrame, finals: pl.DataFrame, number: int, schema: RunSchema) -> pa.Table:
    part = pl.col("final").struct
    concluded = reads.filter(part.field("status").is_not_null()).select(*_KEYS, SEQUENCE, "final", *INHERITED)
    frame = pl.concat([concluded, finals], how="diagonal").sort(SEQUENCE)
    as_read = part.field("as_read").fill_null(value=False)
    frame = frame.with_columns(
        *(
            pl.when(as_read)
            .then(pl.coalesce(part.field(name), pl.col(name)))
            .otherwise(part.field(name))
            .alias(name)
            for name in INHERITED
        ),
        pl.col("repeat").fill_null(0),
        (pl.col(SEQUENCE) + number * 2**32).alias(SEQUENCE),
        part.field("supersedes").fill_null(value=False).alias(SUPERSEDES),
        part.field("status"),
        part.field("output").alias("_output"),
        part.field("outputs"),
        part.field("attempt_count").fill_null(1),
        part.field("unknown_attempts").fill_null(0),
    ).with_columns(
        pl.col("text").alias("output_text"),
        (pl.col("latency_us") / 1e6).alias("latency_seconds"),
    )
    special = {
        field.name: decode_column(
            _arrow(frame.select(part.field("carried").struct.field(field.name)).to_series(), pa.string()),
            field.type,
        )
        for field in schema.carried
    }
    if schema.output is not None:
        special["output"] = _typed_output(_arrow(frame["_output"], pa.string()), schema.output)
    return _table(frame, special, parts_schema(schema), schema)


def _table(frame: pl.DataFrame, special: dict[str, pa.Array], target: pa.Schema, schema: RunSchema) -> pa.Table:
    axes = {field.name for field in schema.axis_fields}
    columns = []
    for field in target:
        if field.name in special:
            columns.append(special[field.name])
        elif field.name == schema.id_name:
            columns.append(_arrow(frame["id"], field.type))
        elif field.name in axes:
            columns.append(axis_column(_arrow(frame["variant"], pa.string()), field, schema))
        else:
            columns.append(_arrow(frame[field.name], field.type))
    return pa.Table.from_arrays(columns, schema=target)


def axis_column(variants: pa.Array, field: pa.Field, schema: RunSchema) -> pa.Array:
    """The values of one axis column, from the variants' names."""
    coded = variants.dictionary_encode()
    values = [schema.axis_values(name)[field.name] for name in coded.dictionary.to_pylist()]
    return pa.array(values, field.type).take(coded.indices)


def _arrow(series: pl.Series, data_type: pa.DataType) -> pa.Array:
    array = series.to_arrow(compat_level=pl.CompatLevel.oldest())
    if data_type == MONEY:
        return money_column(array)
    if data_type == MOMENT:
        return array.cast(pa.int64()).view(MOMENT)
    return array.cast(data_type)


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
