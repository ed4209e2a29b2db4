"""Runs in words: a list of them, and one that is watched until it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from crun_batch.console.amounts import count, counted, credit_amount, duration, noun_of, rate, share, usd
from crun_batch.console.bill_words import decimal_of, sum_shown_as
from crun_batch.console.steering_words import steering_lines
from crun_batch.console.tables import table
from crun_batch.console.words import display_width, one_line, shorten, summary_headline, summary_text
from crun_batch.records import STATUSES

_STATUSES_NOT_OK = ("error", "invalid", "truncated", "refused")


def runs_text(runs: Sequence[Mapping[str, Any]], folder: str, now: datetime, width: int | None = None) -> str:
    """A line for each run, the last active first; then the directories that are none, or cannot be read."""
    told = [run for run in runs if run["problem"] is None]
    if not runs:
        return f"{one_line(folder)}: there is no run here or below"
    columns = _columns(told)
    rows = [[value(run, folder, now) for value in columns.values()] for run in told]
    parts = [table(tuple(columns), rows, width=width)] if told else []
    parts += [f"{_place(run, folder)}: {one_line(run['problem'])}" for run in runs if run["problem"] is not None]
    return "\n".join([*parts, f"({counted(len(told), 'run')})"])


def _columns(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Title -> what stands under it; a unit of money that no run knows has no column."""
    money_columns = {
        "cost": ("cost_usd", lambda run, *_: usd(decimal_of(run["cost_usd"]))),
        "credits": ("cost_credits", lambda run, *_: credit_amount(decimal_of(run["cost_credits"])).split()[0]),
    }
    known = {
        title: shown for title, (key, shown) in money_columns.items() if any(run[key] is not None for run in runs)
    }
    return {
        "run": lambda run, folder, _: _titled(run, folder),
        "status": lambda run, *_: run["status"],
        "done": lambda run, *_: run["rows_done"],
        "rows": lambda run, *_: run["rows_total"],
        "failed": lambda run, *_: run["rows_failed"],
        **known,
        "idle": lambda run, _, now: _idle(run["last_active"], now),
    }


def _titled(run: Mapping[str, Any], folder: str) -> str:
    """The directory, with the run's name where that is another."""
    place, name = _place(run, folder), run["name"]
    is_told = name is None or place.rsplit("/", 1)[-1] in (name, f"{name}-simulated")
    return place if is_told else f"{place} ({one_line(name)})"


def _place(run: Mapping[str, Any], folder: str) -> str:
    directory = str(run["directory"])
    return one_line(directory.removeprefix(f"{folder.rstrip('/')}/"))


def _idle(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "-"
    return duration(max(0.0, (now - moment).total_seconds()))


def followed_line(status: Mapping[str, Any]) -> str:
    """Where a run is, in one line: for a log or a pipe."""
    noun = noun_of(status["units_per_row"])
    rows, total = status["units"], status["units"]["total"]
    done = sum(rows[name] for name in STATUSES)
    phrases = [
        summary_headline(status),
        f"{count(done)} of {counted(total, noun)} ({share(done, total)})",
        *(f"{count(rows[name])} {name}" for name in _STATUSES_NOT_OK if rows[name]),
        rate(status["units_per_second"], noun),
        sum_shown_as(status)(decimal_of(status["cost_usd"]), decimal_of(status["cost_credits"])),
        f"{count(status['in_flight'])} in flight" if status["holder"] else "",
        *(f"{name} {phrase}" for name, phrase in steering_lines(status) if name != "set"),
    ]
    return ", ".join(phrase for phrase in phrases if phrase)


def followed_block(status: Mapping[str, Any], width: int, height: int) -> str:
    """The status as a block that is drawn over itself: no line is wider than the terminal, nor are there more."""
    lines = [summary_text(status, width - 1)]
    if status["holder"]:
        lines.append(f"  process  {one_line(status['holder'])}, {count(status['in_flight'])} in flight")
    lines += [f"  {name:<8} {phrase}" for name, phrase in steering_lines(status)]
    lines.append("  " + _bar(status, max(10, width - 4)))
    shown = "\n".join(lines).splitlines()
    return "\n".join(shorten(line, width - 1) for line in shown[: max(1, height - 1)])


def _bar(status: Mapping[str, Any], width: int) -> str:
    rows, total = status["units"], status["units"]["total"]
    done = sum(rows[name] for name in STATUSES)
    told = f" {share(done, total)}"
    cells = max(1, width - display_width(told) - 2)
    filled = cells if not total else cells * done // total
    return f"[{'#' * filled}{'.' * (cells - filled)}]{told}"
