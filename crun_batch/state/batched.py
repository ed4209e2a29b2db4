"""The batches of a run that are not collected yet: told by `status` and summary.json, and kept to their lane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crun_batch.console.amounts import counted
from crun_batch.console.batch_words import batch_name
from crun_batch.errors import RefusedToStart
from crun_batch.load.job.batch_forms import batch_form
from crun_batch.load.job.lanes import goes_in_batches
from crun_batch.records import decimal_text
from crun_batch.store.batches import NEVER_SENT, OVER, BatchEntry

if TYPE_CHECKING:  # a list of runs loads no job
    from crun_batch.load.job.job import Job


def uncollected(entries: Iterable[BatchEntry]) -> list[BatchEntry]:
    """Those that the gateway has, or may have, and whose replies are not all recorded."""
    return [entry for entry in entries if entry.step not in NEVER_SENT | OVER]


def batches_told(entries: Iterable[BatchEntry]) -> list[dict[str, Any]]:
    """Each batch with how far it is; amounts are decimal text, null where nothing bounds a request of it."""
    return [
        {
            "batch_id": entry.batch_id,
            "file_id": entry.file_id,
            "suspects": list(entry.suspects),
            "variant": entry.variant,
            "status": entry.status if entry.step == "created" else entry.step,
            "requests": entry.requests,
            "done": entry.done,
            "held_usd": None if entry.held_usd is None else decimal_text(entry.held_usd),
            "held_credits": None if entry.held_credits is None else decimal_text(entry.held_credits),
        }
        for entry in uncollected(entries)
    ]


def held_in_batches(entries: Iterable[BatchEntry], unit: str) -> int | None:
    """What the requests in batches may cost together at most, in pico; None where nothing bounds one of them."""
    holds = [getattr(entry, f"held_{unit}") for entry in uncollected(entries)]
    return None if None in holds else sum(holds)


def refuse_another_way(jobs: Mapping[str, Job], entries: Iterable[BatchEntry], path: Path) -> None:
    """What is in a batch is collected as it was submitted; `jobs` are those of the variants, by name.

    Rows must not go another way as well: both would be paid. Raises RefusedToStart.
    """
    out = uncollected(entries)
    job = next(iter(jobs.values()))
    if goes_in_batches(job.lane):
        _refuse_another_form(jobs, out, path)
        return
    if not out:
        return
    requests = counted(sum(entry.requests for entry in out), "request")
    raise RefusedToStart(
        f"{path}: {counted(len(out), 'batch')} with {requests}, not collected yet, and lane is {job.lane}",
        advice="Set lane: batch, or batch-then-live, to collect them; crun-batch cancel before that, to have no "
        "more of them done.",
    )


def _refuse_another_form(jobs: Mapping[str, Job], out: Iterable[BatchEntry], path: Path) -> None:
    for entry in out:
        job = jobs.get(entry.variant)
        if job is None:
            continue
        now = batch_form(job.batch.form, job.endpoint.protocol, job.endpoint.base_url)
        if now != entry.form:
            name = batch_name(entry.batch_id, entry.file_id, entry.suspects)
            raise RefusedToStart(
                f"{path}: a batch in the form {entry.form} is not collected yet ({name}), and batch.form is {now}",
                advice=f"Set batch.form: {entry.form} to collect it.",
            )
