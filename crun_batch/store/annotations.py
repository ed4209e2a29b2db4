"""What people said of rows: labels, pass or fail, comments, in one file beside the run, each word kept.

A line says who said it, when, and of which answer (its hash): the answer may be asked for again, the row keeps its
label. Nothing is overwritten: a later line of the same person about the same answer holds in the place of the
earlier one, and one without label, verdict and comment takes it back. The file is replaced whole and on the disk
before a save returns; a lock of its own lets a page and an import save at once, while the run goes on. Owns: that
file. Must not know: what a label means.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct, structs

from crun_batch.errors import DiskFailed, InputError, RunDamaged
from crun_batch.store.directory import ANNOTATIONS_LOCK, ANNOTATIONS_NAME, RunDirectory
from crun_batch.store.disk import Disk, open_private, write_file
from crun_batch.store.schema import MOMENT, no_rows
from crun_batch.store.views import run_schema

if TYPE_CHECKING:
    import polars as pl

Verdict = Literal["pass", "fail"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
SAID = ("label", "verdict", "comment")
UNFINISHED_NAME = ".annotations.parquet.new"
"""Not named like the temporary files of a session, which the next one removes."""


class Annotation(Struct, frozen=True):
    """What one person said of one answer, or, without variant and repeat, of a row."""

    row_id: int | str
    annotator: str
    annotated_at: int
    """Microseconds since the epoch, UTC."""
    variant: str | None = None
    repeat: int | None = None
    answer_hash: str | None = None
    label: str | None = None
    verdict: str | None = None
    """pass or fail."""
    comment: str | None = None


def annotations_schema(id_type: pa.DataType) -> pa.Schema:
    """The columns of the file; the id in the type that the run's results have it."""
    return pa.schema(
        [
            pa.field("id", id_type),
            pa.field("variant", pa.string()),
            pa.field("repeat", pa.int32()),
            pa.field("answer_hash", pa.string()),
            pa.field("label", pa.string()),
            pa.field("verdict", pa.string()),
            pa.field("comment", pa.string()),
            pa.field("annotator", pa.string()),
            pa.field("annotated_at", MOMENT),
        ]
    )


def answer_hash(text: str | None) -> str | None:
    """By which an answer is known again: the sha256 of its text, in hex; None where there is no answer."""
    return None if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def all_annotations(path: Path) -> pa.Table:
    """Every line, in the order in which they were saved. Raises InputError where there is no run, RunDamaged."""
    run = RunDirectory(path)
    schema = annotations_schema(run_schema(run).stored_id_type)
    file = path / ANNOTATIONS_NAME
    try:
        found = pq.read_table(io.BytesIO(_read(file)), page_checksum_verification=True)
        return found.select(schema.names).cast(schema)
    except FileNotFoundError:
        return no_rows(schema)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise RunDamaged(f"{file} cannot be read: {error}") from error


def annotations_that_hold(path: Path) -> pl.DataFrame:
    """The last line of each person about each answer or row; those that were taken back are not there."""
    import polars as pl  # `verify`, which only reads the file, needs none of it

    frame = pl.DataFrame(pl.from_arrow(all_annotations(path)))
    last = frame.unique(["id", "variant", "repeat", "annotator"], keep="last", maintain_order=True)
    return last.filter(pl.any_horizontal(pl.col(*SAID).is_not_null()))


def add_annotations(path: Path, said: Sequence[Annotation], disk: Disk | None = None) -> int:
    """Save these lines, but for those that are there already; how many were new. On the disk when it returns.

    Raises InputError for an annotation that says nothing it may, RunDamaged, DiskFailed: all is then as it was.
    """
    for one in said:
        _check(one)
    with _locked(path):
        return _add(path, said, all_annotations(path), disk or Disk())


def change_annotation(path: Path, said: Annotation, kept: Collection[str]) -> Annotation:
    """Save this line, of which `kept` are those of SAID that stay as the same person last said them; the line.

    So two windows of one person do not take back each other's words. On the disk when it returns; raises as
    `add_annotations`.
    """
    _check(said)
    with _locked(path):
        before = all_annotations(path)
        whole = structs.replace(said, **_former(before, said, kept))
        _add(path, [whole], before, Disk())
    return whole


def _former(before: pa.Table, said: Annotation, kept: Collection[str]) -> dict[str, str | None]:
    """What that person last said of the same answer; a verdict only where the answer is not another by now."""
    asked = (str(said.row_id), said.variant, said.repeat, said.annotator)
    names = ("id", "variant", "repeat", "annotator")
    named = zip(*(before.column(name).to_pylist() for name in names), strict=True)
    places = [place for place, (row_id, *rest) in enumerate(named) if (str(row_id), *rest) == asked]
    if not places:
        return {}
    [last] = before.slice(places[-1], 1).to_pylist()
    is_same = last["answer_hash"] == said.answer_hash
    return {name: last[name] for name in kept if is_same or name != "verdict"}


def _add(path: Path, said: Sequence[Annotation], before: pa.Table, disk: Disk) -> int:
    """Save them behind those that were there before, but for what is there already; how many were new."""
    there = set(zip(*(column.to_pylist() for column in before.columns), strict=True))
    lines = _lines(said, before.schema)
    new = [
        line
        for line in dict.fromkeys(zip(*(column.to_pylist() for column in lines.columns), strict=True))
        if line not in there
    ]
    if new:
        added = pa.table([list(column) for column in zip(*new, strict=True)], schema=before.schema)
        _replace(disk, path, pa.concat_tables([before, added]))
    return len(new)


def _check(one: Annotation) -> None:
    if one.verdict is not None and one.verdict not in VERDICTS:
        raise InputError(f"a verdict is {' or '.join(VERDICTS)}, not {one.verdict!r}")
    if not one.annotator.strip():
        raise InputError("an annotation says who made it")


def _lines(said: Sequence[Annotation], schema: pa.Schema) -> pa.Table:
    whole = pa.types.is_integer(schema.field("id").type)
    try:
        ids = [int(one.row_id) if whole else str(one.row_id) for one in said]
    except ValueError as error:
        raise InputError(f"the ids of this run are whole numbers: {error}") from error
    names = ("variant", "repeat", "answer_hash", *SAID, "annotator", "annotated_at")
    columns = [ids, *([getattr(one, name) for one in said] for name in names)]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, also of two processes; the lock ends with its process, however that ends."""
    try:
        lock = open_private(path / ANNOTATIONS_LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise DiskFailed(f"{path / ANNOTATIONS_LOCK}: cannot be opened: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _read(file: Path) -> bytes:
    """The file as it is at this moment; no link is followed."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()


def _replace(disk: Disk, path: Path, table: pa.Table) -> None:
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    write_file(disk, path / ANNOTATIONS_NAME, stream.getvalue(), path / UNFINISHED_NAME)
