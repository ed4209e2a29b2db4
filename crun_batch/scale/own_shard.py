"""The shard of a worker that a coordinator grants its part: its job, its folder, and that of all together."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, structs

from crun_batch.errors import InputError
from crun_batch.load.job.job import Job
from crun_batch.load.job.places import Argument
from crun_batch.options import RunOptions, Shard
from crun_batch.scale.whole import end_of
from crun_batch.store.directory import simulated_folder
from crun_batch.store.holder import signed_by
from crun_batch.workload.loading import read_job
from crun_batch.workload.sharding import OUTPUT_DIR, in_its_folder


class OwnShard(Struct, frozen=True):
    """What a worker knows of its shard before it opens it."""

    shard: Shard
    job: Job
    """As this shard runs it: its `output.dir` is the shard's."""
    place: Path
    whole: Path | None
    """Where the coordinator makes one run of all; None where this shard's folder has a name of its own."""

    def owner(self) -> str:
        """The process that has opened the run directory last, as its lock says; empty before the first."""
        return signed_by(self.place) or ""

    def is_one_run(self) -> bool:
        """Whether the coordinator has merged all shards, and so needs to hear of none any more."""
        return self.whole is not None and end_of(self.whole) is not None


def beside_the_job(options: RunOptions) -> RunOptions:
    """With the `output.dir` of the shard where that of the job is named, as the coordinator is given it."""
    named, shard = options.overrides.get(OUTPUT_DIR), options.shard
    if named is None or shard is None:
        return options
    place = Path(str(named.value if isinstance(named, Argument) else named))
    if place.name.endswith(shard.folder_name("")):
        return options
    own = place.with_name(shard.folder_name(place.name))
    return structs.replace(options, overrides={**options.overrides, OUTPUT_DIR: Argument("output_dir", str(own))})


def own_shard(path: str | Path, options: RunOptions) -> OwnShard:
    """Reads the job. Raises InputError."""
    shard = options.shard
    if shard is None:
        raise InputError("a worker of a coordinator has a shard: --shard I/N")
    whole = read_job(path, None, options)
    job = in_its_folder(whole, shard, options.overrides)
    folder, ending = job.output.dir, shard.folder_name("")
    is_beside = folder.name.endswith(ending) and folder.name != ending
    of_all = folder.with_name(folder.name.removesuffix(ending)) if is_beside else None
    return OwnShard(shard, job, _named(folder, options), None if of_all is None else _named(of_all, options))


def _named(folder: Path, options: RunOptions) -> Path:
    return simulated_folder(folder) if options.simulate else folder
