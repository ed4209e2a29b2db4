"""The list of the run's immutable files with their checksums, so that damage which a file hides is seen.

One checksummed line per fact, appended and synced; the last line about a name holds. A new file is listed once
it has its name: before, a crash leaves a file that is not listed and that nothing refers to. A file that
replaces another is listed first, with the checksum of what it `replaces`: between the two, either is right.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from crun_batch.paths import is_there
from crun_batch.store.checked_lines import append_lines, read_lines
from crun_batch.store.directory import RunDirectory
from crun_batch.store.events import encode_line


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
    entries = (_decoder.decode(line) for line in read_lines(run.manifest)[0])
    return {entry.name: entry for entry in entries}


def append_manifest(run: RunDirectory, entries: Iterable[ManifestEntry]) -> None:
    """Add lines and bring them to the disk; a torn last line is cut off first. Raises DiskFailed, RunDamaged."""
    data = b"".join(encode_line(entry) for entry in entries)
    if data:
        with run.manifest_lock:
            _, good_bytes = read_lines(run.manifest)
            append_lines(run, run.manifest, data, good_bytes)


def missing_sealed(run: RunDirectory) -> list[str]:
    """Sealed files that are listed and not there, by name; those whose segment is there do not count yet."""
    live = {path for number in run.segments() for path in (run.part(number), run.attempt_file(number))}
    listed = ((run.path / entry.name, entry) for entry in read_manifest(run).values() if not entry.gone)
    sealed = [path for path, _ in listed if path.parent in (run.attempts, run.parts) and path not in live]
    return sorted(str(path.relative_to(run.path)) for path in sealed if not is_there(path))
