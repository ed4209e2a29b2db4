"""The journal: what is written is there after any end of the process, or its loss is said."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from store_kit import OK, FailingDisk, Killed, KillingDisk, ManualSyncer, answer, end, open_run, read, start

from crun_batch.errors import DiskFailed, RunDamaged, RunInUse
from crun_batch.records import Cost, Failure, Reply, Tries, Usage
from crun_batch.session.entries import ConcludedAttempt, read_event
from crun_batch.store.directory import read_json, write_json
from crun_batch.store.events import (
    INHERITED,
    EndEvent,
    EndFault,
    FinalEvent,
    FinalPart,
    RawEnd,
    ReadEvent,
    StartEvent,
    decode_payload,
    encode_line,
    end_event,
    payload_of,
    whole_final,
)
from crun_batch.store.journal import JournalSettings, create_journal, resume_journal
from crun_batch.store.recover import recover, replay
from crun_batch.store.syncer import ThreadSyncer


def journal_of(run, **fields):
    return create_journal(run, {"mark": 1}, syncer=ManualSyncer(), clock=lambda: 77, **fields)


@pytest.fixture
def run(tmp_path):
    run = open_run(tmp_path / "run")
    yield run
    run.close()


texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
events = st.one_of(
    st.builds(lambda n, text: start(n, variant=text), st.integers(1, 2**53), texts),
    st.builds(lambda n, body: end_event(end(n, body)), st.integers(1, 2**53), st.binary(max_size=60)),
    st.builds(lambda n, text: read(n, text=text, final=OK), st.integers(1, 2**53), texts),
    st.builds(lambda row, text: FinalEvent(row, 1, "base", FinalPart("error", error_message=text)), texts, texts),
)


@settings(deadline=None, max_examples=60)
@given(events)
def test_every_event_comes_back_from_its_line_as_it_was(event):
    """decode(encode(event)) == event, on one line."""
    line = encode_line(event)
    assert 1 == line.count(b"\n")
    payload = payload_of(line)
    assert payload is not None
    assert event == decode_payload(payload)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200))
def test_a_body_of_any_bytes_comes_back_as_it_was(body):
    """Bytes that are not UTF-8 go as base64."""
    event = end_event(RawEnd(1, finished_at=1, latency_us=1, http_status=200, headers=None, body=body))
    decoded = decode_payload(payload_of(encode_line(event)))
    assert isinstance(decoded, EndEvent)
    assert body == decoded.raw_body()


def test_a_lone_surrogate_is_replaced_and_the_event_is_kept():
    """No JSON reader takes a lone surrogate; the raw body has it as it came."""
    decoded = decode_payload(payload_of(encode_line(read(1, text="a\ud800b é"))))
    assert "a\ufffdb é" == decoded.text


def test_a_final_takes_from_its_read_event_only_where_it_says_so():
    """as_read fills in what is None; without it None is null."""
    event = read(3, text="answer", error_kind="server")
    whole = whole_final(event, FinalPart("ok", as_read=True, cost_usd=7, text="other"))
    assert ("other", 7, "server", event.input_tokens) == (
        whole.text,
        whole.cost_usd,
        whole.error_kind,
        whole.input_tokens,
    )
    own = FinalPart("ok", text="judged")
    assert own == whole_final(event, own)
    assert set(INHERITED) <= set(FinalPart.__struct_fields__)


@settings(deadline=None, max_examples=40)
@given(st.lists(events, min_size=1, max_size=8), st.data())
def test_a_cut_anywhere_leaves_an_exact_prefix(written, data):
    """Whatever byte the power went at, recovery yields the first k events, and says how many bytes it cut."""
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder))
        journal_of(run).close()
        head = run.segment(1).read_bytes()
        lines = [encode_line(event) for event in written]
        whole = head + b"".join(lines)
        cut = data.draw(st.integers(len(head), len(whole)))
        run.segment(1).write_bytes(whole[:cut])
        kept = sum(1 for index in range(len(lines)) if len(head) + sum(map(len, lines[: index + 1])) <= cut)
        assert written[:kept] == list(replay(run.segment(1)))[1:]
        run.close()


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_a_flipped_bit_never_gives_a_wrong_event(data):
    """Either the run is refused, naming the line, or an exact prefix is left and the cut is told."""
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder))
        journal = journal_of(run)
        for _ in range(3):
            answer(journal)
        journal.close()
        path = run.segment(1)
        before = list(replay(path))
        content = bytearray(path.read_bytes())
        bit = data.draw(st.integers(0, len(content) * 8 - 1))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            recovered = recover(run)
        except RunDamaged as error:
            assert "line" in str(error)
            assert bytes(content) == path.read_bytes()
        else:
            after = [recovered.head, *recovered.records()]
            assert before[: len(after)] == after
            assert len(before) - len(after) in (0, 1)
            assert recovered.cut_bytes > 0
        run.close()


def test_recovery_names_what_was_in_flight_and_what_was_not_read(run):
    """Starts without an end, ends without a read, and the next serial."""
    journal = journal_of(run)
    answer(journal, 10)
    for n in (2, 3, 4):
        assert n == next(journal.serials)
        journal.append_starts([start(n)])
    journal.append_ends([end(3, b"\xff")])
    journal.close()
    with run.segment(1).open("ab") as file:
        file.write(b'{"e":"end"')
    recovered = recover(run)
    assert [2, 4] == [event.n for event in recovered.in_flight]
    assert [(3, b"\xff")] == [(began.n, ended.raw_body()) for began, ended in recovered.unread]
    assert (5, 10, {"mark": 1}) == (recovered.next_serial, recovered.cut_bytes, recovered.head.checkpoint)
    resumed = resume_journal(run, recovered, syncer=ManualSyncer())
    assert 5 == next(resumed.serials), "no start is recorded with it: it is given out again by the next session"
    assert resumed.maybe_rotate(dict, force=True) is None, "an end waits for its read"
    resumed.append_reads([read(3, final=OK)])
    assert 1 == resumed.maybe_rotate(lambda: "later", force=True)
    resumed.close()
    again = recover(run)
    assert ("later", 2, [2, 4], 5, (1,)) == (
        again.head.checkpoint,
        again.head.session,
        [event.n for event in again.in_flight],
        again.next_serial,
        again.older,
    )


def test_damage_before_whole_lines_is_refused_and_nothing_is_changed(run):
    """RunDamaged names file and line."""
    journal = journal_of(run)
    answer(journal)
    journal.close()
    path = run.segment(1)
    content = path.read_bytes().replace(b'"id":"1"', b'"id":"2"', 1)
    path.write_bytes(content)
    with pytest.raises(RunDamaged, match=r"000001\.jsonl, line 2"):
        recover(run)
    assert content == path.read_bytes()


def test_short_writes_are_finished(run):
    """A disk that takes 7 bytes at a time still gets whole lines."""
    run.disk = FailingDisk()
    journal = journal_of(run)
    run.disk.longest_write = 7
    answer(journal)
    journal.close()
    assert 4 == len(list(replay(run.segment(1))))


def test_a_full_disk_stops_new_requests_and_keeps_the_replies_in_flight(run):
    """DiskFailed at poll and at the next start; what still comes in is kept, and is there at the next start."""
    run.disk = FailingDisk()
    journal = journal_of(run)
    for _ in (1, 2, 3):
        journal.append_starts([start(next(journal.serials))])
    journal.append_ends([end(1, b"first")])
    run.disk.room_bytes = 40
    with pytest.raises(DiskFailed, match="No space left"):
        journal.append_reads([read(1)])
    journal.append_ends([end(2, b"second")])
    journal.append_reads([read(2, final=OK)])
    with pytest.raises(DiskFailed):
        journal.poll()
    with pytest.raises(DiskFailed):
        journal.append_starts([start(9)])
    with pytest.raises(DiskFailed):
        journal.close()
    run.disk = FailingDisk()
    for _ in range(2):
        recovered = recover(run)
        assert ([3], [b"first", b"second"], 0) == (
            [event.n for event in recovered.in_flight],
            [ended.raw_body() for _, ended in recovered.unread],
            recovered.cut_bytes,
        )
    assert not run.reserve.exists()


def test_a_late_reply_outlives_a_power_cut_that_takes_its_start(run):
    """The start was written and not synced when the disk was full; the reply in the reserve is on the disk."""
    run.disk = FailingDisk()
    journal = journal_of(run)
    journal.append_starts([start(next(journal.serials))])
    journal.sync()
    synced = run.segment(1).stat().st_size
    journal.append_starts([start(next(journal.serials), 99)])
    run.disk.room_bytes = 40
    journal.append_ends([end(2, b"second"), end(1, b"first")])
    with pytest.raises(DiskFailed):
        journal.close()
    os.truncate(run.segment(1), synced)
    run.disk = FailingDisk()
    for _ in range(2):
        recovered = recover(run)
        assert [(start(2, 99), b"second"), (start(1), b"first")] == [
            (begun, ended.raw_body()) for begun, ended in recovered.unread
        ]
        assert (3, ()) == (recovered.next_serial, recovered.in_flight)


def test_a_file_that_may_grow_no_more_keeps_the_replies_in_flight(tmp_path):
    """The real thing: a file-size limit of the system."""
    code = (
        "import sys, resource; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from store_kit import *; from crun_batch.store.journal import *\n"
        "from crun_batch.errors import DiskFailed\n"
        "settings = JournalSettings(reserve_bytes=4096)\n"
        "journal = create_journal(open_run(Path(sys.argv[1])), None, settings=settings)\n"
        "for n in range(1, 5): journal.append_starts([start(next(journal.serials))])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "for n in range(1, 5): journal.append_ends([end(n, b'x' * 1500)])\n"
        "try: journal.poll()\n"
        "except DiskFailed as error: print('stopped')\n"
    )
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run", tests], capture_output=True, text=True, check=False
    )
    assert "stopped\n" == done.stdout
    run = open_run(tmp_path / "run")
    recovered = recover(run)
    assert {1, 2, 3, 4} == {ended.n for _, ended in recovered.unread}
    run.close()


def test_a_run_without_its_live_segment_is_damaged_not_new(run):
    """Starting anew would write over sealed files."""
    run.attempt_file(1).write_bytes(b"")
    with pytest.raises(RunDamaged, match="live segment is missing"):
        recover(run)


def test_a_failed_sync_is_never_tried_again(run):
    """The first failure is final: poll and start raise, and no second fdatasync is made."""
    disk = FailingDisk()
    run.disk = disk
    journal = journal_of(run)
    answer(journal)
    disk.sync_fails = True
    before = disk.syncs
    journal.sync()
    disk.sync_fails = False
    journal.sync()
    assert 1 == disk.syncs - before
    with pytest.raises(DiskFailed, match="Input/output error"):
        journal.poll()
    with pytest.raises(DiskFailed):
        journal.append_starts([start(9)])


def test_the_syncer_is_woken_where_many_events_wait_for_it(run):
    """With each write from the limit on; what was synced waits no more."""
    syncer = ManualSyncer()
    journal = create_journal(run, None, syncer=syncer, settings=JournalSettings(sync_records=5))
    answer(journal)
    assert 0 == syncer.wakes
    answer(journal)
    assert 2 == syncer.wakes
    syncer.sync()
    answer(journal)
    assert 2 == syncer.wakes
    journal.close()


def test_the_default_syncer_brings_events_to_the_disk_by_itself(run):
    """Within the interval, without being woken."""
    seen = threading.Event()
    journal = create_journal(run, None, syncer=ThreadSyncer(0.005))
    original = run.disk.sync
    run.disk.sync = lambda descriptor: (original(descriptor), seen.set())[0]
    answer(journal)
    assert seen.wait(5)
    journal.close()


def test_starts_that_come_together_are_all_recorded_or_none_is(run):
    """Where one does not fit, none of them is sent: a start on the disk would name a suspect that never went."""
    run.disk = FailingDisk()
    journal = journal_of(run)
    journal.append_starts([start(next(journal.serials))])
    journal.append_ends([end(1, b"first")])
    run.disk.room_bytes = 700
    with pytest.raises(DiskFailed, match="No space left"), journal.together():
        journal.append_reads([read(1, final=OK)])
        for _ in range(20):
            journal.append_starts([start(next(journal.serials))])
    with pytest.raises(DiskFailed):
        journal.close()
    run.disk = FailingDisk()
    recovered = recover(run)
    assert [] == list(recovered.in_flight)
    assert [b"first"] == [ended.raw_body() for _, ended in recovered.unread]


def test_a_full_segment_is_closed_and_the_next_one_says_all_that_is_needed(run):
    """Rotation happens over the limit only, and the new head carries checkpoint and attempts in flight."""
    journal = create_journal(run, "a", syncer=ManualSyncer(), settings=JournalSettings(segment_bytes=1500))
    assert journal.maybe_rotate(lambda: "b") is None
    journal.append_starts([start(next(journal.serials), 99)])
    answer(journal)
    answer(journal)
    assert 1 == journal.maybe_rotate(lambda: "b")
    journal.close()
    assert [1, 2] == run.segments()
    recovered = recover(run)
    assert ("b", ["99"], 4, [], (1,)) == (
        recovered.head.checkpoint,
        [event.id for event in recovered.in_flight],
        recovered.next_serial,
        list(recovered.records()),
        recovered.older,
    )


@pytest.mark.parametrize("within", [False, True])
def test_a_kill_at_any_operation_loses_no_written_event(tmp_path, within):
    """Killed before or within each disk operation of a run with a rotation: recovery has all that was appended."""
    at = 0
    while True:
        disk = KillingDisk(at, within=within)
        path = tmp_path / str(at)
        run, appended = None, 0
        try:
            run = open_run(path, disk)
            journal = journal_of(run, settings=JournalSettings(segment_bytes=10))
            for _ in range(2):
                answer(journal)
                appended += 3
                journal.sync()
            journal.maybe_rotate(lambda: "second")
            answer(journal)
            appended += 3
        except Killed:
            finished = False
        else:
            finished = True
        if run is not None:
            run.close()
        again = open_run(path)
        recovered = recover(again)
        if recovered is None:
            assert 0 == appended
        else:
            seen = sum(len(list(replay(again.segment(number)))) - 1 for number in again.segments())
            assert appended <= seen <= appended + 3
        again.close()
        if finished:
            break
        at += 1
    assert at > 15


def test_a_hundred_racing_starts_have_one_winner(tmp_path):
    """flock: the others are told who has it."""
    gate = threading.Barrier(100)
    won, lost = [], []

    def begin():
        gate.wait()
        try:
            won.append(open_run(tmp_path / "run"))
        except RunInUse as error:
            lost.append(error)

    threads = [threading.Thread(target=begin) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (1, 99) == (len(won), len(lost))
    with pytest.raises(RunInUse, match=f"process {os.getpid()}"):
        open_run(tmp_path / "run")
    won[0].close()


def test_the_lock_ends_with_the_process_that_is_killed(tmp_path):
    """kill -9 leaves a .lock file but no lock."""
    code = (
        "import sys, os, signal; from pathlib import Path; from crun_batch.store.directory import open_directory\n"
        "run = open_directory(Path(sys.argv[1]), started_at='now')\n"
        "print('locked', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run"], capture_output=True, text=True, check=False
    )
    assert ("locked\n", -9) == (done.stdout, done.returncode)
    open_run(tmp_path / "run").close()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_flipped_bit_in_a_json_file_is_always_seen(data):
    """job.json and summary.json carry the checksum of their own bytes."""
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder))
        document = {"name": "job", "values": [1, None, "ü"]}
        write_json(run, run.job, document)
        assert document == read_json(run.job)
        content = bytearray(run.job.read_bytes())
        bit = data.draw(st.integers(0, len(content) * 8 - 1))
        content[bit // 8] ^= 1 << bit % 8
        run.job.write_bytes(content)
        with pytest.raises(RunDamaged):
            read_json(run.job)
        run.close()


def test_a_fault_is_an_end_too(run):
    """An attempt without a whole reply keeps what was read of it."""
    fault = EndFault("unknown", "timeout", "t")
    event = end_event(RawEnd(4, 2, 1, http_status=None, headers=None, body=b"half", fault=fault))
    assert event == decode_payload(payload_of(encode_line(event)))


def test_a_read_event_says_what_came_under_the_right_names():
    """Its arguments stand in the order of its fields: every field, told apart by its value."""
    sent = StartEvent(7, "id7", 3, "v", 1, 2, "repair", 4, 1000, "hash", 11, 12)
    reply = Reply("text", "length", Usage(21, 22, 23, 24, 25), "[]", "m", "r", "0.5", b"whole")
    final = FinalPart("ok", as_read=True)
    settled = ConcludedAttempt(sent, 2000, 1000, 200, reply, Cost(31, 32, "list"), Tries(41, 42))
    common = {
        "n": 7,
        "id": "id7",
        "position": 3,
        "variant": "v",
        "repeat": 1,
        "turn": 2,
        "purpose": "repair",
        "attempt": 4,
        "started_at": 1000,
        "finished_at": 2000,
        "latency_us": 1000,
        "request_hash": "hash",
        "held_usd": 11,
        "held_credits": 12,
        "http_status": 200,
        "cost_usd": 31,
        "cost_credits": 32,
        "cost_source": "list",
        "counted": 41,
        "unknown_retries": 42,
    }
    told = {
        "outcome": "done",
        "input_tokens": 21,
        "cached_input_tokens": 22,
        "cache_write_tokens": 23,
        "output_tokens": 24,
        "reasoning_tokens": 25,
        "reported_usd": "0.5",
        "text": "text",
        "tool_calls": "[]",
        "finish_reason": "length",
        "model": "m",
        "response_id": "r",
        "assembled": "whole",
        "final": final,
    }
    assert ReadEvent(**common, **told) == read_event(settled, final)

    failure = Failure("unknown", "timeout", "retry", "slow")
    told = {"outcome": "unknown", "error_kind": "timeout", "error_message": "slow"}
    assert ReadEvent(**common, **told) == read_event(replace(settled, result=failure), None)
