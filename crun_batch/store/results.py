"""`results.parquet`: a link to an immutable generation, swapped at once, so that it is always whole.

A generation is written under a temporary name, synced, read back and named; then the link is swapped. The
previous generation stays until the next is published, for those who are reading it. Owns: the generations.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import structs

from crun_batch.errors import DiskFailed
from crun_batch.paths import is_link, is_there
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import sync_file, temporary
from crun_batch.store.manifest import append_manifest, read_manifest
from crun_batch.store.schema import SEQUENCE, RunSchema, results_schema
from crun_batch.store.seal import file_digest, put_in_place, write_parquet
from crun_batch.store.views import Snapshot, current_finals, snapshot

_GENERATION = re.compile(r"results-(\d{6,})\.parquet|\.results-(\d{6,})\.parquet\.tmp")
THROUGH = b"crun_batch.through"
"""Key of a generation's metadata: the sequence of the last final that it takes into account."""
MADE_OF = b"crun_batch.made_of"
"""Key of a generation's metadata: a digest of which files it was made of, and of its columns."""


def publish(run: RunDirectory, schema: RunSchema, rows_open: int | None = None, reopened: int = 0) -> int:
    """Publish everything that is final, sealed or live, as the next generation; returns how many rows.

    `rows_open`: how many results are still to come, which the file says of itself; None: nobody knows. `reopened`:
    how many of these are in the file as they were before.
    Where the generation that is there says just that, and is whole, nothing is written: no reader meets a swap.
    Streams: memory is bounded by one segment. Needs the lock. Raises DiskFailed and RunDamaged; the link then
    points where it did.
    """
    present, previous = generations(run), linked_generation(run)
    target = generation_file(run, max(present, default=0) + 1)
    columns = results_schema(schema)
    now = snapshot(run, schema)
    origin = {THROUGH: str(last_sequence(now)).encode(), MADE_OF: _made_of(now, columns)}
    if rows_open is not None:
        origin |= _completeness(now, rows_open, reopened)
    if previous is not None and (rows := _rows_of_the_same(run, previous, origin)) is not None:
        return rows
    _sync_live(run)
    entry = write_parquet(run, target, columns, current_finals(now, columns.names), origin)
    put_in_place(run, [target], [entry])
    _link(run, target)
    _remove_older(run, [number for number in present if number != previous])
    return entry.rows


def _completeness(now: Snapshot, rows_open: int, reopened: int) -> dict[bytes, bytes]:
    """What the file's metadata say to whoever finds it alone: whether it holds all results that are wanted."""
    rows = sum(table.num_rows for table in current_finals(now, ["status"]))
    rows_total, is_complete = rows + rows_open - reopened, "false" if rows_open else "true"
    said = {"complete": is_complete, "rows_total": rows_total, "rows_open": rows_open}
    return {name.encode(): str(value).encode() for name, value in said.items()}


def generations(run: RunDirectory) -> list[int]:
    """The generations that are there, whole or not, ascending."""
    found = (_GENERATION.fullmatch(path.name) for path in run.journal.iterdir())
    return sorted({int(match[1] or match[2]) for match in found if match})


def linked_generation(run: RunDirectory) -> int | None:
    """The generation that results.parquet points to."""
    if not is_link(run.results):
        return None
    match = _GENERATION.fullmatch(run.results.readlink().name)
    return int(match[1]) if match else None


def last_sequence(now: Snapshot) -> int:
    """The sequence of the last final recorded; -1 where there is none."""
    if now.finals.num_rows:
        return int(pc.max(now.finals.column(SEQUENCE)).as_py())
    for number in reversed(now.sealed):
        with pq.ParquetFile(now.run.part(number)) as file:
            if file.metadata.num_rows:
                return int(pc.max(file.read([SEQUENCE]).column(0)).as_py())
    return -1


def generation_file(run: RunDirectory, number: int) -> Path:
    """Where that generation is."""
    return run.journal / f"results-{number:06d}.parquet"


def _made_of(now: Snapshot, columns: pa.Schema) -> bytes:
    """Tells any other set of sealed files, scores and columns; a file that was replaced is another one."""
    files = [now.run.part(number) for number in now.sealed]
    if is_there(now.run.scores):
        files.append(now.run.scores)
    stats = [(file.name, (stat := file.stat()).st_ino, stat.st_size, stat.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode() + columns.serialize().to_pybytes()).hexdigest().encode()


def _rows_of_the_same(run: RunDirectory, number: int, origin: dict[bytes, bytes]) -> int | None:
    """How many rows the generation has, if it has that origin and is what the manifest says."""
    path = generation_file(run, number)
    listed = read_manifest(run).get(str(path.relative_to(run.path)))
    try:
        found = pq.read_metadata(path)
        if origin.items() <= (found.metadata or {}).items() and listed and listed.sha256 == file_digest(path):
            return int(found.num_rows)
    except (OSError, pa.ArrowException):
        return None  # damaged, or gone: it is made anew
    return None


def _sync_live(run: RunDirectory) -> None:
    """What is published must outlive a power cut in the journal too."""
    try:
        for number in run.segments():
            sync_file(run.disk, run.segment(number))
    except OSError as error:
        raise DiskFailed(f"{run.journal}: cannot be synced: {error.strerror or error}") from error


def _link(run: RunDirectory, target: Path) -> None:
    link = temporary(run.results)
    try:
        run.disk.unlink(link)
        run.disk.symlink(str(target.relative_to(run.path)), link)
        run.disk.rename(link, run.results)
        run.disk.sync_folder(run.path)
    except OSError as error:
        raise DiskFailed(f"{run.results}: cannot be pointed to {target.name}: {error}") from error


def _remove_older(run: RunDirectory, numbers: list[int]) -> None:
    if not numbers:
        return
    names = [str(generation_file(run, number).relative_to(run.path)) for number in numbers]
    listed = read_manifest(run)
    append_manifest(run, [structs.replace(listed[name], gone=True) for name in names if name in listed])
    try:
        for name in names:
            run.disk.unlink(run.path / name)
            run.disk.unlink(temporary(run.path / name))
    except OSError as error:
        raise DiskFailed(f"{run.journal}: cannot remove old generations: {error}") from error
