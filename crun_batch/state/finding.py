"""Which run directory, or which shards, a path means that somebody gave; how what is there stands.

Loads as little as it can: most ask for one run that has ended, and its summary says all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from crun_batch.errors import InputError, refusals_of_the_system
from crun_batch.paths import is_folder, is_there
from crun_batch.state.status import status_of
from crun_batch.store.directory import SIMULATED, RunDirectory, simulated_folder


def status_at(path: Path, *, simulate: bool = False) -> dict[str, Any]:
    """`status_of` the run at a place, or of a job file; of its shards as long as there is no run of it.

    Raises InputError where there is neither, RunDamaged.
    """
    found = shards_instead(path, simulate=simulate)
    if found is None:
        return status_of(find_run(path, simulate=simulate))
    from crun_batch.state.status_of_shards import status_of_shards

    return status_of_shards(found.run, found.places)


@refusals_of_the_system()
def find_run(path: Path, *, simulate: bool = False) -> Path:
    """The run directory that `path` means: itself, or that of the job file; the simulated one if only it is there.

    Raises InputError where there is none.
    """
    if is_folder(path):
        return path
    if not is_there(path):
        raise InputError(f"{path}: there is no run directory and no job file of that name")
    candidates = runs_of(path, simulate=simulate)
    for candidate in candidates:
        if RunDirectory(candidate).has_job:
            return candidate
    shards = [str(shard) for one in candidates for shard in shards_beside(one)]
    beside = f"; there are shards of it: {', '.join(shards)}" if shards else ""
    found = f"there is no run of this job yet (no {' and no '.join(map(str, candidates))}){beside}"
    raise InputError(f"{path}: {found}")


@refusals_of_the_system()
def find_shards(path: Path) -> list[Path]:
    """The run directory itself, or those of all shards of a job file; the simulated ones if only these are there.

    Raises InputError where there are none.
    """
    if is_folder(path):
        return [path]
    if not is_there(path):
        raise InputError(f"{path}: there is no run directory and no job file of that name")
    candidates = runs_of(path, simulate=False)
    found = next(filter(None, map(shards_beside, candidates)), [])
    if not found:
        raise InputError(f"{path}: there are no shards of this job yet (no {candidates[0]}-shard-1-of-...)")
    return found


class ShardsBegun(Struct, frozen=True):
    """A job whose rows are in shards as yet: where its run is to be, and the shards that fit."""

    run: Path
    places: list[Path]


def _has_summary(place: Path) -> bool:
    return RunDirectory(place).has_summary


@refusals_of_the_system()
def shards_instead(
    path: Path, fits: Callable[[Path], object] = _has_summary, *, simulate: bool = False
) -> ShardsBegun | None:
    """The shards of a job file, or beside the run directory that is to be, as long as there is no run of it."""
    if is_folder(path):
        return None
    for run in runs_of(path, simulate=simulate):
        if RunDirectory(run).has_job:
            return None
        places = [place for place in shards_beside(run) if fits(place)]
        if places:
            return ShardsBegun(run, places)
    return None


def runs_of(path: Path, *, simulate: bool) -> list[Path]:
    """Where the run of a job file is, or is to be, and its simulated one; `path` may be that place itself."""
    folder = path
    if is_there(path):
        from crun_batch.load.job.job import ANYWHERE, load_job

        folder = load_job(path, allow_paths=ANYWHERE).output.dir
    simulated = simulated_folder(folder)
    return [simulated] if simulate else [folder, simulated]


def shards_beside(folder: Path) -> list[Path]:
    """The run directories of the shards of a job whose own is at `folder`, in their order."""
    pattern = re.compile(re.escape(folder.name.removesuffix(SIMULATED)) + rf"-shard-(\d+)-of-\d+({SIMULATED})?")
    is_simulated = folder.name.endswith(SIMULATED)
    beside = folder.parent.iterdir() if is_folder(folder.parent) else ()
    found = [
        (match, one) for one in beside if (match := pattern.fullmatch(one.name)) and RunDirectory(one).has_journal
    ]
    return [
        one for match, one in sorted(found, key=lambda pair: int(pair[0][1])) if bool(match[2]) == is_simulated
    ]
