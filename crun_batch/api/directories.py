"""The public functions that look into run directories: which there are, how one goes, what one row was asked."""

from __future__ import annotations

from collections.abc import Iterator
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

    directory = find_run(Path(run), simulate=simulate) if isinstance(run, str | Path) else run.directory
    return follow_run(directory, WatchPace(every_seconds=every_seconds))
