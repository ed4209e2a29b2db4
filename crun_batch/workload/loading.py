"""A job, its table and its variants brought together: all is opened and compiled before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from msgspec import structs

from crun_batch.errors import InputError, Mistake, adding_to, refusals_of_the_system
from crun_batch.load.job.job import Job, load_job
from crun_batch.load.job.sweep import variations
from crun_batch.load.prompt.score_templates import ScoreTemplates
from crun_batch.load.table.table import Table, open_table
from crun_batch.options import RunOptions
from crun_batch.workload.columns import carried_columns, check_names, output_column, refuse_missing
from crun_batch.workload.sharding import in_its_folder, one_shard
from crun_batch.workload.target import judges_of
from crun_batch.workload.variants import compiled_variants
from crun_batch.workload.workload import Workload

MOST_UNITS = 1_000_000_000
"""Rows of the source x variants x repeats: each has a mark of one byte in memory."""


def load(job: Job | str | Path, table: object | None, options: RunOptions, stack: ExitStack) -> Workload:
    """What is to be done, open until the stack is closed; with `simulate` the job is pointed at a simulator.

    Until then what the system refuses about a file is InputError or DiskFailed, whoever meets it.
    """
    stack.enter_context(refusals_of_the_system())
    loaded = in_its_folder(read_job(job, table, options), options.shard, options.overrides)
    simulates = options.simulate
    workload = _simulated(loaded, table, options, stack) if simulates else load_workload(loaded, table)
    workload = one_shard(workload, options.shard)
    stack.callback(workload.close)
    return workload


def _simulated(job: Job, table: object | None, options: RunOptions, stack: ExitStack) -> Workload:
    from crun_batch.workload.simulation import in_simulated_folder, pointing_at, simulators_for

    job = in_simulated_folder(job)
    if options.simulators_at:
        redirected = pointing_at(options.simulators_at, job)
        return load_workload(job.with_overrides(redirected), table, redirected)
    simulators = stack.enter_context(simulators_for(job, options.simulator))
    redirected = pointing_at([one.base_url for one in simulators], job)
    workload = load_workload(job.with_overrides(redirected), table, redirected)
    return structs.replace(workload, start_gateway=lambda: [one.start() for one in simulators])


def read_job(job: Job | str | Path, table: object | None, options: RunOptions) -> Job:
    """The job with its overrides. Raises InputError with every mistake."""
    if isinstance(job, Job):
        job = job.with_overrides(options.overrides) if options.overrides else job
        return job.allowing(options.allow_paths)
    return load_job(
        Path(job),
        options.overrides,
        environ=options.environ,
        needs_table=table is None,
        allow_paths=options.allow_paths,
    )


def load_workload(job: Job, frame: object | None = None, overrides: Mapping[str, object] = {}) -> Workload:
    """Open the table, vary the job, compile the prompts, settle the columns.

    `overrides` are laid over each variant. Raises InputError with every mistake found.
    """
    varied = variations(job, overrides)
    table = _opened_table(job, frame)
    mistakes: list[Mistake] = []
    with adding_to(mistakes):
        variants = compiled_variants(varied, table)
    with adding_to(mistakes):
        templates = ScoreTemplates(job.score, schema=table.schema, job_source=job.source)
    with adding_to(mistakes):
        refuse_missing(job, table)
    if mistakes:
        raise InputError(sorted(map(job.document.placed, mistakes), key=job.document.order))
    carried = carried_columns(job, table, variants)
    judges = judges_of(job, overrides, len(variants))
    workload = Workload(job, table, variants, carried, templates, output_column(variants), judges)
    check_names(workload)
    _refuse_too_many(workload)
    return workload


def _opened_table(job: Job, frame: object | None) -> Table:
    """The job's table. Raises InputError; what is wrong with a key of the job stands where that is written."""
    try:
        return open_table(job.input, folders=job.folders, frame=frame)
    except InputError as error:
        if frame is not None:
            raise
        raise InputError([job.document.placed(one) for one in error.mistakes], advice=error.advice) from error


def _refuse_too_many(workload: Workload) -> None:
    """A job of a few words can ask more than any memory holds marks for."""
    if workload.unit_slots > MOST_UNITS:
        asked = f"{workload.table.source_rows:,} rows x {len(workload.variants):,} variants x {workload.repeats:,}"
        says = f"makes {asked} repeats; at most {MOST_UNITS:,} requests are kept track of in one run"
        raise InputError(Mistake(says, file=workload.job.source, key="repeats"))
