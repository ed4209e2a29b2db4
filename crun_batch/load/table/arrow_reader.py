"""Arrow IPC: files and streams on disk, and rows kept in a temporary file.

What can be read only once, or need not fit into memory, goes to a temporary Arrow file that is removed from its
folder as soon as it is mapped: it vanishes with the process, however that ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from msgspec import Struct

from crun_batch.errors import DiskFailed, InputError, Mistake
from crun_batch.load.table.source import Damage, Spans, numbered
from crun_batch.load.table.types import plain_schema


class ArrowPart(Struct, frozen=True):
    """One Arrow IPC file or stream: on disk or, without a path, in a mapped buffer that lives with the part."""

    path: Path | None
    buffer: pa.Buffer | None
    stream: bool
    schema: pa.Schema
    rows: int
    from_text: bool = False
    sparse: bool = False
    damage: tuple[Damage, ...] = ()

    def read(self, columns: Sequence[str], _spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]:
        """These columns, in order, in the file's own batches: mapped, or unpacked one at a time.

        `included_fields` would copy each batch, and one batch may be the whole file.
        """
        batches = _arrow_batches(self.path, self.buffer, stream=self.stream)
        return numbered((batch.select(list(columns)) for batch in batches), self.rows)

    def line(self, _place: int) -> int | None:
        """None: there are no lines."""
        return None


def open_arrow(path: Path) -> ArrowPart:
    """An IPC file or stream, whatever the suffix says; the row count comes from the batches' headers."""
    with path.open("rb") as file:
        start = file.read(6)
    if start[:4] == b"FEA1":
        raise InputError(Mistake("is Feather version 1; write it again as Arrow IPC (version 2)", file=str(path)))
    return arrow_part(path, None, stream=start != b"ARROW1")


def arrow_part(path: Path | None, buffer: pa.Buffer | None, *, stream: bool) -> ArrowPart:
    """The part over an IPC file or stream, on disk or in a buffer."""
    with pa.BufferReader(buffer) if path is None else pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_stream(file) if stream else pa.ipc.open_file(file)
        schema = plain_schema(reader.schema)
        rows = 0 if stream else reader.count_rows()
    if stream:
        rows = sum(len(batch) for batch in _arrow_batches(path, buffer, stream=True))
    return ArrowPart(path, buffer, stream, schema, rows)


def _arrow_batches(path: Path | None, buffer: pa.Buffer | None, *, stream: bool) -> Iterator[pa.RecordBatch]:
    with pa.BufferReader(buffer) if path is None else pa.memory_map(str(path)) as file:
        if stream:
            yield from pa.ipc.open_stream(file)
        else:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


@contextmanager
def temporary_file() -> Iterator[Path]:
    """A file to write and map, gone afterwards. Raises DiskFailed where it cannot be written."""
    with tempfile.TemporaryDirectory(prefix="crun-batch-") as folder:
        try:
            yield Path(folder) / "rows.arrow"
        except OSError as error:
            advice = "make room in the folder for temporary files, or set TMPDIR to another"
            raise DiskFailed(f"the table's rows could not be kept in {folder}: {error}", advice=advice) from error


def mapped(path: Path) -> ArrowPart:
    """The part over a temporary file, which lives as long as the part does."""
    with pa.memory_map(str(path)) as file:
        return arrow_part(None, file.read_buffer(), stream=False)
