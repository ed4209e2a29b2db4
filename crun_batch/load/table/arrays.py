"""Arrow arrays of Python values. Pure.

`pa.array` makes them too, and so would Arrow's functions of a bare number; both load pandas first, where it is
installed, to look whether the values are its own: half a second and 50 MB for a table of twenty rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values, None for null, as `kind`: null, string, bool, int64 or float64."""
    if pa.types.is_null(kind):
        return pa.nulls(len(values))
    present = bytes(value is not None for value in values)
    nulls = present.count(0)
    validity = _bits(present).buffers()[1] if nulls else None
    return pa.Array.from_buffers(kind, len(values), [validity, *_BUFFERS[kind](values)], nulls)


def _bits(flags: bytes) -> pa.BooleanArray:
    return pa.Array.from_buffers(pa.uint8(), len(flags), [None, pa.py_buffer(flags)]).cast(pa.bool_())


def _texts(values: Sequence[str | None]) -> tuple[pa.Buffer, pa.Buffer]:
    encoded = [(value or "").encode() for value in values]
    offsets = array("i", accumulate(map(len, encoded), initial=0))
    return pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))


def _flags(values: Sequence[bool | None]) -> tuple[pa.Buffer]:
    return (_bits(bytes(map(bool, values))).buffers()[1],)


def _numbers(code: str) -> Callable[[Sequence[float | None]], tuple[pa.Buffer]]:
    return lambda values: (pa.py_buffer(array(code, [0 if value is None else value for value in values])),)


_BUFFERS: dict[pa.DataType, Callable[[Sequence[Any]], tuple[pa.Buffer, ...]]] = {
    pa.string(): _texts,
    pa.bool_(): _flags,
    pa.int64(): _numbers("q"),
    pa.float64(): _numbers("d"),
}
"""Arrow type -> what follows the validity in its arrays."""
