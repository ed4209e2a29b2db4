"""What the hooks and the tickets of a phase of sending are made of, once its journal is open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from msgspec import Struct

from crun_batch.console.amounts import noun_of
from crun_batch.gateway.pool_seams import Hooks
from crun_batch.records import Halt
from crun_batch.session.attempts import AttemptRecorder
from crun_batch.session.lanes import SkippingSource
from crun_batch.session.resources import Resources
from crun_batch.session.sealing import Sealer
from crun_batch.session.tally import UnitTally
from crun_batch.session.tickets import Holds, Tickets, TokenRatio
from crun_batch.state.run_state import RunContext
from crun_batch.store.journal import Journal
from crun_batch.workload.target import Target


class Tools(Struct, frozen=True):
    """Handed to whoever makes the hooks and the tickets."""

    attempts: AttemptRecorder
    tally: UnitTally
    tickets: Tickets
    journal: Journal
    wake: Callable[[], None]
    """Tells the pool, from any thread, that there are tickets again."""


class Recorder(Hooks, Protocol):
    """The pool's hooks, for rows or for judges, as far as others look at them."""

    @property
    def attempts(self) -> AttemptRecorder: ...
    @property
    def tally(self) -> UnitTally: ...


Made = tuple[Recorder, SkippingSource]
Make = Callable[[Tools], Made]
"""Makes the hooks and the tickets of rows, or of judges."""


class SenderEnds(Struct, frozen=True):
    """What the tools tell their sender, which is made after them."""

    refuse: Callable[[int, Halt], None]
    """The gateway refuses a target."""
    wake: Callable[[], None]
    """There are tickets again; from any thread."""


def make_tools(
    context: RunContext,
    resources: Resources,
    targets: Sequence[Target],
    journal: Journal,
    sealer: Sealer,
    ends: SenderEnds,
) -> Tools:
    """The tools for these targets."""
    names, token_ratio = tuple(target.name for target in targets), TokenRatio()
    limits, noun = context.workload.job.limits, noun_of(context.workload.job.repeats)
    counted_as = "questions to" if resources.extent.is_judging else f"{noun}s of variant"
    return Tools(
        attempts=AttemptRecorder(
            context, resources, targets=names, journal=journal, sealer=sealer, token_ratio=token_ratio
        ),
        tally=UnitTally(names, limits.stop_at_error_rate, ends.refuse, counted_as),
        tickets=_tickets(resources, targets, token_ratio),
        journal=journal,
        wake=ends.wake,
    )


def _tickets(resources: Resources, targets: Sequence[Target], token_ratio: TokenRatio) -> Tickets:
    """What is reserved is the most at all endpoints; of those that go in batches and then live, in each lane."""
    ratio = resources.bill.credits_per_usd
    if not targets[0].is_followed_live:
        return Tickets(Holds(resources.prices_of, ratio), token_ratio)
    lanes = [way.target for target in targets for way in resources.ways[target.index]]
    batches, live = (
        Holds(
            partial(resources.prices_of, at={one.endpoint_name for one in lanes if one.goes_in_batches is is_so}),
            ratio,
        )
        for is_so in (True, False)
    )
    return Tickets(batches, token_ratio, live_hold=live)
