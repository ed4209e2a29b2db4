"""Disks that are full, that lose pages, that fail to sync; directories that go away: what was paid for is kept."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store_kit import OK, FailingDisk, ManualSyncer, SmallDisk, answer, end, open_run, read, start

from crun_batch.errors import DiskFailed, RunDamaged
from crun_batch.store.directory import write_json
from crun_batch.store.disk import Disk, DiskFile
from crun_batch.store.journal import JournalSettings, create_journal, resume_journal
from crun_batch.store.manifest import ManifestEntry, append_manifest, read_manifest
from crun_batch.store.recover import recover, replay
from crun_batch.store.schema import RunSchema, schema_document
from crun_batch.store.seal import seal_segment
from crun_batch.store.verify import verify
from crun_batch.store.views import results_frame

SCHEMA = RunSchema(id_name="review_id", id_type=pa.int64())
MEBIBYTE = 2**20


@pytest.fixture
def run(tmp_path):
    run = open_run(tmp_path / "run")
    yield run
    run.close()


def journal_of(run, **fields):
    return create_journal(run, None, syncer=ManualSyncer(), clock=lambda: 77, **fields)


# A full disk


def send_until_full(journal, concurrency, length_of):
    """Keep so many requests in flight until the disk fails; serials that were sent, and the most in flight."""
    sent, most, flying = [], 0, []
    while True:
        try:
            admitted = 0
            while len(flying) + admitted < concurrency and journal.has_room_for(admitted + 1):
                admitted += 1
            serials = [next(journal.serials) for _ in range(admitted)]
            journal.append_starts([start(n) for n in serials])
        except DiskFailed:
            break
        sent += serials
        flying += serials
        most = max(most, len(flying))
        came, flying = flying[: concurrency // 2 + 1], flying[concurrency // 2 + 1 :]
        try:
            come_in(journal, came, length_of)
            journal.sync()
        except DiskFailed:
            break
    while flying:
        came, flying = flying[:5], flying[5:]
        try:
            come_in(journal, came, length_of)
        except DiskFailed as error:
            assert "could not be kept" not in str(error)
    return sent, most


def come_in(journal, serials, length_of):
    journal.append_ends([end(n, b"x" * length_of(n)) for n in serials])
    journal.append_reads([read(n, text="x" * length_of(n), final=OK) for n in serials])


def replies_found(run):
    """Serials of the replies that the next start has, read or not."""
    recovered = recover(run)
    return {event.n for event in replay(run.segment(run.segments()[-1])) if type(event).__name__ == "EndEvent"} | {
        ended.n for _, ended in recovered.unread
    }


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from([1, 8, 128, 600]),
    st.sampled_from([1_000, 5_000, 20_000, 30_000]),
    st.integers(3 * MEBIBYTE // 2, 6 * MEBIBYTE),
)
@example(128, 20_000, 3 * MEBIBYTE)
def test_no_paid_reply_is_lost_on_a_full_disk(concurrency, length, size):
    """Whatever is in flight when the disk is full has its place; where there is none, fewer are in flight."""
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", SmallDisk(size))
        sent, most = send_until_full(journal_of(run), concurrency, lambda n: length)
        assert most >= min(concurrency, 15)
        run.disk = Disk()
        assert set(sent) == replies_found(run)
        run.close()


def test_the_place_for_late_replies_grows_with_the_replies(run):
    """Replies that become longer and longer: each time as many as are in flight have their place."""
    run.disk = SmallDisk(40 * MEBIBYTE)
    sent, _ = send_until_full(journal_of(run), 64, lambda n: 1_000 + 20 * n)
    run.disk = Disk()
    assert set(sent) == replies_found(run)


def test_a_reply_that_is_too_long_for_what_is_left_does_not_make_others_unreadable(run):
    """One of 1.2 MB that does not fit into the reserve of 1 MiB, then ten small ones: those are kept."""
    run.disk = SmallDisk(MEBIBYTE + 20_000)
    journal = journal_of(run)
    serials = [next(journal.serials) for _ in range(11)]
    journal.append_starts([start(n) for n in serials])
    with pytest.raises(DiskFailed, match="could not be kept"):
        journal.append_ends([end(1, b"x" * 1_200_000), *(end(n, b"y" * 40_000) for n in serials[1:])])
    run.disk = Disk()
    recovered = recover(run)
    assert serials[1:] == [ended.n for _, ended in recovered.unread]
    assert [1] == [event.n for event in recovered.in_flight]


def test_where_there_is_no_place_for_one_reply_nothing_is_sent(run):
    """Exit 7 says how to go on; with others in flight it only waits for them."""
    run.disk = SmallDisk(MEBIBYTE + 60_000)
    journal = journal_of(run, settings=JournalSettings(reserve_bytes=MEBIBYTE))
    journal.append_starts([start(next(journal.serials)) for _ in range(2)])
    journal.append_ends([end(1, b"x" * 40_000)])
    assert journal.has_room_for(1)
    journal.append_ends([end(2, b"x" * 15_000)])
    journal.append_reads([read(1, final=OK)])
    run.disk.size -= run.disk.free
    for more, has_room in ((26, True), (27, False)):
        assert has_room == journal.has_room_for(more)
    few = journal_of(
        open_run(run.path.with_name("few"), SmallDisk(20_000)), settings=JournalSettings(reserve_bytes=9)
    )
    with pytest.raises(DiskFailed, match="no room for one more reply"):
        few.has_room_for(1)


# Pages that a power cut loses

SECTOR = 512


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_whichever_pages_a_power_cut_loses_what_was_synced_is_there(data):
    """Pages go out in any order: the unsynced tail may have holes. A prefix is left, all synced rows in it."""
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run")
        write_json(run, run.job, {"run_schema": schema_document(SCHEMA)})
        journal = journal_of(run)
        synced_rows = synced = 0
        for row in range(1, 13):
            answer(journal, row, body=b"b" * data.draw(st.integers(0, 900)))
            if data.draw(st.booleans()):
                journal.sync()
                synced_rows, synced = row, run.segment(1).stat().st_size
        content = bytearray(run.segment(1).read_bytes())
        before = list(replay(run.segment(1)))
        for sector in data.draw(st.sets(st.integers(synced // SECTOR, len(content) // SECTOR))):
            first, last = max(synced, sector * SECTOR), min(len(content), (sector + 1) * SECTOR)
            content[first:last] = bytes(max(0, last - first))
        run.segment(1).write_bytes(content)
        assert synced_rows <= results_frame(run.path).collect().height, "before anybody has recovered it"
        recovered = recover(run)
        after = [recovered.head, *recovered.records()]
        assert before[: len(after)] == after
        assert synced_rows <= sum(getattr(event, "final", None) is not None for event in after)
        assert [] == [found for found in verify(run.path) if found.severity == "error" and "jsonl" in found.file]
        run.close()


@pytest.mark.parametrize("is_closed", [False, True])
def test_what_was_synced_once_and_cannot_be_read_is_damage(run, is_closed):
    """A page that was on the disk before the last mark is not cut off in silence: RunDamaged."""
    journal = journal_of(run)
    for _ in range(3):
        answer(journal)
        journal.sync()
    if is_closed:
        journal.close()
    lines = run.segment(1).read_bytes().splitlines(keepends=True)
    at = max(number for number, line in enumerate(lines) if b'"e":"read"' in line) if is_closed else 3
    lines[at] = bytes(len(lines[at]) - 1) + b"\n"
    run.segment(1).write_bytes(b"".join(lines))
    with pytest.raises(RunDamaged, match=rf"line {at + 1}: .* on the disk already"):
        recover(run)
    assert b"".join(lines) == run.segment(1).read_bytes()


def test_a_session_that_goes_on_says_first_how_far_the_file_is_synced(run):
    """Recovery has synced it: damage to what an earlier session wrote is seen from the first event on."""
    journal = journal_of(run)
    answer(journal)
    resumed = resume_journal(run, recover(run), syncer=ManualSyncer())
    answer(resumed)
    lines = run.segment(1).read_bytes().splitlines(keepends=True)
    run.segment(1).write_bytes(b"".join([*lines[:2], b"?" + lines[2][1:], *lines[3:]]))
    with pytest.raises(RunDamaged, match="line 3"):
        recover(run)


def entry(name):
    return ManifestEntry(name, 1, 1, "0" * 64)


def test_a_manifest_that_lost_a_page_in_its_last_addition_goes_on(run):
    """Two lines are added at once, and of the first nothing is left: it is as if neither had been added."""
    append_manifest(run, [entry("a")])
    append_manifest(run, [entry("b"), entry("c")])
    lines = run.manifest.read_bytes().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if b'"b"' in line)
    run.manifest.write_bytes(b"".join([*lines[:at], bytes(len(lines[at])), *lines[at + 1 :]]))
    assert ["a"] == list(read_manifest(run))
    append_manifest(run, [entry("d")])
    assert ["a", "d"] == list(read_manifest(run))


def test_a_manifest_that_lost_a_page_before_its_last_addition_is_damaged(run):
    append_manifest(run, [entry("a")])
    append_manifest(run, [entry("b")])
    content = run.manifest.read_bytes().replace(b'"a"', b'"x"')
    run.manifest.write_bytes(content)
    with pytest.raises(RunDamaged, match="line 2"):
        read_manifest(run)


# A sync that fails


def test_after_a_failed_sync_nothing_is_appended_to_the_same_pages(run):
    """What is readable is copied into a new file first: its pages are written by the new session, and synced."""
    run.disk = FailingDisk()
    append_manifest(run, [entry("a")])
    journal = journal_of(run)
    answer(journal)
    run.disk.sync_fails = True
    journal.sync()
    with pytest.raises(DiskFailed):
        journal.close()
    files = (run.segment(1), run.manifest)
    doubtful, content = [path.stat().st_ino for path in files], run.segment(1).read_bytes()
    kept = [path.open("rb") for path in files]  # their numbers are not given out again
    with pytest.raises(DiskFailed):
        recover(run)
    run.disk = Disk()
    recovered = recover(run)
    assert 3 == len(list(recovered.records()))
    assert content == run.segment(1).read_bytes()
    assert all(path.stat().st_ino != former for path, former in zip(files, doubtful, strict=True))
    assert ["a"] == list(read_manifest(run))
    renewed = run.segment(1).stat().st_ino
    recover(run)
    assert renewed == run.segment(1).stat().st_ino, "once is enough"
    for file in kept:
        file.close()


# A run directory that goes away


def moved(run):
    run.path.rename(run.path.with_name("elsewhere"))
    return run.path.with_name("elsewhere")


def deleted(run):
    shutil.rmtree(run.path)


def replaced(run):
    """Another process has made a run at the same place."""
    place = moved(run)
    shutil.copytree(place, run.path)
    return place


def without_its_segment(run):
    run.segment(1).rename(run.path.with_name("taken"))


@pytest.mark.parametrize("goes_away", [moved, deleted, replaced, without_its_segment])
def test_a_run_directory_that_goes_away_stops_the_run_at_the_next_sync(tmp_path, goes_away):
    """No request is started any more, nothing is written into what stands there now; exit 7."""
    run = open_run(tmp_path / "run")
    journal = journal_of(run)
    answer(journal)
    flying = next(journal.serials)
    journal.append_starts([start(flying)])
    journal.sync()
    place = goes_away(run)
    here = sorted((path, path.stat().st_size) for path in run.path.rglob("*") if path.is_file())
    journal.sync()
    with pytest.raises(DiskFailed, match="moved, replaced or deleted"):
        journal.append_starts([start(next(journal.serials))])
    journal.append_ends([end(flying, b"paid")])
    assert None is journal.maybe_rotate(dict, force=True), "a reply waits to be read"
    if goes_away is not without_its_segment:
        with pytest.raises(DiskFailed):
            write_json(run, run.summary, {})
    with pytest.raises(DiskFailed):
        journal.close()
    run.close()
    assert here == sorted((path, path.stat().st_size) for path in run.path.rglob("*") if path.is_file())
    if place is not None:
        again = open_run(place)
        assert [b"paid"] == [ended.raw_body() for _, ended in recover(again).unread]
        again.close()


def test_nothing_is_sealed_into_a_directory_that_took_the_place_of_the_run(tmp_path):
    run = open_run(tmp_path / "run")
    journal = journal_of(run)
    answer(journal)
    closed = journal.maybe_rotate(dict, force=True)
    place = replaced(run)
    with pytest.raises(DiskFailed, match="moved, replaced or deleted"):
        seal_segment(run, closed, SCHEMA)
    assert [] == run.sealed_files()
    assert [1, 2] == open_run(place.with_name("third")).__class__(place).segments()


def test_a_power_cut_is_drawn_from_all_orders_of_pages():
    """The model that the simulation draws from: synced bytes stay, lost ones do not, the rest goes either way."""
    from simulation.pages import Platter

    platter = Platter(1000)
    platter.lose(2000)
    platter.cover(3000)
    left = [platter.left(b"x" * 5000, random.Random(seed)) for seed in range(60)]
    assert all(found[:1000] == b"x" * 1000 for found in left)
    assert all(found[1000:2000] == bytes(1000) for found in left)
    assert all(found[2000:3000] == b"x" * 1000 for found in left)
    holes = [found for found in left if b"\0" in found[3000:] and found[3000:].rstrip(b"\0").endswith(b"x")]
    assert holes
    assert any(found[3000:3072] != found[3072:3073] * 72 for found in left) or holes


def test_a_file_that_could_not_be_created_can_be_closed(tmp_path: Path) -> None:
    """The interpreter does so when it forgets the object, and from Python 3.13 on says what goes wrong there."""
    file = DiskFile.__new__(DiskFile)
    with pytest.raises(FileNotFoundError):
        DiskFile.__init__(file, Disk(), tmp_path / "none" / "a.parquet")
    file.close()
    assert file.closed
