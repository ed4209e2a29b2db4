"""When several workers are not for a job: what they cannot share, and what each of them would do again.

All of it is refused before anything is sent, with what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from crun_batch.errors import InputError, Mistake, RunInUse
from crun_batch.load.job.job import Job
from crun_batch.load.job.lanes import goes_in_batches
from crun_batch.options import AnyJob, RunOptions
from crun_batch.paths import is_folder
from crun_batch.store.holder import holder
from crun_batch.workload.workload import Workload

NOT_SHARED: Mapping[str, str] = {
    "pilot": "run it on one shard first (`--shard 1/N --pilot 50`): the workers then go on with it",
    "shard": "a shard is run by one process",
    "figures": "they are given on by its workers; metrics_port serves those of all",
    "wire": "a connection of somebody's own is in one process",
    "clock": "each process reads the clock of its machine",
    "platform": "each process stands on its machine",
    "steer": "what each worker may use is leased to it by the process that starts them",
}
"""Fields of RunOptions that are for one process alone -> why, or what to do instead."""
AFTER_THE_MERGE: Mapping[str, str] = {
    "retry": "a worker that is started again after a kill would ask them a second time",
    "redo_changed": "each shard goes on for itself by `--shard I/N --redo-changed`",
    "correct_prices": "each shard goes on for itself by `--shard I/N --correct-prices`",
}
"""Fields that are for a run as a whole: refused as long as it is still in shards."""
_OR_AFTERWARDS = "; or leave it out now: once the shards are merged, the same command with it asks in one process"
_AS_NOTHING_WAS_ASKED = RunOptions(environ={})


def refuse_unfit(job: AnyJob, table: object | None, options: RunOptions) -> Path:
    """What one process alone can do; the path of the job file. Raises InputError."""
    if not isinstance(job, str | Path) or table is not None:
        raise InputError("workers are processes of their own and read the job file: give its path and no table")
    _refuse(NOT_SHARED, options, "")
    return Path(job)


def refuse_unfit_worker(options: RunOptions) -> None:
    """What a worker of a coordinator cannot do, its shard, its clock and its figures aside. Raises InputError."""
    own = {name: NOT_SHARED[name] for name in ("pilot", "figures", "steer")}
    _refuse(own, options, "", "--coordinator")
    _refuse(AFTER_THE_MERGE, options, _OR_AFTERWARDS, "--coordinator")


def refuse_before_the_merge(options: RunOptions) -> None:
    """What waits until there is one run. Raises InputError."""
    _refuse(AFTER_THE_MERGE, options, _OR_AFTERWARDS)


def _refuse(unfit: Mapping[str, str], options: RunOptions, advice: str, beside: str = "--workers") -> None:
    for name, why in unfit.items():
        if getattr(options, name) != getattr(_AS_NOTHING_WAS_ASKED, name):
            raise InputError(f"--{name.replace('_', '-')} does not go with {beside}: {why}{advice}")


def refuse_unfit_job(count: int, workload: Workload, asked: str = "--workers") -> None:
    """Keys of the job that each worker would take for itself, all at once. Raises InputError."""
    mistakes = [
        Mistake(says, file=workload.job.source, key=key) for key, says in _unfit_keys(count, workload.job, asked)
    ]
    for target in workload.targets:
        for one in target.job.at_each_endpoint:
            if one.endpoint.limits.concurrency is not None:
                name = one.endpoint.name or one.endpoint.base_url
                says = f"the places of {name} cannot be given in parts, as limits.concurrency can; take it out"
                mistakes.append(Mistake(says, file=workload.job.source, key="endpoint.limits.concurrency"))
    if mistakes:
        raise InputError(list(dict.fromkeys(mistakes)))


def _unfit_keys(count: int, job: Job, asked: str) -> Iterator[tuple[str, str]]:
    concurrency = job.limits.concurrency
    if not 1 <= count <= concurrency:
        yield (
            "limits.concurrency",
            f"{asked} takes 1 to limits.concurrency, which is {concurrency:,}; not {count:,}",
        )
    if goes_in_batches(job.lane):
        yield "lane", f"{job.lane} does not go with {asked}: one process is enough for batches; leave {asked} out"
    if job.on_end.command is not None or job.on_end.webhook_env is not None:
        yield "on_end", f"does not go with {asked}: each would tell of its own end; take it out"
    if job.output.publish is not None:
        yield (
            "output.publish",
            f"does not go with {asked}: each would publish its own part there; take it out, and put it back for "
            "a start of the merged run, which copies what is missing",
        )


def refuse_in_use(places: Sequence[Path]) -> None:
    """A worker of an earlier start may still be at work. Raises RunInUse."""
    for place in places:
        process = holder(place) if is_folder(place) else None
        if process is not None:
            raise RunInUse(
                f"{place} is in use by {process}",
                advice="Workers whose starter was killed end by themselves, once what they have in flight is in.",
            )
