"""summary.json: the sums of the account, and how the run stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from crun_batch.console.amounts import counted, noun_of
from crun_batch.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_ROWS_FAILED, EXIT_TERMINATED
from crun_batch.pricing.account import Account, Sums
from crun_batch.records import STATUSES, Halt, decimal_text
from crun_batch.state.batched import batches_told, held_in_batches
from crun_batch.store.batches import BatchEntry
from crun_batch.store.totals import AttemptTotals

TOKENS = ("input", "cached_input", "cache_write", "output", "reasoning")


class RunEnding(Struct, frozen=True):
    """How a run stands: running, finished, stopped, interrupted, killed; its exit code once it has one."""

    status: str
    exit_code: int | None = None
    reason: str | None = None


RUNNING = RunEnding("running")


def ending_of(
    halt: Halt | None,
    totals: Sums,
    open_count: int,
    *,
    units_per_row: int,
    is_pilot: bool,
    failed_verdicts: int = 0,
) -> RunEnding:
    """By why it halted, else by how its rows ended and whether their judges gave a verdict."""
    if halt is not None:
        interrupted = halt.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED)
        return RunEnding("interrupted" if interrupted else "stopped", halt.exit_code, halt.words)
    are_open = f"{counted(open_count, noun_of(units_per_row))} {'is' if open_count == 1 else 'are'}"
    if open_count and is_pilot:
        return RunEnding("stopped", EXIT_OK, f"pilot done, {are_open} open")
    if open_count:
        return RunEnding("stopped", EXIT_ROWS_FAILED, f"{are_open} still open")
    if failed_verdicts:
        said = f"{failed_verdicts:,} questions to judges failed; start again to ask them once more"
        return RunEnding("finished", EXIT_ROWS_FAILED, said)
    not_ok = sum(number for status, number in totals.statuses.items() if status != "ok")
    return RunEnding("finished", EXIT_ROWS_FAILED if not_ok else EXIT_OK)


class RunFacts(Struct, frozen=True):
    """What a summary says of a run that no sum can tell."""

    name: str
    directory: Path
    resume_command: str | None
    pilot: Mapping[str, Any] | None = None
    """What the run's last pilot told, as `preflight.pilot` writes it."""
    is_pilot: bool = False
    """Whether this session is that pilot: later ones do not tell it again."""
    left_out: Mapping[str, str] = {}
    """Endpoints of a list to which nothing is sent now -> why."""
    shard: str | None = None
    """Which of several shards of the rows this is; None: all rows."""
    units_per_row: int = 1
    rows: Mapping[str, int] | None = None
    """Of a run whose rows have, or had, several units: its rows by status. None: a row is a unit."""
    batches: Sequence[BatchEntry] = ()
    """Those that are not collected yet."""
    reopened: Mapping[str, int] = {}
    """How many units are asked again and still open, by the ending that they had (`status:error_kind`)."""


def summary_of(
    account: Account, place: RunFacts, ending: RunEnding, *, open_count: int, seconds: float
) -> dict[str, Any]:
    """summary.json: the sums of the account and how the run stands. Amounts are decimal text.

    `units` counts what is sent and finished one by one: a row under one variant and repeat. One that is asked
    again is open; `reopened` says how it had ended. `rows` counts rows by the worst status of their units.
    `bill_*` bounds what the gateway may charge: known cost <= bill <= known cost + what is held for the attempts
    whose cost is unknown, or which are in batches; its `high` is null where nothing bounds one of them.
    """
    totals = account.totals()
    statuses, error_kinds = settled(totals, place.reopened)
    finished = sum(statuses.values())
    by_status = {name: statuses.get(name, 0) for name in STATUSES}
    units = {"total": open_count + finished, **by_status, "open": open_count}
    rows = units if place.rows is None else place.rows
    return {
        "name": place.name,
        "shard": place.shard,
        "status": ending.status,
        "stop_reason": ending.reason,
        "exit_code": ending.exit_code,
        "rows": rows,
        "units": units,
        "units_per_row": place.units_per_row,
        "reopened": {ending: number for ending, number in place.reopened.items() if number},
        "errors": {kind: number for kind, number in error_kinds.items() if number},
        "tokens": {name: getattr(totals, f"{name}_tokens") for name in TOKENS},
        "cost_usd": _cost(totals, "usd"),
        "cost_credits": _cost(totals, "credits"),
        "held_usd": _held(totals, "usd"),
        "held_credits": _held(totals, "credits"),
        "bill_usd": _bill(totals, "usd", place.batches),
        "bill_credits": _bill(totals, "credits", place.batches),
        "attempts": totals.attempts,
        "requests": totals.requests,
        "unknown_attempts": totals.unknown,
        "unpriced_attempts": totals.unpriced,
        "shared": totals.shared,
        "reused": _reused(totals),
        "batches": batches_told(place.batches),
        "variants": {name: _of_variant(sums) for name, sums in account.variants.items()},
        "judges": {name: _of_judge(sums) for name, sums in account.judges.items()},
        "endpoints": _of_endpoints(account, place.left_out),
        "seconds": round(seconds, 3),
        "rows_per_second": round((rows["total"] - rows["open"]) / seconds, 3) if seconds else 0.0,
        "units_per_second": round(finished / seconds, 3) if seconds else 0.0,
        "output_dir": str(place.directory),
        "resume_command": place.resume_command if open_count or ending.reason else None,
        "pilot": place.pilot,
        "is_pilot": place.is_pilot,
        "ended": ending.status != RUNNING.status,
        "attempt_totals": _attempt_totals(totals),
    }


def settled(totals: Sums, reopened: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Units that have their result, by status and by error kind: what is asked again is open until then."""
    statuses, error_kinds = dict(totals.statuses), dict(totals.error_kinds)
    for ending, number in reopened.items():
        for counts, name in zip((statuses, error_kinds), ending.split(":"), strict=False):
            counts[name] = max(0, counts.get(name, 0) - number)
    return statuses, error_kinds


def together_reopened(summaries: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """What is asked again over several shards, by its former ending."""
    found: dict[str, int] = {}
    for ending, number in (pair for one in summaries for pair in one.get("reopened", {}).items()):
        found[ending] = found.get(ending, 0) + number
    return found


def _reused(totals: Sums) -> dict[str, Any]:
    """The results that are earlier runs' answers, and what those had cost there: what was saved."""
    known = totals.reused - totals.saved_unknown
    usd, credits_ = (decimal_text(one) if one else None for one in (totals.saved_usd, totals.saved_credits))
    return {"rows": totals.reused, "of_known_cost": known, "saved_usd": usd, "saved_credits": credits_}


def with_units(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with `units`. Before they were counted by themselves, they were called rows."""
    if "units" in summary:
        return dict(summary)
    per_second = summary.get("rows_per_second", 0.0)
    return {**summary, "units": summary["rows"], "units_per_row": 1, "units_per_second": per_second}


def _of_variant(sums: Sums) -> dict[str, Any]:
    """One variant's results by status, and its known cost."""
    return {
        **{name: sums.statuses.get(name, 0) for name in STATUSES},
        "cost_usd": _cost(sums, "usd"),
        "cost_credits": _cost(sums, "credits"),
    }


def _of_judge(sums: Sums) -> dict[str, Any]:
    """One judge's requests, how many of them were answered, and their known cost."""
    return {
        "attempts": sums.attempts,
        "answered": sums.done,
        "cost_usd": _cost(sums, "usd"),
        "cost_credits": _cost(sums, "credits"),
    }


def _of_endpoints(account: Account, left_out: Mapping[str, str]) -> dict[str, Any]:
    """Of each endpoint that has a name what a judge has, and why nothing is sent there, where that is so."""
    names = sorted({*account.endpoints, *left_out})
    return {
        name: {**_of_judge(account.endpoints.get(name, Sums())), "left_out": left_out.get(name)} for name in names
    }


def _cost(sums: Sums, unit: str) -> str | None:
    """The known cost. What was never sent, or was refused, costs 0; else None where no attempt's cost is known."""
    is_known = getattr(sums, f"priced_{unit}") or not (sums.done or sums.unknown)
    return decimal_text(getattr(sums, f"cost_{unit}")) if is_known else None


def _held(totals: Sums, unit: str) -> str | None:
    """What the attempts of unknown cost may have cost at most; None where one of them has no bound."""
    held, unbounded = getattr(totals, f"held_{unit}"), getattr(totals, f"unbounded_{unit}")
    return None if unbounded else decimal_text(held)


def _bill(totals: Sums, unit: str, batches: Sequence[BatchEntry]) -> dict[str, str | None] | None:
    cost, held, in_batches = _cost(totals, unit), _held(totals, unit), held_in_batches(batches, unit)
    if cost is None and held is None and not getattr(totals, f"held_{unit}"):
        return None
    cost_pico, held_pico = getattr(totals, f"cost_{unit}"), getattr(totals, f"held_{unit}")
    is_bounded = held is not None and in_batches is not None
    return {
        "low": decimal_text(cost_pico),
        "high": decimal_text(cost_pico + held_pico + (in_batches or 0)) if is_bounded else None,
    }


def _attempt_totals(totals: Sums) -> dict[str, int | str]:
    """The account's sums as `verify` adds them up anew from the attempts."""
    held = {"held_unknown_usd": totals.held_usd, "held_unknown_credits": totals.held_credits}
    told = {name: getattr(totals, name) for name in AttemptTotals.__struct_fields__ if name not in held}
    return AttemptTotals(**told, **held).document()
