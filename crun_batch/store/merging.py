"""Several runs copied into one: the same attempts, results and scores, under numbers that tell them apart there.

Every run counts its segments, attempts and results from 1. In the copy the segments of all of them follow each
other, so that a result's place (`_sequence`) and an attempt's `serial` move by as much as what stands before them.
Nothing else is changed, and no more than a row group is held at a time. Owns: that arithmetic. Must not know:
which runs belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Struct, structs

from crun_batch.errors import RunDamaged, RunDirectoryError
from crun_batch.paths import is_there
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import write_file
from crun_batch.store.events import FORMAT, EndEvent, HeadEvent, StartEvent, encode_line
from crun_batch.store.manifest import ManifestEntry
from crun_batch.store.recover import Recovered
from crun_batch.store.schema import SEQUENCE, RunSchema, attempts_schema, constant, parts_schema
from crun_batch.store.scores import FINGERPRINT, scores_schema, write_scores
from crun_batch.store.seal import put_in_place, write_parquet
from crun_batch.store.views import conformer, snapshot

_LINES = 2**32
"""Places of a segment in the sequence of results."""


class CopiedRun(Struct, frozen=True):
    """A run that is copied: locked, its older segments sealed, with what its newest one says."""

    run: RunDirectory
    recovered: Recovered


class Moved(Struct, frozen=True):
    """Where a run stands in the copy."""

    segments: Mapping[int, int]
    """Number of a segment -> its number there."""
    serial_offset: int
    """What is added to the serials of its attempts."""


def copy_runs(sources: Sequence[CopiedRun], into: RunDirectory, schema: RunSchema) -> list[Moved]:
    """Copy what is sealed and what the newest segments hold, as sealed files; where each run now stands.

    `into` is locked and empty. All runs have this schema. Raises RunDamaged, DiskFailed.
    """
    moved: list[Moved] = []
    segment, serial_offset = 0, 0
    for source in sources:
        segments: dict[int, int] = {}
        for number, tables in _segments_of(source, schema):
            segment += 1
            segments[number] = segment
            _write(into, segment, schema, _Renumbered(tables, (segment - number) * _LINES, serial_offset))
        moved.append(Moved(segments, serial_offset))
        serial_offset += source.recovered.next_serial - 1
    return moved


def copy_scores(
    sources: Sequence[CopiedRun], moved: Sequence[Moved], into: RunDirectory, schema: RunSchema
) -> None:
    """Copy the scores, 24 bytes in memory for each line and score. Raises RunDirectoryError, DiskFailed.

    Scores that were computed by different graders, or of different tables, do not stand beside each other.
    """
    if not schema.scores:
        return
    tables: dict[bytes, list[pa.Table]] = {}
    for source, place in zip(sources, moved, strict=True):
        if is_there(source.run.scores):
            found = pq.read_table(source.run.scores, page_checksum_verification=True)
            mark = (found.schema.metadata or {}).get(FINGERPRINT, b"")
            tables.setdefault(mark, []).append(_scores(found, place, schema))
    if len(tables) > 1:
        raise RunDirectoryError(
            "the scores of these runs were computed by different graders, or of different tables",
            advice="Start each of them once more with the same job file: that scores anew, and sends nothing.",
        )
    for mark, found_tables in tables.items():
        write_scores(into, schema, pa.concat_tables(found_tables), mark.decode())


def write_head(
    sources: Sequence[CopiedRun], moved: Sequence[Moved], into: RunDirectory, checkpoint: Any, at_us: int
) -> None:
    """The newest segment of the copy: the account of all runs, and what was in flight or unread in any of them.

    Raises DiskFailed.
    """
    heads = [source.recovered.head for source in sources]
    pairs = list(zip(sources, moved, strict=True))
    last, place = pairs[-1]
    head = HeadEvent(
        format=FORMAT,
        segment=1 + max((number for _, one in pairs for number in one.segments.values()), default=0),
        session=max(head.session for head in heads),
        at=at_us,
        next_serial=place.serial_offset + last.recovered.next_serial,
        in_flight=tuple(start for source, one in pairs for start in _open_starts(source.recovered, one)),
        checkpoint=checkpoint,
    )
    ends = [structs.replace(end, n=end.n + one.serial_offset) for source, one in pairs for end in _unread(source)]
    write_file(into.disk, into.segment(head.segment), b"".join(map(encode_line, [head, *ends])))


class _Tables(Struct, frozen=True):
    """What a segment holds."""

    parts: Iterable[pa.Table]
    attempts: Iterable[pa.Table]


class _Renumbered(Struct, frozen=True):
    """A segment's tables, with what moves its results and its attempts."""

    tables: _Tables
    sequence_offset: int
    serial_offset: int


def _segments_of(source: CopiedRun, schema: RunSchema) -> Iterator[tuple[int, _Tables]]:
    """The segments that hold anything, in order; the newest one last, which is not sealed."""
    now = snapshot(source.run, schema)
    for number in now.sealed:
        yield number, _Tables(_row_groups(source.run.part(number)), _row_groups(source.run.attempt_file(number)))
    if now.finals.num_rows or now.attempts.num_rows:
        yield source.recovered.head.segment, _Tables([now.finals], [now.attempts])


def _row_groups(path: Path) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)
    except (OSError, pa.ArrowException) as error:
        raise RunDamaged(f"{path}: cannot be read: {error}") from error


def _write(into: RunDirectory, number: int, schema: RunSchema, segment: _Renumbered) -> None:
    tables = segment.tables
    files = [
        (into.part(number), parts_schema(schema), _added(tables.parts, SEQUENCE, segment.sequence_offset)),
        (
            into.attempt_file(number),
            attempts_schema(schema),
            _added(tables.attempts, "serial", segment.serial_offset),
        ),
    ]
    entries: list[ManifestEntry] = []
    for path, columns, changed in files:
        entries.append(write_parquet(into, path, columns, map(conformer(columns), changed)))
    put_in_place(into, [path for path, _, _ in files], entries)


def _added(tables: Iterable[pa.Table], name: str, offset: int) -> Iterator[pa.Table]:
    for table in tables:
        index = table.schema.get_field_index(name)
        moved = pc.add(table.column(name), constant(offset, pa.int64()))
        yield table.set_column(index, table.schema.field(index), moved)


def _scores(found: pa.Table, place: Moved, schema: RunSchema) -> pa.Table:
    columns = scores_schema(schema)
    frame = pl.DataFrame(pl.from_arrow(found.select(columns.names).replace_schema_metadata(None)))
    before = pl.col(SEQUENCE) // _LINES
    after = before.replace_strict(list(place.segments), list(place.segments.values()), return_dtype=pl.Int64)
    moved = frame.with_columns(pl.col(SEQUENCE) + (after - before) * _LINES)
    return moved.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(columns)


def _open_starts(recovered: Recovered, place: Moved) -> Iterator[StartEvent]:
    for start in (*recovered.in_flight, *(start for start, _ in recovered.unread)):
        yield structs.replace(start, n=start.n + place.serial_offset)


def _unread(source: CopiedRun) -> Iterator[EndEvent]:
    return (end for _, end in source.recovered.unread)
