"""The run directory: its names, its lock, its small JSON files.

Owns: who may write (one process, by flock, which ends with the process however it ends), where each file is,
and the checksum inside `job.json` and `summary.json`. Must not know: what the files say.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from crun_batch.errors import CrunBatchError, DiskFailed, RunDamaged, RunInUse
from crun_batch.paths import is_folder, is_there
from crun_batch.store.disk import Disk, is_open_at, open_private, write_file

LOCK_NAME = ".lock"
SIMULATED = "-simulated"
"""How the name of a simulated run's directory ends."""
LEASES = "-leases"
"""How the name of the folder ends in which whoever gives a job's workers their parts keeps what was given."""
STEERING_NAME = "steering.json"
"""What people have told a job by several workers, in that folder."""
ANNOTATIONS_NAME, ANNOTATIONS_LOCK = "annotations.parquet", ".annotations.lock"
_NUMBERED = re.compile(r"(\d{6,})\.(jsonl|parquet)")
_CHECKSUM_KEY = b'"sha256": "'


def simulated_folder(folder: Path) -> Path:
    """Where the simulated run is of a job whose own is at `folder`."""
    return folder.with_name(folder.name + SIMULATED)


def leases_folder(run: Path) -> Path:
    """Where it is kept what the workers of a job were given whose own run directory is, or is to be, at `run`."""
    return run.with_name(run.name + LEASES)


class RunDirectory:
    """The paths of one run. Made by anybody to read; only `open_directory` gives one that may write.

    Raises RunDamaged where a link, a pipe or a device stands where a file or a folder of the run belongs: it would
    lead to what is not the run's, or never end. Only `verify`, which says so itself, looks past it.
    """

    def __init__(
        self,
        path: Path,
        disk: Disk | None = None,
        lock: int | None = None,
        made: Sequence[Path] = (),
        holder: bytes = b"",
        *,
        to_verify: bool = False,
    ) -> None:
        self.path = path
        self.disk = disk or Disk()
        self.journal = path / "journal"
        self.parts = self.journal / "parts"
        self.attempts = path / "attempts"
        self.manifest = self.journal / "manifest.jsonl"
        self.reserve = self.journal / "reserve"
        self.sync_failed = self.journal / "sync-failed"
        """There while files may end in pages that a failed sync has lost."""
        self.batches = self.journal / "batches.jsonl"
        self.batch_files = self.journal / "batches"
        self.scores = self.journal / "scores.parquet"
        self.results = path / "results.parquet"
        self.job = path / "job.json"
        self.summary = path / "summary.json"
        self.on_end = path / "on_end.json"
        """Whether somebody was told of the last session's end; written by who tells, when the session is over."""
        self.manifest_lock = threading.Lock()
        """Sealing, publishing and the session may write the manifest from different threads."""
        self._lock = lock
        self._holder = holder
        """What the lock's file says of this process."""
        self._made = tuple(made)
        """The folders that opening had to make, the innermost first."""
        for name, what in () if to_verify else self.foreign_entries():
            raise RunDamaged(f"{path}: {name} {what}")

    def foreign_entries(self) -> Iterator[tuple[str, str]]:
        """(name, what is wrong) of what stands in a place of the run's and is neither file nor folder."""
        files = (self.job, self.summary, self.on_end, self.journal, self.attempts)
        ours = {LOCK_NAME, ANNOTATIONS_NAME, ANNOTATIONS_LOCK, *(path.name for path in files)}
        for folder in (self.path, self.attempts, self.journal, self.parts):
            for entry in _entries(folder):
                is_own = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
                if not is_own and (folder != self.path or entry.name in ours):
                    kind = "a link" if entry.is_symlink() else "no file"
                    name = Path(entry.path).relative_to(self.path).as_posix()
                    yield name, f"is {kind}; a run directory holds files of its own"

    def segment(self, number: int) -> Path:
        """The journal segment's file."""
        return self.journal / f"{number:06d}.jsonl"

    def part(self, number: int) -> Path:
        """The sealed results of a segment."""
        return self.parts / f"{number:06d}.parquet"

    def attempt_file(self, number: int) -> Path:
        """The sealed attempts of a segment."""
        return self.attempts / f"{number:06d}.parquet"

    def segments(self) -> list[int]:
        """Numbers of the live segments, ascending."""
        return _numbers(self.journal, "jsonl")

    def sealed_files(self) -> list[int]:
        """Numbers that have sealed files, ascending; while a number's segment is there, they do not count."""
        return _numbers(self.attempts, "parquet")

    @property
    def is_blank(self) -> bool:
        """Whether nothing but what opening makes stands here: nothing was ever recorded."""
        skeleton = {
            self.path: {self.journal.name, self.attempts.name, LOCK_NAME},
            self.journal: {self.parts.name},
            self.parts: set[str](),
            self.attempts: set[str](),
        }
        return all(
            is_folder(folder) and {found.name for found in folder.iterdir()} <= expected
            for folder, expected in skeleton.items()
        )

    def is_in_place(self) -> bool:
        """Whether the directory that was locked is still the one at this path; True where nothing is locked."""
        return self._lock is None or is_open_at(self._lock, self.path / LOCK_NAME)

    def check_in_place(self) -> None:
        """Raise DiskFailed where the directory at this path is no longer the one that was locked.

        Raises RunInUse where another process has it: a file system that keeps locks to each host lets two open it,
        and the one that came last has written its name into the lock's file.
        """
        if not self.is_in_place():
            raise DiskFailed(
                f"{self.path} is no longer where this session started: it was moved, replaced or deleted",
                advice="Nothing more is sent. Put it back where it was, then start the same run again.",
            )
        if self._lock is not None and (found := os.pread(self._lock, len(self._holder) + 300, 0)) != self._holder:
            raise RunInUse(
                f"{self.path} was opened by {found.decode(errors='replace').strip()} while this session had it: "
                "its file system keeps no lock between hosts",
                advice="Nothing more is sent from here. One host at a time, or a file system that keeps locks.",
            )

    @contextmanager
    def blamed_where_gone(self) -> Iterator[None]:
        """Whatever fails within because the directory went away is told as that: DiskFailed, with what to do.

        Who meets it first is chance: a reader that finds no job.json, a library that finds no file. A folder is
        deleted file by file, and the lock's may go last: where a file may be missing, that is waited for.
        """
        try:
            yield
        except Exception as error:
            self.check_in_place()
            if _may_miss_a_file(error):
                ends = time.monotonic() + _DELETED_WITHIN_SECONDS
                while time.monotonic() < ends:
                    time.sleep(_LOOKED_EVERY_SECONDS)
                    self.check_in_place()
            raise

    @property
    def has_job(self) -> bool:
        """Whether a run has begun here: job.json is written before the first request. Raises OSError."""
        return is_there(self.job)

    @property
    def has_journal(self) -> bool:
        """Whether this is the place of a run at all, begun or not. Raises OSError."""
        return is_folder(self.journal)

    @property
    def has_summary(self) -> bool:
        """Whether something has been said of the run. Raises OSError."""
        return is_there(self.summary)

    def close(self) -> None:
        """Give the lock back; where nothing was recorded, all is as if nobody had been here."""
        if self._lock is not None:
            with suppress(FileNotFoundError):  # somebody is just deleting it
                if self.is_in_place() and self.is_blank:
                    self._take_away()
            os.close(self._lock)
            self._lock = None

    def _take_away(self) -> None:
        """The folder `journal` goes last: a kill on the way leaves what the next start takes for a run."""
        with suppress(OSError):  # another start is just making them anew
            for folder in (self.attempts, self.parts):
                folder.rmdir()
            (self.path / LOCK_NAME).unlink()
            for folder in (self.journal, *self._made):
                folder.rmdir()


_DELETED_WITHIN_SECONDS = 1.0
_LOOKED_EVERY_SECONDS = 0.05


def _may_miss_a_file(error: BaseException) -> bool:
    """Whether this may come of a file that is no longer there: said so, damage, or what a library made of it."""
    if not isinstance(error, CrunBatchError) or isinstance(error, RunDamaged):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and isinstance(cause, OSError)


_TRIES, _TRIES_EVERY_SECONDS = 4, 0.01
_OPENINGS = 100
"""Openings that may meet another process just taking its blank directory away."""


def open_directory(path: Path, *, started_at: str, disk: Disk | None = None) -> RunDirectory:
    """Make the folders and take the lock. `started_at` is for the message that a second start will see.

    What a write that did not finish has left is removed. Raises RunInUse (another process has it), RunDamaged (a
    link where the lock belongs) and DiskFailed.
    """
    run = RunDirectory(path, disk)
    for _ in range(_OPENINGS):
        made = [folder for folder in (path, *path.parents) if not is_there(folder)]
        lock = _locked(run)
        if lock is not None:
            holder = f"process {os.getpid()} on {socket.gethostname()}, started {started_at}\n".encode()
            run = RunDirectory(path, run.disk, lock, made, holder)
            try:
                _sign(run, lock, holder)
                _remove_unfinished(run)
            except BaseException:
                run.close()
                raise
            return run
    raise DiskFailed(f"{path}: cannot make the run directory: it is taken away again and again")


def _sign(run: RunDirectory, lock: int, holder: bytes) -> None:
    try:
        os.ftruncate(lock, 0)
        if os.pwrite(lock, holder, 0) != len(holder):
            raise OSError("the disk took only a part of it")
        os.fsync(lock)  # over a network other hosts see it only then, and a coordinator asks at once
    except OSError as error:
        raise DiskFailed(f"{run.path / LOCK_NAME}: cannot be written: {error.strerror or error}") from error


def _locked(run: RunDirectory) -> int | None:
    """The lock's descriptor; None where its file is just being taken away. Raises RunInUse, DiskFailed."""
    file = run.path / LOCK_NAME
    try:
        _make_folders(run)
        lock = open_private(file, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunDamaged(
                f"{run.path}: {LOCK_NAME} is a link; a run directory holds files of its own"
            ) from error
        raise DiskFailed(f"{run.path}: cannot make the run directory: {error}") from error
    if not _is_taken(lock):
        holder = os.pread(lock, 300, 0).decode(errors="replace").strip()
        os.close(lock)
        raise RunInUse(
            f"{run.path} is in use by {holder or 'another process'}",
            advice="Wait until it ends, or give this run another --output-dir.",
        )
    if is_open_at(lock, file) and is_folder(run.parts) and is_folder(run.attempts):
        return lock
    os.close(lock)
    return None


def linked_lock(path: Path) -> RunDamaged:
    """The lock's file is a link: whoever follows it would lock another file."""
    return RunDamaged(f"{path}: {LOCK_NAME} is a link; a run directory holds files of its own")


def _is_taken(lock: int) -> bool:
    """Whether the lock is ours. Who only looks whose it is has it for microseconds: it is tried more than once."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_TRIES_EVERY_SECONDS)
        else:
            return True
    return False


def _make_folders(run: RunDirectory) -> None:
    """The run directory is its owner's alone, its parents are as the umask says; each is on the disk at once."""
    missing = [folder for folder in run.path.parents if not is_there(folder)]
    for folder in reversed(missing):
        run.disk.make_folder(folder, private=False)
        run.disk.sync_folder(folder.parent)
    for folder in (run.path, run.journal, run.parts, run.attempts):
        if not is_there(folder):
            run.disk.make_folder(folder)
            run.disk.sync_folder(folder.parent)


def _remove_unfinished(run: RunDirectory) -> None:
    """Temporary files of a process that was killed, also those under the names that they once had."""
    found = [*run.path.glob(".*.tmp")]
    for folder in (run.journal, run.parts, run.attempts, run.batch_files):
        found += folder.glob("*.tmp")
    try:
        for path in found:
            run.disk.unlink(path)
    except OSError as error:
        raise DiskFailed(f"{run.path}: cannot remove what an unfinished write has left: {error}") from error


def write_json(run: RunDirectory, path: Path, document: Mapping[str, Any]) -> None:
    """Replace `path` at once by the document, with a `sha256` of its own bytes as the last key.

    Raises DiskFailed; the file is then as it was, also where the directory is no longer the one that was locked.
    """
    run.check_in_place()
    write_file(run.disk, path, json_bytes(document))


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """The document as `read_json` reads it."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    text = orjson.dumps({**document, "sha256": ""}, option=options) + b"\n"
    before, key, after = text.rpartition(_CHECKSUM_KEY)
    digest = hashlib.sha256(before + after).hexdigest()
    return before + key + digest.encode() + after


def read_json(path: Path) -> dict[str, Any]:
    """The document as written, without the checksum.

    Raises RunDamaged when any byte differs from what was written, FileNotFoundError when there is none.
    """
    data = path.read_bytes()
    before, key, after = data.rpartition(_CHECKSUM_KEY)
    digest = hashlib.sha256(before + after[64:]).hexdigest()
    if not key or digest.encode() != after[:64]:
        raise RunDamaged(f"{path} is damaged or was edited: its checksum does not fit")
    document: dict[str, Any] = orjson.loads(data)
    del document["sha256"]
    return document


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What stands in a folder; nothing where it cannot be listed: then nothing in it can be read either."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []


def _numbers(folder: Path, suffix: str) -> list[int]:
    matches = (_NUMBERED.fullmatch(path.name) for path in folder.iterdir()) if is_folder(folder) else ()
    return sorted(int(match[1]) for match in matches if match and match[2] == suffix)
