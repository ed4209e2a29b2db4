"""run --ray: shards as actors of a real cluster of several nodes, kills of each of them, one run in the end.

One cluster for all tests here: it takes seconds to start.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from run_kit import ENVIRON, results, simulator, wait_until
from test_workers import assert_as_one_machine, job_file, job_of_all_kinds

import crun_batch
from crun_batch import InputError
from crun_batch.cli.options import with_ray_address
from crun_batch.scale.ray_cluster import LOOPBACK
from crun_batch.simulator.process import SimulatorProcess


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator(latency_seconds=0.1) as process:
        yield process


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of three nodes on this machine, reached by its loopback alone, which have the job's key."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIM_KEY", ENVIRON["SIM_KEY"])
        from ray.cluster_utils import Cluster

        place = LOOPBACK.get("_node_ip_address", "127.0.0.1")
        settings = {"worker_niceness": 0}  # as patient as these tests are, actors need not come last
        head = {"num_cpus": 0, "node_ip_address": place, "include_dashboard": False, "_system_config": settings}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                nodes.add_node(num_cpus=1, node_ip_address=place)
            yield nodes.address
        finally:
            nodes.shutdown()


def driver(file: Path, address: str) -> subprocess.Popen[bytes]:
    """The command, in a session of its own."""
    command = [sys.executable, "-m", "crun_batch", "run", str(file), "--ray", address, "--workers", "2", "--yes"]
    out: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env={**os.environ, **ENVIRON}, start_new_session=True, **out)


def process_of(folder: Path) -> int:
    """Who has opened it last."""
    found = re.match(r"process (\d+) on ", (folder / ".lock").read_text())
    assert found is not None
    return int(found[1])


def test_deaths_of_every_kind_lose_nothing(at: SimulatorProcess, cluster: str, tmp_path: Path):
    """The driver dies, and another takes over; the giver dies, and Ray starts it again; a worker dies.

    In the end each row is there once, what was billed beyond them was in flight at the worker's death, and never
    more was in flight than the job says. Nothing is left on the cluster, and no grant on the disk.
    """
    file, before = job_file(at, tmp_path, 300, limits={"concurrency": 6}), at.ledger()["count"]
    sent = lambda: at.ledger()["count"] - before  # noqa: E731
    first = driver(file, cluster)
    second = None
    try:
        wait_until(lambda: sent() > 20 or first.poll() is not None)
        assert first.poll() is None, first.communicate()[0].decode()
        first.kill()
        first.communicate()
        killed_at = sent()
        wait_until(lambda: sent() > killed_at + 20)
        os.kill(process_of(tmp_path / "run-leases"), signal.SIGKILL)
        second = driver(file, cluster)
        killed_at = sent()
        wait_until(lambda: sent() > killed_at + 40)
        os.kill(lost := process_of(tmp_path / "run-shard-1-of-2"), signal.SIGKILL)
        said, _ = second.communicate(timeout=180)
        assert 0 == second.returncode, said.decode()
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
    done = crun_batch.open_run(tmp_path / "run")
    assert 300 == results(done).height and [] == done.verify(data=True)
    unknown = done.attempts().filter(pl.col("outcome") == "unknown").collect().height
    assert unknown <= 6 and 300 <= sent() <= 300 + unknown
    assert at.stats()["max_in_flight"] <= 6
    assert lost != process_of(tmp_path / "run-shard-1-of-2"), "another worker has gone on with the shard"
    assert not (tmp_path / "run-leases").exists()


def on_ray(file: Path, address: str, **options: Any) -> crun_batch.Run:
    return crun_batch.run(file, ray=address, workers=2, environ=ENVIRON, handle_signals=False, **options)


def test_all_kinds_of_requests_end_as_on_one_machine(at: SimulatorProcess, cluster: str, tmp_path: Path):
    """A sweep, repeats, a judge, identical rows that are sent once: the same units at the same cost."""
    file = job_of_all_kinds(at, tmp_path)
    several = on_ray(file, cluster)
    assert ("finished", 0, 64) == (several.status, several.exit_code, results(several).height)
    assert_as_one_machine(file, several)


@pytest.mark.long
def test_a_job_moves_to_the_cluster_and_back_without_a_row_sent_again(
    at: SimulatorProcess, cluster: str, tmp_path: Path
):
    """Begun on one machine, gone on with on Ray until the money is used up, ended on one machine."""
    file, sent = job_file(at, tmp_path, 60, limits={"concurrency": 8}), at.ledger()["count"]
    first = crun_batch.run(file, environ=ENVIRON, handle_signals=False, pilot=20, output_dir=tmp_path / "first")
    moved = {"overrides": {"reuse": [str(tmp_path / "first")]}}
    several = on_ray(file, cluster, max_cost_credits=2, until_budget=True, **moved)
    assert ("stopped", 4) == (several.status, several.exit_code) and several.cost_credits is not None
    assert 1 < several.cost_credits <= 2
    crun_batch.merge(*several.summary["shards"], output_dir=tmp_path / "run", unfinished=True)
    last = crun_batch.run(file, environ=ENVIRON, handle_signals=False, **moved)
    assert ("finished", 60, 20) == (last.status, results(last).height, results(first).height)
    assert 60 == at.ledger()["count"] - sent, "each row was sent once, wherever it was"


@pytest.mark.long
def test_requests_of_several_rows_survive_the_kill_of_their_worker(
    at: SimulatorProcess, cluster: str, tmp_path: Path
):
    """Each row is there once; what was billed beyond the recorded requests was in flight at the kill."""
    keys = {"limits": {"concurrency": 4}, "pack": {"rows": 5, "format": "json", "seed": 0}}
    file, before = job_file(at, tmp_path, 600, **keys), at.ledger()["count"]
    sent = lambda: at.ledger()["count"] - before  # noqa: E731
    one = driver(file, cluster)
    try:
        wait_until(lambda: sent() > 20 or one.poll() is not None)
        os.kill(process_of(tmp_path / "run-shard-1-of-2"), signal.SIGKILL)
        said, _ = one.communicate(timeout=180)
    finally:
        one.kill()
    assert 0 == one.returncode, said.decode()
    done = crun_batch.open_run(tmp_path / "run")
    assert 600 == results(done).height and [] == done.verify(data=True)
    request = pl.col("serial") - pl.col("pack_place").fill_null(1)
    requests = done.attempts().select("outcome", request).unique().collect()
    answered, unknown = (requests.filter(pl.col("outcome") == how).height for how in ("done", "unknown"))
    assert answered < 200 and unknown <= 4 and answered <= sent() <= answered + unknown


def test_an_interrupt_ends_all_in_order(at: SimulatorProcess, cluster: str, tmp_path: Path):
    """One sentence, one exit code, and the command that goes on; nothing that was sent is lost."""
    file, before = job_file(at, tmp_path, 2_000, limits={"concurrency": 4}), at.ledger()["count"]
    one = driver(file, cluster)
    try:
        wait_until(lambda: at.ledger()["count"] - before > 10 or one.poll() is not None)
        one.send_signal(signal.SIGINT)
        said, _ = one.communicate(timeout=120)
    finally:
        one.kill()
    assert 130 == one.returncode and b"law: interrupted: Ctrl-C" in said, said.decode()
    assert f"--ray {cluster} --workers 2 --yes" in said.decode()
    shards = [crun_batch.open_run(told.parent) for told in sorted(tmp_path.glob("run-shard-*/summary.json"))]
    assert sum(results(shard).height for shard in shards) == at.ledger()["count"] - before < 2_000


def test_what_cannot_be_is_refused(at: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No extra, no cluster, a simulator that no other machine reaches: before anything is sent or written."""
    file = job_file(at, tmp_path, 2)
    run = lambda **options: crun_batch.run(file, environ=ENVIRON, handle_signals=False, **options)  # noqa: E731
    with pytest.raises(InputError, match="--simulate goes with --ray local alone"):
        run(ray="10.0.0.1:6379", simulate=True)
    with pytest.raises(InputError, match="--coordinator does not go with --workers or --ray"):
        run(ray="local", shard="1/2", coordinator="http://127.0.0.1:9")
    with pytest.raises(InputError, match="--pilot does not go with --workers"):
        run(ray="local", pilot=3)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'crun-batch\[ray\]'"):
        run(ray="local")
    assert ["law.json", "t.parquet"] == sorted(one.name for one in tmp_path.iterdir())


def test_a_plain_install_brings_no_ray():
    """It comes with its extra alone."""
    needs = [need for need in importlib.metadata.requires("crun-batch") or () if need.startswith("ray")]
    assert needs and all("extra ==" in need for need in needs)


def test_without_an_address_it_is_a_cluster_on_this_machine():
    assert ["run", "a.yaml", "--ray", "local"] == with_ray_address(["run", "a.yaml", "--ray"])
    assert ["run", "--ray", "local", "--yes"] == with_ray_address(["run", "--ray", "--yes"])
    assert ["run", "--ray", "10.0.0.1:6379", "-y"] == with_ray_address(["run", "--ray", "10.0.0.1:6379", "-y"])


@pytest.mark.long
def test_a_job_on_a_cluster_is_steered_by_its_file(at: SimulatorProcess, cluster: str, tmp_path: Path):
    """A limit holds for all actors when it is answered; a stop is the end of all, and starts no worker again."""
    file, before = job_file(at, tmp_path, 3_000, limits={"concurrency": 6}), at.ledger()["count"]
    one = driver(file, cluster)
    try:
        wait_until(lambda: at.stats()["in_flight"] == 6 or one.poll() is not None)
        assert [2] == [told["new"] for told in crun_batch.set(file, {"limits.concurrency": 2})["changes"]]
        time.sleep(0.5)
        most = max(at.stats()["in_flight"] for _ in range(200))
        assert 1 <= most <= 2
        assert "stop" == crun_batch.stop(file)["do"]
        said, _ = one.communicate(timeout=120)
    finally:
        one.kill()
    assert 143 == one.returncode and b"law: interrupted: stopped by" in said, said.decode()
    assert b"started again" not in said
    shards = [crun_batch.open_run(told.parent) for told in sorted(tmp_path.glob("run-shard-*/summary.json"))]
    assert sum(results(shard).height for shard in shards) == at.ledger()["count"] - before < 3_000
