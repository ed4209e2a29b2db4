"""The public functions that look into run directories: which there are, how one goes, what one row was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from crun_batch.api.jobs import directory_of, finished
from crun_batch.load.arguments import arguments_told, paths_in

if TYPE_CHECKING:
    from crun_batch.api.run_handle import Run
    from crun_batch.reporting.exporting import AnyFormat
    from crun_batch.store.verify import Finding

    AnyRun = Run | str | Path


@arguments_told
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


@arguments_told
def status(run: AnyRun, *, simulate: bool = False) -> dict[str, Any]:
    """summary.json as it would be now, whoever is writing it, with `holder`, `in_flight` and `suspects`.

    `holder` is the process that runs it, or null; `suspects` are attempts that may have been billed without a
    recorded reply. Of a job file whose rows are in shards as yet: all of them told as one, and in `by_shard` what
    each is at. Raises InputError where there is no run, RunDamaged.
    """
    from crun_batch.state.finding import status_at

    return status_at(Path(run) if isinstance(run, str | Path) else run.directory, simulate=simulate)


@arguments_told
def follow(run: AnyRun, *, every_seconds: float = 1.0, simulate: bool = False) -> Iterator[dict[str, Any]]:
    """Watch a run from outside: what `status` gives, now and after each change, until the run has ended.

    The last one says how it ended, `killed` included. `every_seconds`: how often it looks at most; less often
    where looking takes long. Stopping early leaves the run alone. Raises InputError (no run), RunDamaged.
    """
    from crun_batch.state.following import WatchPace, follow_run

    path = Path(run) if isinstance(run, str | Path) else run.directory
    return follow_run(path, WatchPace(every_seconds=every_seconds), simulate=simulate)


@arguments_told
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

    return show_row(directory_of(run, simulate), id, table=table, allow_paths=paths_in(allow_paths), raw=raw)


@arguments_told
def export(
    run: AnyRun,
    format: AnyFormat,
    target: BinaryIO | str | Path,
    *,
    where: str | None = None,
    columns: Sequence[str] | str = (),
    status: Sequence[str] | str = (),
    table: object | None = None,
    allow_paths: Sequence[str | Path] = (),
    simulate: bool = False,
) -> dict[str, int]:
    """Write a run's results, the live ones included, for other tools. Streams: memory does not grow with rows.

    Args:
        run: a run directory, its job file, or a `Run`.
        format: csv, jsonl, parquet or html (the columns of results); openai-batch (the lines of an OpenAI Batch
            output file, each reply as it came); openai-batch-requests (of its input file: what was asked);
            chat-jsonl (messages with their answer, for fine-tuning; only `ok` rows where `status` names no other).
        target: a file, which is whole or as it was before, or a binary stream (parquet: one that can seek).
        where: a predicate of SQL over the columns of results.
        columns: the columns, in their order; default: all.
        status: only these statuses.
        table: the table that the run was given from Python, for the two forms that tell what was asked.
        allow_paths: folders whose files the rows may name, as for the run.
        simulate: of a job file, its simulated run.

    Returns `rows` (written) and `left_out`: those whose prompt, rendered again, has another hash than the recorded
    one (the table has changed since), or that have no answer to tell. Raises InputError, RunDamaged, DiskFailed.

    """
    from msgspec import structs

    from crun_batch.reporting.exporting import ExportOptions, export_run, names_in

    options = ExportOptions(where, names_in(columns), names_in(status), table, paths_in(allow_paths))
    return structs.asdict(export_run(directory_of(run, simulate), format, target, options))


@arguments_told
def verify(run: AnyRun, *, data: bool = False, simulate: bool = False) -> list[Finding]:
    """What is wrong with a run's files, or odd; `data`: every byte against its checksum. Repairs nothing.

    Of each finding: `file`, `what`, `severity` (error: damage or a broken promise). Raises InputError (no run).
    """
    from crun_batch.state.findings import findings_of

    return findings_of(directory_of(run, simulate), data=data)


@arguments_told
def cancel(run: AnyRun, *, simulate: bool = False, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Ask the gateway to stop the batches of a run (`lane: batch`) that are not over, while it runs or not.

    Of each in `batches`: `batch_id`, `requests`, its `status` after the call; `fault` says what could not be
    cancelled. What is done by then is paid: the next `run` collects it. Raises InputError (no run, no key).
    """
    from crun_batch.options import RunOptions
    from crun_batch.preflight.batch_cancel import cancel_batches

    options = RunOptions() if environ is None else RunOptions(environ=environ)
    return finished(cancel_batches(directory_of(run, simulate), options))
