"""`runs` and `status --follow`: what is below a folder, and one run watched until its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import run_kit
from test_start_up import HEAVY

import crun_batch
from crun_batch.cli import commands as cli
from crun_batch.console.runs_words import followed_block, followed_line, runs_text
from crun_batch.console.words import display_width
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.state.following import WatchPace, follow_run

GOLDEN = Path(__file__).parent / "golden" / "terminal"


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator() as process:
        yield process


@pytest.fixture
def done(gateway: SimulatorProcess, tmp_path: Path) -> crun_batch.Run:
    return run_kit.run(run_kit.job(gateway, tmp_path / "a"), run_kit.texts(5))


def by_place(folder: Path) -> dict[str, dict[str, Any]]:
    return {str(Path(run["directory"]).relative_to(folder)): run for run in crun_batch.runs(folder)}


def test_every_run_below_a_folder_is_listed_with_its_figures(done: crun_batch.Run, tmp_path: Path) -> None:
    """Nested too; figures are those of the summary."""
    shutil.copytree(done.directory, tmp_path / "b" / "c" / "deep")
    found = by_place(tmp_path)
    assert {"a/run", "b/c/deep"} == set(found)
    run = found["a/run"]
    assert ("law", "finished", 0, 5, 5, 0) == tuple(
        run[key] for key in ("name", "status", "exit_code", "rows_total", "rows_done", "rows_failed")
    )
    assert (done.summary["cost_credits"], None, None) == (run["cost_credits"], run["cost_usd"], run["problem"])
    assert abs((datetime.now(UTC) - run["last_active"]).total_seconds()) < 600


class LookingWire(run_kit.RecordingWire):
    """Remembers what summary.json says as each request goes."""

    def __init__(self, summary: Path) -> None:
        super().__init__()
        self._summary, self.said = summary, []

    async def post(self, url: str, headers: Any, body: bytes, deadline_seconds: float) -> Any:
        self.said.append(json.loads(self._summary.read_bytes())["status"])
        return await super().post(url, headers, body, deadline_seconds)


def test_a_session_is_said_to_run_before_its_first_request_goes(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """A kill at that moment finds it said: what was in flight is told, and not the end of an earlier session."""
    job = run_kit.job(gateway, tmp_path)
    for rows in (2, 4):
        wire = LookingWire(tmp_path / "run" / "summary.json")
        run_kit.run(job, run_kit.texts(rows), wire=wire)
        assert ["running"] * 2 == wire.said


def _cut(place: Path) -> None:
    (place / "summary.json").write_bytes(b'{"name": "x"')


def _without_summary(place: Path) -> None:
    (place / "summary.json").unlink()


def _foreign(place: Path) -> None:
    shutil.rmtree(place)
    place.mkdir()
    (place / "job.json").write_text("[1, 2]")


def _link_as_lock(place: Path) -> None:
    (place / ".lock").unlink(missing_ok=True)
    (place / ".lock").symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (_cut, "damaged"),
        (_without_summary, "ended before it sent"),
        (_foreign, "no journal"),
        (_link_as_lock, "damaged"),
    ],
)
def test_what_is_damaged_or_foreign_is_named_and_hides_no_other(
    done: crun_batch.Run, tmp_path: Path, harm: Any, word: str
) -> None:
    """The list goes on; the directory says what is wrong with it."""
    shutil.copytree(done.directory, tmp_path / "odd")
    harm(tmp_path / "odd")
    found = by_place(tmp_path)
    assert word in found["odd"]["problem"]
    assert None is found["a/run"]["problem"]
    assert f"odd: {found['odd']['problem']}" in runs_text(list(found.values()), str(tmp_path), datetime.now(UTC))


def test_a_list_loads_no_table_library(done: crun_batch.Run, tmp_path: Path) -> None:
    """It is read from summaries alone."""
    script = (
        "import sys, crun_batch\n"
        f"found = crun_batch.runs({str(tmp_path)!r})\n"
        f"print(len(found), sorted({set(HEAVY)!r} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "1 []\n" == said


def test_links_are_not_followed_and_hidden_folders_not_entered(done: crun_batch.Run, tmp_path: Path) -> None:
    """A link to a folder above would be walked without end."""
    (tmp_path / "loop").symlink_to(tmp_path)
    shutil.copytree(done.directory, tmp_path / ".hidden" / "run")
    assert {"a/run"} == set(by_place(tmp_path))
    with pytest.raises(crun_batch.InputError, match="no such folder"):
        crun_batch.runs(tmp_path / "nowhere")


RUNS = [
    {
        "directory": f"runs/{name}",
        "name": name if index else "another name \x1b[31m",
        "status": status,
        "exit_code": None,
        "rows_total": 1_000_000 * (index + 1),
        "rows_done": 999_999 * index,
        "rows_failed": 1_234 * index,
        "cost_usd": None if index == 1 else "1234.5678",
        "cost_credits": "12.5",
        "last_active": datetime(2026, 1, 2, 3, 4, 5 * index, tzinfo=UTC),
        "holder": None,
        "problem": None,
    }
    for index, (name, status) in enumerate(
        [("label-reviews-with-a-long-name", "running"), ("b", "interrupted"), ("d", "killed")]
    )
] + [
    {**dict.fromkeys(("name", "status", "last_active")), "directory": "runs/x\x1b[2J", "problem": "damaged: \x07"}
]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_list_is_the_golden(width: int) -> None:
    """No line is wider than the terminal, no control character reaches it."""
    text = runs_text(RUNS, "runs", datetime(2026, 1, 2, 5, 4, 5, tzinfo=UTC), width) + "\n"
    golden = GOLDEN / f"runs-{width}.txt"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(text, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == text
    assert [] == [line for line in text.splitlines() if display_width(line) > width or not line.isprintable()]


def test_a_followed_run_is_told_at_each_change_and_at_its_end(
    done: crun_batch.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told twice changed in between; the last one has ended."""
    ended = crun_batch.status(done)
    running = {**ended, "status": "running", "holder": "process 1", "exit_code": None}
    told = iter([running, {**running, "seconds": 2.0}, {**running, "in_flight": 3}, ended])
    monkeypatch.setattr("crun_batch.state.following.status_at", lambda path, simulate: next(told))
    pauses: list[float] = []
    pace = WatchPace(monotonic=lambda: 0.0, sleep=pauses.append)
    found = list(follow_run(done.directory, pace))
    assert [running, {**running, "in_flight": 3}, ended] == found
    assert [1.0, 1.0, 1.0] == pauses


def test_looking_takes_a_tenth_of_the_time_at_most(done: crun_batch.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that takes 2 s to read is read every 20 s."""
    ended = crun_batch.status(done)
    told = iter([{**ended, "status": "running"}, ended])
    monkeypatch.setattr("crun_batch.state.following.status_at", lambda path, simulate: next(told))
    moments, pauses = iter([0.0, 2.0, 22.0, 24.0]), []
    list(follow_run(done.directory, WatchPace(monotonic=lambda: next(moments), sleep=pauses.append)))
    assert [20.0] == pauses


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_followed_block_fits_its_terminal(done: crun_batch.Run, width: int) -> None:
    """Else what is drawn over it would miss a line."""
    status = {**crun_batch.status(done), "name": "x\x1b[2J" * 40, "holder": "process 1", "in_flight": 4}
    block = followed_block(status, width, 8)
    assert 7 >= len(block.splitlines())
    assert [] == [line for line in block.splitlines() if display_width(line) >= width or not line.isprintable()]
    assert followed_line(status).isprintable()


def _started(gateway: SimulatorProcess, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A run of 400 rows in a process of its own, once it has begun."""
    job = run_kit.job(gateway, folder, limits={"concurrency": 2})
    keys = json.dumps(job.public_dict())
    (folder / "run.py").write_text(
        "import json, polars, crun_batch\n"
        f"job = crun_batch.Job(**json.loads({keys!r}))\n"
        "table = polars.DataFrame({'id': [f'r{i}' for i in range(400)], 'text': ['x'] * 400})\n"
        "crun_batch.run(job, table=table)\n"
    )
    environ = {**os.environ, **run_kit.ENVIRON}
    process = subprocess.Popen([sys.executable, str(folder / "run.py")], env=environ, stderr=subprocess.DEVNULL)
    directory = folder / "run"
    until = time.monotonic() + 120
    while not (directory / "summary.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return process, directory


def test_a_run_that_is_killed_while_it_is_followed_says_so(tmp_path: Path) -> None:
    """From another process: lines while it runs, then that it was killed; the command ends by itself."""
    with run_kit.simulator(latency_seconds=0.3) as slow:
        process, directory = _started(slow, tmp_path)
        try:
            seen = crun_batch.follow(directory, every_seconds=0.05)
            first = next(seen)
            assert ("running", True) == (first["status"], bool(first["holder"]))
            [listed] = crun_batch.runs(tmp_path)
            assert "running" == listed["status"]
        finally:
            process.kill()
            process.wait()
        *_, last = seen
        assert ("killed", None) == (last["status"], last["holder"])
        assert ["killed"] == [run["status"] for run in crun_batch.runs(tmp_path)]


def test_ctrl_c_ends_the_watcher_and_not_the_run(tmp_path: Path) -> None:
    """The watcher has exit code 130, and says that the run is left alone."""
    with run_kit.simulator(latency_seconds=0.3) as slow:
        process, directory = _started(slow, tmp_path)
        command = [sys.executable, "-m", "crun_batch", "status", "--follow", str(directory)]
        watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert watcher.stdout is not None
            assert "still running" in watcher.stdout.readline()
            watcher.send_signal(signal.SIGINT)
            _, said = watcher.communicate(timeout=60)
            assert (130, True, None) == (watcher.returncode, "the run is left alone" in said, process.poll())
        finally:
            process.kill()
            process.wait()
            watcher.kill()
            watcher.wait()


def test_the_commands_tell_the_same(
    done: crun_batch.Run, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """`runs --json` is one document, `status --follow --json` one per line."""
    assert 0 == cli.main(["runs", str(tmp_path), "--json"])
    [listed] = json.loads(capfdbinary.readouterr().out)
    assert "finished" == listed["status"]
    assert 0 == cli.main(["status", "--follow", str(done.directory), "--json"])
    [line] = capfdbinary.readouterr().out.splitlines()
    assert crun_batch.status(done) == json.loads(line)
