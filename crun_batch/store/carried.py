"""Values of the prompt table on their way through the journal: each becomes a text, and the same value again.

A text per value keeps the journal's lines readable by a schema, and is exact for every type: numbers by their
shortest round-trip digits (NaN and infinities too), times by their count in the column's unit, bytes in base64,
nested values as JSON of such texts. Pure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as is_type

Encoder = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MICROSECOND = timedelta(microseconds=1)
_OFFSET = re.compile(r"[+-].*|Z")
_DIGITS = 38
"""Of a decimal, as many as Polars and DuckDB hold."""


def stored_type(data_type: pa.DataType) -> pa.DataType:
    """The type a column has in our files: itself, or the nearest one that Polars, pandas and DuckDB read too.

    Of an encoding the type of its values, of a list view a list. A moment with an offset for a time zone, which
    Polars refuses, is the same one in UTC. A decimal of more than 38 digits, of which DuckDB makes a float, is
    text, and so is a struct without fields, which Parquet has not.
    """
    if is_type.is_dictionary(data_type) or is_type.is_run_end_encoded(data_type):
        return stored_type(data_type.value_type)
    if is_type.is_nested(data_type):
        return _stored_nested(data_type)
    if is_type.is_timestamp(data_type) and _OFFSET.fullmatch(data_type.tz or ""):
        return pa.timestamp(data_type.unit, "UTC")
    if is_type.is_decimal256(data_type):
        narrow = data_type.precision <= _DIGITS
        return pa.decimal128(data_type.precision, data_type.scale) if narrow else pa.string()
    return data_type


def _stored_nested(data_type: pa.DataType) -> pa.DataType:
    """The same of stored types."""
    if is_type.is_struct(data_type):
        return pa.struct([_stored(field) for field in data_type]) if data_type.num_fields else pa.string()
    if is_type.is_map(data_type):
        return pa.map_(_stored(data_type.key_field), _stored(data_type.item_field), data_type.keys_sorted)
    if is_type.is_fixed_size_list(data_type):
        return pa.list_(_stored(data_type.value_field), data_type.list_size)
    if is_type.is_large_list(data_type) or is_type.is_large_list_view(data_type):
        return pa.large_list(_stored(data_type.value_field))
    return pa.list_(_stored(data_type.value_field)) if _is_list(data_type) else data_type


def _stored(field: pa.Field) -> pa.Field:
    return field.with_type(stored_type(field.type))


def type_of_both(before: pa.DataType, now: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both: numbers of both sizes, or texts; None where none does.

    Texts only for what reads in our texts as it does in a table: no times, bytes or nested values.
    """
    before, now = stored_type(before), stored_type(now)
    if before == now:
        return now
    if not (_is_cast(before) and _is_cast(now)):
        return None
    schemas = [pa.schema([("column", kind)]) for kind in (before, now)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("column").type
    except pa.ArrowTypeError:
        return pa.string()


def carried_encoder(
    schema: pa.Schema, columns: Mapping[str, str] | None = None
) -> Callable[[Mapping[str, Any]], dict[str, str | None]]:
    """A function from a row's values to what `FinalPart.carried` takes; names and types are the schema's.

    `columns`: the row's name for each name in the schema, where they differ. Raises TypeError for a column type
    that cannot be carried.
    """
    columns = columns or {}
    encoders = [
        (field.name, columns.get(field.name, field.name), _text_encoder(stored_type(field.type)))
        for field in schema
    ]

    def encode(values: Mapping[str, Any]) -> dict[str, str | None]:
        texts: dict[str, str | None] = {}
        for name, column, encoder in encoders:
            value = values.get(column)
            texts[name] = None if value is None else encoder(value)
        return texts

    return encode


def decode_column(texts: pa.Array, data_type: pa.DataType) -> pa.Array:
    """The column that these texts stand for, exactly as it was encoded."""
    data_type = stored_type(data_type)
    if _is_cast(data_type):
        return pc.cast(texts, data_type)
    if is_type.is_temporal(data_type):
        counts = pc.cast(texts, pa.int32() if data_type.bit_width == 32 else pa.int64())
        return counts.view(data_type)
    decoder = _decoder(data_type)
    nested = is_type.is_nested(data_type)
    values = [
        None if text is None else decoder(orjson.loads(text) if nested else text) for text in texts.to_pylist()
    ]
    return pa.array(values, data_type)


def _is_cast(data_type: pa.DataType) -> bool:
    return bool(
        is_type.is_integer(data_type)
        or is_type.is_floating(data_type)
        or is_type.is_boolean(data_type)
        or is_type.is_decimal(data_type)
        or _is_text(data_type)
        or is_type.is_null(data_type)
    )


def _is_text(data_type: pa.DataType) -> bool:
    return bool(
        is_type.is_string(data_type) or is_type.is_large_string(data_type) or is_type.is_string_view(data_type)
    )


def _is_bytes(data_type: pa.DataType) -> bool:
    return bool(
        is_type.is_binary(data_type)
        or is_type.is_large_binary(data_type)
        or is_type.is_binary_view(data_type)
        or is_type.is_fixed_size_binary(data_type)
    )


def _is_list(data_type: pa.DataType) -> bool:
    return bool(
        is_type.is_list(data_type)
        or is_type.is_large_list(data_type)
        or is_type.is_fixed_size_list(data_type)
        or is_type.is_list_view(data_type)
        or is_type.is_large_list_view(data_type)
    )


def _text_encoder(data_type: pa.DataType) -> Encoder:
    encoder = _encoder(data_type)
    if is_type.is_nested(data_type):
        return lambda value: orjson.dumps(encoder(value)).decode()
    return encoder


def _encoder(data_type: pa.DataType) -> Encoder:
    if is_type.is_nested(data_type):
        return _nested_encoder(data_type)
    for applies, encoder in _SCALAR_ENCODERS:
        if applies(data_type):
            return encoder
    if is_type.is_temporal(data_type) and not is_type.is_interval(data_type):
        return _temporal_encoder(data_type)
    raise TypeError(f"a column of type {data_type} cannot be carried into results")


_TEXTS: Mapping[type, Encoder] = {bool: lambda value: str(value).lower(), Decimal: lambda value: f"{value:f}"}
"""As which text a value stands in a column of texts, where not as Python writes it."""
_SCALAR_ENCODERS: tuple[tuple[Callable[[pa.DataType], bool], Encoder], ...] = (
    (_is_text, lambda value: _TEXTS.get(type(value), str)(value)),
    (is_type.is_boolean, lambda value: "true" if value else "false"),
    (is_type.is_integer, lambda value: str(int(value))),
    (is_type.is_floating, lambda value: repr(float(value))),
    (is_type.is_decimal, str),
    (_is_bytes, lambda value: base64.b64encode(value).decode()),
    (is_type.is_null, str),
)


def _temporal_encoder(data_type: pa.DataType) -> Encoder:
    if is_type.is_date(data_type):
        scale = 1 if data_type.bit_width == 32 else 86_400_000
        return lambda value: str(value if isinstance(value, int) else _days(value) * scale)
    per_second = _PER_SECOND[data_type.unit]

    def encode(value: Any) -> str:
        return str(value if isinstance(value, int) else _count(value, per_second))

    return encode


def _days(value: date) -> int:
    return value.toordinal() - _EPOCH_DAY


def _count(value: datetime | time | timedelta, per_second: int) -> int:
    nanoseconds = getattr(value, "value", None)
    if isinstance(nanoseconds, int):  # pandas, which keeps nanoseconds
        return nanoseconds * per_second // 10**9
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
    elif isinstance(value, time):
        value = timedelta(
            hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
        )
    return (value // _MICROSECOND) * per_second // 10**6


def _nested_encoder(data_type: pa.DataType) -> Encoder:
    if _is_list(data_type):
        item = _optional(_encoder(stored_type(data_type.value_type)))
        return lambda value: [item(part) for part in value]
    if is_type.is_map(data_type):
        key = _encoder(stored_type(data_type.key_type))
        item = _optional(_encoder(stored_type(data_type.item_type)))
        return lambda value: [
            [key(name), item(part)] for name, part in (value.items() if isinstance(value, Mapping) else value)
        ]
    if is_type.is_struct(data_type):
        fields = [(field.name, _optional(_encoder(stored_type(field.type)))) for field in data_type]
        return lambda value: [encoder(value.get(name)) for name, encoder in fields]
    raise TypeError(f"a column of type {data_type} cannot be carried into results")


def _optional(encoder: Encoder) -> Encoder:
    return lambda value: None if value is None else encoder(value)


def _decoder(data_type: pa.DataType) -> Encoder:
    """From a text, or the JSON of a nested value, to what `pa.array` takes for that type."""
    data_type = stored_type(data_type)
    if _is_list(data_type):
        item = _optional(_decoder(data_type.value_type))
        return lambda value: [item(part) for part in value]
    if is_type.is_map(data_type):
        key, item = _decoder(data_type.key_type), _optional(_decoder(data_type.item_type))
        return lambda value: [(key(name), item(part)) for name, part in value]
    if is_type.is_struct(data_type):
        fields = [(field.name, _optional(_decoder(field.type))) for field in data_type]
        return lambda value: {name: decoder(part) for (name, decoder), part in zip(fields, value, strict=True)}
    return next(decoder for applies, decoder in _SCALAR_DECODERS if applies(data_type))


_SCALAR_DECODERS: tuple[tuple[Callable[[pa.DataType], bool], Encoder], ...] = (
    (_is_text, str),
    (is_type.is_boolean, lambda text: text == "true"),
    (is_type.is_integer, int),
    (is_type.is_floating, float),
    (is_type.is_decimal, Decimal),
    (_is_bytes, base64.b64decode),
    (is_type.is_temporal, int),
    (is_type.is_null, lambda _: None),
)
