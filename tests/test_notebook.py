"""Python at work: the bar of `progress=True`, and a notebook that has no ipywidgets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from run_kit import ENVIRON, job, run, simulator, texts

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
