"""Sealing: the same rows, exactly, in Parquet; and a crash at any point changes nothing about that."""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_kit import OK, START, FailingDisk, Killed, KillingDisk, ManualSyncer, answer, end, open_run, read, start

from crun_batch.errors import DiskFailed, RunDamaged
from crun_batch.store import frames, seal
from crun_batch.store.carried import carried_encoder, decode_column, stored_type
from crun_batch.store.disk import Disk, temporary
from crun_batch.store.events import Event, FinalEvent, FinalPart, SyncedMark
from crun_batch.store.journal import JournalSettings, create_journal, resume_journal
from crun_batch.store.manifest import read_manifest
from crun_batch.store.recover import recover
from crun_batch.store.schema import (
    RunSchema,
    attempts_schema,
    parts_schema,
    results_schema,
    schema_document,
    schema_from_document,
)
from crun_batch.store.seal import seal_segment

SCHEMA = RunSchema(id_name="review_id", id_type=pa.int64())

moments = st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2250, 1, 1))
words = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
COLUMNS = [
    (pa.int8(), st.integers(-128, 127)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float64(), st.floats()),
    (pa.float32(), st.floats(width=32)),
    (pa.float16(), st.floats(width=16)),
    (pa.bool_(), st.booleans()),
    (pa.string(), words),
    (pa.large_string(), words),
    (pa.decimal128(38, 12), st.decimals(-(10**20), 10**20, places=12)),
    (pa.decimal256(60, 3), st.decimals(-(10**20), 10**20, places=3)),
    (pa.decimal256(38, 38), st.decimals(-Decimal("0.9"), Decimal("0.9"), places=38)),
    (pa.date32(), st.dates()),
    (pa.date64(), st.dates()),
    (pa.timestamp("s"), moments.map(lambda value: value.replace(microsecond=0))),
    (pa.timestamp("us"), moments),
    (pa.timestamp("us", tz="Europe/Berlin"), moments.map(lambda value: value.replace(tzinfo=UTC))),
    (pa.timestamp("ns"), moments),
    (pa.timestamp("us", tz="+05:30"), moments.map(lambda value: value.replace(tzinfo=UTC))),
    (pa.time32("s"), st.times().map(lambda value: value.replace(microsecond=0))),
    (pa.time64("us"), st.times()),
    (pa.duration("us"), st.timedeltas(timedelta(days=-9999), timedelta(days=9999))),
    (pa.binary(), st.binary(max_size=9)),
    (pa.dictionary(pa.int32(), pa.string()), words),
    (pa.list_(pa.float64()), st.lists(st.none() | st.floats(), max_size=3)),
    (pa.list_(pa.timestamp("ms")), st.lists(moments.map(lambda value: value.replace(microsecond=0)), max_size=2)),
    (pa.map_(pa.string(), pa.int64()), st.dictionaries(words, st.none() | st.integers(-9, 9), max_size=3).map(
        lambda value: list(value.items()))),
    (
        pa.struct([("a", pa.list_(pa.binary())), ("b", pa.decimal128(10, 2)), ("c", pa.time64("us"))]),
        st.fixed_dictionaries(
            {
                "a": st.none() | st.lists(st.binary(max_size=3), max_size=2),
                "b": st.none() | st.decimals(-999, 999, places=2),
                "c": st.none() | st.times(),
            }
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data_type", "values"), COLUMNS, ids=[str(column[0]) for column in COLUMNS])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_a_carried_value_comes_back_as_it_was(data_type, values, data):
    """decode(encode(x)) == x for every type, NaN, infinities, nulls and nanoseconds included."""
    rows = data.draw(st.lists(st.none() | values, max_size=4))
    encode = carried_encoder(pa.schema([("x", data_type)]))
    column = pa.array(rows, data_type)
    texts = pa.array([orjson.loads(orjson.dumps(encode({"x": row})))["x"] for row in rows], pa.string())
    expected = column.cast(stored_type(data_type))
    decoded = decode_column(texts, data_type)
    assert expected.type == decoded.type
    assert repr(expected.to_pylist()) == repr(decoded.to_pylist())


def test_a_type_that_cannot_be_carried_is_refused_at_the_start():
    """Not after a thousand paid replies."""
    with pytest.raises(TypeError, match="month_day_nano"):
        carried_encoder(pa.schema([("x", pa.month_day_nano_interval())]))


def test_the_schema_of_a_run_comes_back_from_its_document():
    """As job.json keeps it."""
    schema = RunSchema(
        "k", pa.string(), pa.schema([("lang", pa.dictionary(pa.int8(), pa.string()))]),
        {"a": {"temp": 0, "who": "gpt"}, "b": {"temp": 0.7, "who": "claude"}}, ("right",),
        pa.struct([("x", pa.int64())]),
    )  # fmt: skip
    assert schema == schema_from_document(orjson.loads(orjson.dumps(schema_document(schema))))
    fields = {field.name: field.type for field in schema.axis_fields}
    assert {"axis_temp": pa.float64(), "axis_who": pa.string()} == fields


@pytest.fixture
def run(tmp_path):
    run = open_run(tmp_path / "run")
    yield run
    run.close()


def sealed(run, schema, fill):
    """Seal a segment that `fill` wrote; the attempts and the parts."""
    journal = create_journal(run, None, syncer=ManualSyncer())
    fill(journal)
    journal.maybe_rotate(dict, force=True)
    journal.close()
    seal_segment(run, 1, schema)
    return pq.read_table(run.attempt_file(1)), pq.read_table(run.part(1))


def test_every_field_of_an_attempt_and_its_final_reaches_its_column(run):
    """The whole row, values spelled out."""
    schema = RunSchema(
        "review_id", pa.int64(), pa.schema([("lang", pa.string()), ("when", pa.timestamp("us"))]),
        {"base": {"temp": 0, "who": {"model": "m"}}}, ("right",), pa.struct([("label", pa.string())]),
    )  # fmt: skip
    carried = carried_encoder(schema.carried)({"lang": "dé", "when": datetime(2026, 1, 2, 3, 4, 5, 6)})
    final = FinalPart(
        "ok", as_read=True, carried=carried, output='{"label":"x"}', outputs=["a", "b"],
        attempt_count=2, unknown_attempts=1, cost_usd=123, input_tokens=99, reused_from="runs/may",
    )  # fmt: skip
    told = {"final": final, "tool_calls": "[]", "endpoint": "main", "service_tier": "flex"} | {
        "cache_write_1h_tokens": 3,
        "other_charges": "searches",
        "pack_rows": 10,
        "pack_place": 3,
    }
    attempts, parts = sealed(run, schema, lambda journal: answer(journal, 7, **told))
    moment = datetime.fromtimestamp(START / 1e6 + 1, UTC)
    assert {
        "review_id": 7, "lang": "dé", "when": datetime(2026, 1, 2, 3, 4, 5, 6), "variant": "base", "axis_temp": 0,
        "axis_who": '{"model":"m"}', "repeat": 0, "status": "ok", "output_text": "text 7",
        "output": {"label": "x"},
        "outputs": ["a", "b"], "tool_calls": "[]", "finish_reason": "stop", "error_kind": None,
        "error_message": None, "model": "m", "response_id": "resp1", "input_tokens": 99, "cached_input_tokens": 0,
        "cache_write_tokens": 0, "output_tokens": 5, "reasoning_tokens": 0, "cost_usd": Decimal(123).scaleb(-12),
        "cost_credits": None, "cost_source": "job", "attempt_count": 2, "unknown_attempts": 1,
        "latency_seconds": 0.25, "started_at": moment, "finished_at": moment + timedelta(milliseconds=250),
        "request_hash": "hash7", "reused_from": "runs/may", "_sequence": 2**32 + 3, "_supersedes": False,
    } == parts.to_pylist()[0]  # fmt: skip
    assert {
        "serial": 1, "review_id": 7, "variant": "base", "axis_temp": 0, "axis_who": '{"model":"m"}', "repeat": 0,
        "turn": 0, "purpose": "answer", "judge": None, "endpoint": "main", "service_tier": "flex",
        "attempt": 1, "pack_rows": 10, "pack_place": 3, "outcome": "done",
        "http_status": 200,
        "error_kind": None,
        "error_message": None, "finish_reason": "stop", "model": "m", "response_id": "resp1",
        "request_id": "req-1",
        "input_tokens": 11, "cached_input_tokens": 0, "cache_write_tokens": 0, "output_tokens": 5,
        "reasoning_tokens": 0, "cost_usd": Decimal("0.001000000001"), "cost_credits": None, "cost_source": "job",
        "reported_usd": None, "cache_write_1h_tokens": 3, "other_charges": "searches",
        "held_usd": Decimal("0.005"), "held_credits": None, "latency_seconds": 0.25,
        "started_at": moment, "finished_at": moment + timedelta(milliseconds=250), "request_hash": "hash7",
        "reply_body": '{"ok": 1}', "reply_base64": None,
    } == attempts.to_pylist()[0]  # fmt: skip
    assert attempts_schema(schema).equals(attempts.schema)
    assert parts_schema(schema).equals(parts.schema)
    scoreless = [name for name in results_schema(schema).names if name != "score_right"]
    assert scoreless == parts.schema.names[:-2]


def test_bodies_of_any_kind_are_kept(run):
    """Streams by their assembled body, bytes that are not UTF-8 in base64, no body as null."""

    def fill(journal):
        answer(journal, body=b"data: x\n\n", assembled='{"a":1}')
        answer(journal, body=b"\xff\xfe")
        n = next(journal.serials)
        journal.append_starts([start(n)])
        journal.append_reads([read(n, None, outcome="unknown", http_status=None, cost_usd=None)])

    attempts, parts = sealed(run, SCHEMA, fill)
    assert ['{"a":1}', None, None] == attempts.column("reply_body").to_pylist()
    assert [None, base64.b64encode(b"\xff\xfe").decode(), None] == attempts.column("reply_base64").to_pylist()
    assert 2 == parts.num_rows


def test_a_final_of_its_own_has_no_reply(run):
    """A template error: a row of results without an attempt."""

    def fill(journal):
        final = FinalPart("error", error_kind="bad_request", error_message="text\nis empty", attempt_count=0)
        journal.append_final(FinalEvent("5", 5, "base", final))

    attempts, parts = sealed(run, SCHEMA, fill)
    row = parts.to_pylist()[0]
    assert (5, "error", "bad_request", "text\nis empty", 0, None) == tuple(
        row[name] for name in ("review_id", "status", "error_kind", "error_message", "attempt_count", "cost_usd")
    )
    assert 0 == attempts.num_rows


def test_a_final_without_as_read_has_only_its_own_values(run):
    """The read is a judge's: its text and failure are not the unit's."""
    final = FinalPart("ok", text="the answer", finish_reason="stop")
    _, parts = sealed(
        run,
        SCHEMA,
        lambda journal: answer(journal, final=final, error_kind="server", tool_calls="[1]", purpose="judge"),
    )
    row = parts.to_pylist()[0]
    assert ("the answer", None, None, None) == tuple(
        row[name] for name in ("output_text", "error_kind", "tool_calls", "cost_usd")
    )


def test_a_count_that_no_column_can_hold_is_unknown(run):
    """A hostile reply's usage of 10**60 tokens does not make the run unsealable."""
    attempts, parts = sealed(run, SCHEMA, lambda journal: [answer(journal, input_tokens=10**60), answer(journal)])
    assert [None, 12] == attempts.column("input_tokens").to_pylist()
    assert [None, 12] == parts.column("input_tokens").to_pylist()


def test_an_output_that_does_not_fit_its_type_is_null(run):
    """One bad row does not spoil the others."""
    schema = RunSchema(output=pa.struct([("n", pa.int64())]))

    def fill(journal):
        for text in ('{"n":1}', '{"n":"one"}', None, '{"n":3,"more":1}'):
            answer(journal, final=FinalPart("ok", as_read=True, output=text))

    _, parts = sealed(run, schema, fill)
    assert [{"n": 1}, None, None, {"n": 3}] == parts.column("output").to_pylist()


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.lists(st.integers(0, 400), max_size=9), max_size=9), rows=st.integers(1, 9))
def test_row_groups_are_bounded_in_rows_and_in_what_is_held_for_them(tmp_path, lengths, rows):
    """However many rows come at once, and however long their texts are: nothing is lost, and little is held."""
    most = 1_000
    tables = [pa.table({"text": pa.array(["x" * length for length in each], pa.string())}) for each in lengths]
    with (
        tempfile.TemporaryDirectory(dir=tmp_path) as place,
        closing(open_run(Path(place) / "run")) as opened,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(seal, "_ROWS_PER_GROUP", rows)
        patch.setattr(seal, "_BYTES_PER_GROUP", most)
        path = opened.results.with_name("bounded.parquet")
        entry = seal.write_parquet(opened, path, pa.schema([("text", pa.string())]), tables)
        with pq.ParquetFile(temporary(path)) as file:
            groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    together = [length for each in lengths for length in each]
    assert together == [len(text) for group in groups for text in group["text"].to_pylist()]
    assert len(together) == entry.rows
    assert all(group.num_rows <= rows for group in groups)
    assert all(group.nbytes <= most + max((table.nbytes for table in tables), default=0) for group in groups)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(1, 9)), piece_bytes=st.integers(1, 3000))
def test_the_pieces_that_a_segment_is_parsed_in_do_not_show(tmp_path, order, piece_bytes):
    """Replies are read long after they came, in another order, and rows without an attempt come between."""

    def fill(journal):
        numbers = [next(journal.serials) for _ in order]
        journal.append_starts([start(n) for n in numbers])
        journal.append_ends([end(n, body=b'{"says": %d}' % n) for n in numbers])
        for n in order:
            journal.append_reads([read(n, final=OK if n % 3 else None)])
            if n % 2:
                journal.append_final(FinalEvent(f"{90 + n}", 90 + n, "base", FinalPart("error", attempt_count=0)))

    def tables(size):
        with (
            tempfile.TemporaryDirectory(dir=tmp_path) as place,
            closing(open_run(Path(place) / "run")) as opened,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(frames, "_PIECE_BYTES", size)
            return sealed(opened, SCHEMA, fill)

    (attempts, parts), (attempts_in_pieces, parts_in_pieces) = tables(10**9), tables(piece_bytes)
    assert [f'{{"says": {n}}}' for n in order] == attempts.column("reply_body").to_pylist()
    assert attempts.equals(attempts_in_pieces)
    assert parts.equals(parts_in_pieces)


def test_the_kind_of_a_line_is_known_by_its_first_bytes():
    """Sealing tells lines apart by them: no two kinds of lines begin alike."""
    kinds = (*get_args(Event), SyncedMark)
    beginnings = {f'{{"e":"{kind.__struct_config__.tag}"'[: frames.BEGINNING_BYTES] for kind in kinds}
    assert len(kinds) == len(beginnings)


def test_sealing_does_not_load_pandas(run):
    """It is installed, and loading it would hold the interpreter for half a second in the middle of a run."""
    journal = create_journal(run, None, syncer=ManualSyncer())
    answer(journal)
    journal.append_final(FinalEvent("5", 5, "base", FinalPart("error", attempt_count=0)))
    journal.maybe_rotate(dict, force=True)
    script = f"""
import sys
from pathlib import Path
import pyarrow as pa
from crun_batch.store.frames import segment_tables
from crun_batch.store.schema import RunSchema
attempts, parts = segment_tables(Path({str(run.segment(1))!r}), 1, RunSchema("review_id", pa.int64()), live=False)
print(attempts.num_rows, parts.num_rows, "pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "1 2 False" == done.stdout.strip()
    assert find_spec("pandas") is not None


def test_a_damaged_line_is_not_sealed(run):
    """RunDamaged names the line, and the segment stays."""
    journal = create_journal(run, None, syncer=ManualSyncer())
    answer(journal)
    journal.maybe_rotate(dict, force=True)
    path = run.segment(1)
    path.write_bytes(path.read_bytes().replace(b"text 1", b"text 2"))
    with pytest.raises(RunDamaged, match=r"000001\.jsonl, line 4"):
        seal_segment(run, 1, SCHEMA)
    assert [1, 2] == run.segments()
    assert [] == run.sealed_files()


def test_what_is_read_back_must_be_what_was_written(run):
    """A disk that changes bytes is found before the segment goes."""

    class LyingDisk(Disk):
        def write(self, descriptor, data):
            lie = bytes(data)
            if lie[:4] == b"PAR1":
                lie = lie[:-100] + bytes([lie[-100] ^ 1]) + lie[-99:]
            return super().write(descriptor, lie)

    journal = create_journal(run, None, syncer=ManualSyncer())
    answer(journal)
    journal.maybe_rotate(dict, force=True)
    run.disk = LyingDisk()
    with pytest.raises(DiskFailed, match="read back"):
        seal_segment(run, 1, SCHEMA)
    assert [1, 2] == run.segments()


def test_a_full_disk_leaves_the_segment(run):
    """DiskFailed, and sealing again later works."""
    journal = create_journal(run, None, syncer=ManualSyncer())
    answer(journal)
    journal.maybe_rotate(dict, force=True)
    journal.close()
    run.disk = FailingDisk()
    run.disk.room_bytes = 2000
    with pytest.raises(DiskFailed):
        seal_segment(run, 1, SCHEMA)
    run.disk = Disk()
    assert 1 == seal_segment(run, 1, SCHEMA).finals
    assert [2] == run.segments()


@pytest.mark.parametrize("within", [False, True])
def test_a_kill_at_any_operation_and_sealing_again_gives_the_same(tmp_path, within):
    """Rotate, append, seal; killed before or within each disk operation; recovered and sealed: the same tables."""
    expected = None
    at = 0
    while True:
        disk = KillingDisk(None if expected is None else at, within=within)
        path = tmp_path / f"{at}-{expected is None}"
        run = open_run(path)
        journal = create_journal(run, None, syncer=ManualSyncer(), settings=JournalSettings(segment_bytes=10))
        for row in range(3):
            answer(journal, row)
        run.disk = journal._disk = disk
        try:
            journal.maybe_rotate(lambda: "c")
            seal_segment(run, 1, SCHEMA)
        except Killed:
            killed = True
        else:
            killed = False
        run.close()
        again = open_run(path)
        recovered = recover(again)
        resume_journal(again, recovered, syncer=ManualSyncer()).maybe_rotate(dict, force=True)
        for number in again.segments()[:-1]:
            seal_segment(again, number, SCHEMA)
        numbers = again.sealed_files()
        got = [
            pa.concat_tables(pq.read_table(name(number)) for number in numbers)
            for name in (again.attempt_file, again.part)
        ]
        entries = read_manifest(again)
        assert all(str(again.part(number).relative_to(path)) in entries for number in numbers)
        again.close()
        if expected is None:
            expected = got
            continue
        assert expected[0].equals(got[0])
        assert expected[1].equals(got[1])
        if not killed:
            break
        at += 1
    assert at > 15


def test_segments_and_bodies_with_odd_times_are_exact(run):
    """Microseconds since the epoch reach the column unrounded."""
    odd = START + 123_457
    attempts, _ = sealed(
        run, SCHEMA, lambda journal: answer(journal, final=OK, started_at=odd, finished_at=odd + 1)
    )
    assert [odd] == attempts.column("started_at").cast(pa.int64()).to_pylist()
    assert [odd + 1] == attempts.column("finished_at").cast(pa.int64()).to_pylist()
