"""run --workers: processes over shards share one budget and one set of limits, survive kills, and end as one."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from run_kit import ENVIRON, charged_credits, job, results, simulator, texts, wait_until

import crun_batch
from crun_batch import InputError, RunDirectoryError
from crun_batch.console.progress import Progress
from crun_batch.options import RunOptions
from crun_batch.records import Halt
from crun_batch.scale.crew import Crew
from crun_batch.scale.giver import Giver, Watchers, WorkerEnd
from crun_batch.scale.leases import LeaseBook, SharedLimits
from crun_batch.scale.messages import Order
from crun_batch.scale.outcome import GRAVEST_FIRST
from crun_batch.scale.progresses import Progresses
from crun_batch.scale.unfit import AFTER_THE_MERGE, NOT_SHARED
from crun_batch.scale.whole import committed
from crun_batch.session.orders import set_values
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.state import telling_workers
from crun_batch.store.directory import RunDirectory


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator(latency_seconds=0.1) as process:
        yield process


def job_file(at: SimulatorProcess, folder: Path, rows: int, **keys: Any) -> Path:
    """A job file over so many rows, beside its table."""
    texts(rows).write_parquet(folder / "t.parquet")
    spec = job(at, folder, input={"table": str(folder / "t.parquet"), "id": "id"}, **keys)
    file = folder / "law.json"
    file.write_text(json.dumps({"name": "law", **spec.public_dict()}))
    return file


def job_of_all_kinds(at: SimulatorProcess, folder: Path) -> Path:
    """A sweep, repeats, a judge and identical rows that are sent once: 16 rows, 64 units."""
    keys = {
        "limits": {"concurrency": 8},
        "sweep": {"params.temperature": [0, 1]},
        "repeats": 2,
        "share_identical": True,
        "prompt": {"user": "{{ text }}"},
        "score": [
            {"name": "good", "grader": "judge", "model": "gpt-5.4-mini", "prompt": {"user": "Is {{ text }} so?"}}
        ],
    }
    file, frame = job_file(at, folder, 8, **keys), texts(8)
    again = frame.with_columns(pl.format("again {}", "id").alias("id"))
    pl.concat([frame, again]).write_parquet(folder / "t.parquet")
    return file


def assert_as_one_machine(file: Path, several: crun_batch.Run) -> None:
    """Its merged run is what one process makes of the job: the same units at the same cost."""
    one = crun_batch.run(file, environ=ENVIRON, handle_signals=False, output_dir=file.parent / "one")
    told = ["id", "variant", "repeat", "status", "output_text", "cost_credits", "score_good"]
    assert results(one).select(told).equals(results(several).select(told))
    assert one.attempts().collect().height == several.attempts().collect().height
    assert one.cost_credits == several.cost_credits and [] == several.verify(data=True)


def run(file: Path, workers: int | None, **options: Any) -> crun_batch.Run:
    return crun_batch.run(file, workers=workers, environ=ENVIRON, handle_signals=False, **options)


def started(file: Path, workers: int) -> subprocess.Popen[bytes]:
    """The command, in a session of its own."""
    command = [sys.executable, "-m", "crun_batch", "run", str(file), "--workers", str(workers), "--yes"]
    environ = {**os.environ, **ENVIRON}
    return subprocess.Popen(
        command, env=environ, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def workers_of(driver: subprocess.Popen[bytes]) -> list[int]:
    """The processes of its workers."""
    found = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
    return [int(one) for one in found if b"scale.worker" in Path(f"/proc/{one}/cmdline").read_bytes()]


@pytest.mark.long
def test_a_budget_is_that_of_all_workers(at: SimulatorProcess, tmp_path: Path):
    """Used up, never passed; exit 4 for all; its command names a cap under which it goes on to its end."""
    file, before = (
        job_file(at, tmp_path, 80, budget={"max_cost_credits": 6}, limits={"concurrency": 8}),
        charged_credits(at),
    )
    command = "crun-batch run law.json --workers 2 --until-budget"
    done = run(file, 2, until_budget=True, resume_command=command)
    spent = charged_credits(at) - before
    assert ("stopped", 4, 1) == (done.status, done.exit_code, done.summary["units_per_row"])
    assert Decimal(5) < spent <= Decimal(6) and spent == done.cost_credits
    assert f"{spent:f} credits spent, of the 6 credits in budget.max_cost_credits" in str(done.stop_reason)
    command, _, cap = done.summary["resume_command"].partition(" --max-cost-credits ")
    assert Decimal(cap) > 6 and "--workers 2" in command
    done = run(file, 2, max_cost_credits=cap)
    assert ("finished", 80) == (done.status, results(done).height)
    assert charged_credits(at) - before == done.cost_credits


def test_kills_and_an_interrupt_lose_nothing(at: SimulatorProcess, tmp_path: Path):
    """A worker is killed: it is started again. The starter is killed: its workers keep what is in flight and end.

    All that time one status tells of all of them. Ctrl-C: all drain, one exit code, one sentence. In the end each
    row is there once, what was billed beyond them was in flight at the one kill, and never more was in flight than
    the job says.
    """
    file, before = job_file(at, tmp_path, 120, limits={"concurrency": 8}), at.ledger()["count"]
    driver = started(file, 2)
    wait_until(lambda: at.ledger()["count"] - before > 10)
    wait_until(lambda: len(list(tmp_path.glob("run-shard-*/summary.json"))) == 2)
    told, own = crun_batch.status(file), workers_of(driver)
    assert ("running", 2, 120) == (told["status"], len(told["shards"]), told["units"]["total"])
    assert all(f"process {one} on " in told["holder"] for one in own)
    assert 3 <= told["units"]["ok"] and told["in_flight"] <= 8
    os.kill(own[0], signal.SIGKILL)
    wait_until(lambda: len(set(workers_of(driver)) - set(own)) == 1)
    wait_until(lambda: at.ledger()["count"] - before > 40)
    own = workers_of(driver)
    driver.kill()
    driver.wait()
    wait_until(lambda: not any(Path(f"/proc/{one}/cmdline").exists() for one in own))
    count = at.ledger()["count"]
    recorded = sum(crun_batch.open_run(one).results().collect().height for one in tmp_path.glob("run-shard-*"))
    assert count - before - 8 <= recorded < 120
    told = crun_batch.status(tmp_path / "run")
    assert ("interrupted", recorded) == (told["status"], told["units"]["ok"])
    driver = started(file, 2)
    wait_until(lambda: at.ledger()["count"] > count)
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=300)
    assert 130 == driver.returncode and b"law: interrupted: Ctrl-C" in said, said.decode()
    assert "--workers 2 --yes" in said.decode()
    done = run(file, 2)
    assert ("finished", 120) == (done.status, results(done).height) and [] == done.verify(data=True)
    assert done.directory == Path(crun_batch.status(file)["output_dir"])
    attempts = done.attempts().collect()
    unknown = attempts.filter(pl.col("outcome") == "unknown").height
    assert unknown <= 8 and 120 + unknown == attempts.height
    assert 120 <= at.ledger()["count"] - before <= 120 + unknown
    assert at.stats()["max_in_flight"] <= 8


def test_all_kinds_of_requests_end_as_in_one_process(at: SimulatorProcess, tmp_path: Path):
    """A sweep, repeats, a judge, identical rows that are sent once: the same units at the same cost."""
    file = job_of_all_kinds(at, tmp_path)
    shown: list[Any] = []
    several = run(file, 2, watch=shown.append)
    assert ("finished", 0, tmp_path / "run") == (several.status, several.exit_code, several.directory)
    assert (64, 64) == (results(several).height, shown[-1].rows_total)
    assert "unit" in {one.noun for one in shown}
    assert (16, 64) == tuple(several.summary[of]["total"] for of in ("rows", "units"))
    assert_as_one_machine(file, several)
    sent = at.stats()["paths"]
    assert several.summary["rows"] == run(file, 2).summary["rows"] and sent == at.stats()["paths"]


@pytest.mark.long
def test_a_simulated_job_and_a_deadline(at: SimulatorProcess, tmp_path: Path):
    """All workers meet one simulator; what a deadline leaves open goes on later, in the simulated directories."""
    file, before = job_file(at, tmp_path, 60, limits={"concurrency": 4}), at.stats()["requests"]
    settings = {"latency_seconds": 0.3}
    done = run(file, 2, simulate=True, simulator=settings, max_minutes=0.03)
    assert 143 == done.exit_code and "as asked" in str(done.stop_reason)
    done = run(file, 2, simulate=True)
    assert ("finished", 60, tmp_path / "run-simulated") == (done.status, results(done).height, done.directory)
    assert before == at.stats()["requests"]


GIVEN_ON = {
    "overrides",
    "allow_paths",
    "simulate",
    "simulator",
    "simulators_at",
    "deadline",
    "otel",
    "environ",
    "env_file",
}
"""Fields of RunOptions that reach the workers, or the simulator that they share."""
OF_THE_STARTER = {
    *("until_budget", "confirm", "say", "watch", "progress", "tick", "resume_command", "handle_signals"),
    *("may_lack_keys", "metrics_port"),
}
"""Those that the process that starts them has done with: it asks, shows, and is interrupted."""


def test_each_way_to_run_a_job_is_given_on_or_refused():
    """No option is dropped silently: a new one must be put into one of these tables, and each into one only."""
    tables = [GIVEN_ON, OF_THE_STARTER, set(NOT_SHARED), set(AFTER_THE_MERGE)]
    assert sorted(RunOptions.__struct_fields__) == sorted(name for table in tables for name in table)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "too many workers": ({"workers": 99}, {}, "1 to limits.concurrency, which is 4"),
    "a pilot": ({"pilot": 5}, {}, "--pilot does not go with --workers: run it on one shard"),
    "a shard": ({"shard": "1/2"}, {}, "--shard does not go with --workers"),
    "figures of one's own": ({"figures": print}, {}, "--figures does not go with --workers"),
    "a wire of one's own": ({"wire": lambda job: None}, {}, "--wire does not go with --workers"),
    "a retry": ({"retry": ["failed"]}, {}, "--retry does not go with --workers: .* once the shards are merged"),
    "redo": ({"redo_changed": True}, {}, "--redo-changed does not go with --workers: each shard"),
    "other prices": ({"correct_prices": True}, {}, "--correct-prices does not go with --workers"),
    "a table": ({"table": texts(3)}, {}, "read the job file: give its path and no table"),
    "who is told": ({}, {"on_end": {"command": ["true"]}}, "on_end: does not go with --workers: each would tell"),
    "batches": ({}, {"lane": "batch"}, "lane: batch does not go with --workers"),
    "a bucket": ({}, {"output": {"publish": "s3://b/run"}}, "output.publish: does not go with --workers"),
    "an endpoint's places": (
        {},
        {"endpoint": {"limits": {"concurrency": 2}}},
        "endpoint.limits.concurrency: .* cannot be given in parts",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_for_several_workers_is_refused(at: SimulatorProcess, tmp_path: Path, case: str):
    """In words that say why or what to do, before anything is asked, sent or written."""
    options, keys, says = REFUSED[case]
    spec = job(at, tmp_path, limits={"concurrency": 4}).public_dict()
    for section, values in keys.items():
        spec[section] = {**(spec.get(section) or {}), **values} if isinstance(values, dict) else values
    file = job_file(at, tmp_path, 4)
    file.write_text(
        json.dumps({"name": "law", **spec, "input": {"table": str(tmp_path / "t.parquet"), "id": "id"}})
    )
    before = at.stats()["requests"]
    with pytest.raises(InputError, match=says):
        run(file, **{"workers": 2, **options})
    assert before == at.stats()["requests"]
    assert ["law.json", "t.parquet"] == sorted(one.name for one in tmp_path.iterdir())


BEGUN: dict[str, tuple[dict[str, Any], str]] = {
    "another count": ({"workers": 3}, "run-shard-1-of-2 is a shard of 2; these workers would send its rows again"),
    "one process": ({"workers": None}, "run-shard-1-of-2 has rows of this job, which would be sent again"),
    "a shard of another count": ({"workers": None, "shard": "1/3"}, "which would be sent again"),
    "another prompt": ({"prompt": {"user": "Else: {{ text }}"}}, "would now send other requests"),
    "divided otherwise": ({"share_identical": True}, "holds rows that were divided by their id"),
    "another name": ({"name": "other"}, "belongs to another job: its name is 'law'"),
}


@pytest.fixture(scope="module")
def begun(at: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job file of which the first of two shards is done."""
    file = job_file(at, tmp_path_factory.mktemp("begun"), 6)
    crun_batch.run(file, shard="1/2", environ=ENVIRON)
    return file


@pytest.mark.parametrize("case", BEGUN)
def test_rows_that_are_done_in_shards_are_not_sent_again(at: SimulatorProcess, begun: Path, case: str):
    """Whoever would send them again, or something else beside them, is refused before anything is sent."""
    options, says = BEGUN[case]
    before = at.ledger()["count"]
    with pytest.raises(RunDirectoryError, match=says):
        run(begun, **{"workers": 2, **options})
    assert before == at.ledger()["count"]
    assert ["law.json", "run-shard-1-of-2", "t.parquet"] == sorted(one.name for one in begun.parent.iterdir())


def test_a_worker_that_is_still_at_work_is_waited_for(at: SimulatorProcess, begun: Path):
    """Its starter was killed, and another starts: it is told who is there, and nothing is sent."""
    before = at.ledger()["count"]
    with (begun.parent / "run-shard-1-of-2" / ".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunDirectoryError, match="run-shard-1-of-2 is in use by"):
            run(begun, 2)
    assert before == at.ledger()["count"]


def test_what_a_shard_has_used_is_read_while_its_segments_change(begun: Path, monkeypatch: pytest.MonkeyPatch):
    """One that is sealed between its listing and its reading is no error, and what it held is not missed."""
    place, listed = begun.parent / "run-shard-1-of-2", RunDirectory.segments
    used, gone = committed(place), [[10**6]]
    monkeypatch.setattr(RunDirectory, "segments", lambda run: gone.pop() if gone else listed(run))
    assert (used, []) == (committed(place), gone) and used[1] > 0


def test_a_job_that_a_gateway_refuses_starts_no_worker(at: SimulatorProcess, tmp_path: Path):
    """One summary, which names no directory that is not there."""
    done = run(job_file(at, tmp_path, 4, model="gpt-none"), 2)
    assert ("stopped", 5) == (done.status, done.exit_code)
    assert f"results  none yet; they go to {tmp_path / 'run'}" in done.report()
    assert ["law.json", "t.parquet"] == sorted(one.name for one in tmp_path.iterdir())


class PlayedCrew(Crew):
    """Two workers without processes: the first ends as it is told to, the second when all are told to stop."""

    def __init__(self, exit_code: int) -> None:
        watchers = Watchers(print, print, print, print, lambda _: (0, 0))
        super().__init__([], {}, Giver(LeaseBook(SharedLimits(4), []), watchers))
        self._orders = [Order("law.json", (number, 2), {}) for number in (1, 2)]
        self._exit_code = exit_code

    async def _started(self, number: int) -> tuple[WorkerEnd | None, int]:
        if number == 0:
            return WorkerEnd(self._exit_code, message="so it is"), self._exit_code
        for _ in range(9):
            await asyncio.sleep(0)
        return WorkerEnd(0 if self.halt is None else self.halt.exit_code), 0


@pytest.mark.parametrize("exit_code", GRAVEST_FIRST)
def test_what_ends_one_worker_for_everybodys_reason_ends_all(exit_code: int):
    """Done, out of its part of the money, told to stop: the others go on. All else: all stop, for its reason."""
    crew = PlayedCrew(exit_code)
    asyncio.run(crew.run())
    if exit_code in (0, 1, 4, 130, 143):
        assert crew.halt is None
    else:
        assert crew.halt == Halt(exit_code, "so it is")


def test_limits_that_are_leased_are_not_set():
    """A worker that raised its own cap would spend what another has."""
    worker: Any = SimpleNamespace(is_one_of_several=True)
    with pytest.raises(InputError, match="what it may use is leased to it: name the job instead"):
        set_values(worker, {"values": {"budget.max_cost_usd": 100}}, "me")


HELD = "held"
"""Of a played session: its process is there, but it does not listen yet."""
PLAYED = {
    "all answer": ([3, 4], 7),
    "one has ended": ([3, None], 3),
    "one is about to start": ([[HELD, HELD, 2], 4], 6),
    "all have ended": ([None, None], None),
}


@pytest.mark.parametrize("case", PLAYED)
def test_all_workers_that_run_are_told(monkeypatch: pytest.MonkeyPatch, case: str):
    """Who is about to start is waited for, who has ended is left out; where none runs, that is said."""
    played, in_flight = PLAYED[case]
    sessions = {Path(str(number)): one if isinstance(one, list) else [one] for number, one in enumerate(played)}

    def tell(place: Path, question: Any) -> dict[str, Any]:
        answer = sessions[place].pop(0)
        if not isinstance(answer, int):
            raise crun_batch.NotRunning("no session")
        return {"do": question["do"], "in_flight": answer}

    monkeypatch.setattr(telling_workers, "tell", tell)
    monkeypatch.setattr(telling_workers, "holder", lambda place: "a process" if sessions[place] else None)
    monkeypatch.setattr(telling_workers, "TRIES_EVERY_SECONDS", 0.0)
    if in_flight is None:
        with pytest.raises(crun_batch.NotRunning, match="no worker of this job runs"):
            telling_workers.tell_all(list(sessions), {"do": "pause"})
    else:
        told = telling_workers.tell_all(list(sessions), {"do": "pause"})
        assert {"do": "pause", "in_flight": in_flight} == told


def test_what_a_worker_had_that_is_done_is_shown_as_anothers():
    """Its places are given on: added to those of its successor they would be more than the job has."""
    progresses = Progresses(20, [0, 0], None, lambda: None)
    progresses.moved(0, Progress(rows_total=10, rows_done=10, limit=8))
    progresses.moved(1, Progress(rows_total=10, rows_done=4, limit=8, in_flight=6))
    assert (14, 6, 8) == (progresses.read().rows_done, progresses.read().in_flight, progresses.read().limit)
