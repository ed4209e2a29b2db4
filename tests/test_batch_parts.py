"""The decisions of the batch lane by themselves: what lines say, what fits, what a torn file leaves."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from crun_batch.errors import RunDamaged
from crun_batch.gateway.batches.form import (
    CANCELLED,
    EXPIRED,
    FAILED,
    LOST,
    BatchTold,
    done_at_the_end,
    missing_line,
)
from crun_batch.gateway.batches.openai_form import BatchAddress, OpenAIBatches, request_lines, result_lines
from crun_batch.gateway.classify import check
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.records import Failure, Fault, Hold, Response, Row, Ticket, Unit
from crun_batch.session.batching.drafts import Drafts
from crun_batch.session.batching.live import (
    BatchLimits,
    Filling,
    arrivals_by_serial,
    custom_id,
    holds_together,
    serial_of,
    words_of_what_stays,
)
from crun_batch.store.batches import NEVER_SENT, OVER, BatchBook, BatchEntry, BatchStep, read_batches
from crun_batch.store.directory import RunDirectory, open_directory

STEPS: tuple[BatchStep, ...] = (
    *("drafted", "intended", "uploaded", "creating", "created", "ended", "stored", "settled"),
)
ENTRY = BatchEntry(3, "stored", 1, "aabbccddeeff", 100, requests=20)


def line(name: str, text: str = "hi") -> bytes:
    return json.dumps({"custom_id": name, "response": {"status_code": 200, "body": {"text": text}}}).encode()


@given(seed=st.integers(0, 10**6), lost=st.integers(0, 20), doubled=st.integers(0, 20))
def test_each_request_gets_its_own_line_however_they_come(seed: int, lost: int, doubled: int) -> None:
    """Lost, doubled, shuffled, beside lines of others and lines that are none: each serial has its first reply."""
    chance = random.Random(seed)
    serials = list(ENTRY.serials)
    told = chance.sample(serials, 20 - lost) if lost < 20 else []
    lines = [line(custom_id(ENTRY.tag, serial), str(serial)) for serial in told]
    lines += [line(custom_id(ENTRY.tag, serial), str(serial)) for serial in told[:doubled]]
    strays = [line("another-101"), line(custom_id(ENTRY.tag, 9999)), b"{", b'{"custom_id": 5}']
    lines += strays
    chance.shuffle(lines)
    found, foreign = arrivals_by_serial(list(result_lines(b"\n".join(lines))), ENTRY)
    assert (set(told), len(strays)) == (set(found), foreign)
    for serial, arrival in found.items():
        assert isinstance(arrival, Response)
        assert {"text": str(serial)} == json.loads(arrival.body)


def test_a_reply_goes_before_a_line_without_one() -> None:
    """A request that is in the output file and in the error file was done."""
    name = custom_id(ENTRY.tag, 101)
    error = json.dumps({"custom_id": name, "response": None, "error": {"code": "batch_expired"}}).encode()
    for lines in ([error, line(name)], [line(name), error]):
        found, _ = arrivals_by_serial(list(result_lines(b"\n".join(lines))), ENTRY)
        assert isinstance(found[101], Response)


@pytest.mark.parametrize(
    ("code", "outcome", "kind"),
    [
        ("batch_expired", "not_sent", "timeout"),
        ("batch_cancelled", "not_sent", "timeout"),
        ("request_timeout", "unknown", "timeout"),
        ("a word of tomorrow", "unknown", "bad_reply"),
    ],
)
def test_a_request_that_its_batch_did_not_come_to_is_free(code: str, outcome: str, kind: str) -> None:
    """OpenAI's codes of lines without a reply; of what is not known, something may have been billed."""
    error = {"custom_id": custom_id(ENTRY.tag, 101), "response": None, "error": {"code": code, "message": "no"}}
    (read,) = result_lines(json.dumps(error).encode())
    assert read is not None and isinstance(read.arrival, Fault)
    assert (outcome, kind) == (read.arrival.stage, read.arrival.kind)


TOO_LONG = {"message": "This model's maximum context length is 16 tokens.", "type": "BadRequestError", "code": 400}


@pytest.mark.parametrize(
    "line",
    [
        {"response": {"status_code": 400, "request_id": "r", "body": {"error": TOO_LONG}}, "error": None},
        {"response": {"status_code": 400, "request_id": "r", "body": None}, "error": {"error": TOO_LONG}},
        {
            "response": {"status_code": 400, "request_id": "r", "body": None},
            "error": {"object": "error", **TOO_LONG},
        },
        {"response": {"status_code": "400", "request_id": 7}, "error": TOO_LONG},
    ],
    ids=["OpenAI", "vLLM", "vLLM before 2026", "numbers as texts"],
)
def test_a_refusal_in_a_line_says_why_wherever_it_stands(line: dict[str, Any]) -> None:
    """vLLM writes the reason beside a reply without a body, and its code as a number: its row learns it."""
    (read,) = result_lines(json.dumps({"custom_id": custom_id(ENTRY.tag, 101), **line}).encode())
    assert read is not None and isinstance(read.arrival, Response)
    failure = check(PROTOCOLS["chat"], read.arrival, stream=False)
    assert isinstance(failure, Failure)
    assert ("rejected", "too_long", "fail_row") == (failure.outcome, failure.kind, failure.action)
    assert "maximum context length is 16" in failure.message


@pytest.mark.parametrize("error", [{"code": 500, "message": ["no"]}, "no", ["no"], 3])
def test_an_error_of_any_shape_without_a_reply_is_one_that_may_have_been_billed(error: Any) -> None:
    line = {"custom_id": custom_id(ENTRY.tag, 101), "response": None, "error": error}
    (read,) = result_lines(json.dumps(line).encode())
    assert read is not None and isinstance(read.arrival, Fault)
    assert ("unknown", "bad_reply") == (read.arrival.stage, read.arrival.kind)


@pytest.mark.parametrize(
    ("done", "read", "status", "expected"),
    [
        (10, 9, "completed", LOST),
        (10, 9, "cancelled", LOST),
        (9, 9, "cancelled", CANCELLED),
        (9, 9, "expired", EXPIRED),
        (9, 10, "completed", EXPIRED),
        (0, 0, "failed", FAILED),
    ],
)
def test_what_no_line_tells_of_is_free_only_where_the_counts_say_so(
    done: int, read: int, status: str, expected: Any
) -> None:
    """More done than read: one of the missing was paid, so none of them is known to be free."""
    assert expected is missing_line(done, read, status)


class OneReply:
    """A wire that answers every call with one object."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._reply = Response(200, {"content-type": "application/json"}, json.dumps(told).encode())

    async def get(self, url: str, headers: Any, deadline_seconds: float) -> Response:
        return self._reply

    async def post(self, url: str, headers: Any, body: bytes, deadline_seconds: float) -> Response:
        return self._reply

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("told", "done"),
    [
        ({"status": "completed", "request_counts": {"total": 9, "completed": 6, "failed": 2}}, 8),
        ({"status": "completed", "request_counts": None}, 9),
        ({"status": "completed", "request_counts": {"total": 0, "completed": 0, "failed": 0}}, 9),
        ({"status": "completed", "request_counts": {"total": 9, "completed": 0, "failed": 0}}, 9),
        ({"status": "cancelled"}, 9),
        ({"status": "cancelled", "request_counts": {"total": 0, "completed": 0, "failed": 0}}, 0),
        ({"status": "failed"}, 0),
    ],
)
def test_what_nobody_has_counted_may_all_be_done(told: dict[str, Any], done: int) -> None:
    """Where a gateway leaves the counts out, a request without a line is not said to be free."""
    form = OpenAIBatches(
        OneReply({"id": "batch_1", **told}),
        BatchAddress("https://gate.test/v1", "", {}, lambda data: data),
        PROTOCOLS["chat"],
        window="24h",
        epoch_seconds=lambda: 0.0,
    )
    found = asyncio.run(form.look("batch_1"))
    assert isinstance(found, BatchTold)
    assert done == done_at_the_end(found, 9)


@given(body=st.dictionaries(st.text(), st.text() | st.integers()), pretty=st.booleans())
def test_a_body_of_any_spelling_is_one_line(body: dict[str, Any], pretty: bool) -> None:
    """A body with line ends between its tokens loses them, and nothing else."""
    raw = json.dumps(body, indent=2 if pretty else None).replace("\n", "\r\n").encode()
    (written,) = request_lines("/chat/completions", [("a-1", raw)]).splitlines()
    assert {"custom_id": "a-1", "method": "POST", "url": "/v1/chat/completions", "body": body} == json.loads(
        written
    )


@given(name=st.text() | st.builds(lambda number: f"{ENTRY.tag}-{number}", st.integers()))
def test_no_other_name_is_a_request_of_the_batch(name: str) -> None:
    """Whatever a gateway sends as a custom id, it is one of ours or none."""
    serial = serial_of(name, ENTRY)
    assert serial is None or custom_id(ENTRY.tag, serial) == name or serial in ENTRY.serials


def ticket(size: int, tokens: int) -> Ticket:
    row = Row(0, 0, {})
    return Ticket(Unit(0, 0, 0, 0), row, b"x" * size, "", bound_tokens=tokens)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 50)), max_size=40),
    requests=st.integers(1, 10),
    most=st.integers(200, 2000),
    free=st.none() | st.integers(0, 300),
)
def test_a_batch_keeps_its_limits(
    sizes: list[tuple[int, int]], requests: int, most: int, free: int | None
) -> None:
    """Requests, bytes and tokens; only a request that is too large by itself may pass that of bytes, alone."""
    size = Filling(BatchLimits(requests, most, None, 1.0, 60.0, 60.0), free)
    for one in (ticket(*pair) for pair in sizes):
        if size.fits(one):
            size.add(one)
    assert size.requests <= requests
    assert size.bytes <= most or size.requests == 1
    assert free is None or size.tokens <= free


class Elsewhere:
    """A keeper all of whose units have another request in an earlier session's batch."""

    def claim(self, _: Ticket) -> str:
        return "elsewhere"


class Listed:
    """A source of these tickets."""

    def __init__(self, *tickets: Ticket) -> None:
        self._left = [*tickets]

    def next(self) -> Ticket | str:
        return self._left.pop(0) if self._left else "end"


def test_what_is_set_aside_waits_for_no_batch() -> None:
    """Nobody asks about the batches of such a variant any more: a session that waited for them had no end."""
    routes: list[Any] = [SimpleNamespace(name=name, endpoint="batch") for name in ("refused", "other")]
    tickets = [structs.replace(ticket(9, 9), unit=Unit(0, 0, variant, 0)) for variant in (0, 1)]
    limits = BatchLimits(9, 999, None, 1.0, 60.0, 60.0)
    source: Any = Listed(*tickets)
    drafts = Drafts(routes, source, Elsewhere(), Elsewhere(), limits, None)  # type: ignore[arg-type]
    drafts.draw([], lambda _: False)
    drafts.drop(0)
    left = len(drafts)
    drafts.drop(1)
    assert (True, 1, 0) == (drafts.source_ended, left, len(drafts))


def test_a_bound_is_a_bound_of_all() -> None:
    """One request without a bound leaves the batch without one in that unit."""
    both = holds_together([Hold(1, None), Hold(2, 5)])
    assert {"held_usd": 3, "held_credits": None} == both


ONE = BatchEntry(1, "created", 1, "tag", 10, requests=1, held_usd=2 * 10**12, file_id="file-1", batch_id="batch_1")
LOST_REPLY = BatchEntry(2, "creating", 1, "tag", 20, requests=9, file_id="file-2")


@pytest.mark.parametrize(
    ("entries", "gateway_ends", "expected"),
    [
        (
            [ONE],
            False,
            "1 batch stays at the gateway (batch_1; 1 request, $2.00 reserved) and is paid when it is done: "
            "run again to collect it, or crun-batch cancel RUN",
        ),
        (
            [ONE, LOST_REPLY],
            False,
            "2 batches stay at the gateway (batch_1, of file file-2; 10 requests) and are paid when they are "
            "done: run again to collect them, or crun-batch cancel RUN",
        ),
        (
            [ONE],
            True,
            "1 batch (batch_1; 1 request, $2.00 reserved) ends with the simulator: run again sends it anew",
        ),
    ],
)
def test_what_stays_is_counted_in_words(entries: list[BatchEntry], gateway_ends: bool, expected: str) -> None:
    """One batch is no batches; a simulated one is not said to stay."""
    assert expected == words_of_what_stays(entries, gateway_ends=gateway_ends)


def test_a_simulator_takes_its_batches_along(tmp_path: Path) -> None:
    """What only it had is lost with it, and of unknown outcome; what is read already, or never left, is not."""
    run = open_directory(tmp_path / "run", started_at="now")
    book = BatchBook(run)
    for number, step in enumerate((*STEPS[1:], "released"), 1):
        book.write(BatchEntry(number, step, 1, "tag", number * 10, requests=5))
    before = {entry.number: entry.step for entry in book.open}
    book.lose_all("gone")
    lost = {number for number, entry in read_batches(run).items() if entry.step == "lost"}
    assert {"uploaded", "creating", "created", "ended"} == {before[number] for number in lost}
    assert {"unknown"} == {book.fate(number * 10 + 1) for number in lost}
    run.close()


def test_what_a_simulator_has_brought_stays_when_it_ends(tmp_path: Path) -> None:
    """Kept on the disk by a session that was killed before it said so: it is read, not lost."""
    run = open_directory(tmp_path / "run", started_at="now")
    book = BatchBook(run)
    entry = BatchEntry(1, "ended", 1, "tag", 10, requests=5, files=(("output", "file-1"), ("error", "file-2")))
    book.write(entry)
    name = book.keep_raw(entry, "output", b"{}")
    book.lose_all("gone")
    [found] = read_batches(run).values()
    assert ("stored", (name,), "submitted") == (found.step, found.raw, book.fate(11))
    run.close()


@settings(deadline=None, max_examples=40)
@given(cut=st.integers(0, 3000), count=st.integers(1, 5))
def test_a_file_cut_anywhere_says_what_it_said_before(tmp_path_factory: Any, cut: int, count: int) -> None:
    """The entries of a prefix are those of its whole lines, and the book goes on from there."""
    folder: Path = tmp_path_factory.mktemp("run") / "run"
    run = open_directory(folder, started_at="now")
    book = BatchBook(run)
    states: list[dict[int, BatchEntry]] = [{}]
    ends = [0]
    for number in range(1, count + 1):
        for step in STEPS[: number + 3]:
            book.write(BatchEntry(number, step, 1, "tag", number * 10, requests=0 if step == "drafted" else 5))
            states.append({**states[-1], number: BatchEntry(**structs.asdict(book_entry(run, number)))})
            ends.append(run.batches.stat().st_size)
    data = run.batches.read_bytes()
    run.batches.write_bytes(data[:cut])
    whole = max(place for place, end in enumerate(ends) if end <= cut)
    assert states[whole] == read_batches(run)
    again = BatchBook(run)
    again.write(BatchEntry(99, "created", 1, "tag", 990, requests=5))
    assert {**states[whole], 99: read_batches(run)[99]} == read_batches(run)
    run.close()


@settings(deadline=None, max_examples=40)
@given(chance=st.randoms(use_true_random=False))
def test_damage_among_the_batches_is_said_and_hides_none(tmp_path_factory: Any, chance: random.Random) -> None:
    """A batch that a bad line hides would be submitted again; only what was never synced is a torn tail."""
    run = open_directory(tmp_path_factory.mktemp("run") / "run", started_at="now")
    book = BatchBook(run)
    for step in STEPS[:4]:
        book.write(BatchEntry(1, step, 1, "tag", 10, requests=0 if step == "drafted" else 5))
    data = bytearray(run.batches.read_bytes())
    book.write(BatchEntry(1, "created", 1, "tag", 10, requests=5))
    last = run.batches.read_bytes()[len(data) :]
    place = chance.choice([at for at, byte in enumerate(data) if byte != 10])
    data[place] ^= 1
    run.batches.write_bytes(bytes(data) + last)
    with pytest.raises(RunDamaged, match="its checksum does not fit"):
        read_batches(run)
    run.close()


def book_entry(run: RunDirectory, number: int) -> BatchEntry:
    return read_batches(run)[number]


@pytest.mark.parametrize("step", [*STEPS, "released", "lost"])
def test_what_the_disk_says_last_decides_what_a_request_is(tmp_path: Path, step: BatchStep) -> None:
    """Never sent before the upload is known, submitted until all is read, and then nobody's any more."""
    run = open_directory(tmp_path / "run", started_at="now")
    book = BatchBook(run)
    book.write(BatchEntry(1, step, 1, "tag", 10, requests=0 if step == "drafted" else 5))
    expected = "never_sent" if step in NEVER_SENT else "unknown" if step in OVER else "submitted"
    assert (expected, "unknown") == (book.fate(12), book.fate(10))
    assert expected == BatchBook(run).fate(12)
    run.close()
