"""A file of checksummed lines that grows by additions, each on the disk before the call returns.

The list of immutable files and that of batches are such. Each addition begins with a mark of how far the file
was on the disk before it: a bad line before a mark is damage, after the last one it is what a crash left, and cut.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from crun_batch.errors import DiskFailed, RunDamaged
from crun_batch.paths import is_there
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import write_all
from crun_batch.store.events import SyncedMark, encode_line, payload_of, synced_bytes
from crun_batch.store.recover import scan_segment
from crun_batch.store.renewal import sync_or_doubt


def read_lines(path: Path) -> tuple[list[bytes], int]:
    """What the lines say, marks left out, and the length of the whole ones. Raises RunDamaged."""
    if not is_there(path):
        return [], 0
    scan = scan_segment(path)
    if scan.first_bad_line is not None:
        raise RunDamaged(f"{path}, line {scan.first_bad_line}: its checksum does not fit")
    with path.open("rb") as file:
        payloads = [payload_of(line) or b"" for line in islice(file, scan.lines)]
    return [payload for payload in payloads if synced_bytes(payload) is None], scan.good_bytes


def append_lines(run: RunDirectory, path: Path, lines: bytes, good_bytes: int) -> int:
    """Add encoded lines after the `good_bytes` that are whole; how many are whole then. Raises DiskFailed.

    A torn last line is cut off first. The file stands in the folder of the journal.
    """
    data = encode_line(SyncedMark(good_bytes)) + lines
    try:
        is_new = not is_there(path)
        descriptor = run.disk.create(path) if is_new else run.disk.reopen(path)
        try:
            if not is_new and path.stat().st_size > good_bytes:
                run.disk.truncate(descriptor, good_bytes)
            write_all(run.disk, descriptor, data)
            sync_or_doubt(run, descriptor)
        finally:
            run.disk.close(descriptor)
        if is_new:
            run.disk.sync_folder(run.journal)
    except OSError as error:
        raise DiskFailed(f"{path}: cannot write: {error.strerror or error}") from error
    return good_bytes + len(data)
