"""merge: the shards of a job become one run, equal in content to that of one machine, or are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from run_kit import charged_credits, job, results, run, simulator, spent_credits, texts
from simulation.mortal import Killed, MortalDisk

import crun_batch
from crun_batch import (
    InputError,
    RunDamaged,
    RunDirectoryError,
    RunInUse,
    compare,
    export,
    merge,
    open_run,
    status,
)
from crun_batch.load.table.shards import shard_number
from crun_batch.scale.merge import merge_shards
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.store.directory import open_directory

UNLIKE = ("latency_seconds", "started_at", "finished_at", "response_id")
"""What no two requests have in common."""


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator() as process:
        yield process


def alike(count: int) -> pl.DataFrame:
    return pl.DataFrame({"id": [f"r{i}" for i in range(count)], "text": [f"Text {i % 7}." for i in range(count)]})


def shards_of(spec: crun_batch.Job, frame: pl.DataFrame, count: int, **options: Any) -> list[Path]:
    return [run(spec, frame, shard=f"{n}/{count}", **options).directory for n in range(1, count + 1)]


def completeness(folder: Path) -> tuple[str, ...]:
    """What results.parquet says of itself, to whoever finds it alone."""
    said = pl.read_parquet_metadata(folder / "results.parquet")
    return said["complete"], said["rows_total"], said["rows_open"]


def content(done: crun_batch.Run) -> pl.DataFrame:
    return results(done).drop(UNLIKE)


JOBS: dict[str, dict[str, Any]] = {
    "a sweep": {"sweep": {"params.temperature": [0, 0.5], "model": ["gpt-5.4", "gpt-5.4-nano"]}},
    "repeats": {"repeats": 3},
    "a judge": {
        "score": [
            {"name": "quality", "grader": "judge", "model": "gpt-5.4-mini", "params": {"max_output_tokens": 200}},
            {"name": "long", "grader": "regex", "pattern": "[a-z]{3}"},
        ]
    },
    "share_identical": {"share_identical": True},
    "conversations": {"prompt": {"turns": ["{{ text }}", "And then?"]}},
    "typed answers": {
        "output_schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    },
}


@pytest.mark.parametrize("name", JOBS)
def test_the_merged_run_is_that_of_one_machine(at: SimulatorProcess, tmp_path: Path, name: str):
    """The same ids, texts, statuses, tokens, costs, scores; the same sums; whole by every check; nothing sent."""
    frame = alike(20) if name == "share_identical" else texts(20)
    spec = job(at, tmp_path, **JOBS[name])
    alone = run(spec, frame)
    places = shards_of(spec, frame, 3)
    charged = charged_credits(at)
    merged = merge(*reversed(places), output_dir=tmp_path / "all")
    assert charged == charged_credits(at)
    assert content(alone).equals(content(merged))
    assert content(alone).columns == pl.read_parquet(tmp_path / "all" / "results.parquet").drop(UNLIKE).columns
    assert [] == merged.verify(data=True)
    same = ("rows", "tokens", "cost_credits", "attempts", "shared", "variants", "judges", "exit_code", "status")
    assert {key: alone.summary[key] for key in same} == {key: merged.summary[key] for key in same}
    assert merged.summary["shard"] is None
    assert spent_credits(alone) == spent_credits(merged) == merged.cost_credits
    again = run(spec, frame, output_dir=tmp_path / "all")
    assert (merged.exit_code, charged) == (again.exit_code, charged_credits(at)), "nothing is left to send"


def test_all_that_reads_a_run_reads_a_merged_one(at: SimulatorProcess, tmp_path: Path):
    """report, compare, sql, export, verify, status, runs, show."""
    spec = job(at, tmp_path, sweep={"params.temperature": [0, 1]}, score=[JOBS["a judge"]["score"][1]])
    shards_of(spec, texts(12), 2)
    merged = merge(*sorted(tmp_path.glob("run-shard-*")), output_dir=tmp_path / "all")
    assert 24 == merged.sql("select count(*) as n from results")["n"][0].as_py()
    assert 24 == merged.sql("select count(distinct serial) as n from attempts")["n"][0].as_py()
    assert "law: finished" in crun_batch.report(merged).text()
    assert 2 == len(compare(merged).comparison.variants)
    assert 24 == export(merged, "jsonl", tmp_path / "out.jsonl")["rows"]
    assert ("true", "24", "0") == completeness(tmp_path / "all")
    told = status(merged)
    assert ("finished", 0, 24) == (told["status"], told["exit_code"], told["units"]["total"])
    assert "all" in {Path(one["directory"]).name for one in crun_batch.runs(tmp_path)}
    assert 2 == len(crun_batch.show(merged, "r3", table=texts(12))["units"])
    assert {"1/2", "2/2"} == {
        one["shard"] for one in json.loads((tmp_path / "all" / "job.json").read_text())["merged"]
    }


def test_a_job_file_means_all_its_shards(at: SimulatorProcess, tmp_path: Path):
    """`merge JOB -o DIR` takes the shards that stand beside the job's own run directory."""
    shards_of(job(at, tmp_path), texts(9), 2)
    file = tmp_path / "law.yaml"
    file.write_text(
        f"name: law\nmodel: gpt-5.4\ninput: {{table: t.parquet}}\nprompt: {{user: x}}\n"
        f"output: {{dir: {tmp_path / 'run'}}}\n"
    )
    assert 9 == merge(file, output_dir=tmp_path / "all").summary["rows"]["ok"]


# --- what is refused -------------------------------------------------------------------------------------------


def refused(places: list[Path], into: Path, **options: Any) -> str:
    """The words; nothing is there afterwards, and no shard has changed."""
    before = {path: path.read_bytes() for place in places for path in place.rglob("*.parquet")}
    with pytest.raises(RunDirectoryError) as caught:
        merge(*places, output_dir=into, **options)
    assert not into.exists() and [] == list(into.parent.glob(".*"))
    assert before == {path: path.read_bytes() for place in places for path in place.rglob("*.parquet")}
    return f"{caught.value} {caught.value.advice}"


def test_missing_and_overlapping_shards_are_named(at: SimulatorProcess, tmp_path: Path):
    """Each once: all that is wrong is told at once."""
    spec, frame = job(at, tmp_path), texts(12)
    places = shards_of(spec, frame, 3)
    said = refused(places[:1], tmp_path / "all")
    assert "missing: shard 2/3, 3/3" in said and "--shard 2/3" in said
    twin = tmp_path / "twin"
    shutil.copytree(places[0], twin, symlinks=True)
    said = refused([*places[:2], twin], tmp_path / "all")
    assert f"shard 1/3 is there 2 times: {places[0]}, {twin}" in said and "missing: shard 3/3" in said
    with pytest.raises(InputError, match="named more than once"):
        merge(*places, places[0], output_dir=tmp_path / "all")
    half = run(spec, frame, shard="1/2", output_dir=tmp_path / "half").directory
    assert f"{half} (shard 1/2) does not belong with {places[0]} (shard 1/3): it is one of 2 shards, not of 3" in (
        refused([*places, half], tmp_path / "all")
    )


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"name": "other"}, "its job is 'other', not 'law'"),
        ({"model": "gpt-5.4-nano"}, "its requests are others"),
        ({"prompt": {"user": "Say: {{ text }}"}}, "its requests are others"),
        ({"sweep": {"params.temperature": [0, 1]}}, "its requests are others"),
        ({"repeats": 2}, "its repeats are others"),
        ({"score": [{"name": "long", "grader": "regex", "pattern": "x"}]}, "its scores are others"),
        ({"output": {"dir": "runs/x", "columns": "all"}}, "its columns are others"),
        ({"share_identical": True}, "its rows were divided in another way"),
    ],
)
def test_shards_of_other_jobs_are_refused(at: SimulatorProcess, tmp_path: Path, keys: dict[str, Any], says: str):
    """What makes answers others, or what is said of them, must be the same in all shards."""
    frame = texts(8).with_columns(lang=pl.lit("en"))
    one = run(job(at, tmp_path), frame, shard="1/2", output_dir=tmp_path / "one").directory
    two = run(job(at, tmp_path, **keys), frame, shard="2/2", output_dir=tmp_path / "two").directory
    assert says in refused([one, two], tmp_path / "all")


def test_shards_of_another_table_are_refused_until_they_have_seen_the_new_one(
    at: SimulatorProcess, tmp_path: Path
):
    """Rows that were appended in between: the shard that has none of them says so when it is started again."""
    spec, few, more = job(at, tmp_path), texts(12), texts(13)
    new = shard_number("r12", 2)
    old = 3 - new
    run(spec, few, shard=f"{old}/2")
    run(spec, more, shard=f"{new}/2")
    places = [tmp_path / f"run-shard-{n}-of-2" for n in (1, 2)]
    assert "its table has another content" in refused(places, tmp_path / "all")
    charged = charged_credits(at)
    run(spec, more, shard=f"{old}/2")
    assert charged == charged_credits(at)
    assert 13 == merge(*places, output_dir=tmp_path / "all").summary["rows"]["ok"]


def test_damaged_shards_are_named_and_not_merged(at: SimulatorProcess, tmp_path: Path):
    """A flipped bit in any file that is copied."""
    places = shards_of(job(at, tmp_path), texts(12), 2)
    file = next((places[1] / "attempts").glob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunDamaged, match=f"{places[1]} is damaged: attempts/"):
        merge(*places, output_dir=tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_whole_runs_and_strangers_are_no_shards(at: SimulatorProcess, tmp_path: Path):
    """A run of all rows, a folder, a directory that is taken, a shard that is being written."""
    spec, frame = job(at, tmp_path), texts(8)
    whole = run(spec, frame).directory
    places = shards_of(spec, frame, 2)
    assert "holds all rows of its job" in refused([places[0], whole], tmp_path / "all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no run here"):
        merge(tmp_path / "empty", places[0], output_dir=tmp_path / "all")
    with pytest.raises(RunDirectoryError, match="is there already"):
        merge(*places, output_dir=whole)
    held = open_directory(places[1], started_at="now")
    try:
        with pytest.raises(RunInUse):
            merge(*places, output_dir=tmp_path / "all")
    finally:
        held.close()
    assert 8 == merge(*places, output_dir=tmp_path / "empty").summary["rows"]["ok"], "an empty folder is no run"


def test_simulated_answers_stay_in_simulated_runs(at: SimulatorProcess, tmp_path: Path):
    """A real run must not go on with them: the new directory is named as such, or refused."""
    spec, frame = job(at, tmp_path), texts(6)
    places = shards_of(spec, frame, 2, simulate=True)
    assert f"Name the new run directory {tmp_path / 'all-simulated'}" in refused(places, tmp_path / "all")
    assert 6 == merge(*places, output_dir=tmp_path / "all-simulated").summary["rows"]["ok"]


# --- unfinished shards, and going on ---------------------------------------------------------------------------


def test_unfinished_shards_need_the_flag_and_go_on_merged(at: SimulatorProcess, tmp_path: Path):
    """From shards to one machine in the middle of the job: no row that was answered is sent again."""
    spec, frame = job(at, tmp_path), texts(40)
    before = charged_credits(at)
    for number in (1, 2):
        run(
            spec,
            frame,
            shard=f"{number}/2",
            pilot=6,
            resume_command=f"crun-batch run j.yaml --shard {number}/2 --yes",
        )
    places = [tmp_path / f"run-shard-{number}-of-2" for number in (1, 2)]
    said = refused(places, tmp_path / "all")
    assert "rows open; start it again to finish it" in said and "--unfinished" in said
    merged = merge(*places, output_dir=tmp_path / "all", unfinished=True)
    assert ("stopped", 12, 28) == (merged.status, merged.summary["rows"]["ok"], merged.summary["rows"]["open"])
    assert f"crun-batch run j.yaml --yes --output-dir {tmp_path / 'all'}" == merged.summary["resume_command"]
    assert [] == merged.verify(data=True)
    assert ("false", "40", "28") == completeness(tmp_path / "all")
    done = run(spec, frame, output_dir=tmp_path / "all")
    assert (0, 40, 40) == (done.exit_code, results(done).height, done.attempts().collect().height)
    assert charged_credits(at) - before == done.cost_credits and [] == done.verify(data=True)


def test_a_kill_of_a_merge_leaves_a_whole_run_or_none(at: SimulatorProcess, tmp_path: Path):
    """Whatever the operation of the disk: the shards are as they were, and the same merge then goes through."""
    spec, frame = job(at, tmp_path, score=[{"name": "long", "grader": "regex", "pattern": "x"}]), texts(10)
    places = shards_of(spec, frame, 2)
    counting = MortalDisk()
    merge_shards(places, tmp_path / "count", disk=counting)
    operations = counting.operations
    assert operations > 40
    for number in range(1, operations + 1, 9):  # an odd step: both within an operation and after it
        target, disk = tmp_path / f"all-{number}", MortalDisk(number, "within" if number % 2 else "after")
        with pytest.raises(Killed):
            merge_shards(places, target, disk=disk)
        disk.bury()
        if target.exists():
            assert [] == open_run(target).verify(data=True)
        else:
            assert 10 == merge(*places, output_dir=target).summary["rows"]["ok"]
        assert [] == [finding for place in places for finding in crun_batch.verify(place, data=True)]
