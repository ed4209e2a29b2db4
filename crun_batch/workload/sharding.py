"""One shard of a job's rows: which rows these are, where their run directory is, what is to be said of it.

A row is in the shard that the hash of its id says. Where identical requests are to be sent once, rows that give
the prompts the same values stay together, so that dividing them costs nothing. A cap of the budget is that of
the job, however many shards it is run in; what a minute may take is a limit of each process, which none can see
of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import structs

from crun_batch.load.job.job import Job
from crun_batch.load.table.shards import only_shard
from crun_batch.options import Shard
from crun_batch.records import decimal_text, pico_of
from crun_batch.workload.workload import ShardOfRows, Workload

OUTPUT_DIR = "output.dir"


def in_its_folder(job: Job, which: Shard | None, overrides: Mapping[str, object]) -> Job:
    """The job with the run directory of its shard; one that was named for this run alone stays."""
    if which is None or OUTPUT_DIR in overrides:
        return job
    folder = job.output.dir
    return job.with_overrides({OUTPUT_DIR: folder.with_name(which.folder_name(folder.name))})


def one_shard(workload: Workload, which: Shard | None) -> Workload:
    """The workload with the rows of this shard alone, which may be none; None: as it is. Raises InputError."""
    if which is None:
        return workload
    shard = shard_of_rows(workload, which)
    table = only_shard(workload.table, which.number, which.count, shard.columns)
    return structs.replace(workload, table=table, shard=shard)


def shard_of_rows(workload: Workload, which: Shard) -> ShardOfRows:
    """How the rows are divided, without dividing them."""
    columns: tuple[str, ...] = ()
    if workload.job.share_identical:
        columns = tuple(sorted({name for variant in workload.variants for name in variant.renderer.columns}))
    shard = ShardOfRows(which, columns, workload.table)
    if which.is_leased:
        return shard
    caps, remarks = tuple(_caps(workload.job, which)), tuple(_remarks(workload.job, which))
    return structs.replace(shard, caps=caps, remarks=remarks)


def _caps(job: Job, which: Shard) -> Iterator[str]:
    for unit, cap in (("usd", job.budget.max_cost_usd), ("credits", job.budget.max_cost_credits)):
        if cap is not None:
            part = decimal_text(which.share_of(pico_of(cap)))
            yield (
                f"budget.max_cost_{unit} {cap} is that of all {which.count} shards together, of which shard "
                f"{which} may spend {part}"
            )


def _remarks(job: Job, which: Shard) -> Iterator[str]:
    per_minute = [
        f"limits.{name} {value:,}"
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute")
        if (value := getattr(job.limits, name)) is not None
    ]
    yield (
        f"each shard keeps {', '.join(per_minute)} for itself: shards that run at the same time send "
        f"{which.count} times as much"
    )
    if job.share_identical:
        yield (
            "rows that give the prompts the same values are in the same shard and sent once; requests that are "
            "the same for another reason are sent once in each shard"
        )
