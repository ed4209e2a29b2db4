"""Shards: each row is in one of them, whatever its place; each is a run of its own, under its part of the cap."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_kit import ENVIRON, charged_credits, job, results, run, simulator, texts

import crun_batch
from crun_batch import InputError, RefusedToStart, RunDirectoryError, check, estimate, open_run, report, status
from crun_batch.console.listings import status_text
from crun_batch.load.folders import Folders
from crun_batch.load.job.sections import InputSpec
from crun_batch.load.table.shards import only_shard, shard_number
from crun_batch.load.table.table import open_table
from crun_batch.options import Shard, options_of, shard_from
from crun_batch.preflight.affordability import caps_of
from crun_batch.pricing.budget import Budget
from crun_batch.simulator.process import SimulatorProcess


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator() as process:
        yield process


def table_of(frame: pl.DataFrame, **spec: Any) -> Any:
    return open_table(InputSpec(**spec), folders=Folders(Path(), ()), frame=frame)


def ids_of(table: Any) -> list[Any]:
    return [row.row_id for batch in table.rows(()) for row in batch]


# --- which rows ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), unique=True, min_size=1, max_size=60),
    st.integers(1, 9),
    st.randoms(),
)
def test_each_row_is_in_one_shard_whatever_the_order(ids: list[str], count: int, random: Any):
    """All shards together are the table; a row's shard is that of its id alone, wherever it stands."""
    mixed = random.sample(ids, len(ids))
    found: list[Any] = []
    for number in range(1, count + 1):
        own = ids_of(only_shard(table_of(pl.DataFrame({"id": ids}), id="id"), number, count))
        again = ids_of(only_shard(table_of(pl.DataFrame({"id": mixed}), id="id"), number, count))
        assert set(own) == set(again) and [one for one in ids if one in set(own)] == own
        found += own
    assert sorted(ids) == sorted(found)


def test_the_hash_is_the_documented_one():
    """The first 16 digits of the id's SHA-256 as a number, modulo the count; numbers as they are written."""
    for row_id in ("a", "17", "Größe", "r-1"):
        for count in (1, 2, 7, 64):
            assert int(hashlib.sha256(row_id.encode()).hexdigest()[:16], 16) % count + 1 == shard_number(
                row_id, count
            )
    numbers = only_shard(table_of(pl.DataFrame({"id": [17, 18, 19]}), id="id"), 2, 2)
    assert [one for one in (17, 18, 19) if shard_number(str(one), 2) == 2] == ids_of(numbers)


def test_the_selection_is_made_before_the_rows_are_divided():
    """limit, sample and where choose among all rows: the shards of ten rows are ten rows together."""
    frame = pl.DataFrame({"id": [f"r{i}" for i in range(200)], "n": range(200)})
    for spec in ({"limit": 10}, {"where": "n % 20 = 0"}, {"sample": {"rows": 10, "seed": 3}}):
        whole = table_of(frame, id="id", **spec)
        parts = [ids_of(only_shard(whole, number, 3)) for number in (1, 2, 3)]
        assert ids_of(whole) == sorted((one for part in parts for one in part), key=lambda one: int(one[1:]))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**18), st.integers(1, 100))
def test_the_parts_of_a_cap_are_the_cap(amount: int, count: int):
    """To the last pico, whatever the count; no two parts differ by more than one."""
    parts = [Shard(number, count).share_of(amount) for number in range(1, count + 1)]
    assert amount == sum(parts) and max(parts) - min(parts) <= 1


def test_a_cap_that_is_set_while_a_shard_runs_is_that_of_all_shards_too():
    """`crun-batch set` names the key of the job file, which means the same there; no cap stays none."""
    caps = caps_of(Decimal("5.000000000001"), None, Shard(4, 4).share_of)
    assert Budget(1_250_000_000_001, None) == caps


@pytest.mark.parametrize("text", ["", "2", "0/4", "5/4", "a/b", "1/0", "-1/4", "1/4/2", "1.5/4"])
def test_what_is_no_shard(text: str):
    """Numbers count from 1 and do not pass the count; the words show one that is right."""
    with pytest.raises(InputError, match="such as 2/4"):
        shard_from(text)


def test_a_shard_in_python_is_the_same_text():
    """`shard="2/4"`, a Shard, or none."""
    assert [Shard(2, 4), Shard(1, 2), None] == [
        options_of({}, shard="2/4").shard,
        options_of({"shard": Shard(1, 2)}).shard,
        options_of({}).shard,
    ]


# --- whole runs ------------------------------------------------------------------------------------------------


def test_shards_are_runs_of_their_own(at: SimulatorProcess, tmp_path: Path):
    """Own directory, named after the shard; its own rows and no others; again: nothing is sent."""
    spec, frame = job(at, tmp_path), texts(30)
    found = []
    for number in (1, 2, 3):
        done = run(spec, frame, shard=f"{number}/3")
        assert (tmp_path / f"run-shard-{number}-of-3", f"{number}/3") == (done.directory, done.summary["shard"])
        ids = results(done)["id"].to_list()
        assert {number} == {shard_number(one, 3) for one in ids}
        assert (len(ids), 0, 0) == (done.summary["rows"]["total"], done.summary["rows"]["open"], done.exit_code)
        assert f"law, shard {number}/3: finished" in done.report() and [] == done.verify(data=True)
        found += ids
        sent = done.attempts().collect().height
        assert sent == run(spec, frame.reverse(), shard=f"{number}/3").attempts().collect().height
    assert sorted(frame["id"]) == sorted(found)


def test_whoever_asks_sees_the_shard(at: SimulatorProcess, tmp_path: Path):
    """check, estimate, status and report tell the rows of the shard and not of the table."""
    spec, frame = job(at, tmp_path), texts(40)
    frame.write_parquet(tmp_path / "t.parquet")
    filed = spec.with_overrides({"input.table": str(tmp_path / "t.parquet")})
    rows = sum(shard_number(one, 4) == 2 for one in frame["id"])
    checked = check(filed, shard="2/4", environ=ENVIRON)
    assert (rows, 40, "2/4", rows) == (
        checked["table"]["selected_rows"],
        checked["table"]["source_rows"],
        checked["shard"],
        checked["requests"],
    )
    assert checked["output_dir"].endswith("run-shard-2-of-4")
    bill = estimate(spec, table=frame, shard="2/4", environ=ENVIRON)
    assert (rows, rows, "2/4") == (bill["open_rows"], bill["requests"], bill["shard"])
    done = run(spec, frame, shard="2/4")
    told = status(done.directory)
    assert (rows, "2/4") == (told["rows"]["total"], told["shard"])
    written = report(done.directory)
    assert "law, shard 2/4: finished" in written.text()
    assert 0 == estimate(spec, table=frame, shard="2/4", environ=ENVIRON)["requests"]
    file = tmp_path / "law.yaml"
    file.write_text(
        f"name: law\nmodel: gpt-5.4\ninput: {{table: t.parquet, id: id}}\nprompt: {{user: x}}\n"
        f"output: {{dir: {spec.output.dir}}}\n"
    )
    with pytest.raises(InputError, match=r"there are shards of it: .*run-shard-2-of-4"):
        open_run(file)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("1/2", "2/2", "holds the rows of shard 1/2 of this job; these are the rows of shard 2/2"),
        ("1/2", "1/3", "holds the rows of shard 1/2 of this job; these are the rows of shard 1/3"),
        ("1/2", None, "holds the rows of shard 1/2 of this job; these are all rows"),
        (None, "1/2", "holds all rows of this job; these are the rows of shard 1/2"),
    ],
)
def test_a_directory_has_one_shard(
    at: SimulatorProcess, tmp_path: Path, first: str | None, second: str | None, says: str
):
    """Another shard, another count, or all rows are refused; the words say what to do; nothing is sent."""
    spec, frame, folder = job(at, tmp_path), texts(12), tmp_path / "mine"
    run(spec, frame, shard=first, output_dir=folder)
    before = charged_credits(at)
    with pytest.raises(RunDirectoryError, match=says) as caught:
        run(spec, frame, shard=second, output_dir=folder)
    assert 6 == caught.value.exit_code and before == charged_credits(at)
    assert "--output-dir" in caught.value.advice and "merge" in caught.value.advice


def test_rows_that_were_divided_in_another_way_are_refused(at: SimulatorProcess, tmp_path: Path):
    """share_identical divides by what the prompts read: turned on in between, the shard would have other rows."""
    run(job(at, tmp_path), texts(12), shard="1/2")
    with pytest.raises(
        RunDirectoryError, match="divided by their id; this job divides them by their values of text"
    ):
        run(job(at, tmp_path, share_identical=True), texts(12), shard="1/2")


def test_identical_requests_stay_together(at: SimulatorProcess, tmp_path: Path):
    """With share_identical all shards together send what one machine sends, and say what is not kept together."""
    frame = pl.DataFrame({"id": [f"r{i}" for i in range(60)], "text": [f"Text {i % 7}." for i in range(60)]})
    spec = job(at, tmp_path, share_identical=True)
    sent = sum(run(spec, frame, shard=f"{number}/3").attempts().collect().height for number in (1, 2, 3))
    assert 7 == sent
    notes = estimate(spec, table=frame, shard="1/3", environ=ENVIRON, output_dir=tmp_path / "new")["checks"]
    assert any("sent once in each shard" in note for note in notes)


def test_a_cap_is_that_of_all_shards(at: SimulatorProcess, tmp_path: Path):
    """Two shards with one job file spend at most its cap, not twice; each says its part before and at the end."""
    spec, frame = job(at, tmp_path, budget={"max_cost_credits": "8"}), texts(160)
    before, codes = charged_credits(at), set()
    for number in (1, 2):
        notes = estimate(spec, table=frame, shard=f"{number}/2", environ=ENVIRON)["checks"]
        said = "budget.max_cost_credits 8 is that of all 2 shards together"
        assert any(note.startswith(said) and note.endswith("may spend 4") for note in notes)
        done = run(spec, frame, shard=f"{number}/2", until_budget=True)
        assert said in (done.stop_reason or "")
        codes.add(done.exit_code)
    assert {4} == codes
    assert Decimal(6) <= charged_credits(at) - before <= Decimal(8)


def test_a_shard_whose_part_is_too_small_is_refused(at: SimulatorProcess, tmp_path: Path):
    """Before anything is sent, with the words that say whose cap it is."""
    spec = job(at, tmp_path, budget={"max_cost_credits": "0.4"})
    with pytest.raises(RefusedToStart, match=r"0\.1 credits left of 0\.1") as caught:
        run(spec, texts(100), shard="2/4")
    assert "budget.max_cost_credits 0.4 is that of all 4 shards together" in caught.value.advice


def test_the_command_to_go_on_names_a_cap_of_all_shards(at: SimulatorProcess, tmp_path: Path):
    """What it proposes is a cap under which the shard's part is enough."""
    spec, frame = job(at, tmp_path, budget={"max_cost_credits": "2"}), texts(100)
    done = run(spec, frame, shard="2/4", until_budget=True, resume_command="crun-batch run law.yaml --shard 2/4")
    words = str(done.summary["resume_command"]).split()
    cap = words[words.index("--max-cost-credits") + 1]
    again = run(spec, frame, shard="2/4", max_cost_credits=cap)
    assert (0, "finished") == (again.exit_code, again.status)


def test_a_limit_that_fits_counts_the_rows_of_all_shards(at: SimulatorProcess, tmp_path: Path):
    """`--limit` chooses before rows are divided: the one that is proposed is not refused again."""
    spec = job(at, tmp_path, budget={"max_cost_credits": "0.4"}, params={"max_output_tokens": 2})
    frame = texts(100)
    refusal = estimate(spec, table=frame, shard="2/4", environ=ENVIRON)
    sentence = next(note for note in refusal["checks"] if "--limit" in note)
    limit = int(sentence.partition("--limit ")[2].split()[0])
    own = sum(shard_number(one, 4) == 2 for one in frame["id"][:limit])
    assert limit > own > 0
    assert estimate(spec, table=frame, shard="2/4", limit=limit, environ=ENVIRON)["may_start"]
    assert not estimate(spec, table=frame, shard="2/4", limit=limit + 20, environ=ENVIRON)["may_start"]


def test_a_shard_without_rows_is_a_finished_run(at: SimulatorProcess, tmp_path: Path):
    """Few rows over many shards leave some with none: a run like any other, whole, with nothing in it."""
    spec, frame = job(at, tmp_path), texts(3)
    empty = next(n for n in range(1, 9) if all(shard_number(one, 8) != n for one in frame["id"]))
    done = run(spec, frame, shard=f"{empty}/8")
    assert (0, "finished", 0) == (done.exit_code, done.status, done.summary["rows"]["total"])
    assert [] == done.verify(data=True) and 0 == results(done).height
    assert 0 == run(spec, frame, shard=f"{empty}/8").exit_code


def test_the_status_of_a_job_is_that_of_its_shards_until_they_are_one_run(at: SimulatorProcess, tmp_path: Path):
    """By the job file, or the directory that is to be: what is begun, what is done, what each is at."""
    texts(12).write_parquet(tmp_path / "t.parquet")
    table = {"table": str(tmp_path / "t.parquet"), "id": "id"}
    spec = job(at, tmp_path, input=table, sweep={"params.temperature": [0, 1]})
    file, place = tmp_path / "law.json", tmp_path / "run"
    file.write_text(json.dumps({"name": "law", **spec.public_dict()}))
    with pytest.raises(InputError, match="there is no run of this job yet"):
        status(file)
    one = crun_batch.run(file, shard="1/2", environ=ENVIRON)
    told = status(file)
    assert ("stopped", "1 of 2 shards were not begun") == (told["status"], told["stop_reason"])
    assert (one.summary["rows"], one.summary["cost_credits"]) == (told["rows"], told["cost_credits"])
    two = crun_batch.run(file, shard="2/2", environ=ENVIRON)
    told = status(place)
    assert ("finished", 0, 24, 12) == (told["status"], told["exit_code"], told["units"]["ok"], told["rows"]["ok"])
    assert [str(one.directory), str(two.directory)] == told["shards"]
    assert ["1/2", "2/2"] == [each["shard"] for each in told["by_shard"]]
    assert told == list(crun_batch.follow(file))[-1]
    said = status_text(told, told["output_dir"])
    assert f"in shards as yet: {one.directory} and 1 more beside it" in said
    merged = crun_batch.merge(file, output_dir=place)
    assert (24, str(place)) == (status(file)["units"]["ok"], status(file)["output_dir"])
    assert merged.cost_credits == Decimal(told["cost_credits"])
