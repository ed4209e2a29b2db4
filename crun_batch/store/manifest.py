"""The list of the run's immutable files with their checksums, so that damage which a file hides is seen.

One checksummed line per fact, appended and synced; the last line about a name holds. A new file is listed once
it has its name: before, a crash leaves a file that is not listed and that nothing refers to. A file that
replaces another is listed first, with the checksum of what it `replaces`: between the two, either is right.
Each addition begins with a mark of how far the list was on the disk before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import msgspec
from msgspec import Struct

from crun_batch.errors import DiskFailed, RunDamaged
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import write_all
from crun_batch.store.events import SyncedMark, encode_line, payload_of, synced_bytes
from crun_batch.store.recover import scan_segment
from crun_batch.store.renewal import sync_or_doubt


class ManifestEntry(Struct, frozen=True, omit_defaults=True):
    """What a file is, by its path within the run directory."""

    name: str
    rows: int
    bytes: int
    sha256: str
    replaces: str | None = None
    """The sha256 of the content that had this name before."""
    gone: bool = False
    """The file is no longer needed; it may be there or not."""


_decoder = msgspec.json.Decoder(ManifestEntry)


def read_manifest(run: RunDirectory) -> dict[str, ManifestEntry]:
    """The last entry of each name; a torn last line does not count. Raises RunDamaged."""
    entries, _ = _read(run)
    return entries


def append_manifest(run: RunDirectory, entries: Iterable[ManifestEntry]) -> None:
    """Add lines and bring them to the disk; a torn last line is cut off first. Raises DiskFailed, RunDamaged."""
    data = b"".join(encode_line(entry) for entry in entries)
    if data:
        with run.manifest_lock:
            _append(run, data)


def _append(run: RunDirectory, data: bytes) -> None:
    _, good_bytes = _read(run)
    data = encode_line(SyncedMark(good_bytes)) + data
    try:
        new = not run.manifest.exists()
        descriptor = run.disk.create(run.manifest) if new else run.disk.reopen(run.manifest)
        try:
            if not new and run.manifest.stat().st_size > good_bytes:
                run.disk.truncate(descriptor, good_bytes)
            write_all(run.disk, descriptor, data)
            sync_or_doubt(run, descriptor)
        finally:
            run.disk.close(descriptor)
        if new:
            run.disk.sync_folder(run.journal)
    except OSError as error:
        raise DiskFailed(f"{run.manifest}: cannot write: {error.strerror or error}") from error


def _read(run: RunDirectory) -> tuple[dict[str, ManifestEntry], int]:
    """The entries, and the length of the whole lines."""
    entries: dict[str, ManifestEntry] = {}
    if not run.manifest.exists():
        return entries, 0
    scan = scan_segment(run.manifest)
    if scan.first_bad_line is not None:
        raise RunDamaged(f"{run.manifest}, line {scan.first_bad_line}: its checksum does not fit")
    with run.manifest.open("rb") as file:
        for line in islice(file, scan.lines):
            payload = payload_of(line) or b""
            if synced_bytes(payload) is None:
                entry = _decoder.decode(payload)
                entries[entry.name] = entry
    return entries, scan.good_bytes
