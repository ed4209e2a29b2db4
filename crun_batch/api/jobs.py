"""The public functions: one for each command. Each is safe inside a running event loop.

They never ask. What exits with 2, 3, 6 or 7 on the command line is raised here: InputError, RefusedToStart,
RunDirectoryError, DiskFailed.

Each function imports the module that does its work: `status` must not wait for what sends or draws.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crun_batch.load.arguments import arguments_told, at_least_one, refuse_wrong, said

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from crun_batch.api.run_handle import Run
    from crun_batch.options import AnyJob
    from crun_batch.reporting.comparing import RunComparison
    from crun_batch.reporting.read import Report

    AnyRun = Run | str | Path

T = TypeVar("T")


@arguments_told
def run(
    job: AnyJob,
    *,
    table: object | None = None,
    limit: int | None = None,
    max_cost_usd: Decimal | float | str | None = None,
    max_cost_credits: Decimal | float | str | None = None,
    output_dir: str | Path | None = None,
    simulate: bool = False,
    pilot: int | None = None,
    shard: str | None = None,
    workers: int | None = None,
    coordinator: str | None = None,
    ray: str | None = None,
    retry: Collection[str] = (),
    until_budget: bool = False,
    redo_changed: bool = False,
    correct_prices: bool = False,
    until: datetime | str | None = None,
    max_minutes: float | None = None,
    metrics_port: int | None = None,
    otel: bool = False,
    progress: bool = False,
    **overrides: Any,
) -> Run:
    """Run a job, resuming where it stopped; its `Run` (status, costs, results), once it is done or has stopped.

    Args:
        job: a `Job`, or the path of a job file.
        table: a polars, pandas or Arrow table in place of `input.table`.
        limit: only the first so many rows.
        max_cost_usd: the budget of the run directory in dollars, all its sessions together.
        max_cost_credits: the same in credits.
        output_dir: the run directory.
        simulate: against the bundled simulator: no key, no cost; into `<output_dir>-simulated`.
        shard: `"2/4"`: the rows of the second of four shards, under its part of the budget; see `merge`.
        workers: so many processes, a shard for each (`Run.summary["shards"]`), under one budget; then merged.
        coordinator: where this process, the worker of `shard`, is granted its part (`crun_batch.coordinator`).
        ray: the workers are actors of the Ray cluster at this address, or of a `"local"` one (`crun-batch[ray]`).
        pilot: send so many random rows, then stop with the bill to expect in `Run.summary["pilot"]`.
        retry: statuses and error kinds whose finished units are sent again; `failed` is all but ok, `all` is all.
        until_budget: start although budget or credits will not last; stop there.
        redo_changed: send finished rows again whose request is another one now.
        correct_prices: the job's earlier prices were wrong: what is recorded is priced anew.
        until: send nothing new from then on: `06:00` (the next), a date and a time, a datetime; exit code 143.
        max_minutes: the same after so many minutes.
        metrics_port: serve figures for Prometheus on this port of 127.0.0.1, at /metrics; 0: a free one.
        otel: export figures by OpenTelemetry, where its own variables (`OTEL_*`) say; needs `crun-batch[otel]`.
        progress: show a bar on standard error, in a notebook a widget (text without ipywidgets).
        overrides: sections of the job (`budget={"max_cost_usd": 5}`), or fields of `RunOptions`.

    Raises:
        InputError: the job, the table or an argument is wrong; every mistake at once.
        RefusedToStart: credits, budget, or an unknown price. Nothing was sent.
        RunDirectoryError: the directory is in use, belongs to another job, or is damaged.
        DiskFailed: what was recorded stays; run again.

    """
    given = {name: value for name, value in locals().items() if name != "overrides"}
    return finished(arun(**given, **overrides))


async def arun(
    job: AnyJob,
    *,
    table: object | None = None,
    limit: int | None = None,
    max_cost_usd: Decimal | float | str | None = None,
    max_cost_credits: Decimal | float | str | None = None,
    output_dir: str | Path | None = None,
    simulate: bool = False,
    pilot: int | None = None,
    shard: str | None = None,
    workers: int | None = None,
    coordinator: str | None = None,
    ray: str | None = None,
    retry: Collection[str] = (),
    until_budget: bool = False,
    redo_changed: bool = False,
    correct_prices: bool = False,
    until: datetime | str | None = None,
    max_minutes: float | None = None,
    metrics_port: int | None = None,
    otel: bool = False,
    progress: bool = False,
    **overrides: Any,
) -> Run:
    """The same as `run`, on the event loop that is running. Cancelling it ends it like a kill: nothing is lost."""
    refuse_wrong({"job": job, **said(locals() | overrides)})
    from crun_batch.api.run_handle import Run
    from crun_batch.options import options_of
    from crun_batch.scale.one_or_many import Workers, run_by

    options = options_of(
        overrides,
        limit=limit,
        max_cost_usd=max_cost_usd,
        max_cost_credits=max_cost_credits,
        output_dir=output_dir,
        simulate=simulate,
        pilot=pilot,
        shard=shard,
        retry=retry,
        until_budget=until_budget,
        redo_changed=redo_changed,
        correct_prices=correct_prices,
        until=until,
        max_minutes=max_minutes,
        metrics_port=metrics_port,
        otel=otel,
        progress=progress,
    )
    summary = await run_by(job, table, Workers(workers, coordinator, ray), options)
    return Run(Path(summary["output_dir"]), summary)


@arguments_told
def estimate(
    job: AnyJob,
    *,
    table: object | None = None,
    limit: int | None = None,
    output_dir: str | Path | None = None,
    simulate: bool = False,
    shard: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """What the open rows of a job will cost. Sends nothing; asks the gateway for its models and the balance.

    Arguments are those of `run`. Returns the document that `estimate --json` prints: tokens, amounts as decimal
    text (`low`, `expected`, `high`; null where unknown), `balance`, `may_start`, `checks`.
    Raises what `run` raises, but not for a key that is missing: the gateway is not asked then, as `checks` says.
    """
    asked = aestimate(
        job, table=table, limit=limit, output_dir=output_dir, simulate=simulate, shard=shard, **overrides
    )
    return finished(asked)


async def aestimate(
    job: AnyJob,
    *,
    table: object | None = None,
    limit: int | None = None,
    output_dir: str | Path | None = None,
    simulate: bool = False,
    shard: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """The same as `estimate`, on the event loop that is running."""
    refuse_wrong({"job": job, **said(locals() | overrides)})
    from crun_batch.options import options_of
    from crun_batch.preflight.estimation import estimate_job

    options = options_of(overrides, limit=limit, output_dir=output_dir, simulate=simulate, shard=shard)
    return await estimate_job(job, table, options)


@arguments_told
def check(
    job: AnyJob, *, environ: Mapping[str, str] | None = None, shard: str | None = None, **overrides: Any
) -> dict[str, Any]:
    """Everything about a job that can be known without calling anybody; `mistakes` is empty where it may run.

    Returns the document that `check --json` prints: the table's columns, templates, three requests, warnings.
    """
    from crun_batch.options import options_of
    from crun_batch.preflight.check import check_job

    options = options_of(overrides, environ=environ, shard=shard)
    return check_job(job, options.overrides, options.environ, options.allow_paths, options.shard)


@arguments_told
def compare(
    *runs: AnyRun,
    score: str | None = None,
    baseline: str | None = None,
    label: str | None = None,
    gold: str | None = None,
    simulate: bool = False,
) -> RunComparison:
    """Set the variants of a run, or several runs, side by side.

    Args:
        runs: run directories, their job files, or `Run` objects.
        score: compare by this score; default: the only one.
        baseline: the variant that the others are compared with; default: the first.
        label: the column of the replies' labels, such as `output.label`.
        gold: the carried column with the right labels; `annotations`: the labels that people gave.
        simulate: of job files, their simulated runs.

    Raises InputError for what is not there, RunDamaged.

    """
    from crun_batch.reporting.comparing import ComparisonOptions, compare_runs

    options = ComparisonOptions(score=score, baseline=baseline, label=label, gold=gold)
    return compare_runs([directory_of(run, simulate) for run in at_least_one(runs)], options)


@arguments_told
def report(*runs: AnyRun, path: str | Path | None = None, simulate: bool = False) -> Report:
    """Write one HTML file with plots about a run, or several side by side; it opens offline.

    `runs` are run directories, their job files, or `Run` objects. Default for `path`: report.html in the run
    directory, of several runs in the current folder. Returns a `Report`: `path`, `text(width)`, `to_dict()`.
    Raises InputError (no run), RunDamaged, DiskFailed.
    """
    from crun_batch.reporting.read import make_report

    return make_report([directory_of(run, simulate) for run in at_least_one(runs)], path)


@arguments_told
def models(
    job: AnyJob | None = None, *, environ: Mapping[str, str] | None = None, **overrides: Any
) -> dict[str, Any]:
    """What a job's gateway offers: `models` (id, price, where it is from); without a job, CRUN.

    `models` is null where there is no such call, `fault` says why a call failed. Raises InputError.
    """
    from crun_batch.options import options_of
    from crun_batch.preflight.offers import gateway_job, offered_models

    options = options_of(overrides, environ=environ)
    return finished(offered_models(gateway_job(job, options), options.environ, options.clock.now()))


@arguments_told
def credits(
    job: AnyJob | None = None, *, environ: Mapping[str, str] | None = None, **overrides: Any
) -> dict[str, Any]:
    """What is left of the credit at a job's gateway: `balance` (amount as decimal text, unit); without one, CRUN.

    `balance` is null where there is no such call, its `amount` null where it has no limit; `fault` says why a call
    failed. Raises InputError.
    """
    from crun_batch.options import options_of
    from crun_batch.preflight.offers import gateway_job, offered_credit

    options = options_of(overrides, environ=environ)
    return finished(offered_credit(gateway_job(job, options), options.environ))


@arguments_told
def open_run(run: str | Path, *, simulate: bool = False) -> Run:
    """The run in a directory, or that of a job file, running or not.

    `simulate`: of a job file, its simulated run. Raises InputError where there is none, RunDamaged.
    """
    from crun_batch.api.run_handle import run_in

    return run_in(directory_of(run, simulate))


def directory_of(run: AnyRun, simulate: bool) -> Path:
    """Where a run is that was given as itself or as its place."""
    from crun_batch.state.finding import find_run

    return find_run(Path(run), simulate=simulate) if isinstance(run, str | Path) else run.directory


def finished(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end; where an event loop is running (a notebook), in a thread of its own."""
    with closing(work):  # a signal may end it before its first step
        import asyncio

        from crun_batch.session.runtime import run_to_end, run_to_end_beside

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return run_to_end(work)
        return run_to_end_beside(work)
