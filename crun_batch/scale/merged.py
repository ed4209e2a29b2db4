"""What the merged run of several shards says of itself: its job.json, and its summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crun_batch.errors import EXIT_ROWS_FAILED
from crun_batch.pricing.account import Account
from crun_batch.scale.shard_runs import ShardRun
from crun_batch.state.commands import of_all_rows
from crun_batch.state.steered import told_to_workers
from crun_batch.state.summary import RUNNING, RunEnding, RunFacts, ending_of, summary_of, together_reopened
from crun_batch.store.directory import leases_folder


def merged_job(shards: Sequence[ShardRun], target: Path) -> dict[str, Any]:
    """job.json of all rows: as the shard that was run last says it, without the shard."""
    latest = max(shards, key=lambda shard: shard.source.recovered.head.at).document
    prices = [shard.document["prices"] for shard in shards if shard.document["prices"]]
    now = latest["prices"] or (prices[-1] if prices else {})
    earlier = [one for shard in shards for one in shard.document.get("earlier_prices", ())]
    others = [one for one in (*earlier, *prices) if one != now]
    job = {**latest["job"], "output": {**latest["job"]["output"], "dir": target.as_posix()}}
    fingerprint = {key: value for key, value in latest["fingerprint"].items() if key != "shard"}
    told = told_to_workers(leases_folder(target))
    return {
        **latest,
        "steering": {name: told[name] for name in ("now", "log")} if told["log"] else latest["steering"],
        "created_at": min(shard.document["created_at"] for shard in shards),
        "job": job,
        "fingerprint": fingerprint,
        "compared": latest.get("compared") if all(shard.document.get("compared") for shard in shards) else None,
        "tables": _each_once(_tables(shards), last=fingerprint["table"]),
        "late_columns": _each_once(name for shard in shards for name in shard.document.get("late_columns", ())),
        "prices": now,
        "earlier_prices": [one for place, one in enumerate(others) if one not in others[:place]],
        "merged": [{"shard": f"{shard.number}/{shard.count}", "directory": str(shard.path)} for shard in shards],
    }


def _tables(shards: Sequence[ShardRun]) -> Iterator[str]:
    """Fingerprints of all tables that a session of any shard has read."""
    for shard in shards:
        yield from shard.document.get("tables", [shard.document["fingerprint"]["table"]])


def _each_once(values: Iterable[str], last: str | None = None) -> list[str]:
    end = [] if last is None else [last]
    return [*(value for value in dict.fromkeys(values) if value != last), *end]


def merged_summary(shards: Sequence[ShardRun], account: Account, target: Path) -> dict[str, Any]:
    """summary.json of all rows."""
    open_count = sum(shard.open_units for shard in shards)
    commands = (shard.summary["resume_command"] for shard in shards)
    command = of_all_rows(next(filter(None, commands), None), target)
    per_row = shards[0].summary["units_per_row"]
    place = RunFacts(
        shards[0].document["job"]["name"],
        target,
        command,
        left_out=_left_out(shards),
        units_per_row=per_row,
        rows=None if per_row == 1 else _rows(shards),
        reopened=together_reopened(shard.summary for shard in shards),
    )
    ending = _ending(shards, account, open_count)
    return summary_of(account, place, ending, open_count=open_count, seconds=account.seconds)


def _rows(shards: Sequence[ShardRun]) -> dict[str, int]:
    """Rows by status: no row is in two shards."""
    return {name: sum(shard.summary["rows"][name] for shard in shards) for name in shards[0].summary["rows"]}


def _ending(shards: Sequence[ShardRun], account: Account, open_count: int) -> RunEnding:
    """As one machine would have ended; with a shard that was killed, as a killed run stands.

    The next start of that concludes what was in flight.
    """
    if any(shard.is_cut_off for shard in shards):
        return RUNNING
    per_row = shards[0].summary["units_per_row"]
    ending = ending_of(None, account.totals(), open_count, units_per_row=per_row, is_pilot=False)
    reasons = dict.fromkeys(
        f"shard {shard.number}/{shard.count}: {shard.summary['stop_reason']}"
        for shard in shards
        if shard.summary["stop_reason"]
    )
    if not reasons or ending.status != "finished":
        return ending
    return RunEnding("finished", EXIT_ROWS_FAILED, "; ".join(reasons))


def _left_out(shards: Sequence[ShardRun]) -> Mapping[str, str]:
    """Endpoints to which a shard sent nothing in the end -> why."""
    told = [shard.summary.get("endpoints", {}).items() for shard in shards]
    return {name: one["left_out"] for endpoints in told for name, one in endpoints if one["left_out"]}
