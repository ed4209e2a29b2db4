"""Python at work: the bar of `progress=True`, and a notebook that has no ipywidgets."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from run_kit import ENVIRON, job, run, simulator, texts, wait_until

import crun_batch
from crun_batch.console.progress import Progress
from crun_batch.reporting.progress_bar import LINE_EVERY_SECONDS, ProgressBar

IN_A_NOTEBOOK = """
import sys, types
shell = types.SimpleNamespace(config={"IPKernelApp": {}}, kernel=None)
sys.modules["IPython"] = notebook = types.ModuleType("IPython")
notebook.get_ipython = lambda: shell
notebook.version_info = (9, 0, 0)
sys.modules["ipywidgets"] = None
"""
"""What DuckDB and tqdm take for a notebook without ipywidgets, in a process whose program is no file."""


KEYS = {"SIM_KEY": "ak_sim_MARKED_0123456789", "TEAM": "blue-MARKED-team"}


class BreakingWire:
    """Breaks with the request in its hands."""

    async def post(self, url, headers, body, deadline_seconds):
        raise RuntimeError("broke")

    async def close(self):
        """Nothing is open."""


def test_nothing_that_a_notebook_shows_holds_a_key(monkeypatch, tmp_path):
    """The repr of whatever a cell may end with, and a traceback with every local variable, as IPython's Verbose.

    The keys are where they are at work: in the environment of the process.
    """
    for name in KEYS:
        monkeypatch.setenv(name, KEYS[name])
    with simulator() as at:
        made = job(at, tmp_path, endpoint={"headers": {"X-Team": "${TEAM}"}})
        done = crun_batch.run(made, table=texts(2), handle_signals=False)
        again = job(at, tmp_path / "other", endpoint={"headers": {"X-Team": "${TEAM}"}})
        try:
            crun_batch.run(again, table=texts(2), handle_signals=False, wire=lambda _: BreakingWire())
        except RuntimeError as error:
            trace = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        estimate = crun_batch.estimate(again, table=texts(2))
    shown = [done, made, crun_batch.RunOptions(), crun_batch.RunOptions(environ=KEYS), estimate, done.summary]
    pages = [done._repr_html_(), trace, *map(repr, shown), *map(str, shown)]
    assert "broke" in trace and "Environ(" in trace
    lines = [line for page in pages for line in page.splitlines()]
    assert [] == [line[:500] for line in lines if "MARKED" in line]


def test_a_cell_that_ends_with_a_report_says_it_in_words(tmp_path):
    """And not in all its figures, by the names of their fields."""
    with simulator() as at:
        done = run(job(at, tmp_path), texts(2))
    report = crun_batch.report(done)
    assert f"<Report {str(report.path)!r}>\n{report.text(100)}" == repr(report)
    assert "ReportData(" not in repr(report)


def test_what_a_summary_says_is_text_in_a_notebook(tmp_path):
    """Of a run directory from somebody else: shown, not run."""
    with simulator() as at:
        done = crun_batch.run(job(at, tmp_path), table=texts(1), environ=ENVIRON, handle_signals=False)
    hostile = "<script>alert(1)</script>"
    page = crun_batch.Run(done.directory, {**done.summary, "name": hostile, "stop_reason": hostile})._repr_html_()
    assert "<script" not in page and "&lt;script" in page


def in_a_notebook(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::UserWarning", "-c", IN_A_NOTEBOOK + program]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_progress_is_shown_by_run_and_arun_beside_whoever_watches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, to the last row; nothing without it."""
    seen: list[Progress] = []
    with simulator() as at:
        run(job(at, tmp_path / "silent"), texts(3))
        assert "rows" not in capsys.readouterr().err
        run(job(at, tmp_path / "one"), texts(3), progress=True, watch=seen.append)
        asked = job(at, tmp_path / "two")
        options = {"environ": ENVIRON, "handle_signals": False}
        assert "3/3" in capsys.readouterr().err
        asyncio.run(crun_batch.arun(asked, table=texts(4), progress=True, **options))
        assert "4/4" in capsys.readouterr().err
    assert 3 == seen[-1].rows_done


def test_map_shows_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    crun_batch.map(texts(5), prompt="{{ text }}", model="gpt-5.4", simulate=True, progress=True)
    assert "5/5" in capsys.readouterr().err


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be drawn over, twenty figures are no twenty lines; the last is there."""
    now = [0.0]
    bar = ProgressBar(clock=lambda: now[0])
    for done in range(1, 21):
        now[0] += LINE_EVERY_SECONDS / 100
        bar.watch(Progress(rows_total=20, rows_done=done))
    bar.close()
    drawn = capsys.readouterr().err
    assert 4 > drawn.count("/20")
    assert "20/20" in drawn


class Unread(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


class Bare:
    """What some programs put in the place of standard error."""

    def write(self, text):
        return len(text)


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [lambda: None, closed, Unread, Bare])
def test_no_run_ends_by_its_bar(monkeypatch: pytest.MonkeyPatch, stream: Callable[[], object]) -> None:
    """Standard error may be absent, closed, unread or something else."""
    monkeypatch.setattr(sys, "stderr", stream())
    bar = ProgressBar()
    for done in range(3):
        bar.watch(Progress(rows_total=3, rows_done=done))
    bar.close()


def test_a_notebook_without_ipywidgets_gets_reports_and_a_bar_of_text(tmp_path: Path) -> None:
    """The report, the table of the summary and SQL need no widgets."""
    with simulator() as at:
        done = run(job(at, tmp_path), texts(3))
    told = in_a_notebook(
        f"import crun_batch; done = crun_batch.open_run({str(done.directory)!r})\n"
        "print(done.report_html().name, '<table>' in done._repr_html_())\n"
        "print(done.sql('select count(*) as n from results').to_pylist())\n"
        "from crun_batch.console.progress import Progress\n"
        "from crun_batch.reporting.progress_bar import ProgressBar\n"
        "bar = ProgressBar(); bar.watch(Progress(rows_total=7, rows_done=7)); bar.close()"
    )
    assert (0, "report.html True\n[{'n': 3}]\n") == (told.returncode, told.stdout), told.stderr
    assert "7/7" in told.stderr and "Warning" not in told.stderr


CELL = """
import asyncio, sys, crun_batch

async def cell():
    done = crun_batch.run("job.json", environ={"SIM_KEY": "ak_sim"})
    print(done.exit_code, done.summary["rows"]["ok"], done.summary["rows"]["open"])

asyncio.new_event_loop().run_until_complete(cell())
"""


@pytest.mark.parametrize("interrupts", [1, 2])
def test_an_interrupt_of_a_cell_ends_its_run_as_ctrl_c_ends_a_command(interrupts: int, tmp_path: Path) -> None:
    """Once: what is in flight is waited for, and recorded. Twice: it ends now."""
    with simulator(latency_seconds=1.0) as at:
        asked = job(at, tmp_path, limits={"concurrency": 2}, input={"table": "t.csv", "id": "id"})
        (tmp_path / "job.json").write_text(json.dumps(asked.model_dump(mode="json", exclude_defaults=True)))
        texts(40).write_csv(tmp_path / "t.csv")
        process = subprocess.Popen(
            [sys.executable, "-c", CELL], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: at.ledger()["count"] >= 2)
        for _ in range(interrupts):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        told, complaints = process.communicate(timeout=60)
    exit_code, ok, still_open = map(int, told.split())
    assert (130, 40) == (exit_code, ok + still_open), complaints
    assert (2 if interrupts == 1 else 0) == ok
    assert "Traceback" not in complaints


def test_an_interrupt_of_a_cell_before_anything_is_sent_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    cell = CELL.replace("asyncio, sys, crun_batch", "asyncio, os, signal, sys, crun_batch")
    slow = """
from crun_batch import pipeline
async def run_job(*_):
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(60)
pipeline.run_job = run_job
"""
    cell = cell.replace("async def cell", f"{slow}\nasync def cell")
    done = subprocess.run(
        [sys.executable, "-c", cell], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr.rstrip().endswith("KeyboardInterrupt") and done.returncode != 0, done.stderr
