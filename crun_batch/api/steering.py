"""The public functions that tell a running session something: other limits and caps, a pause, an end.

From any process of the user who started the run, on its host. Each returns once the session has done what it was
told and has written it down. A job by several workers is told as one, by the path of its job file: who leases it
to them is told, on its host, and answers once all of them hold to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crun_batch.api.jobs import directory_of
from crun_batch.load.arguments import arguments_told

if TYPE_CHECKING:
    from crun_batch.api.run_handle import Run

    AnyRun = Run | str | Path


@arguments_told
def set(run: AnyRun, values: Mapping[str, object], *, simulate: bool = False) -> dict[str, Any]:
    """Change limits and caps of a running run: they hold until its session ends; the job file stays as it is.

    Args:
        run: a run directory, its job file, or a `Run`.
        values: `limits.concurrency`, `limits.requests_per_minute`, `limits.tokens_per_minute`,
            `budget.max_cost_usd`, `budget.max_cost_credits`, with the values that the job file would have; None:
            its default. All of them change, or, where one is wrong, none.
        simulate: of a job file, its simulated run.

    Returns what the session answered: `changes` (`key`, `old`, `new`: numbers, amounts as decimal text), `at`
    (UTC), `by` (`user`, `user_id`, `process_id`), `in_flight`. Raises InputError (no such key, a wrong value, a
    cap below what is spent and held), NotRunning, RunDirectoryError (somebody else's run).

    """
    return _tell(run, {"do": "set", "values": dict(values)}, simulate=simulate)


@arguments_told
def pause(run: AnyRun, *, simulate: bool = False) -> dict[str, Any]:
    """Let a running run send nothing new until `resume`; what is in flight is waited for.

    Returns what the session answered, as `set` does: `changes` says whether it was paused before. A pause ends
    with its session. Raises NotRunning, RunDirectoryError.
    """
    return _tell(run, {"do": "pause"}, simulate=simulate)


@arguments_told
def resume(run: AnyRun, *, simulate: bool = False) -> dict[str, Any]:
    """Let a paused run go on. Returns what the session answered, as `pause` does, and raises the same."""
    return _tell(run, {"do": "resume"}, simulate=simulate)


@arguments_told
def stop(run: AnyRun, *, simulate: bool = False) -> dict[str, Any]:
    """End a running run in an orderly way: nothing new is sent, what is in flight is waited for.

    Returns at once, with `in_flight`, and `attempt_timeout_seconds`, in which it has ended at the latest: as
    `interrupted`, exit code 143. The run can go on. Raises NotRunning, RunDirectoryError.
    """
    return _tell(run, {"do": "stop"}, simulate=simulate)


def _tell(run: AnyRun, question: Mapping[str, Any], *, simulate: bool) -> dict[str, Any]:
    from crun_batch.state.telling import tell
    from crun_batch.state.telling_workers import giver_of_leases, tell_all, tell_giver, workers_of

    place = Path(run) if isinstance(run, str | Path) else run.directory
    giver = giver_of_leases(place, simulate=simulate)
    if giver is not None:
        return tell_giver(giver, question)
    workers = workers_of(place, simulate=simulate)
    return tell_all(workers, question) if workers else tell(directory_of(run, simulate), question)
