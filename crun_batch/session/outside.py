"""What others see of a session while it sends: job.json, what is published elsewhere, who is told if it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from crun_batch.errors import CrunBatchError
from crun_batch.session.on_end import say_who_cannot_be_told, tell_of_failure
from crun_batch.session.publication import identity_of, kept_published, publication_of
from crun_batch.state.job_document import record_job
from crun_batch.state.run_state import RunContext


@asynccontextmanager
async def recorded_outside(context: RunContext, prices: Mapping[str, Any]) -> AsyncIterator[None]:
    """From here on job.json says the job as it is run; what is sealed meanwhile is published.

    Raises DiskFailed, and InputError where nothing can be published: before anything is written.
    """
    publication = publication_of(context)
    record_job(context, prices)
    if publication is not None:
        publication.called(identity_of(context))
    say_who_cannot_be_told(context.workload.job, context.options)
    try:
        async with kept_published(publication, context.options.say):
            yield
    except CrunBatchError as error:
        tell_of_failure(context, error)
        raise
