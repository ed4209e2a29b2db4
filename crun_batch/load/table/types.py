"""What a column's type becomes: the few plain Arrow types that the rest of the house has to know.

Owns the decisions about types (encodings undone, several files made one) and the conversion of arrays to
them; pure. It must not know files, formats or SQL.
"""

from __future__ import annotations

import difflib
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from crun_batch.load.table.arrays import array_of

_ENCODINGS = {
    pa.string_view(): pa.string(),
    pa.large_string(): pa.string(),
    pa.binary_view(): pa.binary(),
    pa.large_binary(): pa.binary(),
    pa.float16(): pa.float32(),
    pa.time64("ns"): pa.time64("us"),
    pa.duration("ns"): pa.duration("us"),
}
_VIEWS = (pa.string_view(), pa.binary_view())
"""What polars keeps texts as; Arrow decodes no dictionary of them."""
_UUID = "arrow.uuid"
RAW_JSON = pa.json_(pa.utf8())
"""The type of a JSONL column of objects or arrays while files are compared; delivered as text."""


def plain(kind: pa.DataType) -> pa.DataType:
    """The type without its encoding: dictionaries, views, large offsets undone, nanoseconds cut to microseconds.

    Within nested types too. Python's own dates hold microseconds, so finer times could not be delivered at all.
    """
    if kind == RAW_JSON:
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        return pa.string() if kind.extension_name == _UUID else plain(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if pa.types.is_nested(kind):
        return _plain_nested(kind)
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    return _ENCODINGS.get(kind, kind)


def _plain_nested(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain(field.type)) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_type), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(plain(kind.value_type))
    return kind


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with every column's plain type, without metadata."""
    return pa.schema([pa.field(field.name, plain(field.type)) for field in schema])


def delivered(kind: pa.DataType) -> pa.DataType:
    """The type that users of the table see: a column of nulls only, and raw JSON, are text."""
    return pa.string() if pa.types.is_null(kind) or kind == RAW_JSON else kind


def common(typed: Sequence[pa.DataType], from_text: Sequence[pa.DataType]) -> pa.DataType:
    """The one type of a column over all files.

    `typed` are types that files state; `from_text` those that CSV cells would allow, which may always be text
    instead. Raises pa.ArrowTypeError where there is none.
    """
    stated = _widest(typed) if typed else pa.null()
    readable = {kind for kind in from_text if not pa.types.is_null(kind)}
    if not readable:
        return stated
    if pa.types.is_null(stated):
        return readable.pop() if len(readable) == 1 else pa.string()
    if pa.types.is_string(stated):
        return stated
    return _widest([stated, *readable])


def _widest(kinds: Sequence[pa.DataType]) -> pa.DataType:
    schemas = [pa.schema([pa.field("column", kind)]) for kind in kinds]
    return pa.unify_schemas(schemas, promote_options="permissive").field("column").type


def convert(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The array in a plain type. Raises pa.ArrowInvalid where a value does not fit."""
    if array.type == kind:
        return array
    if isinstance(array.type, pa.BaseExtensionType):
        if array.type.extension_name == _UUID:
            return array_of([None if value is None else str(value) for value in array.to_pylist()], kind)
        return convert(array.storage, kind)
    if pa.types.is_dictionary(array.type):
        words = convert(array.dictionary, plain(array.type.value_type))
        return convert(pa.DictionaryArray.from_arrays(array.indices, words).dictionary_decode(), kind)
    if pa.types.is_run_end_encoded(array.type):
        return convert(pc.run_end_decode(array), kind)
    if _holds(array.type, _is_out_of_reach):
        shortest = _with_shortest_halves(array.type)
        return convert(pa.array([shortest(value) for value in array.to_pylist()], plain(array.type)), kind)
    finer_times = pa.types.is_temporal(array.type) or pa.types.is_nested(array.type)
    return pc.cast(array, kind, safe=not finer_times)


def with_shortest_floats(array: pa.Array) -> pa.Array:
    """The array with each float32, nested ones too, as the float64 of its shortest text: 0.1, not 0.10000000149...

    That text still reads back as the same float32, and it is what the one who wrote the column meant.
    """
    wide = _with_floats(array.type, pa.float64())
    return array if wide == array.type else array.cast(_with_floats(array.type, pa.string())).cast(wide)


def _with_floats(kind: pa.DataType, instead: pa.DataType) -> pa.DataType:
    """The plain type with `instead` in the place of float32."""
    if kind == pa.float32():
        return instead
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_floats(field.type, instead)) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(_with_floats(kind.key_type, instead), _with_floats(kind.item_type, instead))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_with_floats(kind.value_type, instead), kind.list_size)
    return pa.list_(_with_floats(kind.value_type, instead)) if pa.types.is_list(kind) else kind


def _holds(kind: pa.DataType, asked: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type is that, or has it inside."""
    if not pa.types.is_nested(kind):
        return asked(kind)
    return any(_holds(kind.field(number).type, asked) for number in range(kind.num_fields))


def _is_half(kind: pa.DataType) -> bool:
    return bool(pa.types.is_float16(kind))


def _is_out_of_reach(kind: pa.DataType) -> bool:
    """What Arrow's own cast does another way than wanted (float16), or not at all (dictionaries of views)."""
    return _is_half(kind) or (pa.types.is_dictionary(kind) and kind.value_type in _VIEWS)


def _with_shortest_halves(kind: pa.DataType) -> Callable[[Any], Any]:
    """What makes of a Python value of this type the same with each float16 as its shortest number.

    A float32 of that number then reads as it: Arrow itself writes 0.1 of 16 bits as 0.0999755859375.
    """
    if not _holds(kind, _is_half):
        return lambda value: value
    if kind == pa.float16():
        return _shortest_half
    if pa.types.is_struct(kind):
        of = {field.name: _with_shortest_halves(field.type) for field in kind.fields}
        return lambda value: None if value is None else {name: each(value[name]) for name, each in of.items()}
    if pa.types.is_map(kind):
        key, item = _with_shortest_halves(kind.key_type), _with_shortest_halves(kind.item_type)
        return lambda value: None if value is None else [(key(name), item(each)) for name, each in value]
    inside = _with_shortest_halves(kind.value_type)
    return lambda value: None if value is None else [inside(each) for each in value]


def _shortest_half(value: float | None) -> float | None:
    if value is None or value == 0:  # 0.0 and -0.0 would be one in a cache
        return value
    return _shortest(float(value))


@lru_cache(maxsize=1 << 16)
def _shortest(value: float) -> float:
    """The number of the fewest digits, at most five, that is this one in 16 bits."""
    if not math.isfinite(value):
        return value
    texts = (float(f"{value:.{digits}g}") for digits in range(1, 6))
    return next((near for near in texts if _in_16_bits(near) == value), value)


def _in_16_bits(value: float) -> float | None:
    try:
        return float(struct.unpack("e", struct.pack("e", value))[0])
    except OverflowError:
        return None


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known column, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    shown = ", ".join(f"`{each}`" for each in names[:20])
    return f"the columns are {shown}{' ...' if len(names) > 20 else ''}"
