"""The batch lane's sender: draws tickets as the pool does, sends them many at a time, gives hooks the same events.

One loop, one batch and one step at a time: a batch takes minutes to a day, so only the reading of what came must
be fast. What is decided is decided between two calls to the gateway, synchronously. A stop leaves what is
submitted where it is: the next session collects it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from crun_batch.console.amounts import counted
from crun_batch.errors import EXIT_GATEWAY_REFUSED, EXIT_OUT_OF_MONEY, EXIT_ROWS_FAILED
from crun_batch.gateway.batches.form import missing_line
from crun_batch.gateway.pool_seams import NO_ROOM, Hooks, PoolSettings
from crun_batch.gateway.troubles import set_aside_halt
from crun_batch.records import Fault, Halt, Outcome, Response, Ticket
from crun_batch.session.batching.concluding import Conclusions
from crun_batch.session.batching.drafts import Drafts
from crun_batch.session.batching.keeper import BatchKeeper
from crun_batch.session.batching.live import (
    BatchLimits,
    Ending,
    LiveBatch,
    arrivals_by_serial,
    words_of_what_stays,
)
from crun_batch.session.batching.steps import TOO_MANY_TOKENS, BatchSteps
from crun_batch.store.batches import BatchEntry

WAITED_FOR_MORE_SECONDS = 1.0
"""How long a batch that is not full waits for a table that is being read."""
CANCELLED = ("cancelled", "canceled")


class BatchSender:
    """Sends every ticket of the source in batches. One use; `run` returns why it ended."""

    waiting_seconds = 0.0
    waits_for_money = False

    def __init__(
        self,
        drafts: Drafts,
        hooks: Hooks,
        keeper: BatchKeeper,
        *,
        limits: BatchLimits,
        settings: PoolSettings,
        say: Callable[[str], None],
    ) -> None:
        self.halt: Halt | None = None
        routes = drafts.routes
        self._names = [route.name for route in routes]
        self._forms = [route.form for route in routes]
        self._keeper = keeper
        self._drafts = drafts
        protocols = [route.protocol for route in routes]
        is_followed_live = drafts.left is not None
        self._conclusions = Conclusions(hooks, protocols, settings.retry, is_followed_live=is_followed_live)
        self._steps = BatchSteps(keeper, self._forms, limits, self._now, say, self._has_others_out)
        self._batches = [
            LiveBatch(entry, self._names.index(entry.variant))
            for entry in keeper.book.open
            if entry.variant in self._names
        ]
        self._loop = asyncio.get_running_loop()
        self._woken, self._abandoned = asyncio.Event(), asyncio.Event()
        self._left: list[LiveBatch] = []
        """Of variants that the gateway refuses."""
        self._set_aside_reasons = dict(settings.refused)
        self._tell_set_aside = settings.set_aside
        self._allowance = settings.allowed()
        self._say = say

    async def run(self) -> Halt | None:
        """Until all is done, or a halt leaves what is submitted where it is. Raises what a hook raised."""
        sending, abandoned = asyncio.create_task(self._send()), asyncio.create_task(self._abandoned.wait())
        try:
            await asyncio.wait({sending, abandoned}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            abandoned.cancel()
            await asyncio.gather(sending, abandoned, return_exceptions=True)
            for form in self._forms:
                await form.close()
        if not sending.cancelled():
            sending.result()
        if self.halt is None and self._set_aside_reasons:
            return set_aside_halt({self._names[place]: why for place, why in self._set_aside_reasons.items()})
        return self.halt

    def _has_others_out(self, batch: LiveBatch) -> bool:
        """Whether another batch of the variant may take what the gateway bears at one time."""
        mine = (one for one in self._batches if one is not batch and one.variant == batch.variant)
        return any(one.entry.step in ("creating", "created") for one in mine)

    def _now(self) -> float:
        return self._loop.time()

    def stop(self, halt: Halt) -> None:
        """No new batches from now on; those that are submitted stay. The first reason given stays."""
        self.halt = self.halt or halt
        self.wake()

    def refuse(self, variant: int, halt: Halt) -> None:
        """The gateway refuses this variant: it is set aside where others can go on, else the run stops."""
        if self._tell_set_aside is None or halt.exit_code != EXIT_GATEWAY_REFUSED:
            self.stop(halt)
        elif variant not in self._set_aside_reasons:
            self._set_aside_reasons[variant] = halt.words
            self._drafts.drop(variant)
            self._tell_set_aside(variant, halt.words)
            if len(self._set_aside_reasons) == len(self._names):
                self.stop(halt)

    def leave_out(self, endpoint: str | None, halt: Halt) -> None:
        """The endpoint can pay no more; there is but one, so the run stops."""
        self.stop(halt)

    def abandon(self) -> None:
        """End now; what is submitted stays, and a call under way is looked into by the next session."""
        self._abandoned.set()

    def wake(self) -> None:
        """The source has a ticket again, or there is another reason to look."""
        self._woken.set()

    @property
    def in_flight(self) -> int:
        """Requests that are in batches and not concluded."""
        return sum(len(one.attempts) for one in self._batches)

    in_batches = in_flight

    @property
    def awaited(self) -> tuple[int, int]:
        """Batches that are at the gateway, and how many of their requests it says it has done."""
        out = [one.entry for one in self._batches if one.entry.step == "created"]
        return len(out), sum(entry.done for entry in out)

    @property
    def limit(self) -> int:
        """There is none to requests in flight but what batches hold."""
        return self.in_flight

    @property
    def is_out(self) -> bool:
        """Whether there are batches whose end may give room for more."""
        return len(self._batches) > 0

    async def _send(self) -> None:
        is_quiet = False
        while self.halt is None and not self._is_done():
            has_drawn = self._drafts.draw(self._batches, self._is_set_aside)
            is_allowed = self._allowance.places(self._loop.time()) > 0
            drafted = is_allowed and self._draft(is_quiet=is_quiet and not has_drawn)
            moved = [await self._advance(one) for one in tuple(self._batches) if self.halt is None]
            self._forget_the_ended()
            await asyncio.sleep(0)
            is_quiet = False
            if not (drafted or any(moved) or has_drawn or self._is_done()) and self.halt is None:
                is_quiet = await self._pause()
        self._release("the run stopped before it was submitted")
        self._tell_what_stays()

    def _is_done(self) -> bool:
        return self._drafts.source_ended and not self._drafts and not self._batches

    def _is_set_aside(self, ticket: Ticket) -> bool:
        return ticket.unit.variant in self._set_aside_reasons

    def _draft(self, *, is_quiet: bool) -> bool:
        """Batches of what waits; whether there was one. Halts where nothing fits the budget and nothing is out.

        `is_quiet`: the source has given nothing for a while; a batch that waits for its rows then does so in vain.
        """
        before = len(self._batches)
        may_be_part = self._drafts.source_ended or is_quiet
        while (batch := self._drafts.next(self._batches, may_be_part=may_be_part)) is not None:
            self._batches.append(batch)
        is_out = [one for one in self._batches if not is_quiet or one.attempts or one.entry.step != "stored"]
        if self._drafts.lacks_room and not is_out:
            self.stop(Halt(EXIT_OUT_OF_MONEY, NO_ROOM))
        return len(self._batches) > before

    async def _advance(self, batch: LiveBatch) -> bool:
        """One step of one batch, where it is due; whether there was one."""
        if batch.due > self._loop.time():
            return False
        if batch.entry.step == "stored" or batch.ending is not None:
            return await self._settle(batch)
        before = batch.entry
        halt = await self._steps.advance(batch)
        if halt is not None:
            self.refuse(batch.variant, halt)
            self._release(halt.words, of=batch.variant)
            self._leave(batch)
        return batch.entry is not before

    async def _settle(self, batch: LiveBatch) -> bool:
        """Check off every request of a batch that is over; whether any was left to check."""
        ending = batch.ending = batch.ending or self._ending_of(batch)
        mine = [(one, ending.arrivals.get(serial, ending.missing)) for serial, one in batch.attempts.items()]
        concluded = self._conclusions.conclude(
            mine, uncounted=ending.is_uncounted, halts=not batch.is_of_earlier_session
        )
        for outcome, following in concluded:
            del batch.attempts[outcome.attempt.serial]
            self._follow(outcome, following)
            if not len(batch.attempts) % 1024:
                await asyncio.sleep(0)
        unclaimed = self._keeper.unclaimed(batch.entry)
        if unclaimed and not self._drafts.source_ended:  # their rows may still come by
            batch.due = self._loop.time() + WAITED_FOR_MORE_SECONDS
            return bool(mine)
        others = [(serial, ending.arrivals.get(serial, ending.missing)) for serial in unclaimed]
        self._drafts.unpark(self._keeper.conclude_unclaimed(others))
        self._keeper.settle(batch, ending.step, None if ending.step == "settled" else ending.missing.message)
        if ending.step == "settled" or ending.is_too_much:
            self._heed(batch, has_failed=ending.is_uncounted)
        return True

    def _ending_of(self, batch: LiveBatch) -> Ending:
        """What a batch has left that is over."""
        entry, form = batch.entry, self._forms[batch.variant]
        lines = [line for name in entry.raw for line in form.lines(self._keeper.book.raw(name))]
        arrivals, strays = arrivals_by_serial(lines, entry)
        replies = sum(isinstance(one, Response) for one in arrivals.values())
        self._tell_end(entry, replies, strays)
        missing = missing_line(entry.done, replies, entry.status or "")
        return Ending(arrivals, missing, is_uncounted=not replies and entry.why is not None)

    def _heed(self, batch: LiveBatch, *, has_failed: bool) -> None:
        """What the end of a batch means for others."""
        if has_failed:
            self._learn_from(batch)
        elif batch.entry.status in CANCELLED and batch.was_running and self._drafts.left is None:
            said = f"batch {batch.entry.batch_id} was cancelled: what was done of it is kept, the rest stays open"
            self.stop(Halt(EXIT_ROWS_FAILED, said))

    def _follow(self, outcome: Outcome, following: Ticket | None) -> None:
        if isinstance(outcome.decision, Halt):
            self.refuse(outcome.attempt.ticket.unit.variant, outcome.decision)
        if following is not None and not self._is_set_aside(following):
            self._drafts.add(following)

    def _learn_from(self, batch: LiveBatch) -> None:
        """A batch failed as a whole: with fewer tokens it may pass; anything else it would fail with again."""
        entry, others = batch.entry, batch.enqueued_before
        why, which = entry.why or "", entry.batch_id or f"of {counted(entry.requests, 'request')}"
        if not TOO_MANY_TOKENS.search(why) or (entry.requests == 1 and others == 0):
            if batch.is_of_earlier_session:
                return
            said = f"the gateway refuses this job: batch {which} failed ({why})"
            self.refuse(batch.variant, Halt(EXIT_GATEWAY_REFUSED, said))
            return
        most = self._drafts.most_tokens = max(1, (entry.tokens + (others or 0)) // 2)
        self._say(f"batch {which} was too much at once: no more than {most:,} tokens from now on")

    def _release(self, why: str, of: int | None = None) -> None:
        """Batches that were not submitted are over: their requests were not sent."""
        fault = Fault("not_sent", "connection", f"its batch was not submitted: {why}")
        for batch in self._batches:
            is_ours = of in (None, batch.variant) and not self._keeper.unclaimed(batch.entry)
            if is_ours and batch.entry.step in ("intended", "uploaded"):
                arrivals = [(attempt, fault) for attempt in batch.attempts.values()]
                for _ in self._conclusions.conclude(arrivals, uncounted=True):
                    pass
                batch.attempts.clear()
                self._keeper.settle(batch, "released", why)
        self._forget_the_ended()

    def _leave(self, batch: LiveBatch) -> None:
        """Ask no more about a batch, which stays as the disk says it is: the others go on without it."""
        if not batch.is_over and self.halt is None:
            self._batches.remove(batch)
            self._left.append(batch)

    def _forget_the_ended(self) -> None:
        before = len(self._batches)
        self._batches = [one for one in self._batches if not one.is_over]
        if self._drafts.left is not None and len(self._batches) < before:
            self._drafts.left.wake()

    async def _pause(self) -> bool:
        """Until something is due or somebody wakes us; whether nobody did."""
        seconds = min((one.due for one in self._batches), default=float("inf")) - self._loop.time()
        if not self._drafts.source_ended:
            seconds = min(seconds, WAITED_FOR_MORE_SECONDS)
        try:
            await asyncio.wait_for(self._woken.wait(), None if seconds == float("inf") else max(0.01, seconds))
        except TimeoutError:
            return True
        self._woken.clear()
        return False

    def _tell_end(self, entry: BatchEntry, replies: int, strays: int) -> None:
        why = f" ({entry.why})" if entry.why else ""
        said = f"batch {entry.batch_id}: {entry.status}{why}, {replies:,} of {entry.requests:,} replies"
        self._say(said + (f"; {counted(strays, 'line')} of no request of it" if strays else ""))

    def _tell_what_stays(self) -> None:
        out = [*self._batches, *self._left]
        if out:
            self._say(words_of_what_stays([one.entry for one in out], gateway_ends=self._keeper.gateway_ends))
