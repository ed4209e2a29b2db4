"""What users read: results and attempts, live and published, whole at every moment."""

from __future__ import annotations

import threading
import time
from decimal import Decimal

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec import structs
from store_kit import FailingDisk, Killed, KillingDisk, ManualSyncer, answer, open_run, read, start

from crun_batch.errors import DiskFailed, InputError, RunDamaged
from crun_batch.records import Cost
from crun_batch.store.directory import write_json
from crun_batch.store.disk import Disk
from crun_batch.store.events import FinalEvent, FinalPart
from crun_batch.store.journal import create_journal, resume_journal
from crun_batch.store.recover import recover
from crun_batch.store.reprice import reprice_files
from crun_batch.store.results import generations, publish
from crun_batch.store.schema import RunSchema, results_schema, schema_document
from crun_batch.store.scores import scores_schema, write_scores
from crun_batch.store.seal import seal_segment
from crun_batch.store.verify import verify
from crun_batch.store.views import (
    attempt_totals,
    attempts_frame,
    connect,
    finished_units,
    query,
    results_frame,
    run_schema,
)

SCHEMA = RunSchema(id_name="review_id", id_type=pa.int64(), axes={"base": {"temp": 0}, "hot": {"temp": 1}})
AGAIN = FinalPart("ok", as_read=True, supersedes=True)
BAD = FinalPart("error", as_read=True, error_kind="server")


@pytest.fixture
def run(tmp_path):
    run = open_run(tmp_path / "run")
    write_json(run, run.job, {"run_schema": schema_document(SCHEMA)})
    yield run
    run.close()


def begin(run):
    return create_journal(run, None, syncer=ManualSyncer())


def rotate_and_seal(run, journal):
    seal_segment(run, journal.maybe_rotate(dict, force=True), SCHEMA)


def fill(run):
    """Rows 1-3, of which 2 fails in a sealed segment; then 2 again and 4, live; then a torn line."""
    journal = begin(run)
    answer(journal, 1)
    answer(journal, 2, final=BAD, outcome="rejected", text=None, cost_usd=None)
    answer(journal, 3, variant="hot")
    rotate_and_seal(run, journal)
    answer(journal, 2, final=AGAIN)
    answer(journal, 4, repeat=1)
    with run.segment(2).open("ab") as file:
        file.write(b'{"e":"read","n":')
    return journal


UNITS = [(1, "base", 0, "ok"), (2, "base", 0, "ok"), (3, "hot", 0, "ok"), (4, "base", 1, "ok")]
COLUMNS = ["review_id", "variant", "repeat", "status"]


def test_results_show_each_unit_once_sealed_or_live(run):
    """Polars, DuckDB, the published file and the runner's list agree; the superseded failure is gone."""
    fill(run)
    assert sorted(UNITS) == sorted(results_frame(run.path).select(COLUMNS).collect().rows())
    assert results_schema(SCHEMA).names == results_frame(run.path).collect_schema().names()
    with connect(run.path) as connection:
        rows = connection.execute(f"select {', '.join(COLUMNS)} from results order by all").fetchall()
        described = [row[0] for row in connection.execute("describe results").fetchall()]
    assert sorted(UNITS) == rows
    assert results_schema(SCHEMA).names == described
    assert 4 == publish(run, SCHEMA)
    published = pq.read_table(run.results)
    assert results_schema(SCHEMA).equals(published.schema)
    assert sorted(UNITS) == sorted(tuple(row.values()) for row in published.select(COLUMNS).to_pylist())
    units = finished_units(run.path, with_hashes=True).read_all().to_pylist()
    assert sorted(UNITS) == sorted((int(u["id"]), u["variant"], u["repeat"], u["status"]) for u in units)
    assert {"hash1", "hash2", "hash3", "hash4"} == {unit["request_hash"] for unit in units}


def test_attempts_keep_everything_that_was_sent(run):
    """Also what was superseded."""
    fill(run)
    frame = attempts_frame(run.path).collect()
    assert [1, 2, 3, 4, 5] == frame["serial"].to_list()
    assert ["done", "rejected", "done", "done", "done"] == frame["outcome"].to_list()
    assert pl.Decimal(38, 12) == frame.schema["cost_usd"]


def test_totals_are_exact_and_name_what_is_unknown(run):
    """Sums in pico; an unknown attempt adds its hold, never a cost."""
    journal = fill(run)
    journal.close()
    with run.segment(2).open("r+b") as file:
        file.truncate(run.segment(2).stat().st_size - len(b'{"e":"read","n":'))
    n = 6
    journal = resume_journal(run, recover(run), syncer=ManualSyncer())
    journal.append_starts([start(n)])
    journal.append_reads([read(n, None, outcome="unknown", cost_usd=None, input_tokens=None, output_tokens=None)])
    totals = attempt_totals(run.path)
    assert (6, 4, 1, 1, 0) == (totals.attempts, totals.done, totals.rejected, totals.unknown, totals.unpriced)
    assert 4 * 10**9 + 1 + 3 + 4 + 5 == totals.cost_usd
    assert (5 * 10**9, 0, 65) == (totals.held_unknown_usd, totals.held_unknown_credits, totals.input_tokens)


def test_an_empty_run_has_whole_results_of_the_right_types(run):
    """From the first moment on, for every reader."""
    begin(run)
    assert 0 == publish(run, SCHEMA)
    assert results_schema(SCHEMA).equals(pq.read_schema(run.results))
    assert 0 == pl.read_parquet(run.results).height
    assert [(0,)] == duckdb.sql(f"select count(*) from '{run.results}'").fetchall()
    assert 0 == results_frame(run.path).collect().height
    assert 0 == attempt_totals(run.path).attempts
    assert 0 == finished_units(run.path).read_all().num_rows


def test_a_published_generation_never_changes_and_one_older_stays(run):
    """Who opened the previous one can go on reading it."""
    journal = begin(run)
    publish(run, SCHEMA)
    for row in range(3):
        answer(journal, row)
        before = run.results.resolve()
        content = before.read_bytes()
        publish(run, SCHEMA)
        assert content == before.read_bytes()
        assert row + 1 == pq.read_metadata(run.results).num_rows
    assert [3, 4] == generations(run)


def test_publishing_what_has_not_changed_swaps_nothing(run):
    """No reader meets a swap that brings nothing; other columns, scores or files, or damage, are a change."""
    journal = begin(run)
    answer(journal, 1)
    rotate_and_seal(run, journal)
    assert [1] * 3 == [publish(run, SCHEMA) for _ in range(3)]
    assert [1] == generations(run)

    scored = structs.replace(SCHEMA, scores=("exact",))
    publish(run, scored)
    scores = pa.table([[2**32 + 3], [False], [1.0]], schema=scores_schema(scored))
    write_scores(run, scored, scores, "f")
    publish(run, scored)
    assert [1.0] == pq.read_table(run.results).column("score_exact").to_pylist()
    assert [2, 3] == generations(run)

    reprice_files(run, scored, lambda stored: (Cost(7, None, "job"), stored.hold), "f")
    publish(run, scored)
    assert [Decimal("0.000000000007")] == pq.read_table(run.results).column("cost_usd").to_pylist()

    newest = run.results.resolve()
    data = bytearray(newest.read_bytes())
    data[len(data) // 3] ^= 1
    newest.write_bytes(data)
    publish(run, scored)
    assert newest != run.results.resolve()
    assert 1 == publish(run, scored) == pq.read_table(run.results, page_checksum_verification=True).num_rows


@pytest.mark.parametrize("within", [False, True])
def test_a_kill_while_publishing_leaves_whole_results(tmp_path, within):
    """At each disk operation: the old or the new generation, whole; publishing again works."""
    at = 0
    while True:
        run = open_run(tmp_path / str(at))
        journal = begin(run)
        publish(run, SCHEMA)
        answer(journal, 1)
        publish(run, SCHEMA)
        answer(journal, 2)
        run.disk = KillingDisk(at, within=within)
        try:
            publish(run, SCHEMA)
        except Killed:
            finished = False
        else:
            finished = True
        assert pq.read_table(run.results).num_rows in ((2,) if finished else (1, 2))
        run.disk = Disk()
        publish(run, SCHEMA)
        assert [1, 2] == pq.read_table(run.results).column("review_id").to_pylist()
        assert len(generations(run)) <= 3
        run.close()
        if finished:
            break
        at += 1
    assert at > 8


def test_a_full_disk_leaves_the_published_results(run):
    """DiskFailed; results.parquet is what it was."""
    journal = begin(run)
    answer(journal, 1)
    publish(run, SCHEMA)
    answer(journal, 2)
    run.disk = FailingDisk()
    run.disk.room_bytes = 1000
    with pytest.raises(DiskFailed):
        publish(run, SCHEMA)
    assert 1 == pq.read_table(run.results).num_rows


def test_readers_see_a_growing_whole_run_while_it_is_written_and_sealed(run):
    """No failure, no gap, never fewer rows than before, through appends, rotations, seals and publications."""
    journal = begin(run)
    publish(run, SCHEMA)
    failures: list[BaseException] = []
    seen: list[int] = []
    over = threading.Event()

    def watch():
        try:
            while not over.is_set():
                ids = results_frame(run.path).select("review_id").collect()["review_id"].to_list()
                assert list(range(len(ids))) == sorted(ids)
                seen.append(len(ids))
                with run.results.open("rb") as file:  # by name it is opened twice, and may be two files
                    pq.read_table(file)
        except BaseException as error:  # noqa: BLE001 handed to the test
            failures.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    deadline = time.monotonic() + 2
    row = 0
    while not failures and (time.monotonic() < deadline or len(seen) <= 5):  # a busy machine reads later
        for _ in range(5):
            answer(journal, row)
            row += 1
        rotate_and_seal(run, journal)
        if row % 50 == 0:
            publish(run, SCHEMA)
    over.set()
    watcher.join()
    assert [] == failures
    assert seen == sorted(seen)
    assert len(seen) > 5


def test_columns_that_came_later_are_null_in_what_is_older(run):
    """A score or an axis added between two sessions."""
    journal = begin(run)
    answer(journal, 1)
    rotate_and_seal(run, journal)
    later = RunSchema(
        id_name="review_id",
        id_type=pa.int64(),
        axes={"base": {"temp": 0, "who": "gpt"}},
        scores=("right",),
    )
    write_json(run, run.job, {"run_schema": schema_document(later)})
    answer(journal, 2)
    lines = {"_sequence": [2**33 + 3], "_incomplete": [False], "score_right": [1.0]}
    write_scores(run, later, pa.table(lines, schema=scores_schema(later)), "graders")
    chosen = ["review_id", "axis_temp", "axis_who", "score_right"]
    expected = [(1, 0, None, None), (2, 0, "gpt", 1.0)]
    assert expected == sorted(results_frame(run.path).select(chosen).collect().rows())
    assert expected == sorted(connect(run.path).execute(f"select {', '.join(chosen)} from results").fetchall())
    publish(run, later)
    assert expected == sorted(pl.read_parquet(run.results).select(chosen).rows())


def test_a_query_answers_one_select(run):
    """Amounts stay decimals."""
    fill(run)
    table = query(run.path, "select sum(cost_usd) as cost from attempts where outcome = 'done'")
    assert [{"cost": Decimal("0.004000000013")}] == table.to_pylist()


@pytest.mark.parametrize(
    "sql",
    [
        "select 1; select 2",
        "copy results to 'stolen.csv'",
        "attach 'other.duckdb'",
        "drop view results",
        "set threads = 1",
        "insert into results select * from results",
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/passwd')",
        "select * from statements",
        "select nothing from results",
        "",
    ],
)
def test_a_query_can_do_nothing_else(run, sql):
    """InputError, nothing written, no file read but the run's."""
    fill(run)
    before = sorted(path.name for path in run.path.rglob("*"))
    with pytest.raises(InputError):
        query(run.path, sql)
    assert before == sorted(path.name for path in run.path.rglob("*"))


def test_a_directory_without_a_run_is_said(tmp_path):
    """InputError, not a traceback."""
    with pytest.raises(InputError, match=r"no job\.json"):
        results_frame(tmp_path)


def test_a_job_file_without_its_schema_is_damage(run):
    """The key is named."""
    write_json(run, run.job, {"name": "x"})
    with pytest.raises(RunDamaged, match="run_schema"):
        run_schema(run)


def test_stored_tokens_are_priced_anew(run):
    """Attempts and the finals that sum them, over files; what a reply stated stays; unknown stays unknown."""
    journal = begin(run)
    answer(journal, 1, final=None, cost_usd=None, cost_source=None)
    answer(journal, 2)
    rotate_and_seal(run, journal)
    answer(journal, 1, final=FinalPart("ok", as_read=True, attempt_count=2))
    answer(journal, 3, cost_usd=77, cost_source="reply", reported_usd="0.000000000077")
    n = next(journal.serials)
    journal.append_starts([start(n)])
    nothing = dict.fromkeys(("input_tokens", "output_tokens", "cost_usd", "cost_source"))
    nothing |= dict.fromkeys(("cached_input_tokens", "cache_write_tokens", "reasoning_tokens"))
    journal.append_reads([read(n, 5, BAD, outcome="unknown", **nothing)])
    journal.append_final(FinalEvent("6", 6, "base", FinalPart("error", attempt_count=0)))
    rotate_and_seal(run, journal)

    def charge(stored):
        assert "base" == stored.variant
        if stored.reported_usd is not None or stored.usage is None:
            return stored.cost, stored.hold
        tokens = stored.usage
        return Cost(None, tokens.input_tokens * 1000 + tokens.output_tokens, "list"), stored.hold

    assert 4 == reprice_files(run, SCHEMA, charge, "prices-2")
    assert 0 == reprice_files(run, SCHEMA, charge, "prices-2")
    costs = (
        results_frame(run.path).select("review_id", "cost_usd", "cost_credits", "cost_source").sort("review_id")
    )
    pico = Decimal("0.000000000001")
    assert [
        (1, None, (11 + 13) * 1000 * pico + 10 * pico, "list"),
        (2, None, 12005 * pico, "list"),
        (3, 77 * pico, None, "reply"),
        (5, None, None, None),
        (6, None, None, None),
    ] == costs.collect().rows()
    publish(run, SCHEMA)
    assert [] == verify(run.path, data=True)


def five(stored):
    return Cost(5, None, "job"), stored.hold


def test_pricing_anew_wants_everything_sealed(run):
    """A live attempt would keep its old price."""
    fill(run)
    with pytest.raises(ValueError, match="sealed"):
        reprice_files(run, SCHEMA, five, "p")


def test_a_kill_while_pricing_anew_is_finished_by_doing_it_again(tmp_path):
    """At each disk operation: every file whole, and in the end the same costs."""
    at = 0
    while True:
        run = open_run(tmp_path / str(at))
        write_json(run, run.job, {"run_schema": schema_document(SCHEMA)})
        journal = begin(run)
        answer(journal, 1)
        rotate_and_seal(run, journal)
        publish(run, SCHEMA)
        run.disk = KillingDisk(at, within=True)
        try:
            reprice_files(run, SCHEMA, five, "p")
        except Killed:
            finished = False
        else:
            finished = True
        run.disk = Disk()
        assert ["base"] == pq.read_table(run.attempt_file(1)).column("variant").to_pylist()
        assert ["base"] == pq.read_table(run.part(1)).column("variant").to_pylist()
        reprice_files(run, SCHEMA, five, "p")
        assert [Decimal("5E-12")] == results_frame(run.path).collect()["cost_usd"].to_list()
        run.close()
        if finished:
            assert [] == verify(run.path, data=True)
            break
        at += 1
    assert at > 10
