"""Who gives the workers of a job their parts, made of where its shards stand; whom he tells what happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from crun_batch.options import RunOptions
from crun_batch.scale.coordinator import Coordinator
from crun_batch.scale.exchange import digests
from crun_batch.scale.figures import FiguresOfAll
from crun_batch.scale.giver import Giver, Watchers
from crun_batch.scale.kept_leases import KeptLeases
from crun_batch.scale.leases import LeaseBook
from crun_batch.scale.progresses import Progresses
from crun_batch.scale.steered_job import SteeredJob, terms_of
from crun_batch.scale.whole import committed, done_in, end_of
from crun_batch.state.run_state import RunContext


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


def coordinator_of(
    context: RunContext, places: Sequence[Path], words: SaidOnce, kept: KeptLeases, figures: FiguresOfAll
) -> tuple[Coordinator, SteeredJob]:
    """Who gives the workers of this job their parts, and what of it people may change; nobody reaches it yet."""
    workload, giver = context.workload, giver_of(context, places, words, figures)
    job = workload.job
    coordinator = Coordinator(giver, kept, places, digests(job), job.limits.attempt_timeout_seconds)
    return coordinator, SteeredJob(workload, giver, kept, coordinator.stop, figures.capped, are_here=False)


def giver_of(context: RunContext, places: Sequence[Path], words: SaidOnce, figures: FiguresOfAll) -> Giver:
    """Who answers the workers: its book of all grants knows what each shard has used."""
    terms = terms_of(context.workload, context.workload.job)
    book = LeaseBook(terms, [committed(place) for place in places])
    return Giver(book, _watchers_of(context, places, words, figures))


def _watchers_of(context: RunContext, places: Sequence[Path], words: SaidOnce, figures: FiguresOfAll) -> Watchers:
    """Whoever looks on: one display for all workers, one place for their figures."""
    workload, options = context.workload, context.options
    done = [done_in(place) for place in places]
    progresses = Progresses(workload.selected_units, done, options.watch, _stops_in(options))
    return Watchers(
        say=options.say,
        said=words.said,
        moved=progresses.moved,
        figured=figures.figured,
        committed=lambda number: committed(places[number]),
        ended=lambda number: end_of(places[number]),
    )


def _stops_in(options: RunOptions) -> Callable[[], float | None]:
    """How long until the job is to stop, in seconds."""

    def seconds() -> float | None:
        deadline = options.deadline
        return None if deadline is None else deadline.seconds_left(options.clock.epoch_seconds())

    return seconds
