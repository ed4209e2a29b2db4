"""The public functions that look into run directories: which there are, how one goes, what one row was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crun_batch.state.status import find_run

if TYPE_CHECKING:
    from crun_batch.reporting.run import Run

    AnyRun = Run | str | Path


def runs(folder: str | Path = ".") -> list[dict[str, Any]]:
    """The run directories in a folder and below it, the last active first.

    Of each: `directory`, `name`, `status` (finished, stopped, interrupted, killed, running, starting),
    `exit_code`, `rows_total`, `rows_done`, `rows_failed` (done and not ok), `cost_usd` and `cost_credits` (decimal
    text, null where unknown), `last_active` (datetime, UTC), `holder`; `problem` says what is wrong with a
    directory that is damaged or no run, whose other fields are null. Reads summaries only: of a running or
    killed run they are up to 5 s older than what `status` tells. Raises InputError where there is no such folder.
    """
    from msgspec import structs

    from crun_batch.state.listing import list_runs

    return [structs.asdict(run) for run in list_runs(Path(folder))]


def follow(run: AnyRun, *, every_seconds: float = 1.0, simulate: bool = False) -> Iterator[dict[str, Any]]:
    """Watch a run from outside: what `status` gives, now and after each change, until the run has ended.

    The last one says how it ended, `killed` included. `every_seconds`: how often it looks at most; less often
    where looking takes long. Stopping early leaves the run alone. Raises InputError (no run), RunDamaged.
    """
    from crun_batch.state.following import WatchPace, follow_run

    return follow_run(_directory(run, simulate), WatchPace(every_seconds=every_seconds))


def show(
    run: AnyRun,
    id: int | str,
    *,
    raw: bool = False,
    table: object | None = None,
    allow_paths: Sequence[str | Path] = (),
    simulate: bool = False,
) -> dict[str, Any]:
    """One row of a run: what it was asked, every attempt, its answers, scores and costs.

    Args:
        run: a run directory, its job file, or a `Run`.
        id: the row's id, a number or its text.
        raw: with `request` and `reply` of each attempt as they went over the wire.
        table: the table that the run was given from Python.
        allow_paths: folders whose files the row may name, as for the run.
        simulate: of a job file, its simulated run.

    Returns a document: `id`, `table` (None, or why prompts cannot be rendered again) and `units`, one for each
    variant and repeat: the columns of `results`, `scores`, and `attempts` with the columns of `attempts`,
    `messages` (role, text, attachments: the prompt rendered again, its hash checked), `not_shown` (why there are
    none), `answer`, and for judges `reason`. Amounts are `Decimal`, null where unknown; times seconds, moments
    UTC. Nothing is sent. Raises InputError (no run, no such row: ids like it are named), RunDamaged.

    """
    from crun_batch.reporting.one_row import show_row

    return show_row(_directory(run, simulate), id, table=table, allow_paths=allow_paths, raw=raw)


def _directory(run: AnyRun, simulate: bool) -> Path:
    return find_run(Path(run), simulate=simulate) if isinstance(run, str | Path) else run.directory
