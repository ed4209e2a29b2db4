"""kill -9, signals, racing starts: real processes against a gateway in another one."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import threading
import time

import polars as pl
import pytest

from crun_batch import open_run, run
from crun_batch.errors import RunInUse
from crun_batch.simulator import SimulatorProcess
from crun_batch.simulator.settings import Settings
from crun_batch.store.directory import RunDirectory, open_directory
from crun_batch.store.recover import replay

from .kills import chaos, order_of, write_job
from .sessions import Nursery

STARTS = 100


def test_kills_at_random_moments_and_named_points_lose_nothing(tmp_path):
    """No reply that was recorded is lost, each unit has one result, the bill lies within what is recorded."""
    figures = chaos(tmp_path, kills=4, seed=1)
    assert [] == figures.broken
    assert 4 == figures.kills
    assert figures.reads > 0


def test_who_only_looks_who_has_a_run_is_in_nobodys_way(tmp_path):
    """A session that starts while its status is read: the lock is tried again; one that stays held is refused."""
    open_directory(tmp_path / "run", started_at="now").close()
    (tmp_path / "run").mkdir(exist_ok=True)
    looks = os.open(tmp_path / "run" / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(looks, fcntl.LOCK_SH)
    timer = threading.Timer(0.012, os.close, [looks])
    timer.start()
    open_directory(tmp_path / "run", started_at="now").close()
    timer.join()
    held = open_directory(tmp_path / "run", started_at="then")
    with pytest.raises(RunInUse, match="started then"):
        open_directory(tmp_path / "run", started_at="now")
    held.close()


def test_of_a_hundred_racing_starts_one_wins(tmp_path):
    """All others are told that the run is in use; the lock ends with its process."""
    ready, go, over = os.pipe(), os.pipe(), os.pipe()
    for _ in range(STARTS):
        pid = os.fork()
        if pid == 0:
            os.close(go[1])
            os.close(over[1])
            os.write(ready[1], b".")
            os.read(go[0], 1)
            code = 70
            try:
                open_directory(tmp_path / "run", started_at="now")
                os.read(over[0], 1)  # the lock is held until all others have been told
                code = 0
            except RunInUse as error:
                code = error.exit_code
            finally:
                os._exit(code)
    os.close(go[0])
    waiting = 0
    while waiting < STARTS:
        waiting += len(os.read(ready[0], STARTS))
    os.close(go[1])
    losers = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(STARTS - 1)]
    os.close(over[1])
    assert [6] * (STARTS - 1) == losers
    assert 0 == os.waitstatus_to_exitcode(os.wait()[1])
    open_directory(tmp_path / "run", started_at="later").close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    with SimulatorProcess(Settings(latency_seconds=2.0)) as simulator:
        nursery = Nursery(folder / "log")
        yield folder, simulator, nursery
        nursery.close()


def in_flight(folder):
    """Serials of requests that were started and have no end."""
    run_directory = RunDirectory(folder)
    events = [event for number in run_directory.segments() for event in replay(run_directory.segment(number))]
    kinds = {
        name: {event.n for event in events if type(event).__name__ == name} for name in ("StartEvent", "EndEvent")
    }
    return kinds["StartEvent"] - kinds["EndEvent"]


def signalled(place, name, numbers):
    """The exit code of a session that gets these signals once requests are in flight."""
    folder, simulator, nursery = place
    job = write_job(simulator, folder / name, rows=30, seed=3)
    pid = nursery.begin(order_of(job, random.Random(0)))
    while not ((folder / name / "journal").is_dir() and in_flight(folder / name)):
        time.sleep(0.02)
    for number in numbers:
        os.kill(pid, number)
        time.sleep(0.3)
    return nursery.end()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_drains(place, number, code):
    """No new requests, those in flight are waited for: nothing is unknown."""
    assert code == signalled(place, f"once{code}", [number])
    run = open_run(place[0] / f"once{code}")
    assert "interrupted" == run.status
    attempts = run.attempts().collect()
    assert attempts.height > 0
    assert 0 == attempts.filter(pl.col("error_kind") == "unknown_outcome").height


def test_a_second_signal_ends_the_process_now_and_the_suspects_are_named(place):
    """What was in flight is of unknown outcome; the next session says which, and bills within its holds."""
    assert 130 == signalled(place, "twice", [signal.SIGINT, signal.SIGINT])
    waiting = in_flight(place[0] / "twice")
    attempts = open_run(place[0] / "twice").attempts().collect()
    assert len(waiting) + attempts.filter(pl.col("error_kind") == "unknown_outcome").height > 0


def test_a_second_start_is_told_who_has_the_run(place):
    folder, simulator, nursery = place
    job = write_job(simulator, folder / "held", rows=30, seed=3)
    os.environ["CHAOS_KEY"] = "ak_sim_chaos"
    pid = nursery.begin(order_of(job, random.Random(0)))
    while not (folder / "held" / "job.json").exists():
        time.sleep(0.02)
    with pytest.raises(RunInUse, match=f"process {pid}"):
        run(job)
    os.kill(pid, signal.SIGKILL)
    assert -signal.SIGKILL == nursery.end()
