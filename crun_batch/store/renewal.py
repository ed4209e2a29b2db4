"""After a sync that failed: the pages it was to bring to the disk count as gone, though they can still be read.

A system that fails to write a page may drop it and call the next sync of the same file a success. So nothing is
appended to a file whose sync has failed: the next session first copies what is readable into a new file of the
same name. That a sync has failed is told by a marker beside the files. It needs no sync of its own: after a power
cut what can be read is what the disk has.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from crun_batch.errors import DiskFailed
from crun_batch.paths import is_there
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import write_file


def doubt_pages(run: RunDirectory) -> None:
    """Leave the marker, where the disk still takes one."""
    if run.is_in_place():
        with suppress(OSError):
            run.disk.close(run.disk.create(run.sync_failed))


def sync_or_doubt(run: RunDirectory, descriptor: int) -> None:
    """Sync a file that is appended to. Raises OSError, and leaves the marker then."""
    try:
        run.disk.sync(descriptor)
    except OSError:
        doubt_pages(run)
        raise


def renew(run: RunDirectory, appended: Iterable[Path]) -> None:
    """Where a sync has failed: the files that are appended to, each copied into a new one; then the marker goes.

    Raises DiskFailed; each file is then as it was, or wholly on the disk, and the marker is there.
    """
    if not is_there(run.sync_failed):
        return
    for path in appended:
        if is_there(path):
            write_file(run.disk, path, path.read_bytes())
    try:
        run.disk.unlink(run.sync_failed)
    except OSError as error:
        raise DiskFailed(f"{run.sync_failed}: cannot be removed: {error.strerror or error}") from error
