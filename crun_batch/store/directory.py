"""The run directory: its names, its lock, its small JSON files.

Owns: who may write (one process, by flock, which ends with the process however it ends), where each file is,
and the checksum inside `job.json` and `summary.json`. Must not know: what the files say.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from crun_batch.errors import DiskFailed, RunDamaged, RunInUse
from crun_batch.store.disk import Disk, write_file

_NUMBERED = re.compile(r"(\d{6,})\.(jsonl|parquet)")
_CHECKSUM_KEY = b'"sha256": "'


class RunDirectory:
    """The paths of one run. Made by anybody to read; only `open_directory` gives one that may write."""

    def __init__(self, path: Path, disk: Disk | None = None, lock: int | None = None) -> None:
        self.path = path
        self.disk = disk or Disk()
        self.journal = path / "journal"
        self.parts = self.journal / "parts"
        self.attempts = path / "attempts"
        self.manifest = self.journal / "manifest.jsonl"
        self.reserve = self.journal / "reserve"
        self.scores = self.journal / "scores.parquet"
        self.results = path / "results.parquet"
        self.job = path / "job.json"
        self.summary = path / "summary.json"
        self.manifest_lock = threading.Lock()
        """Sealing, publishing and the session may write the manifest from different threads."""
        self._lock = lock

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

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def open_directory(path: Path, *, started_at: str, disk: Disk | None = None) -> RunDirectory:
    """Make the folders and take the lock. `started_at` is for the message that a second start will see.

    Raises RunInUse (another process has it) and DiskFailed.
    """
    run = RunDirectory(path, disk)
    try:
        for folder in (run.parts, run.attempts):
            run.disk.make_folder(folder)
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DiskFailed(f"{path}: cannot make the run directory: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 300, 0).decode(errors="replace").strip()
        os.close(lock)
        raise RunInUse(
            f"{path} is in use by {holder or 'another process'}",
            advice="Wait until it ends, or give this run another --output-dir.",
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}, started {started_at}\n".encode(), 0)
    return RunDirectory(path, run.disk, lock)


def write_json(run: RunDirectory, path: Path, document: Mapping[str, Any]) -> None:
    """Replace `path` at once by the document, with a `sha256` of its own bytes as the last key.

    Raises DiskFailed; the file is then as it was.
    """
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    text = orjson.dumps({**document, "sha256": ""}, option=options) + b"\n"
    before, key, after = text.rpartition(_CHECKSUM_KEY)
    digest = hashlib.sha256(before + after).hexdigest()
    write_file(run.disk, path, before + key + digest.encode() + after)


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


def _numbers(folder: Path, suffix: str) -> list[int]:
    matches = (_NUMBERED.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match[1]) for match in matches if match and match[2] == suffix)
