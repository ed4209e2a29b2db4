"""`merge`: the shards of a job become one run directory, as one machine would have left it.

It is made under a hidden name beside its place, verified there, and gets its name in one step: a kill at any
moment leaves the shards as they are, and either the whole merged run or none. Doing it again removes what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crun_batch.errors import DiskFailed, RunDamaged, RunDirectoryError
from crun_batch.options import SYSTEM_CLOCK, Clock
from crun_batch.paths import is_folder, is_link, is_there
from crun_batch.pricing.account import together
from crun_batch.scale.merged import merged_job, merged_summary
from crun_batch.scale.shard_runs import ShardRun, open_shards
from crun_batch.store.directory import LOCK_NAME, SIMULATED, RunDirectory, open_directory, write_json
from crun_batch.store.disk import Disk
from crun_batch.store.merging import copy_runs, copy_scores, write_head
from crun_batch.store.results import publish
from crun_batch.store.schema import schema_from_document
from crun_batch.store.verify import verify


def merge_shards(
    paths: Sequence[Path],
    target: Path,
    *,
    unfinished: bool = False,
    clock: Clock = SYSTEM_CLOCK,
    disk: Disk | None = None,
) -> dict[str, Any]:
    """Make one run of these shards at `target`, which is new or an empty folder; its summary, as written.

    Raises InputError, RunDirectoryError (with everything that is wrong with the shards), RunDamaged, DiskFailed.
    """
    _refuse_taken(target)
    _refuse_mixed(paths, target)
    started_at = clock.now().isoformat(timespec="seconds")
    with ExitStack() as stack:
        shards = open_shards(paths, stack, started_at=started_at, unfinished=unfinished)
        run = _emptied(open_directory(_unfinished_place(target), started_at=started_at, disk=disk))
        stack.callback(run.close)
        try:
            summary = _made(run, shards, target, clock)
            _put_in_place(run, target)
        except BaseException:
            _emptied(run)  # a blank directory is taken away when it is closed
            raise
    return summary


def _refuse_taken(target: Path) -> None:
    if is_link(target) or (is_there(target) and not (is_folder(target) and not any(target.iterdir()))):
        raise RunDirectoryError(
            f"{target} is there already; nothing was written into it",
            advice="Name a new directory, or remove this one first.",
        )


def _refuse_mixed(paths: Sequence[Path], target: Path) -> None:
    """What a simulator said never stands where a real run would go on with it."""
    simulated = {path: path.resolve().name.endswith(SIMULATED) for path in (*paths, target)}
    for path in paths:
        if simulated[path] != simulated[target]:
            what = "is simulated" if simulated[path] else "is no simulated run"
            name = f"{target.name}{SIMULATED}" if simulated[path] else target.name.removesuffix(SIMULATED)
            raise RunDirectoryError(
                f"{path} {what}, and {target} is not named like one",
                advice=f"Name the new run directory {target.with_name(name)}.",
            )


def _unfinished_place(target: Path) -> Path:
    return target.with_name(f".{target.name}.merging")


def _emptied(run: RunDirectory) -> RunDirectory:
    """What a merge that was killed has left at the hidden place goes; the lock says that none is at work there."""
    try:
        for folder in (run.parts, run.attempts, run.journal, run.path):
            for found in folder.iterdir():
                if found.name != LOCK_NAME and (is_link(found) or not is_folder(found)):
                    run.disk.unlink(found)
    except OSError as error:
        raise DiskFailed(f"{run.path}: cannot be emptied: {error.strerror or error}") from error
    return run


def _made(run: RunDirectory, shards: Sequence[ShardRun], target: Path, clock: Clock) -> dict[str, Any]:
    """Everything that a run has, in the order in which a run writes it; verified."""
    sources = [shard.source for shard in shards]
    account = together(shard.account for shard in shards)
    document = merged_job(shards, target)
    schema = schema_from_document(document["run_schema"])
    write_json(run, run.job, document)
    moved = copy_runs(sources, run, schema)
    copy_scores(sources, moved, run, schema)
    write_head(sources, moved, run, account.to_checkpoint(), clock.epoch_us())
    publish(run, schema, sum(shard.open_units for shard in shards))
    summary = merged_summary(shards, account, target)
    write_json(run, run.summary, summary)
    wrong = [finding for finding in verify(run.path) if finding.severity == "error"]
    if wrong:
        raise RunDamaged(
            f"{target}: what was merged is not what it should be: {wrong[0].file}: {wrong[0].what}",
            advice="Nothing was merged; the shards are as they were.",
        )
    return summary


def _put_in_place(run: RunDirectory, target: Path) -> None:
    """The step that makes it a run: before it there is none, after it a whole one."""
    try:
        for folder in (run.path, run.path.parent):
            run.disk.sync_folder(folder)
        run.disk.rename(run.path, target)
        run.disk.sync_folder(target.parent)
    except OSError as error:
        raise DiskFailed(f"{target}: cannot be put in place: {error.strerror or error}") from error
