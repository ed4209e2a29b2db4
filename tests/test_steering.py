"""`set`, `pause`, `resume`, `stop`, `--until`: real runs, steered by other processes, and the gateway's ledger."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import run_kit
from run_kit import wait_until

import crun_batch
from crun_batch.cli.options import resume_command
from crun_batch.console.steering_words import answer_text, steering_lines
from crun_batch.errors import InputError, NotRunning, RunDirectoryError
from crun_batch.gateway.steering import Lease
from crun_batch.load.deadline import deadline_of
from crun_batch.options import options_of
from crun_batch.session.listener import Listener
from crun_batch.session.orders import set_values
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.state import steered
from crun_batch.store import control
from crun_batch.store.directory import read_json

JOB = """
name: steered
input: {table: rows.csv, id: id}
endpoint: {base_url: "BASE_URL", api_key_env: SIM_KEY}
model: gpt-5.4
prompt: {user: "{{ text }}"}
params: {max_output_tokens: 20}
limits: {concurrency: 4, adaptive: false}
prices:
  models:
    gpt-5.4: {currency: credits, input_per_mtok: 500, output_per_mtok: 3000, minimum_per_request: 0.01}
output: {dir: run}
"""
ANSWER_SECONDS = 0.2
WAIT_SECONDS = 60.0


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    answers = {"output_tokens_median": 5, "output_tokens_sigma": 0}
    with run_kit.simulator(latency_seconds=ANSWER_SECONDS, **answers) as process:
        yield process


@pytest.fixture
def folder(tmp_path: Path, gateway: SimulatorProcess) -> Path:
    return written(tmp_path, gateway)


def written(folder: Path, gateway: SimulatorProcess, rows: int = 4000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text("id,text\n" + "".join(f"{n},question {n}\n" for n in range(rows)))
    (folder / "job.yaml").write_text(JOB.replace("BASE_URL", gateway.base_url))
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of another terminal."""
    return subprocess.run(
        [sys.executable, "-m", "crun_batch", *arguments],
        cwd=folder,
        env={**os.environ, **run_kit.ENVIRON},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )


@contextmanager
def running(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A run of the folder's job in a process of its own, once it has sent something; ended in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "crun_batch", "run", "job.yaml", "--yes", *options],
        cwd=folder,
        env={**os.environ, **run_kit.ENVIRON},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: listens(folder / "run") or process.poll() is not None)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def listens(run: Path) -> bool:
    try:
        control.connected(run, WAIT_SECONDS).close()
    except (OSError, RunDirectoryError):
        return False
    return True


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, out, err


def sent(at: SimulatorProcess) -> int:
    return int(at.ledger()["count"])


def quiet(at: SimulatorProcess) -> int:
    """What was charged once nothing of an earlier run is there any more."""
    wait_until(lambda: in_flight(at) == 0)
    return sent(at)


def spent(folder: Path) -> Decimal:
    try:
        return Decimal(crun_batch.status(folder / "run")["cost_credits"] or 0)
    except InputError:  # nothing has been sent yet
        return Decimal(0)


def in_flight(at: SimulatorProcess) -> int:
    return int(at.stats()["in_flight"])


# --- limits and caps -------------------------------------------------------------------------------------------


def test_a_limit_that_is_set_holds_at_once_and_is_confirmed_recorded_and_shown(
    folder: Path, gateway: SimulatorProcess
) -> None:
    """More in flight, then fewer: as the gateway sees it. Old and new in the answer, time and user in job.json."""
    with running(folder) as process:
        wait_until(lambda: in_flight(gateway) == 4)
        told = command(folder, "set", "run", "limits.concurrency=12")
        assert (0, "limits.concurrency: 4 -> 12\n") == (told.returncode, told.stdout), told.stderr
        wait_until(lambda: in_flight(gateway) == 12)
        answer = crun_batch.set(folder / "run", {"limits.concurrency": 2})
        assert [{"key": "limits.concurrency", "old": 12, "new": 2}] == answer["changes"]
        wait_until(lambda: in_flight(gateway) <= 2)
        time.sleep(1.0)
        assert in_flight(gateway) <= 2

        log = read_json(folder / "run" / "job.json")["steering"]["log"]
        assert [("set", 12), ("set", 2)] == [(one["do"], one["changes"][0]["new"]) for one in log]
        assert {os.geteuid()} == {one["by"]["user_id"] for one in log} and os.getpid() == log[1]["by"][
            "process_id"
        ]
        assert abs(datetime.now(UTC) - datetime.fromisoformat(log[1]["at"])) < timedelta(minutes=1)
        told = crun_batch.status(folder / "run")["steering"]["values"]["limits.concurrency"]
        assert (2, 4) == (told["value"], told["was"])
        shown = command(folder, "status", "run").stdout
        assert re.search(r"  set      limits\.concurrency=2 \(was 4\) since .* UTC by \w+", shown), shown
        process.send_signal(signal.SIGINT)
        assert 130 == ended(process)[0]


def test_a_rate_that_is_set_holds_from_the_next_request_on(folder: Path, gateway: SimulatorProcess) -> None:
    """240 a minute are four a second, whatever went before; null takes the limit away."""
    with running(folder, "--set", "limits.concurrency=8"):
        wait_until(lambda: in_flight(gateway) == 8)
        crun_batch.set(folder / "run", {"limits.requests_per_minute": 240})
        time.sleep(1.0)
        before, began = sent(gateway), time.monotonic()
        wait_until(lambda: sent(gateway) >= before + 8)
        assert sent(gateway) - before <= 4 * (time.monotonic() - began) + 2
        told = command(
            folder, "set", "run", "limits.requests_per_minute=null", "limits.tokens_per_minute=100000000"
        )
        assert (
            0,
            "limits.requests_per_minute: 240 -> none\nlimits.tokens_per_minute: none -> 100000000\n",
        ) == (told.returncode, told.stdout)
        before = sent(gateway)
        wait_until(lambda: sent(gateway) > before + 40)


def test_a_cap_that_is_raised_lets_a_run_go_on_and_a_lower_one_ends_it(
    folder: Path, gateway: SimulatorProcess
) -> None:
    """The cap at the end is the one that was set last, and the gateway was not paid more."""
    quiet(gateway)
    before = run_kit.charged_credits(gateway)
    with running(folder, "--max-cost-credits", "100000") as process:
        wait_until(lambda: run_kit.charged_credits(gateway) > before)
        crun_batch.set(folder / "run", {"limits.concurrency": 16})
        cap = Decimal(ceil(Decimal(crun_batch.status(folder / "run")["bill_credits"]["high"]))) + 5
        crun_batch.set(folder / "run", {"budget.max_cost_credits": str(cap)})
        code, out, err = ended(process)
    assert 4 == code, err
    assert f"of the {cap.normalize():,f} credits in budget.max_cost_credits" in out
    assert cap - 1 < run_kit.charged_credits(gateway) - before <= cap
    again = command(folder, "run", "job.yaml", "--yes", "--limit", "1")
    assert f"budget.max_cost_credits was set to {cap.normalize():f} while the last session ran" in again.stderr
    assert "--set budget.max_cost_credits=" in again.stderr


WRONG = [
    ({"limits.concurency": 8}, "did you mean limits.concurrency?"),
    ({"model": "gpt-6"}, "it cannot change while the run goes on; what can: limits.concurrency"),
    ({"limits.max_attempts": 8}, "it cannot change while the run goes on"),
    ({"limits.concurrency": 0}, "limits.concurrency"),
    ({"limits.concurrency": "many"}, "limits.concurrency"),
    ({"limits.concurrency": 10**9}, "open files"),
    ({"limits.requests_per_minute": -5}, "limits.requests_per_minute"),
    ({"budget.max_cost_credits": "0.000001"}, "is less than what is gone"),
    ({"budget.max_cost_usd": "5"}, "what a request costs in usd is not known"),
    ({}, "name what is to change"),
]


def test_what_is_wrong_is_refused_in_the_whole_and_changes_nothing(
    folder: Path, gateway: SimulatorProcess
) -> None:
    """An unknown key, a wrong value, a cap below what is spent: each with its key, none with half of it done."""
    with running(folder) as process:
        wait_until(lambda: spent(folder) > 0)
        for values, words in WRONG:
            with pytest.raises(InputError, match=re.escape(words)):
                crun_batch.set(folder / "run", {**values, **({"limits.tokens_per_minute": 5} if values else {})})
        told = command(folder, "set", "run", "limits.concurrency=0")
        assert 2 == told.returncode and "limits.concurrency" in told.stderr
        assert 2 == command(folder, "set", "run", "limits.concurrency").returncode
        assert [] == read_json(folder / "run" / "job.json")["steering"]["log"]
        assert {} == crun_batch.status(folder / "run")["steering"]["values"]
        assert process.poll() is None


def test_an_endpoint_keeps_the_limits_of_its_own_and_the_job_says_the_rest(
    gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """A rate that no endpoint takes from the job is refused; places in flight are the job's, whatever they say."""
    found: dict[str, Any] = {}

    async def steer(session: Any) -> None:
        session.lease(Lease(asyncio.get_running_loop().time() + 600, 8))
        while not session._named:  # noqa: ASYNC110 - until the session has made its lanes
            await asyncio.sleep(0.01)
        with pytest.raises(InputError, match="every endpoint of the job has its own"):
            set_values(session, {"values": {"limits.requests_per_minute": 5}}, "ada")
        values = {"limits.concurrency": 6, "limits.tokens_per_minute": 10**9}
        found["changes"] = set_values(session, {"values": values}, "ada")
        found["terms"] = [session._terms(own) for _, own in session._named.values()]

    own = {"requests_per_minute": 6000, "concurrency": 2}
    endpoints = [
        {"name": name, "base_url": gateway.base_url, "api_key_env": f"KEY_{name}", "limits": {**own, **more}}
        for name, more in (("a", {}), ("b", {"tokens_per_minute": 10**6}))
    ]
    keys = {"KEY_a": "ak_sim_first", "KEY_b": "ak_sim_second"}
    tree = {**run_kit.job(gateway, tmp_path).public_dict(), "endpoint": endpoints}
    job = crun_batch.Job(**tree)
    done = crun_batch.run(job, table=run_kit.texts(6), environ=keys, handle_signals=False, steer=steer)
    assert 6 == done.summary["rows"]["total"] - done.summary["rows"]["open"]
    assert [(64, 6), (None, 10**9)] == [(one["old"], one["new"]) for one in found["changes"]]
    assert [(2, 6000.0, 10**9), (2, 6000.0, 10**6)] == [
        (one.ceiling, one.requests_per_minute, one.tokens_per_minute) for one in found["terms"]
    ]


# --- pause, resume, stop ---------------------------------------------------------------------------------------


def test_a_pause_lets_what_is_in_flight_come_back_and_nothing_go_until_it_is_over(
    folder: Path, gateway: SimulatorProcess
) -> None:
    with running(folder) as process:
        wait_until(lambda: in_flight(gateway) == 4)
        told = command(folder, "pause", "run")
        assert 0 == told.returncode
        assert re.fullmatch(
            r"paused; \d requests? in flight, waited for 10 min at most; to go on: crun-batch resume run\n",
            told.stdout,
        ), told.stdout
        wait_until(lambda: in_flight(gateway) == 0)
        count = sent(gateway)
        time.sleep(1.5)
        assert count == sent(gateway)
        assert re.search(r"  paused   since .* UTC by ", command(folder, "status", "run").stdout)
        assert [{"key": "pause", "old": True, "new": True}] == crun_batch.pause(folder / "run")["changes"]
        assert "goes on\n" == command(folder, "resume", "run").stdout
        wait_until(lambda: sent(gateway) > count + 8)
        assert "it was not paused\n" == command(folder, "resume", "run").stdout
        assert crun_batch.status(folder / "run")["steering"]["paused"] is None
        process.send_signal(signal.SIGINT)
        assert 130 == ended(process)[0]


def test_a_paused_run_can_be_ended_and_says_afterwards_that_the_pause_is_over(
    folder: Path, gateway: SimulatorProcess
) -> None:
    with running(folder) as process:
        crun_batch.pause(folder / "run")
        process.send_signal(signal.SIGTERM)
        assert 143 == ended(process)[0]
    assert (
        "the last session was paused when it ended"
        in command(folder, "run", "job.yaml", "--yes", "--limit", "1").stderr
    )


def test_who_ends_a_session_is_answered_though_nothing_is_in_flight(tmp_path: Path) -> None:
    """The session ends at once, and with it the listener, while what it was told is still being written down."""

    class EndsAtOnce(Listener):
        async def answer(self, peer: control.Peer, question: object) -> dict[str, Any]:
            listening.cancel()
            await asyncio.sleep(0.01)
            return {"do": "stop"}

    async def asked() -> bytes:
        nonlocal listening
        with socket.socket(socket.AF_UNIX) as place, socket.socket(socket.AF_UNIX) as mine:
            place.bind(str(tmp_path / "s"))
            place.listen()
            for one in (place, mine):
                one.setblocking(False)
            listening = asyncio.create_task(EndsAtOnce(None, None, None).listen(place))  # type: ignore[arg-type]
            loop = asyncio.get_running_loop()
            await loop.sock_connect(mine, str(tmp_path / "s"))
            await loop.sock_sendall(mine, b'{"do": "stop"}\n')
            with pytest.raises(asyncio.CancelledError):
                await listening
            return await loop.sock_recv(mine, 100)

    listening: asyncio.Task[None]
    assert b'{"do":"stop"}\n' == asyncio.run(asked())


def test_stop_ends_a_run_in_an_orderly_way_and_it_can_go_on(folder: Path, gateway: SimulatorProcess) -> None:
    """Everything that was paid is there: rows with a result are the gateway's charges, one each."""
    before = quiet(gateway)
    with running(folder) as process:
        wait_until(lambda: sent(gateway) > before + 10)
        told = command(folder, "stop", "run")
        assert 0 == told.returncode and told.stdout.startswith("stops; ")
        code, out, _ = ended(process)
    assert 143 == code
    assert re.search(r"interrupted: stopped by \w+ \(exit code 143\)", out), out
    assert "resume   " in out and "--yes" in out
    done = crun_batch.open_run(folder / "run")
    assert sent(gateway) - before == done.summary["rows"]["ok"] == done.summary["attempts"]
    assert not (folder / "run" / control.CONTROL_NAME).exists()
    again = command(folder, "run", "job.yaml", "--yes", "--limit", str(done.summary["rows"]["ok"] + 5))
    assert 0 == again.returncode
    assert sent(gateway) - before == done.summary["rows"]["ok"] + 5


def test_where_no_session_runs_it_is_said_with_an_exit_code_of_its_own(
    folder: Path, gateway: SimulatorProcess
) -> None:
    for order in (
        ("set", "run", "limits.concurrency=5"),
        ("pause", "run"),
        ("resume", "run"),
        ("stop", "job.yaml"),
    ):
        assert 2 == command(folder, *order).returncode, "there is no run at all"
    assert 0 == command(folder, "run", "job.yaml", "--yes", "--limit", "3").returncode
    for order in (
        ("set", "run", "limits.concurrency=5"),
        ("pause", "run"),
        ("resume", "run"),
        ("stop", "job.yaml"),
    ):
        told = command(folder, *order)
        assert (
            6 == told.returncode
            and "no session runs there now, it is finished; nothing was changed" in told.stderr
        )
        assert "--set KEY=VALUE" in told.stderr
    document = json.loads(command(folder, "stop", "run", "--json").stdout)
    assert 6 == document["error"]["exit_code"]


def test_a_socket_that_a_kill_has_left_is_no_session_and_in_nobodys_way(
    folder: Path, gateway: SimulatorProcess
) -> None:
    with running(folder) as process:
        wait_until(lambda: in_flight(gateway) > 0)
        process.kill()
        process.wait()
    assert stat.S_ISSOCK((folder / "run" / control.CONTROL_NAME).lstat().st_mode)
    with pytest.raises(NotRunning, match="no session runs there now, it was killed"):
        crun_batch.pause(folder / "run")
    assert "killed" == crun_batch.status(folder / "run")["status"]
    assert control.CONTROL_NAME not in " ".join(
        f"{one.file} {one.what}" for one in crun_batch.verify(folder / "run")
    )
    with running(folder):
        wait_until(lambda: in_flight(gateway) > 0)
        assert [{"key": "pause", "old": False, "new": True}] == crun_batch.pause(folder / "run")["changes"]


def test_a_run_whose_path_is_longer_than_an_address_of_a_socket_is_steered_all_the_same(
    tmp_path: Path, gateway: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the open folder; where there is no such way, by a link."""
    folder = written(tmp_path / ("deep" * 20) / ("deeper" * 20), gateway)
    with running(folder):
        crun_batch.pause(folder / "run")
        monkeypatch.setattr(control, "_DESCRIPTORS", tmp_path / "nowhere")
        assert [{"key": "pause", "old": True, "new": False}] == crun_batch.resume(folder / "run")["changes"]


# --- who may -----------------------------------------------------------------------------------------------------


def test_the_socket_is_its_owners_alone_whatever_the_folder_allows(
    folder: Path, gateway: SimulatorProcess
) -> None:
    with running(folder):
        (folder / "run").chmod(0o777)
        assert 0o600 == stat.S_IMODE((folder / "run" / control.CONTROL_NAME).lstat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_cannot_steer_a_run_whose_folder_he_may_enter(gateway: SimulatorProcess) -> None:
    """Not through the socket's mode, and not past it: the session looks who asks."""
    with tempfile.TemporaryDirectory() as open_to_all, running(folder := written(Path(open_to_all), gateway)):
        for path in (folder, folder / "run"):
            path.chmod(0o777)
        socket_path = folder / "run" / control.CONTROL_NAME
        assert "PermissionError" == asked_as_nobody(socket_path, b'{"do": "stop"}\n')
        socket_path.chmod(0o666)
        assert "only the user who started the run may steer it" in asked_as_nobody(
            socket_path, b'{"do": "stop"}\n'
        )
        assert crun_batch.status(folder / "run")["steering"]["stopped"] is None


def asked_as_nobody(path: Path, line: bytes) -> str:
    """What the session answers to another user, or how he fails."""
    script = (
        "import os, socket, sys\nos.setgid(65534); os.setuid(65534)\ns = socket.socket(socket.AF_UNIX)\n"
        "try:\n    s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode()); print(s.makefile().readline())\n"
        "except OSError as error:\n    print(type(error).__name__)\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script, str(path), line.decode()],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    return asked.stdout.strip() or asked.stderr


def test_a_link_or_a_file_in_the_sockets_place_is_not_followed_and_not_replaced(
    folder: Path, gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """The run goes on without; who would steer it is told so."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    assert 0 == command(folder, "run", "job.yaml", "--yes", "--limit", "1").returncode
    (folder / "run" / control.CONTROL_NAME).symlink_to(elsewhere)
    done = command(folder, "run", "job.yaml", "--yes", "--limit", "2")
    assert 0 == done.returncode and "cannot reach this session" in done.stderr
    assert "mine" == elsewhere.read_text() and (folder / "run" / control.CONTROL_NAME).is_symlink()
    with pytest.raises(RunDirectoryError, match="is a link"):
        crun_batch.stop(folder / "run")


NONSENSE = [
    *(b"", b"\n", b"nonsense\n", b"[1, 2]\n", b'{"do": "format"}\n', b'{"do": 7}\n', b'{"do": "set"}\n'),
    *(b'{"do": "set", "values": 3}\n', b'{"do": "set", "values": {"limits.concurrency": [1]}}\n', b"x" * 200_000),
]


def test_nonsense_and_silence_disturb_nobody_but_who_says_it(folder: Path, gateway: SimulatorProcess) -> None:
    with running(folder) as process:
        address = str(folder / "run" / control.CONTROL_NAME)
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(address)
        for line in NONSENSE:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(WAIT_SECONDS)
                connection.connect(address)
                try:
                    connection.sendall(line)
                    connection.shutdown(socket.SHUT_WR)
                    answer = connection.makefile("rb").readline()
                except OSError:
                    answer = b""
            assert answer == b"" or "error" in json.loads(answer)
        silent.close()
        assert [{"key": "pause", "old": False, "new": True}] == crun_batch.pause(folder / "run")["changes"]
        assert process.poll() is None


def test_a_session_is_told_things_by_many_at_once_and_each_gets_his_answer(
    folder: Path, gateway: SimulatorProcess
) -> None:
    """One after the other: what is old to one is what was new to the one before."""
    with running(folder):
        answers: list[dict[str, Any]] = []

        def tell(number: int) -> None:
            answers.append(crun_batch.set(folder / "run", {"limits.concurrency": number}))

        tellers = [threading.Thread(target=tell, args=(number,)) for number in range(10, 18)]
        for teller in tellers:
            teller.start()
        for teller in tellers:
            teller.join()
        log = [one["changes"][0] for one in read_json(folder / "run" / "job.json")["steering"]["log"]]
        assert 8 == len(answers) == len(log)
        assert [4, *(one["new"] for one in log[:-1])] == [one["old"] for one in log]


# --- what is kept of it ------------------------------------------------------------------------------------------


def test_the_log_of_what_was_told_is_bounded_and_goes_on_from_session_to_session() -> None:
    steering = steered.steering_begun({})
    mark = {"at": "2026-11-28T14:02:00+00:00", "by": {"user": "ada"}}
    for number in range(steered.MOST_KEPT + 10):
        change = {"key": "limits.concurrency", "old": number, "new": number + 1}
        steering = steered.steering_after(steering, {"do": "set", "changes": [change], **mark})
    assert steered.MOST_KEPT == len(steering["log"])
    assert (0, steered.MOST_KEPT + 10) == tuple(
        steering["now"]["values"]["limits.concurrency"][name] for name in ("was", "value")
    )
    begun = steered.steering_begun({"steering": steering})
    assert (steering["log"], {}) == (begun["log"], begun["now"]["values"])


def test_what_was_set_and_is_so_anyway_is_not_told_again() -> None:
    mark = {"at": "2026-11-28T14:02:00+00:00", "by": {"user": "ada"}, "do": "set"}
    changes = [
        {"key": "limits.concurrency", "old": 4, "new": 8},
        {"key": "budget.max_cost_usd", "old": None, "new": "5"},
    ]
    steering = steered.steering_after(steered.steering_begun({}), {**mark, "changes": changes})
    said: list[str] = []
    today = {"limits.concurrency": 8, "budget.max_cost_usd": None}
    steered.tell_what_no_longer_holds({"steering": steering}, today.__getitem__, said.append)
    assert [
        "budget.max_cost_usd was set to 5 while the last session ran (2026-11-28 14:02 UTC by ada); the job says "
        "null, which holds now: to keep it, change the job, or add --set budget.max_cost_usd=5"
    ] == said


# --- until ------------------------------------------------------------------------------------------------------


def test_when_the_time_is_up_nothing_new_is_sent_and_what_is_in_flight_is_kept(
    folder: Path, gateway: SimulatorProcess
) -> None:
    """Exit code and words of an orderly end, and the command to go on."""
    before = quiet(gateway)
    with running(folder, "--max-minutes", "0.12") as process:
        code, out, err = ended(process)
    assert 143 == code
    assert "note      it stops after 0.12 minutes, in " in err
    assert "stops after 0.12 minutes, as asked: no new requests; waiting for " in err
    assert "interrupted: stopped after 0.12 minutes, as asked (exit code 143)" in out
    assert re.search(r"resume   .* run job\.yaml .*--max-minutes 0\.12", out), out
    summary = crun_batch.open_run(folder / "run").summary
    assert 0 < summary["rows"]["ok"] == sent(gateway) - before and 0 == summary["unknown_attempts"]


def test_a_time_that_is_over_before_the_first_request_sends_nothing(
    tmp_path: Path, gateway: SimulatorProcess
) -> None:
    before = sent(gateway)
    soon = datetime.now(UTC) + timedelta(milliseconds=1)
    options = options_of({}, until=soon)
    done = run_kit.run(run_kit.job(gateway, tmp_path), run_kit.texts(5), deadline=options.deadline)
    assert (143, "interrupted", before) == (done.exit_code, done.status, sent(gateway))


NOW = datetime(2026, 11, 28, 20, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "until_", "expected"),
    [
        ("UTC", "06:00", "2026-11-29T06:00:00+00:00"),
        ("UTC", "20:31", "2026-11-28T20:31:00+00:00"),
        ("UTC", "20:30", "2026-11-29T20:30:00+00:00"),
        ("America/New_York", "06:00", "2026-11-29T06:00:00-05:00"),
        ("Asia/Tokyo", "06:00", "2026-11-29T06:00:00+09:00"),
        ("Asia/Tokyo", "2026-11-29 07:15", "2026-11-29T07:15:00+09:00"),
        ("Asia/Tokyo", "2026-11-29T07:15:00Z", "2026-11-29T16:15:00+09:00"),
    ],
)
def test_a_time_of_the_day_is_the_next_one_here(
    zone: str, until_: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        deadline = deadline_of(until_, None, NOW)
        assert deadline is not None and expected == deadline.at.isoformat()
        assert f"at {until_}" == deadline.words
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_day_whose_clock_is_set_has_its_times_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The night in which clocks go back: 06:00 comes after 10 hours from 21:00, not after 9."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        evening = datetime(2026, 10, 24, 19, 0, tzinfo=UTC)
        deadline = deadline_of("06:00", None, evening)
        assert deadline is not None and timedelta(hours=10) == deadline.at - evening
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (datetime(2026, 10, 25, 0, 20, tzinfo=UTC), "2026-10-25T02:30:00+02:00"),
        (datetime(2026, 10, 25, 0, 40, tzinfo=UTC), "2026-10-25T02:30:00+01:00"),
        (datetime(2026, 10, 25, 1, 40, tzinfo=UTC), "2026-10-26T02:30:00+01:00"),
        (datetime(2026, 3, 29, 12, 0, tzinfo=UTC), "2026-03-30T02:30:00+02:00"),
    ],
    ids=["before both", "between", "after both", "on the day that has none"],
)
def test_a_time_that_comes_twice_or_never_in_a_night_is_the_next_one(
    now: datetime, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """02:30 where clocks go back at 03:00, and where they go forward at 02:00."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        deadline = deadline_of("02:30", None, now)
        assert deadline is not None and expected == deadline.at.isoformat()
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_sooner_of_two_ends_counts() -> None:
    found = [deadline_of(until_, minutes, NOW) for until_, minutes in (("21:00", 10), ("20:35", 10))]
    assert ["after 10 minutes", "at 20:35"] == [one and one.words for one in found]
    assert deadline_of(None, None, NOW) is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("25:00", None), "'25:00' is no time; write 06:00"),
        (("tomorrow", None), "'tomorrow' is no time"),
        (("2026-11-28 20:30:00+00:00", None), "is over"),
        ((None, 0), "minutes are a number above 0"),
        ((None, float("nan")), "minutes are a number above 0"),
        ((None, True), "minutes are a number above 0"),
    ],
)
def test_what_is_no_time_is_refused(values: tuple[Any, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        deadline_of(*values, NOW)


# --- words ------------------------------------------------------------------------------------------------------


def answer(do: str, old: object, new: object, key: str = "pause") -> dict[str, Any]:
    change = {"key": key, "old": old, "new": new}
    return {"do": do, "changes": [change], "in_flight": 1, "attempt_timeout_seconds": 90.0}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            answer("pause", False, True),
            "paused; 1 request in flight, waited for 1 min 30 s at most; to go on: crun-batch resume R",
        ),
        (
            answer("pause", True, True),
            "was paused already; 1 request in flight, waited for 1 min 30 s at most; "
            "to go on: crun-batch resume R",
        ),
        (answer("resume", True, False), "goes on"),
        (answer("resume", False, False), "it was not paused"),
        (answer("stop", False, True), "stops; 1 request in flight, waited for 1 min 30 s at most"),
        (answer("stop", True, True), "was stopping already; 1 request in flight, waited for 1 min 30 s at most"),
        (answer("set", None, "5", "budget.max_cost_usd"), "budget.max_cost_usd: none -> 5"),
        (answer("set", 8, 8, "limits.concurrency"), "limits.concurrency: 8 -> 8"),
    ],
)
def test_an_answer_says_what_has_changed_and_what_comes_next(given: dict[str, Any], expected: str) -> None:
    assert expected == answer_text(given, "R")


def test_a_name_that_is_no_plain_text_harms_no_terminal() -> None:
    """Who told a session something is shown without the control characters of his name."""
    mark = {"at": "2026-11-28T14:02:11+00:00", "by": {"user": "a\x1b[2Jda"}}
    status = {"holder": "process 1", "steering": {"paused": mark, "stopped": None, "values": {}}}
    [(name, phrase)] = steering_lines(status)
    assert ("paused", "since 2026-11-28 14:02:11 UTC by a\ufffd[2Jda") == (name, phrase)
    assert [] == steering_lines({**status, "holder": None})


@pytest.mark.parametrize(
    ("stops_in", "eta", "said"),
    [(3600.0, None, True), (3600.0, 7200.0, True), (3600.0, 60.0, False), (None, 1.0, False)],
)
def test_the_progress_says_when_it_stops_where_it_is_not_done_before(
    stops_in: float | None, eta: float | None, said: bool
) -> None:
    progress = crun_batch.Progress(10, 1, stops_in_seconds=stops_in, eta_seconds=eta)
    assert said == ("stops in 1 h" in progress.text())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--until", "06:00"], ["--until", "06:00"]),
        (["--until=06:00"], ["--until=06:00"]),
        (["--until", "2026-11-29 06:00"], []),
        (["--until=2026-11-29T06:00"], []),
        (["--max-minutes", "90"], ["--max-minutes", "90"]),
    ],
)
def test_the_command_to_go_on_stops_at_a_time_that_comes_again(arguments: list[str], expected: list[str]) -> None:
    command_ = shlex.split(resume_command(["crun-batch", "run", "job.yaml", *arguments]))
    assert ["crun-batch", "run", "job.yaml", *expected, "--yes"] == command_
