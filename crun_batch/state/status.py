"""A run directory as it stands now, whoever is writing to it: read from its journal, without its lock.

A run that has ended is told from its summary alone: the libraries that read tables and journals are loaded only
where one is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.pricing.account import BookedAttempt
from crun_batch.records import Cost, Hold, Tries, decimal_text
from crun_batch.state.steered import steering_now
from crun_batch.state.summary import RUNNING, RunEnding, RunFacts, settled, summary_of
from crun_batch.state.told import told_summary
from crun_batch.store.directory import RunDirectory
from crun_batch.store.holder import holder

if TYPE_CHECKING:
    from crun_batch.state.recovery import JournalNow
    from crun_batch.store.events import StartEvent

SUSPECTS_SHOWN = 20
KILLED = RunEnding("killed", None, "its process ended without a word; run it again to resume")


class RunNow(Struct, frozen=True):
    """A run at one moment."""

    status: dict[str, Any]
    """As `status_of` tells it."""
    journal: JournalNow | None
    """What its status was read from; None: the run has ended, and its summary tells all."""


def status_of(path: Path) -> dict[str, Any]:
    """summary.json as it would be now, with `holder`, `in_flight`, `suspects` and `steering`.

    `steering`: how people have set the running session, or the last one: `paused` (at, by; None: it is not),
    `values` (key -> value, was, at, by), `stopped`.
    `pace`, of a running run: `limit` of requests in flight, `held_usd` and `held_credits`, `waiting_reason`; it is
    5 s old at most.
    Requests in `batches` are neither in flight nor suspects: their batch will tell. `suspects`: the first
    SUSPECTS_SHOWN attempts that may have been billed without a recorded reply. Raises InputError where there is no
    run, RunDamaged.
    """
    return run_now(path).status


def run_now(path: Path) -> RunNow:
    """The same, with the journal that says so. Raises as `status_of`."""
    run = RunDirectory(path)
    process = holder(path)
    if not run.has_summary:
        raise InputError(f"{path}: {no_summary(run, process)}")
    summary = told_summary(path, run)
    if process is None and summary["status"] != RUNNING.status:
        suspects, steering = _unknown_attempts(path, summary), steering_now(run)
        return RunNow(
            {**summary, "holder": None, "in_flight": 0, "suspects": suspects, "steering": steering}, None
        )
    from crun_batch.state.recovery import journal_now

    now = journal_now(run)
    if process is None:
        give_up(now)
    pace = {"pace": summary.get("pace")} if process else {}
    told = {"on_end": summary["on_end"], **pace}
    summary = _summary_now(run, summary, now, RUNNING if process else KILLED) | told
    suspects = _unknown_attempts(path, summary)
    if process is None:
        suspects += map(_suspect, islice(now.in_flight.values(), SUSPECTS_SHOWN - len(suspects)))
    in_flight = sum(start.first_of_pack == start.n for start in now.in_flight.values())
    steering = steering_now(run)
    return RunNow(
        {**summary, "holder": process, "in_flight": in_flight, "suspects": suspects, "steering": steering}, now
    )


def no_summary(run: RunDirectory, process: str | None) -> str:
    """Why a directory has no summary, in words."""
    if process is not None:
        return f"the run is about to start ({process}); nothing has been sent yet"
    if run.has_journal:
        return "a run was begun here and ended before it sent anything"
    return "there is no run here (no summary.json)"


def _summary_now(
    run: RunDirectory, summary: Mapping[str, Any], now: JournalNow, ending: RunEnding
) -> dict[str, Any]:
    account = now.account
    reopened = summary.get("reopened", {})  # as of at most some seconds ago, like the rows
    finished = sum(settled(account.totals(), reopened)[0].values())
    pilot, is_pilot = summary.get("pilot"), summary.get("is_pilot", False)
    left_out = {name: why for name, one in summary.get("endpoints", {}).items() if (why := one["left_out"])}
    units_per_row = summary["units_per_row"]
    place = RunFacts(
        summary["name"],
        run.path,
        summary["resume_command"],
        pilot,
        is_pilot,
        left_out,
        summary.get("shard"),
        units_per_row,
        None if units_per_row == 1 else summary["rows"],  # as of at most some seconds ago: the journal knows units
        now.batches,
        reopened,
    )
    open_count = max(0, summary["units"]["total"] - finished)
    seconds = max(summary["seconds"], account.seconds)
    return summary_of(account, place, ending, open_count=open_count, seconds=seconds)


def give_up(now: JournalNow) -> None:
    """Book what no session has: what was in flight at a kill, and replies that were recorded and not read yet.

    As the next session will, but that these have no cost before it: their hold stays.
    """
    for start, outcome in now.unbooked:
        hold = Hold(start.held_usd, start.held_credits)
        place = None if start.pack is None else start.pack.place
        end = BookedAttempt(outcome, None, Cost(), hold, Tries(), endpoint=start.endpoint, pack_place=place)
        key = start.id, start.variant, start.repeat
        now.account.ended(key, start.started_at, end, judge=start.judge)


def _unknown_attempts(path: Path, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not summary["unknown_attempts"]:
        return []
    import polars as pl

    from crun_batch.store.views import attempts_frame, run_schema

    frame = attempts_frame(path).filter(pl.col("outcome") == "unknown").head(SUSPECTS_SHOWN)
    columns = [
        pl.col(run_schema(RunDirectory(path)).id_name).cast(pl.String).alias("id"),
        "variant",
        "repeat",
        "attempt",
        "judge",
        pl.col("started_at").dt.strftime("%Y-%m-%dT%H:%M:%S.%6fZ"),
        pl.col("held_usd", "held_credits").cast(pl.String),
    ]
    return frame.select(columns).collect().to_dicts()


def _suspect(start: StartEvent) -> dict[str, Any]:
    started_at = datetime.fromtimestamp(start.started_at / 1e6, UTC)
    return {
        "id": start.id,
        "variant": start.variant,
        "repeat": start.repeat,
        "attempt": start.attempt,
        "judge": start.judge,
        "started_at": started_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "held_usd": None if start.held_usd is None else decimal_text(start.held_usd),
        "held_credits": None if start.held_credits is None else decimal_text(start.held_credits),
    }
