"""A job by several workers that is steered: other totals, a pause, an end, a deadline; kills of who holds to them.

The laws of leases under totals that change are held in virtual time; the rest are whole runs with real workers.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from run_kit import simulator, wait_until
from test_coordinated_runs import command, free_port, giving, killed_at_end
from test_leases import STEP_SECONDS, Play
from test_steering import asked_as_nobody
from test_workers import job_file, run, started

import crun_batch
from crun_batch import DiskFailed, InputError
from crun_batch.options import RunOptions
from crun_batch.records import Halt
from crun_batch.scale.giver import Giver, Watchers
from crun_batch.scale.granted import RENEWED_EVERY_SECONDS
from crun_batch.scale.kept_leases import KeptLeases
from crun_batch.scale.leases import LEASE_SECONDS, LeaseBook, SharedLimits, UnitMoney, WorkerReport
from crun_batch.scale.steered_job import SteeredJob
from crun_batch.scale.steering import taken_up
from crun_batch.session.orders import ORDERS
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.state import steered
from crun_batch.state.run_state import RunContext
from crun_batch.store.control import CONTROL_NAME
from crun_batch.store.directory import read_json

ON_THE_WAY_SECONDS = 0.4 + STEP_SECONDS
"""How long a played grant may take from the book to its worker."""


# --- the laws, in virtual time -----------------------------------------------------------------------------------


class ChangedPlay(Play):
    """Totals change at a moment: from then on the new ones bind all, after a renewal of each."""

    def __init__(self, seed: int, **keys: Any) -> None:
        super().__init__(seed, **keys)
        self.at = self.draw.uniform(2, 8)
        self.followed_at = float("inf")
        self.former = self.concurrency, self.cap
        self.last, self.most_committed = (0, 0), 0
        self.new: SharedLimits | None = None

    def _hold_the_laws(self, now: float) -> None:
        if self.new is None and now >= self.at:
            cap = self.draw.choice([None, self.draw.randint(100, 60_000)])
            self.new = SharedLimits(self.draw.randint(1, 60), cap, is_paused=self.draw.random() < 0.2)
            self.book.set_terms(self.new)
        if self.new is not None and self.book.is_followed(now):
            self.followed_at = min(self.followed_at, now + ON_THE_WAY_SECONDS)
        in_flight = sum(len(one.flying) for one in self.workers)
        late = sum(flying for until, flying in self.dead if until > now)
        committed = sum(one.committed for one in self.workers)
        was_in_flight, was_committed = self.last
        self.last = in_flight + late, committed
        if self.new is None:
            super()._hold_the_laws(now)
        elif now >= self.followed_at:
            may = 0 if self.new.is_paused else self.new.concurrency
            assert in_flight + late <= max(may, was_in_flight), "what is over it only falls"
            if self.new.max_usd_pico is not None:
                again = now >= self.followed_at + RENEWED_EVERY_SECONDS + 2 * ON_THE_WAY_SECONDS
                assert committed <= max(self.new.max_usd_pico, was_committed if again else self.most_committed)
        else:
            self.most_committed = max(self.most_committed, committed)
            assert now <= self.at + LEASE_SECONDS + 2 * ON_THE_WAY_SECONDS, "nobody acts on the former for long"
            assert in_flight + late <= max(self.former[0], self.new.concurrency)
            caps = self.former[1], self.new.max_usd_pico
            assert None in caps or committed <= max(caps)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(9, 60))
def test_after_a_renewal_of_each_the_totals_that_were_set_bind_all(seed: int, workers: int, places: int):
    """Lower, higher, a cap where there was none, none where there was one, a pause; with deaths and late reports.

    What is over a total that was lowered only falls; never more than the greater of both meanwhile.
    """
    play = ChangedPlay(seed, workers=workers, places=places, cap=None)
    cap = play.draw.choice([None, play.draw.randint(2_000, 60_000)])
    play.deaths = play.draw.choice([0.0, 0.002, 0.02])
    play.cap, play.former = cap, (places, cap)
    play.book = LeaseBook(SharedLimits(places, cap), [(one.committed, 0) for one in play.workers])
    for one in play.workers:
        one.epoch = play.book.join(one.number)
    play.run(40)


def test_a_cap_below_what_is_gone_ends_the_job_when_nothing_is_in_flight_and_not_before():
    """Nothing more is sent, nobody waits for ever, and each ends as at the end of a budget."""
    for seed in range(8):
        play = Play(seed, workers=4, places=20, cap=None)
        for one in play.workers:
            one.rows = 2_000
        play.run(5)
        committed = sum(one.committed for one in play.workers)
        play.book.set_terms(SharedLimits(20, committed // 2))
        play.run(60)
        assert all(one.ended and one.used_up for one in play.workers)


def test_a_cap_where_there_was_none_is_given_out_when_all_have_let_go_of_that():
    """Who was granted money without a cap may be spending any amount: the others get none until it asks again."""
    book = LeaseBook(SharedLimits(10), [(0, 0), (0, 0)])
    epochs = [book.join(0), book.join(1)]
    for worker in (0, 1):
        assert None is book.renew(worker, epochs[worker], WorkerReport(), 0.0).max_usd_pico  # type: ignore[union-attr]
    book.set_terms(SharedLimits(10, 1_000))
    own = WorkerReport(places=5, share=5, usd=UnitMoney(None, 100, 10))
    capped = WorkerReport(places=5, share=5, usd=UnitMoney(100, 100, 10))
    assert 100 == book.renew(0, epochs[0], own, 0.5).max_usd_pico  # type: ignore[union-attr]
    assert not book.is_followed(0.5)
    assert 100 == book.renew(1, epochs[1], own, 0.6).max_usd_pico  # type: ignore[union-attr]
    assert book.is_followed(0.6)
    assert 100 == book.renew(0, epochs[0], capped, 0.7).max_usd_pico  # type: ignore[union-attr]
    assert 300 == book.renew(1, epochs[1], capped, 0.8).max_usd_pico  # type: ignore[union-attr]
    assert 300 == book.renew(0, epochs[0], capped, 0.9).max_usd_pico  # type: ignore[union-attr]


class PlayedWorkload(Struct, frozen=True):
    """A job, and no target that has limits of its own."""

    job: crun_batch.Job
    targets: tuple[Any, ...] = ()


class PlayedGiver:
    """Who leases a job to its workers, once after the other on one folder: what is told, and what holds of it."""

    def __init__(self, folder: Path, *, takes_over: bool, **limits: Any) -> None:
        self.said: list[str] = []
        self.halts: list[Halt] = []
        job = crun_batch.Job(
            input={"table": "t.csv", "id": "id"},
            model="m",
            prompt={"user": "x"},
            params={"max_output_tokens": 9},
            limits={"concurrency": 8, **limits},
            output={"dir": str(folder / "run")},
        )
        workload: Any = PlayedWorkload(job)
        options = RunOptions(say=self.said.append)
        context = RunContext(workload, options, state=None)  # type: ignore[arg-type]
        self.taken = taken_up(context, takes_over=takes_over)
        kept, context = self.taken.__enter__()
        watchers = Watchers(self.said.append, print, print, print, lambda number: (0, 0))
        self.giver = Giver(LeaseBook(SharedLimits(8), [(0, 0)]), watchers)
        self.job = SteeredJob(
            context.workload, self.giver, kept, self.halts.append, lambda job: None, are_here=not takes_over
        )
        self.kept = kept

    def told(self, do: str, **values: Any) -> None:
        """As somebody says it through the socket."""
        changes = ORDERS[do](self.job, {"values": values}, "ada")
        mark = {"at": "2026-11-28T14:02:00+00:00", "by": {"user": "ada"}}
        asyncio.run(self.job.keep({"do": do, "changes": changes, **mark}))

    def ends(self) -> None:
        """Killed, or not: the lock goes with the process."""
        self.taken.__exit__(None, None, None)


def set_(giver: PlayedGiver) -> tuple[int, int | None]:
    """What is granted out of, in places and money."""
    return giver.giver.book.terms.concurrency, giver.giver.book.terms.max_credits_pico


def test_a_killed_coordinator_is_gone_on_with_as_it_was_set(tmp_path: Path):
    """The totals, a pause and a stop; what the job says anew goes before; in the end all of it is over."""
    first = PlayedGiver(tmp_path, takes_over=True)
    first.told("set", **{"limits.concurrency": 3, "budget.max_cost_credits": 7})
    first.told("pause")
    assert (3, 7 * 10**12) == set_(first) and first.giver.book.terms.is_paused
    first.ends()
    second = PlayedGiver(tmp_path, takes_over=True)
    assert (3, 7 * 10**12) == set_(second) and second.giver.book.terms.is_paused
    assert [
        "limits.concurrency was set to 3 (2026-11-28 14:02 UTC by ada); that holds, as this job goes on",
        "budget.max_cost_credits was set to 7 (2026-11-28 14:02 UTC by ada); that holds, as this job goes on",
        "the job is paused (2026-11-28 14:02 UTC by ada); `crun-batch resume` lets it go on",
    ] == second.said
    second.told("resume")
    second.ends()
    third = PlayedGiver(tmp_path, takes_over=True, concurrency=20)
    assert (20, 7 * 10**12) == set_(third) and not third.giver.book.terms.is_paused
    assert third.said[1].startswith("limits.concurrency was set to 3 while the last session ran")
    third.told("stop")
    third.ends()
    fourth = PlayedGiver(tmp_path, takes_over=True, concurrency=20)
    assert [Halt(143, "stopped by ada")] == fourth.halts
    fourth.kept.end(is_merged=False)
    fourth.ends()
    fifth = PlayedGiver(tmp_path, takes_over=True)
    assert (8, None) == set_(fifth) and [] == fifth.halts
    assert ["set", "pause", "resume", "stop"] == [one["do"] for one in fifth.kept.steering["log"]]
    fifth.ends()


def test_a_total_is_on_the_disk_before_it_is_granted_of(tmp_path: Path):
    """Where it cannot be written nothing has changed, and who asked is told so."""
    giver = PlayedGiver(tmp_path, takes_over=True)

    def fails(steering: Any) -> None:
        assert (8, None) == set_(giver)
        raise DiskFailed("the disk is full")

    giver.kept.keep_steering = fails  # type: ignore[method-assign]
    with pytest.raises(DiskFailed, match="nothing has changed; it could not be written down: the disk is full"):
        giver.told("set", **{"limits.concurrency": 20})
    assert (8, None) == set_(giver) and 8 == giver.job.job.limits.concurrency
    giver.ends()


def test_a_cap_that_workers_have_passed_meanwhile_is_said_to_be_over(tmp_path: Path):
    """What they had been granted they may have used before they ask again; below what is known it is refused."""
    giver = PlayedGiver(tmp_path, takes_over=True)
    book = giver.giver.book
    epoch = book.join(0)
    credit = 10**12
    book.renew(0, epoch, WorkerReport(), time.monotonic())
    book.renew(0, epoch, WorkerReport(places=8, credits=UnitMoney(None, 3 * credit, credit)), time.monotonic())
    with pytest.raises(InputError, match="2 credits is less than what is gone: 3 credits spent, or held for"):
        giver.told("set", **{"budget.max_cost_credits": 2})

    def reports() -> None:
        wait_until(lambda: book.terms.max_credits_pico is not None)
        own = WorkerReport(places=8, credits=UnitMoney(None, 6 * credit, credit))
        book.renew(0, epoch, own, time.monotonic())

    worker = threading.Thread(target=reports)
    worker.start()
    giver.told("set", **{"budget.max_cost_credits": 5})
    worker.join()
    over = "6 credits is spent and held, over 5 credits: nothing new is sent"
    assert [f"budget.max_cost_credits: {over}"] == giver.said
    giver.ends()


# --- whole runs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator(latency_seconds=0.1) as process:
        yield process


def in_flight(at: SimulatorProcess) -> int:
    return int(at.stats()["in_flight"])


def most_in_flight(at: SimulatorProcess, seconds: float) -> int:
    """As it is seen again and again for so long."""
    until, most = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        most = max(most, in_flight(at))
    return most


def test_a_job_by_several_workers_is_steered_by_its_file(at: SimulatorProcess, tmp_path: Path):
    """A limit, a pause, an end: each holds at all workers when it is answered, and stands there with the user."""
    file = job_file(at, tmp_path, 3_000, limits={"concurrency": 8})
    driver = started(file, 2)
    try:
        wait_until(lambda: in_flight(at) == 8)
        answer = crun_batch.set(file, {"limits.concurrency": 3})
        assert [{"key": "limits.concurrency", "old": 8, "new": 3}] == answer["changes"]
        assert str(tmp_path / "run") == answer["output_dir"]
        time.sleep(0.3)
        assert 1 <= most_in_flight(at, 1.0) <= 3
        crun_batch.set(file, {"limits.concurrency": 12})
        wait_until(lambda: in_flight(at) == 12)
        told = crun_batch.status(file)["steering"]["values"]["limits.concurrency"]
        assert (12, 8, os.geteuid()) == (told["value"], told["was"], told["by"]["user_id"])
        for values, words in WRONG:
            with pytest.raises(InputError, match=re.escape(words)):
                crun_batch.set(file, {"limits.concurrency": 5, **values})
        with pytest.raises(InputError, match="this is one worker of a job"):
            crun_batch.set(tmp_path / "run-shard-1-of-2", {"limits.concurrency": 5})
        assert [{"key": "pause", "old": False, "new": True}] == crun_batch.pause(tmp_path / "run")["changes"]
        time.sleep(0.3)
        assert 0 == most_in_flight(at, 0.5)
        assert "running" == crun_batch.status(file)["status"]
        crun_batch.resume(file)
        wait_until(lambda: in_flight(at) == 12)
        assert "stop" == crun_batch.stop(file)["do"]
        said, _ = driver.communicate(timeout=60)
    finally:
        driver.kill()
        driver.communicate()
    assert 143 == driver.returncode and b"law: interrupted: stopped by" in said, said.decode()
    log = read_json(tmp_path / "run-leases" / "steering.json")["log"]
    assert ["set", "set", "pause", "resume", "stop"] == [one["do"] for one in log]
    assert re.search(rb"set by \w+: limits.concurrency 8 -> 3", said), said.decode()
    with pytest.raises(crun_batch.NotRunning):
        crun_batch.stop(tmp_path / "run-shard-1-of-2")


WRONG = [
    ({"limits.concurency": 8}, "did you mean limits.concurrency?"),
    ({"limits.concurrency": 10**9}, "open files"),
    ({"budget.max_cost_credits": "0.000001"}, "is less than what is gone"),
    ({"budget.max_cost_usd": "5"}, "what a request costs in usd is not known"),
]


@pytest.fixture(scope="module")
def slow() -> Iterator[SimulatorProcess]:
    with simulator(latency_seconds=1.0) as process:
        yield process


@pytest.mark.long
def test_what_was_set_lets_a_job_that_waits_go_on_and_outlives_the_coordinator(
    slow: SimulatorProcess, tmp_path: Path
):
    """Two requests hold all of the money: more of it, and more go, as many as the limit that was set allows.

    The coordinator is killed right after it has confirmed that, and comes back with the same command: the same
    totals. In the end the record of all of it is in the job.json of the merged run.
    """
    budget = {"max_cost_credits": 2}
    file, port = job_file(slow, tmp_path, 400, budget=budget, limits={"concurrency": 8}), free_port()
    worker = ["run", file, "--coordinator", f"http://127.0.0.1:{port}", "--shard"]
    options = ["--until-budget", "--max-minutes", "60"]
    giver, one, two = giving(file, 2, port, *options), command(*worker, "1/2"), command(*worker, "2/2")
    with killed_at_end(giver, one, two) as processes:
        wait_until(lambda: slow.ledger()["count"] > 1)
        assert 2 >= most_in_flight(slow, 0.5)
        answer = crun_batch.set(file, {"limits.concurrency": 5, "budget.max_cost_credits": 1000})
        assert [5, "1000"] == [one["new"] for one in answer["changes"]]
        giver.kill()
        giver.wait()
        giver = giving(file, 2, port, *options)
        processes.append(giver)
        wait_until(lambda: in_flight(slow) == 5)
        assert 5 == most_in_flight(slow, 1.5)
        assert "stop" == crun_batch.stop(file)["do"]
        said, _ = giver.communicate(timeout=60)
        assert (143, 143, 143) == (giver.returncode, one.wait(60), two.wait(60)), said.decode()
    assert b"limits.concurrency was set to 5 (" in said and b"that holds, as this job goes on" in said
    assert 5 >= slow.stats()["max_in_flight"]
    merged = crun_batch.merge(*crun_batch.status(file)["shards"], output_dir=tmp_path / "run", unfinished=True)
    told = read_json(merged.directory / "job.json")["steering"]
    assert ["set", "stop"] == [one["do"] for one in told["log"]]
    assert {"limits.concurrency", "budget.max_cost_credits"} == set(told["now"]["values"])


@pytest.mark.long
def test_a_deadline_and_a_rate_are_those_of_a_coordinators_workers(at: SimulatorProcess, tmp_path: Path):
    """60 a minute is one a second for all of them together; at the time all stop, and it is one end."""
    file, port = job_file(at, tmp_path, 3_000, limits={"concurrency": 8}), free_port()
    worker = ["run", file, "--coordinator", f"http://127.0.0.1:{port}", "--shard"]
    giver = giving(file, 2, port, "--max-minutes", "0.3")
    one, two = command(*worker, "1/2"), command(*worker, "2/2")
    with killed_at_end(giver, one, two):
        wait_until(lambda: in_flight(at) == 8)
        crun_batch.set(file, {"limits.requests_per_minute": 60})
        before, began = at.ledger()["count"], time.monotonic()
        time.sleep(4.0)
        assert 1 <= at.ledger()["count"] - before <= time.monotonic() - began + 3
        said, _ = giver.communicate(timeout=60)
        assert (143, 143, 143) == (giver.returncode, one.wait(60), two.wait(60)), said.decode()
    assert b"stopped after 0.3 minutes, as asked" in said, said.decode()


def test_another_start_says_what_was_set_and_no_longer_holds(slow: SimulatorProcess, tmp_path: Path):
    """What `run --workers` was told is over when it ends, as what one session was told is."""
    file, said = job_file(slow, tmp_path, 4, limits={"concurrency": 4}), []
    told = steered.steering_begun({})
    change = {"key": "limits.concurrency", "old": 4, "new": 2}
    mark = {"at": "2026-11-28T14:02:00+00:00", "by": {"user": "ada"}}
    kept = KeptLeases(tmp_path / "run-leases", started_at="now")
    told = steered.steering_after(told, {"do": "set", "changes": [change], **mark})
    kept.keep_steering({**told, "goes_on": False})
    kept.close()
    done = run(file, 2, say=said.append)
    assert "finished" == done.status and not (tmp_path / "run-leases").exists()
    words = "limits.concurrency was set to 2 while the last session ran (2026-11-28 14:02 UTC by ada)"
    assert any(one.startswith(words) for one in said), said
    assert told["log"] == read_json(tmp_path / "run" / "job.json")["steering"]["log"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_cannot_steer_a_job_by_several_workers(at: SimulatorProcess):
    """Neither through the socket's mode, nor past it: who gives the leases looks who asks."""
    with tempfile.TemporaryDirectory() as open_to_all:
        folder = Path(open_to_all)
        driver = started(job_file(at, folder, 3_000, limits={"concurrency": 4}), 2)
        try:
            place = folder / "run-leases" / CONTROL_NAME
            wait_until(place.exists)
            for path in (folder, place.parent):
                path.chmod(0o777)
            assert "PermissionError" == asked_as_nobody(place, b'{"do": "stop"}\n')
            place.chmod(0o666)
            refused = asked_as_nobody(place, b'{"do": "stop"}\n')
            assert "only the user who started the run may steer it" in refused
            assert driver.poll() is None
        finally:
            driver.send_signal(signal.SIGINT)
            driver.communicate(timeout=60)
