"""Opening a run directory: whose it is, where it stands, what of it is done.

Owns the judgement whether this job may go on in that directory. Nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from msgspec import structs

from crun_batch.errors import RunDirectoryError
from crun_batch.options import RunOptions
from crun_batch.pricing.account import Account
from crun_batch.state.background import BackgroundCall
from crun_batch.state.changes import compare_requests
from crun_batch.state.done import DoneMarks
from crun_batch.state.job_document import fingerprint
from crun_batch.state.recovery import account_now, mark_done
from crun_batch.state.retry import reopen
from crun_batch.state.run_state import RunState
from crun_batch.store.directory import RunDirectory, open_directory, read_json
from crun_batch.store.disk import Disk
from crun_batch.store.recover import recover
from crun_batch.store.results import publish
from crun_batch.store.schema import RunSchema, schema_from_document
from crun_batch.store.seal import seal_segment
from crun_batch.store.views import finished_units
from crun_batch.workload.workload import Workload


def open_state(workload: Workload, options: RunOptions, stack: ExitStack) -> RunState:
    """The run directory, locked until the stack is closed, with what of the work is done.

    What a kill left unpublished is published; with `options.retry` the units that ended so are open again.
    """
    state = open_run_directory(
        workload,
        workload.job.output.dir,
        started_at=options.clock.now().isoformat(timespec="seconds"),
        redo_changed=options.redo_changed,
        disk=options.platform.disk,
    )
    stack.callback(state.directory.close)
    if state.recovered is not None and state.recovered.cut_bytes:
        options.say(f"the journal ended in a torn line of {state.recovered.cut_bytes} bytes: cut off")
    if state.recovered is not None and next(state.recovered.records(), None) is not None:
        publish(state.directory, state.schema)
    if options.retry:
        path, id_name = state.directory.path, workload.table.id_name
        reopened = reopen(state.done, state.account, options.retry, path=path, id_name=id_name)
        options.say(f"{reopened:,} finished units are asked again ({', '.join(sorted(options.retry))})")
    return state


def open_run_directory(
    workload: Workload, path: Path, *, started_at: str, redo_changed: bool, disk: Disk | None = None
) -> RunState:
    """Lock the directory, recover its journal, seal what a kill left, mark what is done.

    Raises RunInUse, RunDamaged, RequestsChanged, RunDirectoryError (another job's), DiskFailed.
    """
    _refuse_a_strangers_folder(path)
    directory = open_directory(path, started_at=started_at, disk=disk)
    try:
        document = read_json(directory.job) if directory.job.exists() else {}
        _refuse_another_job(workload, document, path)
        schema = _schema_going_on(workload.run_schema(), document, path)
        fingerprinting = BackgroundCall(partial(fingerprint, workload))
        recovered = recover(directory)
        for number in recovered.older if recovered is not None else ():
            seal_segment(directory, number, schema)
        account = account_now(directory)
        done = (
            mark_done(workload, finished_units(path)) if recovered is not None else DoneMarks(workload.unit_slots)
        )
        state = RunState(
            account=account,
            done=done,
            directory=directory,
            schema=schema,
            document=document,
            recovered=recovered,
            fingerprinting=fingerprinting,
            pilot=last_pilot(directory),
        )
        if recovered is not None:
            compare_requests(workload, state, redo_changed=redo_changed)
    except BaseException:
        directory.close()
        raise
    return state


def read_state(workload: Workload) -> RunState:
    """How far the run has come, read without a lock; nothing done where there is no run yet."""
    path = workload.job.output.dir
    directory, schema = RunDirectory(path), workload.run_schema()
    if not directory.job.exists():
        done = DoneMarks(workload.unit_slots)
        return RunState(account=Account(), done=done, directory=directory, schema=schema)
    return RunState(
        account=account_now(directory),
        done=mark_done(workload, finished_units(path)),
        pilot=last_pilot(directory),
        directory=directory,
        schema=schema,
    )


def last_pilot(directory: RunDirectory) -> Mapping[str, Any] | None:
    """What the run's last pilot told. Raises RunDamaged."""
    if not directory.summary.exists():
        return None
    told: Mapping[str, Any] | None = read_json(directory.summary).get("pilot")
    return told


def _refuse_a_strangers_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path} is a file; a run needs a folder of its own")
    if path.is_dir() and any(path.iterdir()) and not (path / "journal").is_dir():
        raise RunDirectoryError(
            f"{path} is not empty and holds no run; nothing was written into it",
            advice="Give the run another --output-dir.",
        )


def _refuse_another_job(workload: Workload, document: Mapping[str, Any], path: Path) -> None:
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


def _schema_going_on(schema: RunSchema, document: Mapping[str, Any], path: Path) -> RunSchema:
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
            advice="Go on with another --output-dir.",
        )
    return schema
