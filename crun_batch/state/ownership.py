"""Whose run directory it is: a stranger's folder, another job's run, columns that would change their type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from msgspec import structs

from crun_batch.errors import RunDamaged, RunDirectoryError
from crun_batch.paths import is_folder, is_there
from crun_batch.state.finding import shards_beside
from crun_batch.store.carried import type_of_both
from crun_batch.store.directory import RunDirectory
from crun_batch.store.manifest import missing_sealed
from crun_batch.store.schema import RunSchema, schema_from_document
from crun_batch.workload.workload import ShardOfRows, Workload

_SHARD_NAME = re.compile(r"(.+)-shard-\d+-of-(\d+)(-simulated)?")


def refuse_a_strangers_folder(path: Path) -> None:
    """A folder that holds something else is not written into. Raises RunDirectoryError."""
    if is_there(path) and not is_folder(path):
        raise RunDirectoryError(f"{path} is a file; a run needs a folder of its own")
    is_strange = False
    with suppress(FileNotFoundError):  # another start is just taking its blank directory away
        is_strange = is_folder(path) and any(path.iterdir()) and not RunDirectory(path).has_journal
    if is_strange:
        raise RunDirectoryError(
            f"{path} is not empty and holds no run; nothing was written into it",
            advice="Give the run another --output-dir.",
        )


def refuse_another_job(workload: Workload, document: Mapping[str, Any], path: Path) -> None:
    """Another job's run is not gone on with. Raises RunDirectoryError."""
    if not document:
        return
    mine = (workload.job.name, workload.table.id_name)
    theirs = (document["job"]["name"], document["run_schema"]["id_name"])
    for what, one, other in zip(("name", "id column"), mine, theirs, strict=True):
        if one != other:
            raise RunDirectoryError(
                f"{path} belongs to another job: its {what} is {other!r}, this job's is {one!r}",
                advice="Give this job another --output-dir.",
            )


def refuse_missing_files(directory: RunDirectory) -> None:
    """The rows of a sealed file that is gone would be sent, and paid, once more. Raises RunDamaged."""
    missing = missing_sealed(directory) if is_there(directory.manifest) else []
    if missing:
        more = f", and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise RunDamaged(
            f"{directory.path}: {', '.join(missing[:3])}{more}: missing, and what is recorded there is paid",
            advice="No crash leaves that. Restore the files from a copy, or begin anew with another --output-dir.",
        )


def refuse_another_shard(workload: Workload, document: Mapping[str, Any], path: Path) -> None:
    """The rows of one shard are not mixed with those of another, or of all. Raises RunDirectoryError."""
    if not document:
        return
    theirs, mine = shard_of(document), None if workload.shard is None else workload.shard.document()
    if theirs == mine:
        return
    if theirs is not None and mine is not None and theirs["by"] != mine["by"]:
        raise RunDirectoryError(
            f"{path} holds rows that were divided by {_divided_by(theirs)}; this job divides them by "
            f"{_divided_by(mine)}, which gives each shard other rows",
            advice="Go on as the shards were begun (share_identical, and the columns of the prompts), or start "
            "all of them anew in other directories.",
        )
    started = "" if theirs is None else f"go on with it by --shard {theirs['number']}/{theirs['count']}, or "
    own = "" if mine is None else "leave --output-dir out: each shard then has a directory of its own. "
    raise RunDirectoryError(
        f"{path} holds {_rows_of(theirs)} of this job; these are {_rows_of(mine)}",
        advice=f"{started}{own or 'give this run another --output-dir. '}".capitalize()
        + "`crun-batch merge` makes one run of all shards.",
    )


def refuse_shards_beside(path: Path, shard: ShardOfRows | None) -> None:
    """A new run of all rows, or of a shard, where shards of them in another count were begun under the same name.

    It would send, and pay for, their rows once more. Raises RunDirectoryError. Whoever leases to several workers
    has looked for all of them.
    """
    if RunDirectory(path).has_job or (shard is not None and shard.which.is_leased):
        return
    for other in shards_beside(_folder_of_all(path, shard)):
        found = _SHARD_NAME.fullmatch(other.name)
        count = "0" if found is None else found[2]
        is_part_of_mine = shard is not None and int(count) == shard.which.count
        if not is_part_of_mine and RunDirectory(other).has_job:
            raise RunDirectoryError(
                f"{other} has rows of this job, which would be sent again in {path}",
                advice=f"Go on with --workers {count} (or --shard I/{count}); or make one run of the shards "
                f"(`crun-batch merge --unfinished ... -o {path}`), which this command then goes on with; or take "
                "another --output-dir.",
            )


def _folder_of_all(path: Path, shard: ShardOfRows | None) -> Path:
    """The run directory that all rows would have."""
    found = None if shard is None else _SHARD_NAME.fullmatch(path.name)
    return path if found is None else path.with_name(found[1] + (found[3] or ""))


def shard_of(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Which shard a job.json is about, as `ShardOfRows.document` says it; None: all rows."""
    found: dict[str, Any] | None = document["fingerprint"].get("shard")
    return found


def _rows_of(shard: Mapping[str, Any] | None) -> str:
    return "all rows" if shard is None else f"the rows of shard {shard['number']}/{shard['count']}"


def _divided_by(shard: Mapping[str, Any]) -> str:
    by = shard["by"]
    return "their id" if by == "id" else f"their values of {', '.join(by)}"


def schema_going_on(schema: RunSchema, document: Mapping[str, Any], path: Path) -> RunSchema:
    """The columns of a run that may already have some: the levels of variants that are no longer asked stay.

    Columns of the table take the type that holds what they were and what they are: one cell makes a column of
    numbers one of texts, and back. Raises RunDirectoryError where no type holds both; of an axis whole numbers may
    become numbers.
    """
    if not document:
        return schema
    before = schema_from_document(document["run_schema"])
    schema = structs.replace(schema, axes={**before.axes, **schema.axes})
    levels = {field.name: field.type for field in schema.axis_fields}
    changed = [
        field.name
        for field in before.axis_fields
        if (now := levels[field.name]) != field.type and (field.type, now) != (pa.int64(), pa.float64())
    ]
    known = {field.name: field.type for field in before.carried}
    both = {field.name: type_of_both(known.get(field.name, field.type), field.type) for field in schema.carried}
    changed += [name for name, kind in both.items() if kind is None]
    if before.output is not None and schema.output is not None and before.output != schema.output:
        changed.append("output")
    if changed:
        raise RunDirectoryError(
            f"the column {changed[0]} of {path} would change its type",
            advice="Use another --output-dir.",
        )
    id_type = type_of_both(before.stored_id_type, schema.stored_id_type)
    return structs.replace(schema, id_type=id_type, carried=pa.schema(list(both.items())))


def late_columns(schema: RunSchema, document: Mapping[str, Any]) -> tuple[str, ...]:
    """Carried columns that the run's earlier sessions did not carry: what they finished has no values there."""
    if not document:
        return ()
    before = schema_from_document(document["run_schema"]).carried.names
    unfilled = document.get("late_columns", ())
    return tuple(name for name in schema.carried.names if name not in before or name in unfilled)
