"""The run directories below a folder, each told in a line from its summary alone: no table and no journal is read.

A folder that only looks like a run, or whose files cannot be read, is told with what is wrong with it. Links are
not followed, hidden folders not entered, and nothing inside a run is looked for. Reads only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from crun_batch.errors import InputError, RunDamaged
from crun_batch.paths import is_folder
from crun_batch.records import STATUSES
from crun_batch.state.status import KILLED, no_summary
from crun_batch.state.summary import RUNNING
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.store.holder import holder

_MARKS = ("job.json", "summary.json")


class ListedRun(Struct, frozen=True):
    """A run directory in a list. Amounts are decimal text, None where unknown; `problem` says why all else is."""

    directory: str
    name: str | None = None
    status: str | None = None
    """finished, stopped, interrupted, killed, running; starting before the first summary."""
    exit_code: int | None = None
    rows_total: int | None = None
    rows_done: int | None = None
    """Rows of which nothing is open, however they ended."""
    rows_failed: int | None = None
    """Those of them that are not ok."""
    cost_usd: str | None = None
    cost_credits: str | None = None
    last_active: datetime | None = None
    """When anything was last written there, UTC."""
    holder: str | None = None
    """The process that runs it."""
    problem: str | None = None


def list_runs(folder: Path) -> list[ListedRun]:
    """The runs in a folder and below it, the last active first. Raises InputError where there is no folder."""
    if not is_folder(folder):
        raise InputError(f"{folder}: there is no such folder")
    found = list(_below(folder))
    longest_ago = datetime.fromtimestamp(0, UTC)
    return sorted(found, key=lambda run: run.last_active or longest_ago, reverse=True)


def _below(folder: Path) -> Iterator[ListedRun]:
    """Walked with a list and not by recursion: folders may be nested deeper than functions."""
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except OSError as error:
            yield ListedRun(str(place), problem=f"cannot be read: {error.strerror or error}")
            continue
        marks = [mark for mark in _MARKS if mark in names]
        is_run = names.get("journal", False) and (bool(marks) or names.get("attempts", False))
        if is_run:
            yield _listed(place)
        elif marks:
            yield ListedRun(str(place), problem=f"no run of crun_batch: {marks[0]} is there, but no journal")
        if not is_run:
            inside = sorted(name for name, is_folder in names.items() if is_folder and not name.startswith("."))
            waiting += [place / name for name in reversed(inside)]


def _listed(place: Path) -> ListedRun:
    try:
        return _told(RunDirectory(place))
    except (RunDamaged, OSError, KeyError, TypeError, ValueError) as error:
        words = f"damaged: {error}" if isinstance(error, RunDamaged | OSError) else "damaged: summary.json"
        return ListedRun(str(place), problem=words, last_active=_last_active(RunDirectory(place, to_verify=True)))


def _told(run: RunDirectory) -> ListedRun:
    process = holder(run.path)
    active = _last_active(run)
    if not run.has_summary:
        status = "starting" if process is not None else None
        problem = None if process is not None else no_summary(run, process)
        return ListedRun(str(run.path), None, status, last_active=active, holder=process, problem=problem)
    summary: Mapping[str, Any] = read_json(run.summary)
    is_killed = process is None and summary["status"] == RUNNING.status
    rows = {name: int(summary["rows"][name]) for name in ("total", *STATUSES)}
    done = sum(rows[status] for status in STATUSES)
    return ListedRun(
        directory=str(run.path),
        name=str(summary["name"]),
        status=RUNNING.status if process else KILLED.status if is_killed else str(summary["status"]),
        exit_code=None if process else summary["exit_code"],
        rows_total=rows["total"],
        rows_done=done,
        rows_failed=done - rows["ok"],
        cost_usd=summary["cost_usd"],
        cost_credits=summary["cost_credits"],
        last_active=active,
        holder=process,
    )


def _last_active(run: RunDirectory) -> datetime | None:
    """The latest change of the summary or of a live segment."""
    changed: list[float] = []
    for path in (run.summary, *(run.journal.glob("*.jsonl"))):
        try:
            changed.append(path.stat().st_mtime)
        except OSError:  # gone, or sealed, in between
            continue
    return datetime.fromtimestamp(max(changed), UTC) if changed else None
