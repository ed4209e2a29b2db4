"""The shard of a worker that a coordinator grants its part: its job, its folder, and that of all together."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.load.job.job import Job
from crun_batch.options import RunOptions, Shard
from crun_batch.scale.whole import end_of
from crun_batch.store.directory import simulated_folder
from crun_batch.store.holder import signed_by
from crun_batch.workload.loading import read_job
from crun_batch.workload.sharding import in_its_folder


class OwnShard(Struct, frozen=True):
    """What a worker knows of its shard before it opens it."""

    shard: Shard
    job: Job
    """As this shard runs it: its `output.dir` is the shard's."""
    place: Path
    whole: Path | None
    """Where the coordinator makes one run of all; None where this shard's folder was named for this run alone."""

    def owner(self) -> str:
        """The process that has opened the run directory last, as its lock says; empty before the first."""
        return signed_by(self.place) or ""

    def is_one_run(self) -> bool:
        """Whether the coordinator has merged all shards, and so needs to hear of none any more."""
        return self.whole is not None and end_of(self.whole) is not None


def own_shard(path: str | Path, options: RunOptions) -> OwnShard:
    """Reads the job. Raises InputError."""
    shard = options.shard
    if shard is None:
        raise InputError("a worker of a coordinator has a shard: --shard I/N")
    whole = read_job(path, None, options)
    job = in_its_folder(whole, shard, options.overrides)
    is_named = job.output.dir == whole.output.dir
    return OwnShard(shard, job, _folder(job, options), None if is_named else _folder(whole, options))


def _folder(job: Job, options: RunOptions) -> Path:
    folder = job.output.dir
    return simulated_folder(folder) if options.simulate else folder
