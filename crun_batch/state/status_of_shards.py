"""A job whose rows are in shards as yet, as it stands now: all of them told as one run.

Whoever works on them, on whatever machine, each shard says by its journal how far it is. Read without a lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crun_batch.errors import EXIT_OK
from crun_batch.pricing.account import together
from crun_batch.state.recovery import JournalNow, journal_now
from crun_batch.state.status import KILLED, SUSPECTS_SHOWN, RunNow, give_up, run_now
from crun_batch.state.steered import told_to_workers
from crun_batch.state.summary import RUNNING, RunEnding, RunFacts, settled, summary_of, together_reopened
from crun_batch.store.directory import RunDirectory, leases_folder

FINISHED = "finished"
TOLD_OF_EACH = ("shard", "output_dir", "status", "stop_reason", "exit_code", "units", "in_flight", "holder")


def status_of_shards(run: Path, places: Sequence[Path]) -> dict[str, Any]:
    """The sums over all shards that were begun, with `shards` (their places) and `by_shard` (what each is at).

    `run`: where the run of all of them is to be.
    """
    read = [run_now(place) for place in places]
    told = [one.status for one in read]
    account = together(one.account for one in map(_journal_of, places, read))
    reopened = together_reopened(told)
    done = sum(settled(account.totals(), reopened)[0].values())
    per_row = told[0]["units_per_row"]
    facts = RunFacts(
        told[0]["name"],
        run,
        None,
        units_per_row=per_row,
        rows=None if per_row == 1 else _rows(told),
        reopened=reopened,
    )
    summary = summary_of(
        account,
        facts,
        _standing(told, int(told[0]["shard"].partition("/")[2])),
        open_count=max(0, sum(one["units"]["total"] for one in told) - done),
        seconds=max(one["seconds"] for one in told),
    )
    steering = told_to_workers(leases_folder(run))
    at_work = [one["holder"] for one in told if one["holder"]]
    return {
        **summary,
        "on_end": None,
        "holder": "; ".join(at_work) or None,
        "in_flight": sum(one["in_flight"] for one in told),
        "suspects": [suspect for one in told for suspect in one["suspects"]][:SUSPECTS_SHOWN],
        "steering": steering["now"] if steering["log"] else told[0]["steering"],
        "shards": [str(place) for place in places],
        "by_shard": [{name: one[name] for name in TOLD_OF_EACH} for one in told],
    }


def _journal_of(place: Path, now: RunNow) -> JournalNow:
    if now.journal is not None:
        return now.journal
    journal = journal_now(RunDirectory(place))
    give_up(journal)
    return journal


def _rows(told: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Rows by status: no row is in two shards."""
    return {name: sum(one["rows"][name] for one in told) for name in told[0]["rows"]}


def _standing(told: Sequence[Mapping[str, Any]], count: int) -> RunEnding:
    """At work as long as one of them is; else as the gravest of them."""
    if any(one["holder"] for one in told):
        return RUNNING
    if any(one["status"] == KILLED.status for one in told):
        return KILLED
    stopped = next((one for one in told if one["status"] != FINISHED), None)
    if stopped is not None:
        return RunEnding(stopped["status"], stopped["exit_code"], stopped["stop_reason"])
    if len(told) < count:
        return RunEnding("stopped", None, f"{count - len(told)} of {count} shards were not begun")
    code = max((one["exit_code"] for one in told), default=EXIT_OK)
    return RunEnding(
        FINISHED, code, "in shards as yet: the same command, or `crun-batch merge`, makes them one run"
    )
