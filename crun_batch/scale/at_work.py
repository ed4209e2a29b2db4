"""The workers at work: their processes, the book of what each may use, one display, one Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from crun_batch.scale.crew import Crew
from crun_batch.scale.figures import FiguresOfAll, figures_served
from crun_batch.scale.giver import AllEnds
from crun_batch.scale.giving import SaidOnce, giver_of
from crun_batch.scale.kept_leases import KeptLeases
from crun_batch.scale.orders import orders_for
from crun_batch.scale.signals import signals_to
from crun_batch.scale.steered_job import SteeredJob
from crun_batch.session.beside import heard
from crun_batch.state.run_state import RunContext


async def sent_by_workers(
    context: RunContext, file: Path, places: Sequence[Path], words: SaidOnce, kept: KeptLeases
) -> AllEnds:
    """A process for each shard of the job file, until all of them have ended; how each did."""
    workload, options = context.workload, context.options
    figures = FiguresOfAll.of(workload.job)
    giver = giver_of(context, places, words, figures)
    orders = orders_for(file, workload, places, options)
    crew = Crew(orders, {**os.environ, **options.environ}, giver)
    steered = SteeredJob(workload, giver, kept, crew.stop, figures.capped, are_here=True)
    async with figures_served(figures, options), heard(steered, steered.keep, kept.folder, options):
        with signals_to(crew, options, workload.job.limits.attempt_timeout_seconds):
            ends = await crew.run()
    return AllEnds(ends, giver.book.largest_hold())
