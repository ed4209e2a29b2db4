"""The done marks of a run that goes on: every unit that has a final result, wherever its row stands now.

Marked a million at a time, outside the interpreter lock: ten million finished units in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from crun_batch.load.table.arrays import array_of
from crun_batch.state.done import DoneMarks
from crun_batch.store.schema import constant
from crun_batch.workload.workload import Workload

_MARKED_AT_ONCE = 1 << 20
_ENDING = ("variant", "repeat", "status", "error_kind")


def mark_done(done: DoneMarks, workload: Workload, finished: pa.RecordBatchReader) -> None:
    """Mark these units (id, variant, repeat, status, error_kind); those that the job has no more are left out."""
    codes = bytearray(workload.unit_slots)
    for batch in _gathered(workload.table.positions_of(finished)):
        offsets, endings = _slots_and_codes(batch, workload, done)
        slots = pc.add(pc.multiply(batch.column("position"), _whole_number(workload.slots.per_row)), offsets)
        known = slots.is_valid()
        done.of_former_ways += pc.and_(batch.column("position").is_valid(), offsets.is_null()).true_count
        _put(codes, slots.filter(known), endings.filter(known))
    done.mark_all(codes)


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, very many at once, each text in one dictionary."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= _MARKED_AT_ONCE:
            yield _together(waiting)
            waiting, rows = [], 0
    if rows:
        yield _together(waiting)


def _together(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    return table.to_batches()[0]


def _slots_and_codes(batch: pa.RecordBatch, workload: Workload, done: DoneMarks) -> tuple[pa.Array, pa.Array]:
    """For each unit where its slot stands among those of its row, null for none, and the code of its ending."""
    variants = {variant.name: variant.index for variant in workload.variants}
    coded = [batch.column(name).dictionary_encode() for name in _ENDING]
    endings = _numbered(coded)
    offsets: list[int | None] = []
    codes: list[int] = []
    for number in endings.dictionary.to_pylist():
        variant, repeat, status, kind = _ending(number, coded)
        is_known = variant in variants and repeat < workload.repeats
        offsets.append(workload.slots.of(0, variants[variant], repeat) if is_known else None)
        codes.append(done.code(status, kind) if is_known else 0)
    return (
        array_of(offsets, pa.int64()).take(endings.indices),
        array_of(codes, pa.int64()).cast(pa.uint8()).take(endings.indices),
    )


def _numbered(coded: list[pa.DictionaryArray]) -> pa.DictionaryArray:
    """One number for each combination of codes; a null is a code of its own, after the others."""
    number = _whole_number(0)
    for column in coded:
        nulls = len(column.dictionary)
        codes = pc.fill_null(column.indices.cast(pa.int64()), _whole_number(nulls))
        number = pc.add(pc.multiply(number, _whole_number(nulls + 1)), codes)
    return number.dictionary_encode()


def _ending(number: int, coded: list[pa.DictionaryArray]) -> list[Any]:
    """The values that a number of `_numbered` stands for."""
    values = []
    for column in reversed(coded):
        number, code = divmod(number, len(column.dictionary) + 1)
        values.append(column.dictionary[code].as_py() if code < len(column.dictionary) else None)
    return values[::-1]


def _put(codes: bytearray, slots: pa.Array, values: pa.Array) -> None:
    """Put each value in its slot; only as much is looked at as lies between the first slot and the last."""
    if not len(slots):
        return
    extent = pc.min_max(slots)
    first, end = extent["min"].as_py(), extent["max"].as_py() + 1
    places = pc.subtract(slots, _whole_number(first))
    before = pa.Array.from_buffers(pa.uint8(), end - first, [None, pa.py_buffer(codes[first:end])])
    now = pc.coalesce(pc.scatter(values, places, max_index=end - first - 1), before)
    codes[first:end] = memoryview(now.buffers()[1])[: end - first]


def _whole_number(value: int) -> pa.Scalar:
    return constant(value, pa.int64())
