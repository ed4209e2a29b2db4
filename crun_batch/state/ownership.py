"""Whose run directory it is: a stranger's folder, another job's run, columns that would change their type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from msgspec import structs

from crun_batch.errors import RunDirectoryError
from crun_batch.store.schema import RunSchema, schema_from_document
from crun_batch.workload.workload import Workload


def refuse_a_strangers_folder(path: Path) -> None:
    """A folder that holds something else is not written into. Raises RunDirectoryError."""
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path} is a file; a run needs a folder of its own")
    if path.is_dir() and any(path.iterdir()) and not (path / "journal").is_dir():
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


def schema_going_on(schema: RunSchema, document: Mapping[str, Any], path: Path) -> RunSchema:
    """The columns of a run that may already have some: the levels of variants that are no longer asked stay.

    Raises RunDirectoryError where a column would change its type; whole numbers may become numbers.
    """
    if not document:
        return schema
    before = schema_from_document(document["run_schema"])
    schema = structs.replace(schema, axes={**before.axes, **schema.axes})
    types = {field.name: field.type for field in schema.axis_fields}
    changed = [
        field.name
        for field in before.axis_fields
        if (now := types[field.name]) != field.type and (field.type, now) != (pa.int64(), pa.float64())
    ]
    if before.output is not None and schema.output is not None and before.output != schema.output:
        changed.append("output")
    if changed:
        raise RunDirectoryError(
            f"the column {changed[0]} of {path} would change its type",
            advice="Use another --output-dir.",
        )
    return schema


def columns_added(schema: RunSchema, document: Mapping[str, Any]) -> list[str]:
    """Carried columns that the run's earlier sessions did not carry: what they finished has no values there."""
    if not document:
        return []
    before = schema_from_document(document["run_schema"]).carried.names
    return [name for name in schema.carried.names if name not in before]
