"""The live end of the journal: one write per event, at once; a sync at most 100 ms later.

Owns: the open segment, the serials of attempts, when segments change, what has not reached the disk. After a
failed sync nothing is trusted and it is never tried again; after a failed write the torn line is cut off. In
both cases no attempt may start any more, but replies that still come in are paid, and kept: where the segment
takes no more, in a file whose place on the disk was reserved at the start. Must not know: what the events mean,
beyond which attempts are in flight.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from msgspec import Struct, structs

from crun_batch.errors import DiskFailed, RunInUse
from crun_batch.paths import is_there
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import write_file
from crun_batch.store.events import (
    FORMAT,
    EndEvent,
    FinalEvent,
    HeadEvent,
    RawEnd,
    ReadEvent,
    StartEvent,
    encode_line,
    encode_lines,
    end_event,
)
from crun_batch.store.late import LateReplies, OpenStarts
from crun_batch.store.recover import Recovered
from crun_batch.store.segment import LiveSegment
from crun_batch.store.syncer import Syncer, ThreadSyncer


class JournalSettings(Struct, frozen=True):
    """When a segment is full, what may be unsynced, what a full disk has reserved."""

    segment_bytes: int = 64 * 2**20
    sync_seconds: float = 0.1
    sync_records: int = 256
    reserve_bytes: int = 2**20


def _microseconds() -> int:
    return time.time_ns() // 1000


Line = tuple[Struct, bytes]
"""An event and what it is on the disk."""


class Journal:
    """Appends events to the newest segment. Made by `create_journal` or `resume_journal`."""

    def __init__(
        self,
        run: RunDirectory,
        head: HeadEvent,
        *,
        unread: Iterable[int] = (),
        settings: JournalSettings,
        syncer: Syncer,
        clock: Callable[[], int],
    ) -> None:
        self._run = run
        self._settings = settings
        self._syncer = syncer
        self._clock = clock
        self._session = head.session
        self._file = LiveSegment(run, head.segment)
        self._closed: dict[int, int] = {}
        self._next_serial = head.next_serial
        self.serials: Iterator[int] = count(head.next_serial)
        """For the next attempts: each is given out once."""
        self._in_flight = OpenStarts(head.in_flight)
        self._unread = set(unread)
        self._late: set[int] = set()
        self._reserve = LateReplies(run, settings.reserve_bytes)
        self._appended = 0
        self._synced = 0
        self._sync_records = settings.sync_records
        self._failure: DiskFailed | RunInUse | None = None
        self._lost: DiskFailed | None = None
        self._held: list[Line] | None = None
        self._sync_lock = threading.Lock()
        syncer.start(self.sync)

    @property
    def segment(self) -> int:
        """Number of the open segment."""
        return self._file.number

    def has_room_for(self, replies: int) -> bool:
        """Whether so many more requests may go, all replies in flight kept even if the disk is full by then.

        Raises DiskFailed where there is no room for one, and none is in flight.
        """
        has_room = self._reserve.has_room_for(self._in_flight.awaited + replies)
        if not has_room:
            self.poll()
        if not has_room and replies == 1 and not self._in_flight.awaited:
            raise DiskFailed(
                f"{self._run.path}: the disk has no room for one more reply as large as those that came",
                advice="Make room, then start the same run again.",
            )
        return has_room

    @contextmanager
    def together(self) -> Iterator[None]:
        """Events appended inside are written when the block ends, in one write. Raises DiskFailed there."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            self._write(held)

    def append_starts(self, events: Sequence[StartEvent]) -> None:
        """Before requests are sent. Raises DiskFailed: then do not send."""
        if events and self._failure is not None:
            raise self._failure
        lines = _lines(events)
        self._reserve.learn_start(max((len(line) for _, line in lines), default=0))
        self._add(lines)
        self._in_flight.add(events)
        self._next_serial = max([self._next_serial, *(event.n + 1 for event in events)])

    def append_ends(self, ends: Sequence[RawEnd]) -> None:
        """Raw replies, before they are parsed.

        On a full disk they go to the reserve, from where the next start takes them. Raises DiskFailed when one
        could not be written there either.
        """
        events = [end_event(end) for end in ends]
        lines = _lines(events)
        self._reserve.learn(max((len(line) for _, line in lines), default=0), self._in_flight.awaited)
        self._add(lines)
        for event in events:
            if event.n not in self._late:
                self._in_flight.drop(event.n)
                self._unread.add(event.n)

    def append_reads(self, events: Sequence[ReadEvent]) -> bool:
        """What was made of the replies; says whether the segment is full. Raises DiskFailed if one is not written.

        The next start then reads the reply anew, as it does one that went to the reserve: for that, nothing is
        written here.
        """
        events = [event for event in events if event.n not in self._late] if self._late else events
        self._append(events)
        for event in events:
            self._in_flight.drop(event.n)
            self._unread.discard(event.n)
        return self._is_full

    def append_final(self, event: FinalEvent) -> None:
        """A unit that ended without an attempt. Raises DiskFailed when it could not be written."""
        self._append([event])

    def poll(self) -> None:
        """Raise DiskFailed if a write or a sync has failed since, RunInUse if another process has the run now."""
        if self._failure is not None:
            raise self._failure

    def sync(self) -> None:
        """Bring what was appended to the disk. A failure is kept for `poll`; after one, this does nothing."""
        self._reserve.ask_again()
        with self._sync_lock:
            self._check_the_place()
            appended = self._appended
            if self._failure is not None or appended == self._synced:
                return
            try:
                self._file.sync()
            except OSError as error:
                self._fail("cannot be synced to the disk", error)
            else:
                self._synced = appended

    def maybe_rotate(self, checkpoint: Callable[[], Any], *, force: bool = False) -> int | None:
        """Open the next segment if this one is full; returns the number of the closed one, ready to be sealed.

        `checkpoint` gives what the runner must know to go on without the older segments, JSON-able. Does nothing
        while an end waits for its read. `force` also closes a segment that is not full. Raises DiskFailed.
        """
        if self._unread or not (force or self._is_full):
            return None
        if self._held:
            held, self._held = self._held, []
            self._write(held)
        self.sync()
        self.poll()
        closed = self.segment
        self._closed[closed] = self._file.checksum
        self._switch(
            HeadEvent(
                format=FORMAT,
                segment=closed + 1,
                session=self._session,
                at=self._clock(),
                next_serial=self._next_serial,
                in_flight=tuple(self._in_flight.starts.values()),
                checkpoint=checkpoint(),
            )
        )
        self.poll()
        return closed

    @property
    def _is_full(self) -> bool:
        return self._file.length >= self._settings.segment_bytes

    def checksum_of(self, closed: int) -> int:
        """The CRC-32 of a closed segment, as it was written; told once."""
        return self._closed.pop(closed)

    def close(self) -> None:
        """Sync and close. Raises DiskFailed if the last events may not be on the disk."""
        self._syncer.stop()
        self.sync()
        self._leave_mark()
        self._file.close()
        self._reserve.close()
        self.poll()
        self._run.disk.unlink(self._run.reserve)

    def _leave_mark(self) -> None:
        """All is synced: what is unreadable later is damage. Without the mark it would only be known less well."""
        if self._failure is None and (mark := self._file.mark()):
            with suppress(OSError):
                self._file.append_anew(mark)

    def _append_late(self, event: EndEvent, line: bytes) -> None:
        """With its start: that one need not be on the disk yet, and a reply to nothing would be lost."""
        try:
            self._reserve.keep(encode_line(self._in_flight[event.n]) + line)
        except OSError as error:
            raise DiskFailed(
                f"{self._run.reserve}: a reply could not be kept: {error.strerror or error}"
            ) from error
        self._late.add(event.n)

    def _append(self, events: Sequence[Struct]) -> None:
        self._add(_lines(events))

    def _add(self, lines: list[Line]) -> None:
        if isinstance(self._failure, RunInUse):  # the file is another session's, which knows nothing of these
            raise self._failure
        if self._held is None:
            self._write(lines)
        else:
            self._held += lines

    def _write(self, lines: list[Line]) -> None:
        if not lines:
            return
        mark = self._file.mark() if self._failure is None else b""
        try:
            self._file.append(b"".join([mark, *[line for _, line in lines]]))
        except OSError as error:
            self._write_failed(lines, error)
        else:
            self._appended += len(lines)
        if self._appended - self._synced >= self._sync_records:
            self._syncer.wake()

    def _write_failed(self, lines: list[Line], error: OSError) -> None:
        """Cut the torn part off and write each line once more; replies that do not fit go to the reserve.

        Raises if anything else does not fit; then no start among them stays, as none of them is sent.
        """
        failed, before_starts = False, None
        # The write of many lines failed: each is now tried alone, after the last line that is known to be whole.
        # 1. What was made of a reply that lies in the reserve is not written: the next session reads that reply.
        # 2. A start behind a failure is not written, and one that fails takes those before it along: none is sent.
        # 3. A reply is paid for: where its line does not fit, it goes to the place that is reserved for it.
        # 4. Any other line is lost with its event; the first failure is raised when all replies are safe.
        for event, line in lines:
            if isinstance(event, ReadEvent) and event.n in self._late:
                continue
            if isinstance(event, StartEvent):
                before_starts = before_starts or (self._file.length, self._file.checksum, self._appended)
                if failed := failed or self._failure is not None:
                    continue
            try:
                self._file.append_anew(line)
            except OSError as second:
                self._fail("cannot be written", second)
                if isinstance(event, StartEvent) and before_starts is not None:
                    self._file.length, self._file.checksum, self._appended = before_starts
                self._cut_torn_line()
                failed = not self._kept_late(event, line) or failed
            else:
                self._appended += 1
        if self._lost is not None:
            raise self._lost
        if failed and self._failure is not None:
            raise self._failure from error

    def _kept_late(self, event: Struct, line: bytes) -> bool:
        """Only replies are; one that has no place there does not hinder those that come with it."""
        if not isinstance(event, EndEvent):
            return False
        try:
            self._append_late(event, line)
        except DiskFailed as error:
            self._lost = self._lost or error
        return True

    def _check_the_place(self) -> None:
        """What is written into a directory that was moved, replaced or deleted, nobody would find again."""
        if self._failure is None:
            try:
                self._file.check_in_place()
            except (DiskFailed, RunInUse) as error:
                self._failure = error

    def _cut_torn_line(self) -> None:
        try:
            self._file.cut()
        except OSError as error:
            self._fail("cannot be cut back to its last whole line", error)

    def _fail(self, what: str, error: OSError) -> None:
        if self._failure is None:
            self._failure = DiskFailed(
                f"{self._file.path} {what}: {error.strerror or error}",
                advice="What was recorded stays. Make room or fix the disk, then start the same run again.",
            )

    def _switch(self, head: HeadEvent) -> None:
        """Go over to a new segment; once it has its name, always, so that the newest is the one written to."""
        path = self._run.segment(head.segment)
        line = encode_line(head)
        try:
            write_file(self._run.disk, path, line)
        except DiskFailed as error:
            self._failure = error
            if not is_there(path):
                return
        with self._sync_lock:
            former, self._file = self._file, LiveSegment(self._run, head.segment)
            former.close()


def _lines(events: Sequence[Struct]) -> list[Line]:
    return list(zip(events, encode_lines(events), strict=True))


def create_journal(
    run: RunDirectory,
    checkpoint: Any,
    *,
    settings: JournalSettings | None = None,
    syncer: Syncer | None = None,
    clock: Callable[[], int] = _microseconds,
) -> Journal:
    """The journal of a new run directory, with its first segment on the disk. Raises DiskFailed."""
    settings = settings or JournalSettings()
    head = HeadEvent(FORMAT, 1, 1, clock(), 1, (), checkpoint)
    write_file(run.disk, run.segment(1), encode_line(head))
    syncer = syncer or ThreadSyncer(settings.sync_seconds)
    return Journal(run, head, settings=settings, syncer=syncer, clock=clock)


def resume_journal(
    run: RunDirectory,
    recovered: Recovered,
    *,
    settings: JournalSettings | None = None,
    syncer: Syncer | None = None,
    clock: Callable[[], int] = _microseconds,
) -> Journal:
    """Go on with the newest segment, in a new session; the session's number stands in the next segment's head.

    The attempts of `recovered.in_flight` stay in flight until their read event is appended. Raises DiskFailed.
    """
    settings = settings or JournalSettings()
    head = structs.replace(
        recovered.head,
        session=recovered.head.session + 1,
        next_serial=recovered.next_serial,
        in_flight=recovered.in_flight,
    )
    unread = [end.n for _, end in recovered.unread]
    syncer = syncer or ThreadSyncer(settings.sync_seconds)
    return Journal(run, head, unread=unread, settings=settings, syncer=syncer, clock=clock)
