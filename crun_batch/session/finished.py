"""The end of a session that finds nothing to send. What sends is not loaded for it: it ends within a second."""

from __future__ import annotations

from typing import Any

from crun_batch.preflight.prices import must_reprice
from crun_batch.scoring.computed import Graders
from crun_batch.scoring.docket import Docket
from crun_batch.session.ending import close_and_tell
from crun_batch.session.sealing import open_journal
from crun_batch.state.job_document import record_job
from crun_batch.state.run_state import RunContext


def close_finished(context: RunContext, graders: Graders, docket: Docket) -> dict[str, Any]:
    """Price anew what is recorded, where the job file's prices have changed, and close; the summary, as written.

    Raises DiskFailed, RunDamaged.
    """
    _begin_empty(context)
    correct_prices = context.options.correct_prices
    if must_reprice(context.workload.job, context.state.document, correct_prices=correct_prices):
        from crun_batch.session.repricing import choose_prices, record_prices

        record_prices(context, *choose_prices(context, ()))
    return close_and_tell(context, graders, docket, None)


def _begin_empty(context: RunContext) -> None:
    """Record a new run without a single row, as a shard of few rows may be, like any other."""
    if context.state.recovered is None:
        record_job(context, {})
        open_journal(context).close()
