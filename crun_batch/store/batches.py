r"""What a run has given to a gateway as batches: a checksummed line per step of each, on the disk before the next.

    drafted -> intended -> uploaded -> creating -> created -> ended -> stored -> settled
                   \--- inline ---------^
                   \-----------\----------\--> released: nothing of it was ever submitted
    uploaded ... ended --> lost: its gateway is gone, as a simulator is when its session has ended
    creating -----------> lost: inline, and what might tell whether it was submitted can be read no more

A line says all that is known of its batch, so the last one of a number holds. The steps are few and each is synced
before what follows from it is done, which is what makes a crash decidable:

    what the disk says last    what the gateway may have            so the requests
    drafted, intended          a file, which costs nothing          were never sent
    uploaded                   that file, by its id                 may be submitted: no create was ever tried
    creating                   the batch or not                     are looked for by the file's id, or among the
                                                                    batches that it may be; not sent again
    created ... stored         the batch, by its id                 are collected

Owns: that file, and the raw bytes of what batches brought, kept until every line of them is in the journal. Must
not know: how a gateway is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import msgspec
from msgspec import Struct, structs

from crun_batch.errors import DiskFailed, RunDamaged
from crun_batch.paths import is_file, is_folder, is_there
from crun_batch.store.checked_lines import append_lines, read_lines
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import write_file
from crun_batch.store.events import encode_line

BatchStep = Literal[
    "drafted", "intended", "uploaded", "creating", "created", "ended", "stored", "settled", "released", "lost"
]
Fate = Literal["unknown", "never_sent", "submitted"]
OVER: frozenset[BatchStep] = frozenset({"settled", "released", "lost"})
NEVER_SENT: frozenset[BatchStep] = frozenset({"drafted", "intended"})
AT_THE_GATEWAY: frozenset[BatchStep] = frozenset({"uploaded", "creating", "created", "ended"})
"""What is known of these is known there alone."""


class BatchEntry(Struct, frozen=True, omit_defaults=True):
    """One batch of a run, as far as it has come."""

    number: int
    step: BatchStep
    at: int
    """When it was drafted, in microseconds since 1970."""
    tag: str
    """What the custom ids of its requests begin with."""
    first_serial: int
    """The serials of its requests are the `requests` that follow this one."""
    requests: int = 0
    variant: str = ""
    sha256: str = ""
    """Of the file that is uploaded."""
    tokens: int = 0
    """At most so many are enqueued with it."""
    held_usd: int | None = None
    held_credits: int | None = None
    """The most that its requests may cost together, in pico."""
    form: str = "openai"
    """In whose form it goes to the gateway."""
    file_id: str | None = None
    asked_at: int | None = None
    """When the call was begun that creates it, in microseconds since 1970."""
    suspects: tuple[str, ...] = ()
    """Of one that went inline and got no reply: the batches at the gateway of which it may be one."""
    batch_id: str | None = None
    status: str | None = None
    """In the gateway's words."""
    done: int = 0
    """Requests that the gateway says it has done or refused."""
    files: tuple[tuple[str, str], ...] = ()
    """(output, error or results; where the gateway has it)."""
    raw: tuple[str, ...] = ()
    """What of it is kept here."""
    why: str | None = None
    """What it failed with, or why it was released."""

    @property
    def serials(self) -> range:
        return range(self.first_serial + 1, self.first_serial + 1 + self.requests)


_decoder = msgspec.json.Decoder(BatchEntry)


def read_batches(run: RunDirectory) -> dict[int, BatchEntry]:
    """Each batch of the run as it stood last, by number; a torn last line does not count. Raises RunDamaged."""
    return _read(run)[0]


def _read(run: RunDirectory) -> tuple[dict[int, BatchEntry], int]:
    """The entries, and the length of the whole lines."""
    lines, good_bytes = read_lines(run.batches)
    entries = (_decoder.decode(line) for line in lines)
    return {entry.number: entry for entry in entries}, good_bytes


class BatchBook:
    """The batches of a run directory; every change, which needs the lock, is on the disk when a call returns."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._entries, self._good_bytes = _read(run)

    @property
    def open(self) -> list[BatchEntry]:
        """Those that are not over, in their order."""
        return [entry for entry in self._entries.values() if entry.step not in OVER]

    @property
    def batch_ids(self) -> frozenset[str]:
        """What the gateway calls the batches of which that is known."""
        return frozenset(entry.batch_id for entry in self._entries.values() if entry.batch_id is not None)

    @property
    def last_number(self) -> int:
        return max(self._entries, default=0)

    def fate(self, serial: int) -> Fate:
        """What is known of a request that was recorded as started and has no recorded end.

        `unknown`: no batch has it, or one that is over and did not tell of it.
        """
        for entry in self.open:
            if entry.step == "drafted" and serial > entry.first_serial:
                return "never_sent"
            if serial in entry.serials:
                return "never_sent" if entry.step in NEVER_SENT else "submitted"
        return "unknown"

    def write(self, entry: BatchEntry) -> None:
        """From now on the batch stands so. Raises DiskFailed."""
        path = self._run.batches
        self._good_bytes = append_lines(self._run, path, encode_line(entry), self._good_bytes)
        self._entries[entry.number] = entry

    def release_unsent(self, why: str) -> None:
        """Those of which nothing was submitted are over; their requests have been recorded as never sent."""
        for entry in self.open:
            if entry.step in NEVER_SENT:
                self.write(structs.replace(entry, step="released", why=why))
        self.drop_read()

    def settle_told(self, awaited: Collection[int]) -> None:
        """Those that were read to the end are over, where a kill came before that was said; the journal is synced.

        `awaited`: the serials of requests of which nothing is read yet.
        """
        for entry in self.open:
            if entry.step == "stored" and not any(serial in awaited for serial in entry.serials):
                self.write(structs.replace(entry, step="settled"))

    def drop_read(self) -> None:
        """What batches have left that are over goes, where a kill came between the two."""
        for entry in self._entries.values():
            if entry.step in OVER:
                self.drop_raw(entry)

    def lose_all(self, why: str) -> None:
        """The gateway is gone with what it had: of these batches' requests only what is kept here will tell."""
        for entry in self.open:
            if entry.step in AT_THE_GATEWAY:
                kept = tuple(name for name in (self.kept(entry, kind) for kind, _ in entry.files) if name)
                left = {"step": "stored", "raw": kept} if kept else {"step": "lost", "why": why}
                self.write(structs.replace(entry, **left))

    def keep_raw(self, entry: BatchEntry, kind: str, content: bytes) -> str:
        """The bytes of a file that the batch has left; the name under which they are kept. Raises DiskFailed."""
        run = self._run
        if not is_there(run.batch_files):
            run.disk.make_folder(run.batch_files)
            run.disk.sync_folder(run.journal)
        name = _raw_name(entry, kind)
        write_file(run.disk, run.batch_files / name, content)
        return name

    def kept(self, entry: BatchEntry, kind: str) -> str | None:
        """The name under which the bytes of such a file are kept already; None: they are not.

        They are whole where a kill came before the batch was said to be stored; the gateway may have them no more.
        """
        name = _raw_name(entry, kind)
        return name if is_file(self._run.batch_files / name) else None

    def raw(self, name: str) -> bytes:
        """What was kept under a name. Raises RunDamaged where it is gone."""
        try:
            return (self._run.batch_files / name).read_bytes()
        except OSError as error:
            raise RunDamaged(f"{self._run.batch_files / name}: {error.strerror or error}") from error

    def drop_raw(self, entry: BatchEntry) -> None:
        """Every line is in the journal: the files go."""
        for path in (self._run.batch_files / name for name in entry.raw):
            try:
                if is_there(path):
                    self._run.disk.unlink(path)
            except OSError as error:
                raise DiskFailed(f"{path}: {error.strerror or error}") from error


def _raw_name(entry: BatchEntry, kind: str) -> str:
    return f"{entry.number:06d}-{kind}.jsonl"


def batch_files(run: RunDirectory) -> Iterator[str]:
    """The names within the run directory that belong to batches."""
    if is_there(run.batches):
        yield str(run.batches.relative_to(run.path))
    if is_folder(run.batch_files):
        yield from (str(path.relative_to(run.path)) for path in sorted(run.batch_files.iterdir()))
