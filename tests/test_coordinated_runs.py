"""Whole runs under a coordinator: real workers, a real port, kills, and a result as one machine would have it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import polars as pl
import pytest
from run_kit import ENVIRON, charged_credits, results, simulator, texts, wait_until
from test_coordinator import Scene
from test_workers import assert_as_one_machine, job_file, job_of_all_kinds

import crun_batch
from crun_batch import InputError
from crun_batch.scale.carried import checked_address
from crun_batch.scale.exchange import TOKEN_NAME, FromShard, decode_told
from crun_batch.scale.leases import SharedLimits, WorkerReport
from crun_batch.scale.messages import Reported, encode
from crun_batch.scale.remote import PATIENCE_TO_TELL_SECONDS
from crun_batch.scale.serving import Listening, listening_at, served
from crun_batch.simulator.process import SimulatorProcess

TOKEN = "a-token-of-32-characters-of-chance"


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator(latency_seconds=0.1) as process:
        yield process


def coordinated(
    file: Path,
    shards: int,
    hear: Callable[[str], None] = print,
    *,
    metrics_port: int | None = None,
    **options: Any,
) -> tuple[crun_batch.Run, list[crun_batch.Run]]:
    """A coordinator and its workers, each in a thread: the run, and that of each worker. `hear`: what is said."""
    address: Future[str] = Future()

    def say(sentence: str) -> None:
        hear(sentence)
        if sentence.startswith("coordinator: "):
            address.set_result(sentence.split()[1])

    given = {"environ": ENVIRON, "handle_signals": False, **options}
    with ThreadPoolExecutor(shards + 1) as pool:
        whole = pool.submit(
            crun_batch.coordinator, file, shards=shards, say=say, metrics_port=metrics_port, **given
        )
        url = address.result(60)
        parts = [
            pool.submit(crun_batch.run, file, shard=f"{number}/{shards}", coordinator=url, **given)
            for number in range(1, shards + 1)
        ]
        return whole.result(120), [part.result(120) for part in parts]


def test_all_kinds_of_requests_end_as_on_one_machine(at: SimulatorProcess, tmp_path: Path):
    """A sweep, repeats, a judge, identical rows that are sent once: the same units at the same cost."""
    file = job_of_all_kinds(at, tmp_path)
    several, parts = coordinated(file, 2)
    assert ("finished", 0, tmp_path / "run") == (several.status, several.exit_code, several.directory)
    assert 64 == results(several).height == sum(results(part).height for part in parts)
    assert_as_one_machine(file, several)
    assert not (tmp_path / "run-leases").exists()
    nobody, before = f"http://127.0.0.1:{free_port()}", monotonic()
    again = crun_batch.run(file, shard="1/2", coordinator=nobody, environ=ENVIRON, handle_signals=False)
    assert "finished" == again.status and monotonic() - before < PATIENCE_TO_TELL_SECONDS / 10, (
        "nobody needs to know"
    )


def test_a_budget_is_that_of_all_and_a_job_moves_without_a_row_sent_again(at: SimulatorProcess, tmp_path: Path):
    """Begun on one machine, gone on with by a coordinator until the money is used up, ended on one machine."""
    file, before = job_file(at, tmp_path, 60, limits={"concurrency": 8}), charged_credits(at)
    sent = at.ledger()["count"]
    first = crun_batch.run(file, environ=ENVIRON, handle_signals=False, pilot=20, output_dir=tmp_path / "first")
    assert 20 == results(first).height
    moved = {"overrides": {"reuse": [str(tmp_path / "first")]}, "max_cost_credits": 2, "until_budget": True}
    several, parts = coordinated(file, 2, **moved)
    spent = charged_credits(at) - before - first.cost_credits
    assert ("stopped", 4) == (several.status, several.exit_code)
    assert Decimal("1.05") < spent <= Decimal(2), "what one request holds at most, 0.9, may stay unused"
    assert spent == several.cost_credits
    assert [4, 4] == [part.exit_code for part in parts]
    merged = crun_batch.merge(*several.summary["shards"], output_dir=tmp_path / "run", unfinished=True)
    last = crun_batch.run(file, environ=ENVIRON, handle_signals=False, overrides=moved["overrides"])
    assert ("finished", 60) == (last.status, results(last).height) and merged.directory == last.directory
    assert 60 == at.ledger()["count"] - sent, "each row was sent once, wherever it was"


def test_one_directory_is_named_for_all(at: SimulatorProcess, tmp_path: Path):
    """`--output-dir` at each worker is that of the coordinator: their shards stand beside it, as without."""
    file, there = job_file(at, tmp_path, 6, limits={"concurrency": 4}), tmp_path / "moved"
    several, parts = coordinated(file, 2, output_dir=there)
    assert ("finished", there, 6) == (several.status, several.directory, results(several).height)
    assert [f"moved-shard-{number}-of-2" for number in (1, 2)] == [part.directory.name for part in parts]


def command(*arguments: object) -> subprocess.Popen[bytes]:
    line, environ = [sys.executable, "-m", "crun_batch", *map(str, arguments)], {**os.environ, **ENVIRON}
    out: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(line, env=environ, start_new_session=True, **out)


def giving(file: Path, shards: int, port: int, *options: str) -> subprocess.Popen[bytes]:
    """A coordinator's process, once it answers."""
    process = command("coordinator", file, "--shards", shards, "--port", port, "--yes", *options)

    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).is_success
        assert process.poll() is None, process.communicate()
        return False

    wait_until(answers)
    return process


@contextmanager
def killed_at_end(*started: subprocess.Popen[bytes]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """These processes end with the block, and those that are added to them meanwhile."""
    processes = list(started)
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_kills_of_the_coordinator_and_of_a_worker_lose_nothing(at: SimulatorProcess, tmp_path: Path):
    """The coordinator is killed and comes back: its worker has gone on. A worker is killed, and comes back.

    In the end each row is there once, what was billed beyond them was in flight at the worker's kill, and no more
    was in flight than the job says.
    """
    file, before, port = job_file(at, tmp_path, 150, limits={"concurrency": 8}), at.ledger()["count"], free_port()
    worker = ["run", file, "--coordinator", f"http://127.0.0.1:{port}", "--shard"]
    sent = lambda: at.ledger()["count"] - before  # noqa: E731
    giver, one, two = giving(file, 2, port), command(*worker, "1/2"), command(*worker, "2/2")
    with killed_at_end(giver, one, two) as processes:
        wait_until(lambda: sent() > 10)
        giver.kill()
        giver.wait()
        giver = giving(file, 2, port)
        processes.append(giver)
        killed_at = sent()
        wait_until(lambda: sent() > killed_at + 15)
        one.kill()
        one.wait()
        one = command(*worker, "1/2")
        processes.append(one)
        said, _ = giver.communicate(timeout=120)
        assert (0, 0, 0) == (giver.returncode, one.wait(60), two.wait(60)), said.decode()
    done = crun_batch.open_run(tmp_path / "run")
    assert 150 == results(done).height and [] == done.verify(data=True)
    unknown = done.attempts().filter(pl.col("outcome") == "unknown").collect().height
    assert unknown <= 8 and 150 <= sent() <= 150 + unknown
    assert at.stats()["max_in_flight"] <= 8


@pytest.mark.long
def test_sigterm_ends_the_coordinator_alone_and_ctrl_c_all(at: SimulatorProcess, tmp_path: Path):
    """Told to go, its worker stays, and waits for the next; one interrupt there, and both end, nothing lost."""
    file = job_file(at, tmp_path, 2_000, limits={"concurrency": 2})
    before = at.ledger()["count"]
    giver = giving(file, 1, port := free_port())
    worker = command("run", file, "--coordinator", f"http://127.0.0.1:{port}", "--shard", "1/1")
    with killed_at_end(giver, worker) as processes:
        wait_until(lambda: at.ledger()["count"] - before > 4)
        giver.terminate()
        told, _ = giver.communicate(timeout=60)
        assert 143 == giver.returncode and worker.poll() is None
        assert f"then wait for a coordinator at http://127.0.0.1:{port}".encode() in told
        giver = giving(file, 1, port)
        processes.append(giver)
        giver.send_signal(signal.SIGINT)
        said, _ = giver.communicate(timeout=60)
        assert (130, 130) == (giver.returncode, worker.wait(60)), said.decode()
    assert b"law: interrupted: Ctrl-C" in said
    part = crun_batch.open_run(tmp_path / "run-shard-1-of-1")
    assert results(part).height == at.ledger()["count"] - before < 2_000


@contextmanager
def listening(folder: Path, token: str | None) -> Iterator[str]:
    scene = Scene(folder, 2, SharedLimits(4))
    with served(scene.coordinator, Listening(token=token)) as address:
        yield address


WORD = encode(FromShard((1, 2), "", 1, {"model": "m"}, [Reported(WorkerReport())]))
OWN = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}
ASKED: dict[str, tuple[str, dict[str, str], bytes, int]] = {
    "a worker": ("/exchange", OWN, WORD, 200),
    "without the token": ("/exchange", {}, WORD, 401),
    "with another one": ("/exchange", {"Authorization": f"Bearer {TOKEN}x"}, WORD, 401),
    "with signs that no token has": ("/exchange", {"Authorization": "Bearer \xe4"}, WORD, 401),
    "another path": ("/", OWN, WORD, 404),
    "by a page in a browser": ("/exchange", {**OWN, "Content-Type": "text/plain"}, WORD, 415),
    "by another name": ("/exchange", {**OWN, "Host": "evil.example"}, WORD, 403),
    "no word of a worker": ("/exchange", OWN, b"{}", 400),
}


def test_only_workers_are_heard(tmp_path: Path):
    """Whoever has the token, and speaks as a worker does; whether it lives, anybody may ask."""
    with listening(tmp_path, TOKEN) as address:
        for case, (path, headers, body, status) in ASKED.items():
            given = {name: value.encode("latin-1") for name, value in {**JSON, **headers}.items()}
            reply = httpx.post(f"{address}{path}", headers=given, content=body, trust_env=False)
            assert status == reply.status_code, case
            assert TOKEN not in reply.text
        assert 200 == httpx.get(f"{address}/healthz", trust_env=False).status_code
        assert 404 == httpx.get(f"{address}/exchange", trust_env=False).status_code


def test_on_the_loopback_no_token_is_needed(tmp_path: Path):
    with listening(tmp_path, None) as address:
        reply = httpx.post(f"{address}/exchange", headers=JSON, content=WORD, trust_env=False)
        assert 200 == reply.status_code and "granted" in reply.text
        assert decode_told.decode(reply.content).messages


def test_a_port_that_was_any_free_one_is_named_for_the_successor(tmp_path: Path):
    """Its workers look for it there, and nowhere else."""
    with listening(tmp_path, None) as address:
        port = address.rpartition(":")[2]
        assert f"a coordinator at {address} (start it with --port {port})" == Listening().successor(address)
        assert f"a coordinator at {address}" == Listening(port=int(port)).successor(address)


PLACES: dict[str, tuple[str, str | None, str | None]] = {
    "the loopback": ("127.0.0.1", None, None),
    "its name": ("localhost", None, None),
    "all places, with a token": ("0.0.0.0", TOKEN, None),
    "all places": ("0.0.0.0", None, "only with a token"),
    "a name": ("node7", "", "only with a token"),
    "a short token": ("0.0.0.0", "secret", "it can be guessed"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_others_reach_takes_a_token(case: str):
    """From the environment; no repr shows it."""
    host, token, says = PLACES[case]
    if says is None:
        assert TOKEN not in repr(listening_at(host, 0, token))
    else:
        with pytest.raises(InputError, match=says):
            listening_at(host, 0, token)


@pytest.mark.parametrize("url", ["10.0.0.7:8400", "ftp://x", "http://", "http://me:pw@x", "http://x/?token=1"])
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(InputError, match="--coordinator takes") as refused:
        checked_address(url)
    assert "pw" not in str(refused.value) or TOKEN_NAME not in url


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no shard": ({}, "a worker of a coordinator has a shard: --shard I/N"),
    "workers": ({"workers": 2}, "--coordinator does not go with --workers"),
    "a pilot": ({"shard": "1/2", "pilot": 3}, "--pilot does not go with --coordinator"),
    "a retry": ({"shard": "1/2", "retry": ["failed"]}, "--retry does not go with --coordinator"),
    "a table": ({"shard": "1/2", "table": texts(2)}, "read the job file: give its path and no table"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_what_is_not_for_a_worker_is_refused(at: SimulatorProcess, tmp_path: Path, case: str):
    options, says = OPTIONS[case]
    with pytest.raises(InputError, match=says):
        crun_batch.run(job_file(at, tmp_path, 2), coordinator="http://127.0.0.1:9", environ=ENVIRON, **options)
    assert ["law.json", "t.parquet"] == sorted(one.name for one in tmp_path.iterdir())


def test_a_worker_with_another_token_or_job_ends_at_once(at: SimulatorProcess, tmp_path: Path):
    """Exit code 2, which no start again helps; nothing was sent."""
    file, before = job_file(at, tmp_path, 4, limits={"concurrency": 4}), at.ledger()["count"]
    with listening(tmp_path, TOKEN) as address:
        with pytest.raises(InputError, match="refuses this worker: the token is missing"):
            crun_batch.run(file, shard="1/2", coordinator=address, environ=ENVIRON, handle_signals=False)
        environ = {**ENVIRON, TOKEN_NAME: TOKEN}
        other = crun_batch.run(file, shard="1/2", coordinator=address, environ=environ, handle_signals=False)
    assert 2 == other.exit_code and "differ in model" in str(other.stop_reason)
    assert before == at.ledger()["count"]
