"""A closed segment becomes two Parquet files, and then goes.

Temporary names, sync, read back, rename, sync of the folders, manifest, and only then the segment is unlinked:
a crash at any point leaves the segment or its files, and while the segment is there its files do not count.
Doing it again gives the same. Made for a thread: the work is done in Polars, Arrow and hashlib.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from crun_batch.errors import DiskFailed
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import DiskFile, temporary
from crun_batch.store.frames import segment_tables
from crun_batch.store.manifest import ManifestEntry, append_manifest
from crun_batch.store.schema import RunSchema

_ROWS_PER_GROUP = 16_384
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
    attempts, finals = segment_tables(run.segment(number), number, schema, live=False, checksum=checksum)
    files = [(run.part(number), finals), (run.attempt_file(number), attempts)]
    entries = [write_parquet(run, path, table.schema, [table]) for path, table in files]
    put_in_place(run, [path for path, _ in files], entries)
    _remove(run, [run.segment(number)])
    return Sealed(number, attempts.num_rows, finals.num_rows)


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
    name = temporary(path)
    schema = schema.with_metadata(metadata)
    try:
        rows = 0
        with DiskFile(run.disk, name) as file:
            with pq.ParquetWriter(
                file,
                schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=[column for column in _LOW_CARDINALITY if column in schema.names],
                write_page_checksum=True,
            ) as writer:
                for table in tables:
                    writer.write_table(table.replace_schema_metadata(metadata), row_group_size=_ROWS_PER_GROUP)
                    rows += table.num_rows
            file.sync()
            written, digest = file.tell(), file.digest()
    except OSError as error:
        raise DiskFailed(f"{name}: cannot write: {error}") from error
    if digest != file_digest(name) or rows != _rows_read_back(name):
        raise DiskFailed(f"{name}: what was read back is not what was written")
    return ManifestEntry(str(path.relative_to(run.path)), rows, written, digest, replaces=_present_digest(path))


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
    return file_digest(path) if path.exists() else None


def _rows_read_back(path: Path) -> int:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return sum(batch.num_rows for batch in file.iter_batches(use_threads=False))


def _remove(run: RunDirectory, paths: list[Path]) -> None:
    try:
        for path in paths:
            run.disk.unlink(path)
        run.disk.sync_folder(paths[0].parent)
    except OSError as error:
        raise DiskFailed(f"{paths[0]}: cannot be removed: {error}") from error
