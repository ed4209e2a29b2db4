"""A file system that takes no more, in a real process: replies in flight are kept, and the next start goes on."""

from __future__ import annotations

import os
import random
import subprocess
from decimal import Decimal

import pytest

from crun_batch import open_run
from crun_batch.simulator import SimulatorProcess
from crun_batch.simulator.settings import Settings
from crun_batch.store.verify import verify

from .kills import CONCURRENCY, order_of, write_job
from .sessions import Nursery

ROWS = 300
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    long_answers = Settings(
        output_tokens_median=2500,
        output_tokens_sigma=0.1,
        latency_seconds=0.01,
        fault_markers=False,
        balance_credits=Decimal(1_000_000),
    )
    with SimulatorProcess(long_answers) as simulator:
        nursery = Nursery(folder / "log")
        yield simulator, nursery
        nursery.close()


def job_of(simulator, place, concurrency=CONCURRENCY):
    job = write_job(simulator, place, rows=ROWS, seed=1)
    text = job.read_text().replace("max_output_tokens: 40", "max_output_tokens: 4000")
    job.write_text(text.replace(f"concurrency: {CONCURRENCY}", f"concurrency: {concurrency}"))
    return job


def nothing_is_lost(simulator, place, charges_before):
    """Each row answered, each charge an attempt that was done: nothing unknown, nothing paid twice."""
    attempts = open_run(place).attempts().collect()
    assert ROWS == open_run(place).results().collect().height
    assert {"done": ROWS} == dict(attempts["outcome"].value_counts().iter_rows())
    assert simulator.ledger()["count"] - charges_before == ROWS
    assert [] == [found for found in verify(place, data=True) if found.severity == "error"]


def test_a_file_that_may_not_grow_ends_with_7_and_a_clean_resume(gateway, tmp_path):
    """RLIMIT_FSIZE: what every user may try."""
    simulator, nursery = gateway
    before = simulator.ledger()["count"]
    job = job_of(simulator, tmp_path / "run")
    order = {**order_of(job, random.Random(0)), "segment_bytes": 64 * MEBIBYTE}
    assert 7 == nursery.session({**order, "most_bytes_of_a_file": int(1.5 * MEBIBYTE)}, None)
    assert open_run(tmp_path / "run").attempts().collect().height < ROWS
    assert 0 == nursery.session(order, None)
    nothing_is_lost(simulator, tmp_path / "run", before)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB; needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(place)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("concurrency", [8, 128])
def test_a_full_file_system_ends_with_7_and_a_clean_resume_when_there_is_room(
    gateway, tmp_path, small_disk, concurrency
):
    """3 MiB; replies of more than 10 kB, so that 128 of them are half of it: none is lost."""
    simulator, nursery = gateway
    before = simulator.ledger()["count"]
    job = job_of(simulator, tmp_path / "full", concurrency)
    text = job.read_text().replace(f'dir: "{tmp_path / "full"}"', f'dir: "{small_disk / "run"}"')
    job.write_text(text)
    order = {**order_of(job, random.Random(0)), "segment_bytes": 64 * MEBIBYTE}
    assert 7 == nursery.session(order, None)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert 0 == nursery.session(order, None)
    nothing_is_lost(simulator, small_disk / "run", before)
