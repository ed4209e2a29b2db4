"""A closed segment becomes two Parquet files, and then goes.

Temporary names, sync, read back, rename, sync of the folders, manifest, and only then the segment is unlinked:
a crash at any point leaves the segment or its files, and while the segment is there its files do not count.
Doing it again gives the same. Made for a thread: the work is done in Arrow and hashlib, a row group at a
time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from crun_batch.errors import DiskFailed
from crun_batch.paths import is_there
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import DiskFile, temporary
from crun_batch.store.frames import segment_pieces
from crun_batch.store.manifest import ManifestEntry, append_manifest
from crun_batch.store.schema import RunSchema, attempts_schema, no_rows, parts_schema

_ROWS_PER_GROUP = 16_384
_BYTES_PER_GROUP = 4 * 2**20
"""A row group is held until it is written: of long texts it has fewer rows."""
_ROWS_READ_BACK = 2_048
_BYTES_READ_BACK = 4 * 2**20
_LOW_CARDINALITY = (
    "variant",
    "purpose",
    "judge",
    "outcome",
    "status",
    "finish_reason",
    "error_kind",
    "model",
    "cost_source",
)


class Sealed(Struct, frozen=True):
    """What a segment held."""

    segment: int
    attempts: int
    finals: int


def seal_segment(run: RunDirectory, number: int, schema: RunSchema, checksum: int | None = None) -> Sealed:
    """Turn a closed segment into attempts/NNNNNN.parquet and journal/parts/NNNNNN.parquet, and remove it.

    `checksum` is that of `Journal.checksum_of`, where this process wrote the segment. Raises RunDamaged when a
    line is damaged, DiskFailed when a file cannot be written; the segment is then still there.
    """
    pieces = segment_pieces(run.segment(number), number, schema, live=False, checksum=checksum)
    part, attempt_file = run.part(number), run.attempt_file(number)
    with (
        ParquetFile(run, part, parts_schema(schema)) as finals,
        ParquetFile(run, attempt_file, attempts_schema(schema)) as attempts,
    ):
        for new_attempts, new_finals in pieces:
            attempts.add(new_attempts)
            finals.add(new_finals)
        entries = [finals.finish(), attempts.finish()]
    put_in_place(run, [part, attempt_file], entries)
    _remove(run, [run.segment(number)])
    return Sealed(number, entries[1].rows, entries[0].rows)


def write_parquet(
    run: RunDirectory,
    path: Path,
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    metadata: dict[bytes, bytes] | None = None,
) -> ManifestEntry:
    """Write the tables under the temporary name, sync, read everything back. Returns what the manifest must say.

    Raises DiskFailed: a write failed, or what was read back is not what was written.
    """
    with ParquetFile(run, path, schema, metadata) as file:
        for table in tables:
            file.add(table)
        return file.finish()


class ParquetFile:
    """A file that is written under its temporary name: small tables go in, row groups of one size come out.

    Holds one row group. Raises DiskFailed: a write failed, or what was read back is not what was written.
    """

    def __init__(
        self, run: RunDirectory, path: Path, schema: pa.Schema, metadata: dict[bytes, bytes] | None = None
    ) -> None:
        self._run, self._path, self._name = run, path, temporary(path)
        self._schema = schema.with_metadata(metadata)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = self._rows = 0
        with _writing(self._name), ExitStack() as stack:
            self._file = stack.enter_context(DiskFile(run.disk, self._name))
            writer = pq.ParquetWriter(
                self._file,
                self._schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=[column for column in _LOW_CARDINALITY if column in schema.names],
                write_page_checksum=True,
            )
            self._writer = stack.enter_context(writer)
            self._opened = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with _writing(self._name):
            self._opened.close()

    def add(self, table: pa.Table) -> None:
        """Write the rows, as soon as there are enough for a row group."""
        self._waiting.append(table.replace_schema_metadata(self._schema.metadata))
        self._waiting_rows += table.num_rows
        self._waiting_bytes += table.nbytes
        while self._waiting_rows >= _ROWS_PER_GROUP or self._waiting_bytes >= _BYTES_PER_GROUP:
            self._write_group()

    def finish(self) -> ManifestEntry:
        """Write what waits, sync, read everything back; what the manifest must say."""
        if self._waiting_rows or not self._rows:
            self._write_group()
        with _writing(self._name):
            self._writer.close()
            self._file.sync()
        written, digest = self._file.tell(), self._file.digest()
        if digest != file_digest(self._name) or self._rows != _rows_read_back(self._name):
            raise DiskFailed(f"{self._name}: what was read back is not what was written")
        place = str(self._path.relative_to(self._run.path))
        return ManifestEntry(place, self._rows, written, digest, replaces=_present_digest(self._path))

    def _write_group(self) -> None:
        together = pa.concat_tables([no_rows(self._schema), *self._waiting])
        group = together.slice(0, _ROWS_PER_GROUP)
        with _writing(self._name):
            self._writer.write_table(group, row_group_size=_ROWS_PER_GROUP)
        self._rows += group.num_rows
        self._waiting_rows -= group.num_rows
        left = together.slice(_ROWS_PER_GROUP)
        self._waiting, self._waiting_bytes = ([left], left.nbytes) if self._waiting_rows else ([], 0)


@contextmanager
def _writing(name: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskFailed(f"{name}: cannot write: {error}") from error


def put_in_place(run: RunDirectory, paths: list[Path], entries: list[ManifestEntry]) -> None:
    """Give the written files their names, and list them as the manifest wants it. Raises DiskFailed."""
    run.check_in_place()
    append_manifest(run, [entry for entry in entries if entry.replaces is not None])
    try:
        for path in paths:
            run.disk.rename(temporary(path), path)
        for folder in dict.fromkeys(path.parent for path in paths):
            run.disk.sync_folder(folder)
    except OSError as error:
        raise DiskFailed(f"{paths[0]}: cannot be put in place: {error}") from error
    append_manifest(run, [entry for entry in entries if entry.replaces is None])


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _present_digest(path: Path) -> str | None:
    return file_digest(path) if is_there(path) else None


def _rows_read_back(path: Path) -> int:
    with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        longest = max(
            (_row_bytes(file.metadata.row_group(number)) for number in range(file.num_row_groups)), default=1
        )
        rows = max(1, min(_ROWS_READ_BACK, _BYTES_READ_BACK // longest))
        return sum(batch.num_rows for batch in file.iter_batches(rows, use_threads=False))


def _row_bytes(group: pq.RowGroupMetaData) -> int:
    rows: int = group.num_rows
    return 1 + int(group.total_byte_size) // max(1, rows)


def _remove(run: RunDirectory, paths: list[Path]) -> None:
    try:
        for path in paths:
            run.disk.unlink(path)
        run.disk.sync_folder(paths[0].parent)
    except OSError as error:
        raise DiskFailed(f"{paths[0]}: cannot be removed: {error}") from error
