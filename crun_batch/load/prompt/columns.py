"""Values of table columns in the form in which prompts use them, chosen once by the column's Arrow type.

Owns what a decimal, a date, bytes and nested values look like in a prompt. A conversion never changes the
row's own value: templates may call methods on lists and dicts, and a row is rendered several times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa

Convert = Callable[[Any], Any]


def converter(kind: pa.DataType) -> Convert | None:
    """How values of an Arrow type are shown to templates; None: as they are.

    Decimals become their exact text, dates and times ISO 8601, durations text; lists, structs and maps are
    copied with their items converted.
    """
    if pa.types.is_dictionary(kind):
        return converter(kind.value_type)
    if pa.types.is_decimal(kind):
        return _unless_null(_decimal_text)
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        return _unless_null(lambda value: value.isoformat())
    if pa.types.is_duration(kind):
        return _unless_null(str)
    return _unless_null(_nested(kind)) if pa.types.is_nested(kind) else None


def _decimal_text(value: Decimal) -> str:
    return format(value, "f")


def _unless_null(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _nested(kind: pa.DataType) -> Convert:
    if pa.types.is_struct(kind):
        fields = {kind.field(index).name: converter(kind.field(index).type) for index in range(kind.num_fields)}
        return lambda value: {name: _apply(fields.get(name), item) for name, item in value.items()}
    if pa.types.is_map(kind):
        items = converter(kind.item_type)
        return lambda value: {name: _apply(items, item) for name, item in dict(value).items()}
    if pa.types.is_union(kind):
        return lambda value: value
    items = converter(kind.value_type)
    return lambda value: [_apply(items, item) for item in value]


def _apply(convert: Convert | None, value: Any) -> Any:
    return value if convert is None else convert(value)


def holds_binary(kind: pa.DataType) -> bool:
    """Whether values of this type are or hold raw bytes, which have no form as text."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    if pa.types.is_binary_view(kind):
        return True
    if pa.types.is_dictionary(kind):
        return holds_binary(kind.value_type)
    return any(holds_binary(kind.field(index).type) for index in range(kind.num_fields))


def may_hold_json(kind: pa.DataType) -> bool:
    """Whether values of this type can be messages or a body: text, raw bytes, lists, structs, maps."""
    if pa.types.is_dictionary(kind):
        return may_hold_json(kind.value_type)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return text or pa.types.is_nested(kind) or holds_binary(kind)


def without_nulls(value: Any) -> Any:
    """A copy without the null fields of structs: Arrow gives every struct all fields, absent ones as null."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, (list, tuple)) else value


def json_bytes(value: Any) -> bytes:
    """Compact JSON; a decimal becomes a number with all its digits."""
    return orjson.dumps(value, default=_decimal_number)


def _decimal_number(value: Any) -> orjson.Fragment:
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(format(value, "f"))
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")
