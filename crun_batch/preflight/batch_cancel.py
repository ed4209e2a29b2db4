"""Asking a gateway to stop the batches of a run: a call for each, nothing of the run is written.

What is done by then is paid and collected by the next session, which also finds that the rest was not done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crun_batch.console.batch_words import batch_name
from crun_batch.errors import InputError
from crun_batch.gateway.batches.form import BatchForm, CallTrouble
from crun_batch.load.job.job import Job
from crun_batch.load.job.sweep import variations
from crun_batch.options import RunOptions
from crun_batch.preflight.batch_offer import batches_at
from crun_batch.store.batches import NEVER_SENT, BatchEntry, read_batches
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.workload.endpoint import endpoint_of
from crun_batch.workload.recorded_job import recorded_job
from crun_batch.workload.target import Target

COLLECTED = frozenset({"ended", "stored", "settled", "released"})


async def cancel_batches(path: Path, options: RunOptions) -> dict[str, Any]:
    """`batches`: each that is out, with its `status` after the call; `fault`: why one could not be cancelled.

    Raises InputError where there is no run or the key is missing.
    """
    run = RunDirectory(path)
    if not run.has_job:
        raise InputError(f"{path}: there is no run here (no job.json)")
    out = [one for one in read_batches(run).values() if one.step not in NEVER_SENT | COLLECTED]
    if not out:
        return {"batches": [], "fault": None}
    told = await _all_cancelled(recorded_job(read_json(run.job)), out, options)
    faults = [f"{one['batch_id'] or one['file_id'] or 'a batch'}: {one['fault']}" for one in told if one["fault"]]
    return {"batches": told, "fault": "; ".join(faults) or None}


async def _all_cancelled(job: Job, out: Sequence[BatchEntry], options: RunOptions) -> list[dict[str, Any]]:
    """Each over the way that its variant's batches go."""
    jobs = {one.name: one.job for one in variations(job)}
    forms: dict[str, BatchForm] = {}
    try:
        for entry in out:
            if entry.variant not in forms:
                target = Target(0, entry.variant, jobs.get(entry.variant, job).at_each_endpoint[0])
                endpoint = endpoint_of(target.job, options.environ, simulated=False)
                forms[entry.variant] = batches_at(target, endpoint, options.platform, options.clock)
        return [await _cancelled(forms[entry.variant], entry) for entry in out]
    finally:
        for form in forms.values():
            await form.close()


async def _cancelled(form: BatchForm, entry: BatchEntry) -> dict[str, Any]:
    known = {"batch_id": entry.batch_id, "file_id": entry.file_id, "requests": entry.requests}
    if entry.batch_id is None:
        which = batch_name(None, entry.file_id, entry.suspects)
        return {**known, "status": None, "fault": f"not known yet ({which}): run again, which looks for it"}
    told = await form.cancel(entry.batch_id)
    if isinstance(told, CallTrouble):
        return {**known, "status": entry.status, "fault": told.failure.message}
    return {**known, "status": told.status, "fault": None}
