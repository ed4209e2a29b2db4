"""What report, compare, show and the bar look like at the widths that terminals have: goldens of made-up runs."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import test_compare
import test_report
from msgspec import structs
from test_terminal import GOLDEN, WIDTHS, Terminal

from crun_batch.cli.screen import Screen
from crun_batch.console.compare_words import comparison_text
from crun_batch.console.progress import Progress, VariantProgress
from crun_batch.console.row_words import row_text
from crun_batch.console.words import display_width
from crun_batch.reporting.data import Amount, Example, FailureKind, Labels, ReportData, Retried
from crun_batch.reporting.text import report_text
from crun_batch.stats.comparison import Comparison, compare
from crun_batch.stats.intervals import Rate

NAMES = ("gpt-large/0", "gpt-mini-with-a-long-name/0.7", "claude/0")


def _comparison() -> Comparison:
    rng = random.Random(3)
    right = dict(zip(NAMES, (0.8, 0.55, 0.8), strict=True))
    lines = []
    for row in range(60):
        for number, name in enumerate(NAMES):
            fails, score = row % 20 == number, float(rng.random() < right[name])
            changes: dict[str, Any] = {
                "cost_usd": Decimal(number + 1) / 1000,
                "latency_seconds": 1.0 + number + row / 60,
                "input_tokens": 1_000 + row,
            }
            if fails:
                changes |= {"status": "error", "output_text": None, "cost_usd": None}
            lines.append(test_compare.line(row, name, None if fails else score, **changes))
    return compare(test_compare.frame(lines), score="right", label="output_text")


def _report() -> ReportData:
    example = Example("r017", NAMES[1], 0, "HTTP 400: the prompt is too long by 1,234 tokens", "")
    cut = Example("r003", NAMES[0], 1, "", "The kettle boils in two minutes and does not")
    rate = Rate(0.8, 0.7, 0.88, 60)
    variants = [
        test_report.variant_line(
            name,
            rows=60,
            ok=58 - number,
            scores={"right": structs.replace(rate, value=0.8 - number / 10)},
            cost=Amount(Decimal(number + 1) / 7),
            input_tokens=61_234,
            output_tokens=3_210,
        )
        for number, name in enumerate(NAMES)
    ]
    data = test_report.report_of("three-models")
    return structs.replace(
        data,
        name="three-models",
        directory="runs/three-models",
        stop_reason=None,
        units_total=186,
        units_per_row=6,
        seconds=75.0,
        bill=(
            test_report.bill_line(variant=NAMES[0], requests=1_234_567, input_tokens=12_345_678_901),
            test_report.bill_line(
                "unknown", variant=NAMES[1], source=None, cost=Amount(), held=Amount(Decimal("0.0123"))
            ),
        ),
        statuses=(
            test_report.status_line(rows=174, variant=NAMES[0]),
            test_report.status_line("error", 5, variant=NAMES[1]),
            test_report.status_line("truncated", 1, variant=NAMES[0]),
        ),
        failures=(
            FailureKind("error", "too_long", 5, Amount(), (example,)),
            FailureKind("truncated", None, 1, Amount(Decimal("0.002")), (cut,)),
        ),
        retried=(Retried("unknown", "timeout", None, 1, Amount(Decimal("0.0123"))),),
        labels=(
            Labels("output_text", {"positive": dict.fromkeys(NAMES, 40), "": {NAMES[0]: 2}}, 0, False),
            Labels("lang", {"en": dict.fromkeys(NAMES, 50), "日本語": {NAMES[2]: 10}}, 0, False),
        ),
        variants=tuple(variants),
        resume_command="crun-batch run jobs/three-models.yaml --output-dir runs/three-models --yes",
    )


BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _attempt(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "attempt": number,
        "turn": 0,
        "purpose": "answer",
        "judge": None,
        "outcome": "done",
        "http_status": 200,
        "error_kind": None,
        "error_message": None,
        "input_tokens": 1_234,
        "output_tokens": 56,
        "reasoning_tokens": None,
        "cost_usd": Decimal("0.00123"),
        "cost_credits": None,
        "latency_seconds": 1.234,
        "started_at": BEGAN,
        "finish_reason": "stop",
        "messages": None,
        "not_shown": None,
        "answer": None,
        "reason": None,
        **changes,
    }


PROMPT = [
    {"role": "system", "text": "You label product reviews. Answer with one word.", "attachments": []},
    {
        "role": "user",
        "text": "Review: Boils in two minutes.\n\n  - indented, and longer than any of the narrow "
        "terminals is wide\nعربي 日本語日本語日本語日本語日本語日本語日本語日本語 \x1b[31mred",
        "attachments": ["image/png, 28 bytes"],
    },
]
SHOWN: dict[str, Any] = {
    "name": "three-models",
    "id": "r-0000000017",
    "table": None,
    "units": [
        {
            "variant": NAMES[1],
            "repeat": 0,
            "status": "ok",
            "cost_usd": Decimal("0.00246"),
            "cost_credits": None,
            "error_kind": None,
            "error_message": None,
            "output_text": "positive\nand a word too many, which makes this line of the answer a rather long one",
            "outputs": None,
            "tool_calls": None,
            "scores": {"right": 1.0, "tone": None},
            "prompt": None,
            "attempts": [
                _attempt(
                    1,
                    outcome="unknown",
                    http_status=None,
                    error_kind="timeout",
                    error_message="no whole reply within 600 s",
                    input_tokens=None,
                    output_tokens=None,
                    cost_usd=None,
                    latency_seconds=None,
                    finish_reason=None,
                    messages=PROMPT,
                ),
                _attempt(2, messages=PROMPT, answer="positive"),
                _attempt(
                    3, purpose="judge", judge="tone", messages=PROMPT[:1], reason="It is friendly.", answer="{}"
                ),
            ],
        },
        {
            "variant": NAMES[2],
            "repeat": 1,
            "status": "error",
            "cost_usd": None,
            "cost_credits": None,
            "error_kind": "too_long",
            "error_message": "HTTP 400: the prompt is too long by 1,234 tokens for this model",
            "output_text": None,
            "outputs": None,
            "tool_calls": None,
            "scores": {},
            "prompt": None,
            "attempts": [
                _attempt(1, not_shown="the table has changed since", http_status=400, outcome="rejected")
            ],
        },
    ],
}
TEXTS: dict[str, Callable[[int], str]] = {
    "compare": lambda width: comparison_text(_comparison(), width=width),
    "report": lambda width: report_text([_report()], width=width),
    "show": lambda width: row_text(SHOWN, width),
}


def assert_golden(name: str, width: int, text: str) -> None:
    golden = GOLDEN / f"{name}-{width}.txt"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(text, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TEXTS)
def test_what_is_printed_is_the_golden(name: str, width: int) -> None:
    """Words and tables change only where somebody has looked at them, and steer no terminal."""
    text = TEXTS[name](width) + "\n"
    assert_golden(name, width, text)
    assert [] == [line for line in text.splitlines() if not line.isprintable()]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["compare", "report"])
def test_figures_are_whole_at_every_width(name: str, width: int) -> None:
    """Each figure of the widest table stands in the narrowest; no line of a table is wider than the terminal."""
    figures = re.findall(r"\$?\d[\d,.]*\d", re.sub("|".join(NAMES), "", TEXTS[name](500)))
    text = TEXTS[name](width)
    assert [] == [figure for figure in figures if figure not in text]
    tables = [line for line in text.splitlines() if "  " in line.strip() and not line.startswith(("!", "  "))]
    assert width >= max(map(display_width, tables))


@pytest.mark.parametrize("width", WIDTHS)
def test_verdicts_are_told_in_full(width: int) -> None:
    """The column that says what follows from the figures is never shortened: no verdict is cut."""
    wide, narrow = (re.findall(r"\bshown\b", TEXTS["compare"](room)) for room in (500, width))
    assert wide == narrow


@pytest.mark.parametrize("width", WIDTHS)
def test_show_keeps_every_word_within_the_width(width: int) -> None:
    """It is read, not looked up: nothing is cut, and nothing is wider."""
    text = row_text(SHOWN, width)
    assert width >= max(map(display_width, text.splitlines()))
    said = "".join(re.split(r"\s+", row_text(SHOWN, 1000).replace("=", "")))
    assert said == "".join(re.split(r"\s+", text.replace("=", "")))


RUNNING = Progress(
    rows_total=6_000,
    rows_done=1_319,
    rows_failed=12,
    rows_otherwise=(("truncated", 3), ("refused", 0)),
    rows_per_second=85.2,
    spent_usd_pico=4_200_000_000,
    projected_usd_pico=16_000_000_000,
    held_usd_pico=10_000_000_000,
    in_flight=64,
    limit=128,
    eta_seconds=43.2,
    waiting_reason="cooling down, 12 s",
    variants=tuple(VariantProgress(name, 400 + number, number) for number, name in enumerate(NAMES)),
    units_per_row=6,
)


def drawn(text: str) -> list[str]:
    """The lines that a terminal shows once all has been written: CR, line feed and cursor up are followed."""
    lines, place = [""], 0
    for piece in re.split(r"(\r|\n|\x1b\[A)", text):
        if piece == "\n":
            place += 1
            lines += [""] * (place + 1 - len(lines))
        elif piece == "\x1b[A":
            place -= 1
        elif piece not in ("", "\r"):
            lines[place] = piece + lines[place][len(piece) :]
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_bar_is_the_golden(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines that fit the terminal: the bar, and below it what is spent, in flight, waited for."""
    terminal, now = Terminal(), [1_000.0]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("shutil.get_terminal_size", lambda **_: os.terminal_size((width, 20)))
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda _: (width, 20))
    screen = Screen(clock=lambda: now[0])
    screen.watch(structs.replace(RUNNING, rows_done=0))
    now[0] += 15.5
    screen.watch(RUNNING)
    lines = drawn(terminal.getvalue())
    assert width >= max(map(display_width, lines))
    assert_golden("bar", width, "\n".join(lines) + "\n")
    screen.close()
