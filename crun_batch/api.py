"""A run directory as people see it: `Run`, made by a session that ended or by `open_run` at any moment.

Reads only: nothing here needs the lock, and a run that is being written can be read all the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa
from msgspec import Struct

from crun_batch.console.words import summary_text
from crun_batch.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_ROWS_FAILED,
    EXIT_TERMINATED,
    InputError,
)
from crun_batch.gateway.retry import Halt
from crun_batch.pricing.account import Account, Sums
from crun_batch.pricing.costs import decimal_text
from crun_batch.reporting.notebook import summary_html
from crun_batch.store import views
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.store.export import Format, export
from crun_batch.store.verify import Finding, verify
from crun_batch.store.views import AttemptTotals, attempts_frame, results_frame

STATUSES = ("ok", "invalid", "truncated", "refused", "error")
TOKENS = ("input", "cached_input", "cache_write", "output", "reasoning")


class Run:
    """What a run has done so far.

    `status` is finished, stopped, interrupted or running; `exit_code` what the command line ends with, None while
    it runs; `stop_reason` a sentence, or None. `cost_usd` and `cost_credits` are Decimal sums over all attempts of
    all sessions, None where nothing is known of them.
    """

    def __init__(self, directory: Path, summary: Mapping[str, Any]) -> None:
        self.directory = directory
        self.summary = dict(summary)

    @property
    def status(self) -> str:
        return str(self.summary["status"])

    @property
    def exit_code(self) -> int | None:
        code: int | None = self.summary["exit_code"]
        return code

    @property
    def stop_reason(self) -> str | None:
        reason: str | None = self.summary["stop_reason"]
        return reason

    @property
    def cost_usd(self) -> Decimal | None:
        return self._amount("cost_usd")

    @property
    def cost_credits(self) -> Decimal | None:
        return self._amount("cost_credits")

    def results(self) -> pl.LazyFrame:
        """One row per finished unit, live, in the columns of `results`."""
        return results_frame(self.directory)

    def attempts(self) -> pl.LazyFrame:
        """One row per request that was sent, live, in the columns of `attempts`."""
        return attempts_frame(self.directory)

    def sql(self, query: str) -> pa.Table:
        """The answer of one SELECT over `results` and `attempts`, live; InputError with DuckDB's complaint."""
        return views.query(self.directory, query)

    def verify(self, *, data: bool = False) -> list[Finding]:
        """What is wrong with the run's files, or odd; `data`: every byte against its checksum."""
        return verify(self.directory, data=data)

    def export(self, format: Format, stream: BinaryIO) -> int:
        """Write the results as csv, jsonl or openai-batch in UTF-8; returns how many rows."""
        return export(self.directory, format, stream)

    def report(self) -> str:
        """The summary in words."""
        return summary_text(self.summary)

    def report_html(self, path: str | Path | None = None) -> Path:
        """Write the report of this moment as one HTML file that opens offline; returns where it is.

        Default for `path`: report.html in the run directory. Raises RunDamaged, DiskFailed.
        """
        from crun_batch.reporting.read import write_report  # it reads runs by `live`, which is made of this

        return write_report([self.directory], path)

    def __repr__(self) -> str:
        return f"<Run {str(self.directory)!r}>\n{self.report()}"

    def _repr_html_(self) -> str:
        return summary_html(self.summary)

    def _amount(self, name: str) -> Decimal | None:
        text = self.summary[name]
        return None if text is None else Decimal(text)


def open_run(directory: str | Path) -> Run:
    """The run in a directory, running or not. Raises InputError where there is none, RunDamaged."""
    path = Path(directory)
    run = RunDirectory(path)
    if not run.summary.exists():
        raise InputError(f"{path}: there is no run here (no summary.json)")
    return Run(path, read_json(run.summary))


class Ending(Struct, frozen=True):
    """How a run stands: running, finished, stopped, interrupted, killed; its exit code once it has one."""

    status: str
    exit_code: int | None = None
    reason: str | None = None


RUNNING = Ending("running")


def ending_of(
    halt: Halt | None, totals: Sums, open_count: int, *, is_pilot: bool, failed_verdicts: int = 0
) -> Ending:
    """By why it halted, else by how its rows ended and whether their judges gave a verdict."""
    if halt is not None:
        interrupted = halt.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED)
        return Ending("interrupted" if interrupted else "stopped", halt.exit_code, halt.reason)
    if open_count and is_pilot:
        return Ending("stopped", EXIT_OK, f"pilot done, {open_count:,} rows are open")
    if open_count:
        return Ending("stopped", EXIT_ROWS_FAILED, f"{open_count:,} rows are still open")
    if failed_verdicts:
        said = f"{failed_verdicts:,} questions to judges failed; start again to ask them once more"
        return Ending("finished", EXIT_ROWS_FAILED, said)
    not_ok = sum(number for status, number in totals.statuses.items() if status != "ok")
    return Ending("finished", EXIT_ROWS_FAILED if not_ok else EXIT_OK)


class Place(Struct, frozen=True):
    """What a summary says of a run that no sum can tell."""

    name: str
    directory: Path
    resume_command: str | None
    pilot: Mapping[str, Any] | None = None
    """What the run's last pilot told, as `piloting` writes it."""


def summary_of(
    account: Account, place: Place, ending: Ending, *, open_count: int, seconds: float
) -> dict[str, Any]:
    """summary.json: the sums of the account and how the run stands. Amounts are decimal text.

    `bill_*` bounds what the gateway may charge: known cost <= bill <= known cost + what is held for the attempts
    whose cost is unknown; its `high` is null where nothing bounds one of them.
    """
    totals = account.totals()
    finished = sum(totals.statuses.values())
    return {
        "name": place.name,
        "status": ending.status,
        "stop_reason": ending.reason,
        "exit_code": ending.exit_code,
        "rows": {
            "total": open_count + finished,
            **{name: totals.statuses.get(name, 0) for name in STATUSES},
            "open": open_count,
        },
        "errors": {kind: number for kind, number in totals.error_kinds.items() if number},
        "tokens": {name: getattr(totals, f"{name}_tokens") for name in TOKENS},
        "cost_usd": _known(totals.cost_usd, totals.priced_usd),
        "cost_credits": _known(totals.cost_credits, totals.priced_credits),
        "held_usd": _held(totals, "usd"),
        "held_credits": _held(totals, "credits"),
        "bill_usd": _bill(totals, "usd"),
        "bill_credits": _bill(totals, "credits"),
        "attempts": totals.attempts,
        "unknown_attempts": totals.unknown,
        "unpriced_attempts": totals.unpriced,
        "shared": totals.shared,
        "variants": {name: _of_variant(sums) for name, sums in account.variants.items()},
        "judges": {name: _of_judge(sums) for name, sums in account.judges.items()},
        "seconds": round(seconds, 3),
        "rows_per_second": round(finished / seconds, 3) if seconds else 0.0,
        "output_dir": str(place.directory),
        "resume_command": place.resume_command if open_count or ending.reason else None,
        "pilot": place.pilot,
        "ended": ending.status != RUNNING.status,
        "attempt_totals": _attempt_totals(totals),
    }


def _of_variant(sums: Sums) -> dict[str, Any]:
    """One variant's results by status, and its known cost."""
    return {
        **{name: sums.statuses.get(name, 0) for name in STATUSES},
        "cost_usd": _known(sums.cost_usd, sums.priced_usd),
        "cost_credits": _known(sums.cost_credits, sums.priced_credits),
    }


def _of_judge(sums: Sums) -> dict[str, Any]:
    """One judge's requests, how many of them were answered, and their known cost."""
    return {
        "attempts": sums.attempts,
        "answered": sums.done,
        "cost_usd": _known(sums.cost_usd, sums.priced_usd),
        "cost_credits": _known(sums.cost_credits, sums.priced_credits),
    }


def _held(totals: Sums, unit: str) -> str | None:
    """What the attempts of unknown cost may have cost at most; None where one of them has no bound."""
    priced, held, unbounded = (getattr(totals, f"{name}_{unit}") for name in ("priced", "held", "unbounded"))
    return None if unbounded else _known(held, priced or held)


def _bill(totals: Sums, unit: str) -> dict[str, str | None] | None:
    priced, cost, held = (getattr(totals, f"{name}_{unit}") for name in ("priced", "cost", "held"))
    if not (priced or held):
        return None
    high = None if getattr(totals, f"unbounded_{unit}") else decimal_text(cost + held)
    return {"low": decimal_text(cost), "high": high}


def _attempt_totals(totals: Sums) -> dict[str, int]:
    """The account's sums as `verify` adds them up anew from the attempts."""
    held = {"held_unknown_usd": totals.held_usd, "held_unknown_credits": totals.held_credits}
    return {
        name: held[name] if name in held else getattr(totals, name) for name in AttemptTotals.__struct_fields__
    }


def _known(pico: int, count: int) -> str | None:
    return decimal_text(pico) if count else None
