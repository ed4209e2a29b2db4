"""The end of a session that finds nothing to send. What sends is not loaded for it: it ends within a second."""

from __future__ import annotations

from typing import Any

from crun_batch.errors import DiskFailed
from crun_batch.preflight.prices import must_reprice
from crun_batch.scoring.computed import Graders
from crun_batch.scoring.docket import Docket
from crun_batch.session.ending import close_and_tell
from crun_batch.session.sealing import open_journal
from crun_batch.state.job_document import record_job
from crun_batch.state.run_state import RunContext
from crun_batch.store.disk import sync_file


def close_finished(context: RunContext, graders: Graders, docket: Docket) -> dict[str, Any]:
    """Price anew what is recorded, where the job file's prices have changed, and close; the summary, as written.

    Raises DiskFailed, RunDamaged.
    """
    _begin_empty(context)
    _settle_batches(context)
    correct_prices = context.options.correct_prices
    if must_reprice(context.workload.job, context.state.document, correct_prices=correct_prices):
        from crun_batch.session.repricing import choose_prices, record_prices

        record_prices(context, *choose_prices(context, ()))
    return close_and_tell(context, graders, docket, None)


def _settle_batches(context: RunContext) -> None:
    """The last session may have been killed when it had read a batch, before it said so or dropped its files."""
    recovered, run = context.state.recovered, context.state.directory
    if recovered is not None and context.state.batches.open:
        segment = run.segment(max(run.segments()))
        try:
            sync_file(run.disk, segment)
        except OSError as error:
            raise DiskFailed(f"{segment}: {error.strerror or error}") from error
        unread = {end.n for _, end in recovered.unread}
        context.state.batches.settle_told({start.n for start in recovered.in_flight} | unread)
    context.state.batches.drop_read()


def _begin_empty(context: RunContext) -> None:
    """Record a new run without a single row, as a shard of few rows may be, like any other."""
    if context.state.recovered is None:
        record_job(context, {})
        open_journal(context).close()
