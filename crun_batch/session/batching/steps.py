"""One batch, one step further: uploaded, created, found again, looked at, its files read. The table is `STEPS`.

Each step writes what is known to the disk before it does what could not be undone, and ends; who drives it decides
what comes next. Trouble that may pass sets a later moment for the same step; a refusal is returned as a Halt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import structs

from crun_batch.console.amounts import counted
from crun_batch.errors import EXIT_GATEWAY_REFUSED
from crun_batch.gateway.batches.form import BatchForm, BatchTold, CallTrouble, done_at_the_end
from crun_batch.gateway.retry import RetryPolicy, decide
from crun_batch.records import Again, GiveUp, Halt, Tries
from crun_batch.session.batching.keeper import BatchKeeper
from crun_batch.session.batching.live import BatchLimits, LiveBatch
from crun_batch.store.batches import BatchStep

FOREVER = RetryPolicy(max_attempts=2**31, max_unknown_retries=2**31)
NO_TRIES = Tries()
SINCE_MARGIN_SECONDS = 600.0
"""Clocks differ: batches that are so much older than the upload are looked at too when one is looked for."""


class BatchSteps:
    """Brings batches further; `forms` has one way to the gateway for each variant."""

    def __init__(
        self,
        keeper: BatchKeeper,
        forms: Sequence[BatchForm],
        limits: BatchLimits,
        now: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self._keeper = keeper
        self._forms = forms
        self._limits = limits
        self._now = now
        self._say = say

    async def advance(self, batch: LiveBatch) -> Halt | None:
        """The batch's next step; why the gateway refuses it, where it does. Raises DiskFailed."""
        return await STEPS[batch.entry.step](self, batch)

    async def _upload(self, batch: LiveBatch) -> Halt | None:
        entry = batch.entry
        file_id = await self._forms[batch.variant].upload(f"crun-batch-{entry.tag}.jsonl", batch.content)
        if isinstance(file_id, CallTrouble):
            return self._troubled(batch, file_id, "it takes no file for a batch")
        batch.content = b""
        self._go_on(batch, "uploaded", file_id=file_id)
        return None

    async def _create(self, batch: LiveBatch) -> Halt | None:
        """The disk says `creating` before the call, and goes back only where the gateway did surely nothing."""
        self._go_on(batch, "creating")
        entry = batch.entry
        assert entry.file_id is not None
        tags = {"crun_batch": entry.tag, "requests": str(entry.requests)}
        told = await self._forms[batch.variant].create(entry.file_id, tags)
        if isinstance(told, BatchTold):
            self._created(batch, told)
            return None
        if told.fate == "unclear":
            self._say(f"no clear reply to the creation of a batch ({told.failure.message}): it is looked for")
            batch.absent_since = None
            return None
        self._go_on(batch, "uploaded")
        return self._troubled(batch, told, "it takes no batch")

    async def _find(self, batch: LiveBatch) -> Halt | None:
        """Nobody knows whether the create call was heard: found by its file, or created once more.

        Created again only where the list was readable twice, so far apart as lists may lag, and had none.
        """
        entry = batch.entry
        assert entry.file_id is not None
        found = await self._forms[batch.variant].find(entry.file_id, entry.at / 1e6 - SINCE_MARGIN_SECONDS)
        if isinstance(found, CallTrouble):
            return self._troubled(batch, found, "it does not list its batches")
        if found:
            if len(found) > 1:
                self._say(f"{len(found)} batches have the file {entry.file_id}; {found[-1].id} is collected")
            self._created(batch, found[-1])
            return None
        now, limits = self._now(), self._limits
        if batch.absent_since is None:
            batch.absent_since = now
        elif now - batch.absent_since >= limits.absent_seconds:
            batch.absent_since = None
            self._go_on(batch, "uploaded")
            return None
        batch.due = now + limits.absent_seconds / 2
        return None

    def _created(self, batch: LiveBatch, told: BatchTold) -> None:
        entry = batch.entry
        self._say(f"batch {told.id}: {counted(entry.requests, 'request')} submitted, {_of(entry.variant)}")
        self._go_on(batch, "created", batch_id=told.id, status=told.status)
        batch.was_running = True
        batch.due = self._now() + self._limits.look_seconds

    async def _look(self, batch: LiveBatch) -> Halt | None:
        entry = batch.entry
        assert entry.batch_id is not None
        told = await self._forms[batch.variant].look(entry.batch_id)
        if isinstance(told, CallTrouble) and told.fate == "not_there":
            reason = f"it does not know the batch {entry.batch_id} ({told.failure.message}); was another key used?"
            return Halt(EXIT_GATEWAY_REFUSED, f"the gateway refuses this job: {reason}")
        if isinstance(told, CallTrouble):
            return self._troubled(batch, told, "it does not tell of its batches")
        if told.state in ("ended", "refused"):
            why = None if told.why is None else f"{told.code}: {told.why}"
            done = done_at_the_end(told, entry.requests)
            self._go_on(batch, "ended", status=told.status, done=done, files=told.files, why=why)
            return None
        if (told.status, told.done or 0) != (entry.status, entry.done):
            self._go_on(batch, "created", status=told.status, done=told.done or 0)
        batch.was_running = True
        batch.failing_since, batch.failures = None, 0
        batch.due = self._now() + self._limits.look_seconds
        return None

    async def _fetch(self, batch: LiveBatch) -> Halt | None:
        """Every file, however the batch has ended; kept as they come, before anything is read of them."""
        entry, kept = batch.entry, []
        for kind, name in entry.files:
            content = await self._forms[batch.variant].read(name)
            if isinstance(content, bytes):
                kept.append(self._keeper.book.keep_raw(entry, kind, content))
            elif content.fate == "not_there":
                self._say(f"batch {entry.batch_id}: its {kind} file is gone ({content.failure.message})")
            else:
                return self._troubled(batch, content, f"it does not give the {kind} file of {entry.batch_id}")
        self._go_on(batch, "stored", raw=tuple(kept))
        return None

    def _go_on(self, batch: LiveBatch, step: BatchStep, **known: Any) -> None:
        batch.entry = structs.replace(batch.entry, step=step, **known)
        self._keeper.book.write(batch.entry)
        batch.failing_since, batch.failures, batch.due = None, 0, 0.0

    def _troubled(self, batch: LiveBatch, trouble: CallTrouble, what: str) -> Halt | None:
        """Later again, where that may help; else why not."""
        failure = trouble.failure
        tries = structs.replace(NO_TRIES, counted=batch.failures, refused=batch.failures)
        decision = decide(failure, tries, FOREVER, lane_has_succeeded=False, lane_was_reached=True, draw=1.0)
        if isinstance(decision, Halt):
            return decision
        now = self._now()
        if isinstance(decision, GiveUp) or trouble.fate == "not_there":
            return Halt(EXIT_GATEWAY_REFUSED, f"the gateway refuses this job: {what} ({failure.message})")
        assert isinstance(decision, Again)
        batch.failures += 1
        batch.failing_since = now if batch.failing_since is None else batch.failing_since
        if now - batch.failing_since >= self._limits.give_up_seconds:
            return Halt(EXIT_GATEWAY_REFUSED, f"the gateway could not be asked for too long: {failure.message}")
        batch.due = now + decision.delay_seconds
        return None


def _of(variant: str) -> str:
    return f"variant {variant}"


STEPS: Mapping[BatchStep, Callable[[BatchSteps, LiveBatch], Awaitable[Halt | None]]] = {
    "intended": BatchSteps._upload,
    "uploaded": BatchSteps._create,
    "creating": BatchSteps._find,
    "created": BatchSteps._look,
    "ended": BatchSteps._fetch,
}
"""What the disk says last -> what is done next. `stored` is settled by the sender, which knows the rows."""
