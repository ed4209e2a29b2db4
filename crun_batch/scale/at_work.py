"""The workers at work: their processes, the book of what each may use, one display, one Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from crun_batch.records import pico_of
from crun_batch.scale.crew import Crew
from crun_batch.scale.figures import FiguresOfAll, figures_served
from crun_batch.scale.giver import AllEnds, Watchers
from crun_batch.scale.leases import LeaseBook, SharedLimits
from crun_batch.scale.orders import orders_for
from crun_batch.scale.progresses import Progresses
from crun_batch.scale.signals import signals_to
from crun_batch.scale.whole import committed, done_in, end_of
from crun_batch.state.run_state import RunContext
from crun_batch.workload.workload import Workload


class SaidOnce:
    """Sentences for whoever watches, each once: what the starter or one worker has said, no other says again."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._known: set[str] = set()

    def say(self, sentence: str) -> None:
        """A sentence of the process that starts the workers."""
        self._known.add(sentence)
        self._say(sentence)

    def said(self, number: int, sentence: str) -> None:
        """A sentence of a worker, by its number from 0."""
        if sentence not in self._known:
            self._known.add(sentence)
            self._say(f"worker {number + 1}: {sentence}")


async def sent_by_workers(context: RunContext, file: Path, places: Sequence[Path], words: SaidOnce) -> AllEnds:
    """A process for each shard of the job file, until all of them have ended; how each did."""
    workload, options = context.workload, context.options
    figures = FiguresOfAll.of(workload.job)
    book, watchers = book_of(context, places), watchers_of(context, places, words, figures)
    orders = orders_for(file, workload, places, options)
    crew = Crew(orders, {**os.environ, **options.environ}, book, watchers)
    async with figures_served(figures, options):
        with signals_to(crew, options, workload.job.limits.attempt_timeout_seconds):
            ends = await crew.run()
    return AllEnds(ends, book.largest_hold())


def book_of(context: RunContext, places: Sequence[Path]) -> LeaseBook:
    """The book of all grants, which knows what each shard has used."""
    return LeaseBook(_terms_of(context.workload), [committed(place) for place in places])


def watchers_of(context: RunContext, places: Sequence[Path], words: SaidOnce, figures: FiguresOfAll) -> Watchers:
    """Whoever looks on: one display for all workers, one place for their figures."""
    workload, options = context.workload, context.options
    progresses = Progresses(workload.selected_units, [done_in(place) for place in places], options.watch)
    return Watchers(
        say=options.say,
        said=words.said,
        moved=progresses.moved,
        figured=figures.figured,
        committed=lambda number: committed(places[number]),
        ended=lambda number: end_of(places[number]),
    )


def _terms_of(workload: Workload) -> SharedLimits:
    """What all workers have together."""
    job = workload.job
    usd, credits = (
        None if cap is None else pico_of(cap) for cap in (job.budget.max_cost_usd, job.budget.max_cost_credits)
    )
    jobs = [one for target in workload.targets for one in target.job.at_each_endpoint]
    limits = [own for one in jobs for own in (one.limits, one.endpoint.limits)]
    return SharedLimits(
        job.limits.concurrency, usd, credits, any(one.tokens_per_minute is not None for one in limits)
    )
