"""What a run directory's journal says after any end of the process that wrote it.

The newest segment goes on. What follows from its first bad line on is what a crash leaves, where nothing says that
it was ever on the disk: a power cut takes any page that was not synced, and lets later ones stand. It is cut off
and counted. A bad line before the highest mark of what was synced is no crash of ours: RunDamaged, and nothing is
changed. Owns: that judgement. Must not know: what the runner makes of the events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from crun_batch.errors import DiskFailed, RunDamaged
from crun_batch.paths import is_there
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import write_all
from crun_batch.store.events import (
    FORMAT,
    EndEvent,
    Event,
    FinalEvent,
    HeadEvent,
    ReadEvent,
    StartEvent,
    decode_payload,
    encode_line,
    payload_of,
    synced_bytes,
)
from crun_batch.store.late import kept_lines
from crun_batch.store.renewal import renew, sync_or_doubt


class Scan(Struct, frozen=True):
    """The lines of a segment, judged by their checksums alone."""

    lines: int
    good_bytes: int
    """Length of the whole lines from the start."""
    torn_bytes: int
    """Bytes from the first bad line on, when they may never have been on the disk."""
    first_bad_line: int | None = None
    """Line number, from 1, of a bad line that once was on the disk for sure."""


class Recovered(Struct, frozen=True):
    """The newest segment, ready to go on."""

    head: HeadEvent
    records: Callable[[], Iterator[Event]]
    """The events after the head, read anew at each call."""
    in_flight: tuple[StartEvent, ...]
    """Sent, or about to be, with no reply recorded: their outcome is unknown."""
    unread: tuple[tuple[StartEvent, EndEvent], ...]
    """Replies recorded but not yet made anything of."""
    next_serial: int
    cut_bytes: int
    older: tuple[int, ...]
    """Older segments that are not sealed yet."""


def scan_segment(path: Path) -> Scan:
    """Check every line of a segment (or any file of checksummed lines); streams, in bounded memory."""
    lines = good_bytes = torn_bytes = synced = 0
    with path.open("rb") as file:
        for line in file:
            payload = payload_of(line)
            if payload is not None:
                synced = max(synced, synced_bytes(payload) or 0)
            if payload is None or torn_bytes:
                torn_bytes += len(line)
            else:
                lines += 1
                good_bytes += len(line)
    if torn_bytes and synced > good_bytes:
        return Scan(lines, good_bytes, 0, lines + 1)
    return Scan(lines, good_bytes, torn_bytes)


def replay(path: Path) -> Iterator[Event]:
    """The events of a segment up to its torn tail; streams. Raises RunDamaged at a line that is no event."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            payload = payload_of(line)
            if payload is None:
                return
            if synced_bytes(payload) is None:
                yield _event(path, number, payload)


def recover(run: RunDirectory) -> Recovered | None:
    """Judge the journal, cut a torn tail off, and bring what is left to the disk. None: there is no journal yet.

    job.json is written before the first segment: without it nothing was ever sent. Needs the lock. Raises
    RunDamaged (nothing was changed) and DiskFailed.
    """
    segments = run.segments()
    if not segments:
        if run.sealed_files() or (is_there(run.manifest) and run.has_job):
            raise RunDamaged(f"{run.journal}: the live segment is missing; the sealed files are there")
        return None
    newest = segments[-1]
    path = run.segment(newest)
    scan = scan_segment(path)
    if scan.first_bad_line is not None:
        raise RunDamaged(
            f"{path}, line {scan.first_bad_line}: its checksum does not fit, and it was on the disk already",
            advice="No crash leaves that. Restore the file from a copy; `crun-batch verify` lists all damage.",
        )
    head = _head(run, newest)
    late = _late_lines(run, head, path)
    renew(run, [path, run.manifest])
    _settle(run, path, scan, late)
    in_flight, unread, next_serial = _open_ends(head, replay(path))
    return Recovered(
        head=head,
        records=lambda: _after_head(path),
        in_flight=in_flight,
        unread=unread,
        next_serial=next_serial,
        cut_bytes=scan.torn_bytes,
        older=tuple(segments[:-1]),
    )


def _head(run: RunDirectory, number: int) -> HeadEvent:
    path = run.segment(number)
    head = next(replay(path), None)
    if not isinstance(head, HeadEvent) or head.segment != number:
        raise RunDamaged(f"{path}, line 1: this is not the head of segment {number}")
    if head.format != FORMAT:
        raise RunDamaged(f"{path}: written in journal format {head.format}; this version reads format {FORMAT}")
    return head


def _after_head(path: Path) -> Iterator[Event]:
    events = replay(path)
    next(events)
    yield from events


def _open_ends(
    head: HeadEvent, events: Iterator[Event]
) -> tuple[tuple[StartEvent, ...], tuple[tuple[StartEvent, EndEvent], ...], int]:
    in_flight = {start.n: start for start in head.in_flight}
    unread: dict[int, tuple[StartEvent, EndEvent]] = {}
    next_serial = head.next_serial
    for event in events:
        if isinstance(event, HeadEvent | FinalEvent):
            continue
        next_serial = max(next_serial, event.n + 1)
        if isinstance(event, StartEvent):
            in_flight[event.n] = event
            continue
        start = in_flight.pop(event.n, None)
        if isinstance(event, ReadEvent):
            unread.pop(event.n, None)
        elif start is None:
            raise RunDamaged(f"segment {head.segment}: the end of attempt {event.n} has no start")
        else:
            unread[event.n] = (start, event)
    return tuple(in_flight.values()), tuple(unread.values()), next_serial


def late_events(run: RunDirectory) -> Iterator[StartEvent | EndEvent]:
    """What a full disk sent to the reserve: replies, each behind its start; a torn one hides no other."""
    payloads = map(payload_of, kept_lines(run).splitlines(keepends=True))
    events = (_event(run.reserve, number, payload) for number, payload in enumerate(payloads, 1) if payload)
    return (event for event in events if isinstance(event, StartEvent | EndEvent))


def _late_lines(run: RunDirectory, head: HeadEvent, path: Path) -> bytes:
    """The late replies that the segment does not have; with their starts, where a power cut took those."""
    starts, _, next_serial = _open_ends(head, replay(path))
    in_flight = {start.n for start in starts}
    lost: dict[int, StartEvent] = {}
    lines = []
    for event in late_events(run):
        if isinstance(event, StartEvent):
            if event.n >= next_serial:
                lost[event.n] = event
        elif event.n in in_flight:
            lines.append(encode_line(event))
        elif event.n in lost:
            lines += [encode_line(lost[event.n]), encode_line(event)]
    return b"".join(lines)


def _settle(run: RunDirectory, path: Path, scan: Scan, late: bytes) -> None:
    """Cut the torn end off, take the late replies in, bring all to the disk; then the reserve may go."""
    disk = run.disk
    try:
        descriptor = disk.reopen(path)
        try:
            if scan.torn_bytes:
                disk.truncate(descriptor, scan.good_bytes)
            if late:
                write_all(disk, descriptor, late)
            sync_or_doubt(run, descriptor)
        finally:
            disk.close(descriptor)
        disk.unlink(run.reserve)
    except OSError as error:
        raise DiskFailed(f"{path}: cannot be brought in order: {error.strerror or error}") from error


def _event(path: Path, number: int, payload: bytes) -> Event:
    try:
        return decode_payload(payload)
    except msgspec.DecodeError as error:
        raise RunDamaged(f"{path}, line {number}: not an event that this version knows: {error}") from error
