"""How far a run has come, read without its lock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crun_batch.pricing.account import Account
from crun_batch.state.ownership import schema_going_on
from crun_batch.state.recovery import account_now, done_marks
from crun_batch.state.run_state import RunState
from crun_batch.store.batches import BatchBook
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.workload.workload import Workload


def read_state(workload: Workload) -> RunState:
    """How far the run has come, read without a lock; nothing done where there is no run yet."""
    directory = RunDirectory(workload.job.output.dir)
    is_new = not directory.has_job
    document = {} if is_new else read_json(directory.job)
    return RunState(
        account=Account() if is_new else account_now(directory),
        done=done_marks(workload, directory, is_new=is_new),
        pilot=last_pilot(directory),
        directory=directory,
        batches=batches_of(directory),
        schema=schema_going_on(workload.run_schema(), document, directory.path),
        document=document,
    )


def batches_of(directory: RunDirectory) -> BatchBook:
    """What the gateway has of the run as batches. Raises RunDamaged."""
    return BatchBook(directory)


def last_pilot(directory: RunDirectory) -> Mapping[str, Any] | None:
    """What the run's last pilot told. Raises RunDamaged."""
    if not directory.has_summary:
        return None
    told: Mapping[str, Any] | None = read_json(directory.summary).get("pilot")
    return told
