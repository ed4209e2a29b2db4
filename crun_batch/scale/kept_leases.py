"""What was granted, on the disk before it is given: one line for each, with a checksum, in a file of its own.

Beside it stands what people have told the job (`state.steered`), written before it holds.

Whoever takes a killed coordinator's place reads here what workers may still be acting on, who they are, and which
shards have ended. Where the file is lost, the journals of the shards say what was committed, and whatever was
granted has ended one lease later. One process keeps the file: by a lock, and where that does not reach another
host, by its name in the lock's file, which is looked at before each line.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from crun_batch.errors import DiskFailed, RunDamaged, RunInUse
from crun_batch.options import RunOptions
from crun_batch.paths import is_there
from crun_batch.scale.leases import LeasedPart
from crun_batch.state.steered import told_to_workers
from crun_batch.store.control import CONTROL_NAME
from crun_batch.store.directory import LOCK_NAME, STEERING_NAME, json_bytes, leases_folder
from crun_batch.store.disk import Disk, is_open_at, make_folder_for, open_private, write_all, write_file
from crun_batch.store.events import encode_line, payload_of
from crun_batch.store.holder import holder

LONGEST_BYTES = 2**22
"""Longer than this, the file is written anew with what holds now."""


class Given(Struct, frozen=True, tag="given"):
    """A worker may be acting on this part, from the moment at which this is on the disk."""

    worker: int
    owner: str
    part: LeasedPart


class Over(Struct, frozen=True, tag="over"):
    """A shard has ended, and is not waited for."""

    worker: int
    exit_code: int
    message: str | None


class Closed(Struct, frozen=True, tag="closed"):
    """Nobody is at work any more, in order: the next coordinator waits for all shards again."""


class Begun(Struct, frozen=True, tag="begun"):
    """All that was given before is known: it stands here, or has ended."""

    is_lost: bool = False
    """Whether an earlier file was lost, and with it who had ended."""


Line = Begun | Given | Over | Closed
_decode: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class KeptLeases:
    """The file of one job's grants, locked. `given` and `over` are what holds, by worker."""

    def __init__(self, folder: Path, *, started_at: str, disk: Disk | None = None) -> None:
        """Raises RunInUse (another coordinator), RunDamaged, DiskFailed."""
        self._disk = disk or Disk()
        self.folder = folder
        self._path = folder / "grants.jsonl"
        self._name = f"process {os.getpid()} on {socket.gethostname()}, started {started_at}\n".encode()
        self.given: dict[int, Given] = {}
        self.over: dict[int, Over] = {}
        self.has_begun = False
        """Whether nothing was given that does not stand here."""
        self.is_lost = False
        """Whether shards may have ended of which nothing stands here."""
        self.steering: Mapping[str, Any]
        """What people have told the job."""
        make_folder_for(folder)
        try:
            self._disk.make_folder(folder)
            self._lock = _locked(folder, self._name)
            for line in _lines(self._path):
                self._take(line)
            self._write_anew()
            self.steering = told_to_workers(folder)
        except OSError as error:
            raise DiskFailed(f"{folder}: cannot be used: {error.strerror or error}") from error

    def keep(self, line: Line) -> None:
        """On the disk when this returns. Raises DiskFailed, RunInUse: then nothing may be given."""
        self._refuse_another()
        if self._length > LONGEST_BYTES:
            self._disk.close(self._descriptor)
            self._write_anew()
        data = encode_line(line)
        try:
            write_all(self._disk, self._descriptor, data)
            self._disk.sync(self._descriptor)
        except OSError as error:
            raise DiskFailed(f"{self._path}: cannot write: {error.strerror or error}") from error
        self._length += len(data)
        self._take(line)
        if isinstance(line, Closed) and self.steering["log"]:
            self.keep_steering({**self.steering, "goes_on": False})

    def keep_steering(self, steering: Mapping[str, Any]) -> None:
        """What people have told, on the disk when this returns. Raises DiskFailed, RunInUse: it is as it was."""
        self._refuse_another()
        write_file(self._disk, self.folder / STEERING_NAME, json_bytes(steering))
        self.steering = steering

    def _refuse_another(self) -> None:
        if not is_open_at(self._lock, self.folder / ".lock"):
            raise RunInUse(
                f"{self.folder} was taken away while this coordinator kept its grants there",
                advice="Nothing more is given from here. Start it again: the shards' journals say what was used.",
            )
        found = os.pread(self._lock, len(self._name) + 300, 0)
        if found != self._name:
            raise RunInUse(
                f"{self._path.parent} was taken over by {found.decode(errors='replace').strip()}: its file system "
                "keeps no lock between hosts",
                advice="Nothing more is given from here.",
            )

    def close(self) -> None:
        """Another may keep it. Where nothing was ever granted or told, nothing is left behind."""
        self._disk.close(self._descriptor)
        if not self._length and not self.steering["log"]:
            self.take_away()
        os.close(self._lock)

    def end(self, *, is_merged: bool) -> None:
        """All has ended in order: nothing is left of a job that is one run now."""
        if is_merged:
            self.take_away()
        else:
            self.keep(Closed())

    def take_away(self) -> None:
        """The job is one run now: nobody goes on with what was granted."""
        with suppress(OSError):  # another starts just now
            for name in (CONTROL_NAME, STEERING_NAME, self._path.name, LOCK_NAME):
                self._disk.unlink(self.folder / name)
            self.folder.rmdir()

    def _take(self, line: Line) -> None:
        match line:
            case Begun():
                self.has_begun, self.is_lost = True, line.is_lost
            case Given():
                self.given[line.worker] = line
                self.over.pop(line.worker, None)
            case Over():
                self.over[line.worker] = line
            case Closed():
                self.given.clear()
                self.over.clear()
                self.is_lost = False

    def _write_anew(self) -> None:
        begun = [Begun(self.is_lost)] if self.has_begun else []
        data = b"".join(map(encode_line, (*begun, *self.given.values(), *self.over.values())))
        write_file(self._disk, self._path, data)
        self._descriptor, self._length = self._disk.reopen(self._path), len(data)


def keeper_of_grants(run: Path) -> str | None:
    """The process that gives leases for a run now, in its own words; None: nobody."""
    return holder(leases_folder(run))


@contextmanager
def kept_for(run: Path, options: RunOptions) -> Iterator[KeptLeases]:
    """Those of a job whose run is to be at `run`, locked. Raises RunInUse, RunDamaged, DiskFailed."""
    kept = KeptLeases(leases_folder(run), started_at=options.clock.now().isoformat(timespec="seconds"))
    try:
        yield kept
    finally:
        kept.close()


def forget_grants(run: Path) -> None:
    """The run is merged: what was granted for it is of no use. Where another holds that just now, it stays."""
    with suppress(RunInUse):
        kept = KeptLeases(leases_folder(run), started_at="at the end")
        kept.take_away()
        kept.close()


def _locked(folder: Path, name: bytes) -> int:
    lock = open_private(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        keeper = os.pread(lock, 300, 0).decode(errors="replace").strip()
        os.close(lock)
        raise RunInUse(
            f"this job has a coordinator already: {keeper or 'another process'} ({folder})",
            advice="Workers find that one; a second one starts when it has ended.",
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, name, 0)
    os.fsync(lock)
    if not is_open_at(lock, folder / LOCK_NAME):
        os.close(lock)
        raise RunInUse(f"{folder} is just being taken away by a coordinator that ends", advice="Start it again.")
    return lock


def _lines(path: Path) -> Iterator[Line]:
    """What the file says; what a crash has left of its last line is passed over. Raises RunDamaged."""
    if not is_there(path):
        return
    bad = None
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if bad is not None:
            raise RunDamaged(
                f"{path}, line {bad}: its checksum does not fit",
                advice="Remove the file: what was committed is in the journals of the shards.",
            )
        payload = payload_of(line)
        if payload is None:
            bad = number
        else:
            yield _decode.decode(payload)
