"""The answers that a run has recorded, found by what was asked: for another run that asks the same.

Every file that is read is held against its checksum first. The answers lie in a temporary file without a name, so
that memory holds 16 bytes for each of them, and 8 more for one that was given to several rows, however long they
are. Reads only.
"""

from __future__ import annotations

import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from crun_batch.errors import DiskFailed, RunDamaged
from crun_batch.store.directory import RunDirectory
from crun_batch.store.manifest import read_manifest
from crun_batch.store.schema import RunSchema, results_schema
from crun_batch.store.seal import file_digest
from crun_batch.store.views import Snapshot, current_finals, snapshot

TAKEN_STATUSES = ("ok", "truncated", "refused")
"""What the gateway answered. What failed, or did not fit a schema, is asked anew."""
ANSWER_COLUMNS = (
    "status",
    "output_text",
    "outputs",
    "tool_calls",
    "finish_reason",
    "error_kind",
    "error_message",
    "model",
    "response_id",
    "cost_usd",
    "cost_credits",
    "cost_source",
    "request_hash",
    "attempt_count",
)
_KEYS = ("variant", "repeat")
_HASH_STEP = 0x9E3779B97F4A7C15
_REPEAT_STEP = 0xC2B2AE3D27D4EB4F
_MASK = 2**64 - 1
_PLACE_BITS = 32
_INDEX = {"key": pl.UInt64, "was_shared": pl.Boolean, "given": pl.UInt64, "place": pl.UInt64}
_SPOOLED = pa.schema([results_schema(RunSchema()).field(name) for name in ANSWER_COLUMNS])


class RecordedAnswers:
    """The answers of one run at one moment."""

    def __init__(self, now: Snapshot, group_of: Callable[[str], int | None]) -> None:
        """`group_of`: variant -> who was asked, as a number; None: its answers are not to be taken."""
        _check_files(now)
        index, spool = _spooled(now, group_of)
        index = index.sort("key", "was_shared", "place")
        self._keys, self._places = (_integers(index[name]) for name in ("key", "place"))
        self._given = _integers(index.filter("was_shared")["given"].sort())
        self._reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(spool)))
        self._batch: tuple[int, pa.RecordBatch] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, request_hash: str, repeat: int, group: int) -> dict[str, Any] | None:
        """The values of the answer's columns; None: this was not asked there, or not answered."""
        key = _key(request_hash, repeat, group)
        index = bisect_left(self._keys, key)
        while index < len(self._keys) and self._keys[index] == key:
            values = self._at(self._places[index])
            if values["request_hash"] == request_hash:
                return values
            index += 1
        return None

    def was_given(self, row_id: str, request_hash: str, repeat: int, group: int) -> bool:
        """Whether this very row was given another one's answer there, and cost nothing."""
        given = _given(row_id, _key(request_hash, repeat, group))
        index = bisect_left(self._given, given)
        return index < len(self._given) and self._given[index] == given

    def _at(self, place: int) -> dict[str, Any]:
        number, row = place >> _PLACE_BITS, place & (2**_PLACE_BITS - 1)
        if self._batch is None or self._batch[0] != number:
            self._batch = number, self._reader.get_batch(number)
        batch = self._batch[1]
        return {name: batch.column(at)[row].as_py() for at, name in enumerate(batch.schema.names)}


def open_answers(path: Path, schema: RunSchema, group_of: Callable[[str], int | None]) -> RecordedAnswers:
    """The answers of the run in this directory, the live ones included. Raises RunDamaged, DiskFailed."""
    return RecordedAnswers(snapshot(RunDirectory(path), schema), group_of)


def _spooled(now: Snapshot, group_of: Callable[[str], int | None]) -> tuple[pl.DataFrame, mmap]:
    """Where each answer is, and the answers, in a temporary file that goes with the process."""
    index = [pl.DataFrame(schema=_INDEX)]
    try:
        with tempfile.TemporaryFile() as spool:
            with pa.ipc.new_file(spool, _SPOOLED) as writer:
                for number, (table, asked) in enumerate(_answers(now, group_of)):
                    writer.write_batch(table.combine_chunks().to_batches()[0])
                    first = number << _PLACE_BITS
                    places = pl.int_range(first, first + table.num_rows, dtype=pl.UInt64, eager=True)
                    index.append(asked.with_columns(places.alias("place")).select(*_INDEX))
            spool.flush()
            return pl.concat(index), mmap(spool.fileno(), 0, access=ACCESS_READ)
    except OSError as error:
        folder = tempfile.gettempdir()
        raise DiskFailed(f"the answers of {now.run.path} cannot be laid ready in {folder}: {error}") from error


def _answers(now: Snapshot, group_of: Callable[[str], int | None]) -> Iterator[tuple[pa.Table, pl.DataFrame]]:
    """The answers in the order of the records, and what was asked for each."""
    id_name = now.schema.id_name
    for table in current_finals(now, [*ANSWER_COLUMNS, *_KEYS, id_name]):
        frame = pl.DataFrame(pl.from_arrow(table))
        groups = {name: group_of(name) for name in frame["variant"].unique()}
        frame = frame.filter(
            pl.col("status").is_in(TAKEN_STATUSES),
            pl.col("request_hash").is_not_null(),
            pl.col("variant").is_in([name for name, group in groups.items() if group is not None]),
        )
        if frame.height:
            told = zip(frame["request_hash"], frame["repeat"], frame["variant"], strict=True)
            keys = [_key(asked, repeat, groups[variant] or 0) for asked, repeat, variant in told]
            was_shared = frame["attempt_count"] == 0
            given = [_given(row_id, key) for row_id, key in zip(frame[id_name].cast(pl.String), keys, strict=True)]
            index = pl.DataFrame(
                {
                    "key": pl.Series(keys, dtype=pl.UInt64),
                    "was_shared": was_shared,
                    "given": pl.Series(given, dtype=pl.UInt64),
                }
            )
            yield _spoolable(frame), index


def _spoolable(frame: pl.DataFrame) -> pa.Table:
    return frame.select(ANSWER_COLUMNS).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(_SPOOLED)


def _integers(column: pl.Series) -> array[int]:
    """Eight bytes each, however many they are."""
    values = array("Q")
    if not len(column):
        return values
    values.frombytes(memoryview(column.rechunk().to_arrow().buffers()[1])[: 8 * len(column)])
    return values


def _key(request_hash: str, repeat: int, group: int) -> int:
    return (int(request_hash[:16], 16) + repeat * _REPEAT_STEP + group * _HASH_STEP) & _MASK


def _given(row_id: str, key: int) -> int:
    return hash((row_id, key)) & _MASK


def _check_files(now: Snapshot) -> None:
    """Raises RunDamaged for a sealed file that is not what was written."""
    listed = read_manifest(now.run)
    for number in now.sealed:
        path = now.run.part(number)
        entry = listed.get(str(path.relative_to(now.run.path)))
        if entry is None or file_digest(path) not in (entry.sha256, entry.replaces):
            raise RunDamaged(f"{path}: its bytes are not those that were written: no answer is taken from it")
