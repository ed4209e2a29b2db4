"""What the commands print at the widths that terminals have: goldens, which UPDATE_GOLDENS=1 writes anew."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crun_batch.cli.output import say
from crun_batch.cli.screen import ERASE_BELOW, Screen
from crun_batch.console.estimates import estimate_text
from crun_batch.console.listings import check_text, models_text, rows_text, status_text
from crun_batch.console.progress import Progress
from crun_batch.console.tables import table
from crun_batch.console.words import display_width, folded, mistakes_text, summary_text
from crun_batch.errors import Mistake
from crun_batch.reporting.progress_bar import ProgressBar

GOLDEN = Path(__file__).parent / "golden" / "terminal"
DOCUMENTS: dict[str, Any] = json.loads((GOLDEN / "documents.json").read_text(encoding="utf-8"))
WIDTHS = (60, 80, 120, 200)
TEXTS: dict[str, Callable[[Any, int], str]] = {
    "estimate": estimate_text,
    "check": check_text,
    "models": models_text,
    "sql": lambda rows, width: rows_text(list(rows[0]), rows, width),
    "status": lambda status, width: status_text(status, "runs/three-models", width),
    "summary-of-a-pilot": summary_text,
    "mistakes": lambda found, width: folded(mistakes_text([Mistake(**each) for each in found]), width),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TEXTS)
def test_what_is_printed_is_the_golden(name: str, width: int) -> None:
    """Words and tables change only where somebody has looked at them."""
    text = TEXTS[name](DOCUMENTS[name], width) + "\n"
    golden = GOLDEN / f"{name}-{width}.txt"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(text, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_figures_to_be_confirmed_are_whole_at_every_width(width: int) -> None:
    """No digit of an estimate is cut, and no line of its table is wider than the terminal."""
    from crun_batch.console.amounts import count
    from crun_batch.console.estimates import _ends

    text = estimate_text(DOCUMENTS["estimate"], width)
    assert width >= max(map(display_width, text.split("\n")))
    for variant in DOCUMENTS["estimate"]["variants"]:
        figures = (count(variant["requests"]), count(variant["input_tokens"]), *_ends(variant["cost_credits"]))
        assert [] == [figure for figure in figures if figure not in text]


@pytest.mark.parametrize("width", WIDTHS)
def test_columns_without_room_are_told(width: int) -> None:
    """Each column of an answer is a title of the table, or named below it with the way to see it."""
    rows = DOCUMENTS["sql"]
    text = rows_text(list(rows[0]), rows, width)
    titles = text.split("\n")[0].split()
    hidden = [name for name in rows[0] if name not in titles]
    told = " ".join(text.split("\n(")[-1].split())
    assert not hidden or f"{len(hidden)} columns not shown for want of room: {', '.join(hidden)}." in told
    assert not hidden or "--json" in told
    assert rows_text(list(rows[0]), rows).count("not shown") == 0


@pytest.mark.parametrize("width", range(30, 60))
def test_names_that_differ_are_never_shown_alike(width: int) -> None:
    """The variants of a sweep of three axes: which figure is whose can be read in a narrow terminal too."""
    axes = (("gpt-5.4", "gpt-5.4-mini", "模型"), ("0", "0.7"), ("short", "worked"))
    names = ["/".join(one) for one in itertools.product(*axes)]
    text = table(("variant", "rows", "latency, 95 %"), [(name, 1, 0.5) for name in names], width=width)
    assert all(display_width(line) <= width for line in text.splitlines())
    shown = [""]
    for line in re.split(r"(?m)^-+ .*\n", text)[-1].splitlines():
        name, *figures = line.rsplit(None, 2) if line.endswith("0.5") else [line]
        shown = [*shown, name] if figures else [*shown[:-1], shown[-1] + name]
    assert len(names) == len({*shown} - {""})


def test_the_pilot_is_told_where_it_was_made_and_not_again() -> None:
    """A later session's summary keeps what the pilot told, and does not print its times as if they held."""
    summary = DOCUMENTS["summary-of-a-pilot"]
    assert "random rows of" in summary_text(summary)
    assert "random rows of" not in summary_text({**summary, "is_pilot": False})


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_sentence_is_folded_where_its_terminal_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Excerpts and diffs keep their lines, a command its words; where there is no terminal nothing is folded."""
    sentence = "SIGTERM: ended; what was recorded stays; resume with: crun-batch run 'a b.yaml' --set x=1 --yes"
    kept = "+++ job now\n@@ -19 +19 @@\n- a line of a job file that is longer than that\n  LINE 1: selec foo"
    said = f"  2. two words\n{sentence}\n{kept}"
    folds = (
        "  2. two words\nSIGTERM: ended; what was recorded\n  stays; resume with:\n"
        f"  crun-batch run 'a b.yaml' --set x=1 --yes\n{kept}"
    )
    assert (said, folds) == (folded(said, None), folded(said, 40))

    monkeypatch.setattr("shutil.get_terminal_size", lambda **_: os.terminal_size((40, 20)))
    for is_terminal, told in ((True, folds), (False, said)):
        terminal = Terminal()
        monkeypatch.setattr(terminal, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        say(said)
        assert told + "\n" == terminal.getvalue()


def test_the_questions_to_judges_have_a_bar_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal and under `progress=True`: 6 rows stay 6 rows, and 12 questions are no 12 rows."""
    for shown in (Screen, ProgressBar):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        bar = shown()
        bar.watch(Progress(6, 6))
        bar.watch(Progress(12, 3, is_judging=True))
        bar.close()
        assert "6/6" in terminal.getvalue() and "rows/s" in terminal.getvalue()
        assert "3/12" in terminal.getvalue() and "questions/s" in terminal.getvalue()


@pytest.mark.parametrize("shown", [Screen, ProgressBar])
@pytest.mark.parametrize("jump_seconds", [-86_400.0, 86_400.0])
def test_a_bar_counts_the_time_that_passed_whatever_is_set(
    shown: type[Screen | ProgressBar], jump_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day's clock is set by a day meanwhile: 3 rows in 3 s are one in a second, and 7 s are left."""
    terminal, passed, day = Terminal(), [100.0], [1.8e9]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.time", lambda: day[0])
    bar = shown(clock=lambda: passed[0])
    bar.watch(Progress(10, 0))
    passed[0] += 3.0
    day[0] += jump_seconds
    bar.watch(Progress(10, 3))
    bar.close()
    assert "3/10 [00:03<00:07,  1.00 rows/s" in terminal.getvalue()


def test_a_terminal_that_becomes_narrower_is_wiped_below_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the old lines were folded into is erased once, nothing is padded to the old length, the cursor always
    waits at the beginning of the bars, where a terminal that folds keeps it."""
    terminal, columns = Terminal(), [120]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("shutil.get_terminal_size", lambda **_: os.terminal_size((columns[0], 20)))
    screen = Screen()
    screen.watch(Progress(100, 1, waiting_reason="a long reason to wait " * 3))
    assert terminal.getvalue().endswith("\r") and ERASE_BELOW not in terminal.getvalue()
    columns[0] = 60
    for done in (2, 3):
        screen.watch(Progress(100, done))
    frames = terminal.getvalue().split(ERASE_BELOW)
    assert 2 == len(frames)
    assert frames[1].endswith("\r")
    assert "  \x1b[A" not in frames[1]
    screen.close()
