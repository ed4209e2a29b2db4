"""One batch, one step further: submitted, found again, looked at, what it has left read. The table is `STEPS`.

Each step writes what is known to the disk before it does what could not be undone, and ends; who drives it decides
what comes next. Trouble that may pass sets a later moment for the same step; a refusal is returned as a Halt.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import structs

from crun_batch.console.amounts import counted
from crun_batch.errors import EXIT_GATEWAY_REFUSED
from crun_batch.gateway.batches.form import (
    BatchForm,
    BatchTold,
    CallTrouble,
    FileForm,
    InlineForm,
    done_at_the_end,
)
from crun_batch.gateway.retry import RetryPolicy, decide
from crun_batch.records import Again, Fault, GiveUp, Halt, Response, Tries
from crun_batch.session.batching.keeper import BatchKeeper
from crun_batch.session.batching.live import BatchLimits, Ending, LiveBatch, arrivals_by_serial
from crun_batch.session.batching.searching import is_it, since_seconds, suspects_of
from crun_batch.store.batches import BatchStep

FOREVER = RetryPolicy(max_attempts=2**31, max_unknown_retries=2**31)
NO_TRIES = Tries()
NOT_THERE = Fault("not_sent", "connection", "the gateway's list does not have its batch: it was not submitted")
EMPTY = Fault("not_sent", "connection", "of the batches of the gateway's list that it may be in nothing was done")
UNDECIDED = Fault("unknown", "bad_reply", "nobody tells whether its batch was submitted: it may have been billed")
TOO_MANY_TOKENS = re.compile(r"(?i)token_limit_exceeded|enqueued token")
"""A batch is more than may wait at one time: OpenAI's code; its words, where a gateway passes on only those."""
_WHAT = {"output": "output file is", "error": "error file is", "results": "results are"}


class BatchSteps:
    """Brings batches further; `forms` has one way to the gateway for each variant."""

    def __init__(
        self,
        keeper: BatchKeeper,
        forms: Sequence[BatchForm],
        limits: BatchLimits,
        now: Callable[[], float],
        say: Callable[[str], None],
        has_others_out: Callable[[LiveBatch], bool],
    ) -> None:
        self._keeper = keeper
        self._forms = forms
        self._limits = limits
        self._now = now
        self._say = say
        self._has_others_out = has_others_out
        self._full_until: dict[int, float] = {}
        """Variant -> until when none of its batches is offered: one was refused as too many."""

    async def advance(self, batch: LiveBatch) -> Halt | None:
        """The batch's next step; why the gateway refuses it, where it does. Raises DiskFailed."""
        return await STEPS[batch.entry.step](self, batch)

    async def _begin(self, batch: LiveBatch) -> Halt | None:
        """Nothing of it is at the gateway: its file is uploaded, or its requests go with the creating call."""
        form, entry = self._forms[batch.variant], batch.entry
        if isinstance(form, InlineForm):
            if self._waits_with_another(batch):
                return None
            self._ask(batch)
            return self._asked(batch, await form.submit(batch.content), back_to="intended")
        assert isinstance(form, FileForm)
        file_id = await form.upload(f"crun-batch-{entry.tag}.jsonl", batch.content)
        if isinstance(file_id, CallTrouble):
            return self._troubled(batch, file_id, "it takes no file for a batch")
        batch.content = b""
        self._go_on(batch, "uploaded", file_id=file_id)
        return None

    async def _create(self, batch: LiveBatch) -> Halt | None:
        form, entry = self._forms[batch.variant], batch.entry
        assert isinstance(form, FileForm) and entry.file_id is not None
        if self._waits_with_another(batch):
            return None
        self._ask(batch)
        tags = {"crun_batch": entry.tag, "requests": str(entry.requests)}
        told = await form.create(entry.file_id, tags)
        halt = self._asked(batch, told, back_to="uploaded")
        if isinstance(told, BatchTold):
            await self._look_for_others(batch, form)
        return halt

    async def _look_for_others(self, batch: LiveBatch, form: BatchForm) -> None:
        """A gateway before the provider may have repeated the call by itself, as LiteLLM's proxy does."""
        entry = batch.entry
        listed = await form.listed(since_seconds(entry))
        if not isinstance(listed, CallTrouble):
            await self._cancel_others(batch, form, [one for one in listed if one.file_id == entry.file_id])

    async def _cancel_others(self, batch: LiveBatch, form: BatchForm, of_file: Sequence[BatchTold]) -> None:
        """Of its file there is to be one batch: each other one would be paid too, and read by nobody."""
        entry = batch.entry
        for other in of_file:
            if other.id != entry.batch_id and other.state not in ("ended", "refused"):
                told = await form.cancel(other.id)
                ending = told.failure.message if isinstance(told, CallTrouble) else told.status
                self._say(
                    f"{other.id} was made of the file of {entry.batch_id} too, and is to be cancelled: {ending}"
                )

    def _waits_with_another(self, batch: LiveBatch) -> bool:
        """Put off what would be refused as another of its variant just was, as too many; whether that was so."""
        until = self._full_until.get(batch.variant, 0.0)
        if until <= self._now():
            return False
        batch.due = until
        return True

    def _ask(self, batch: LiveBatch) -> None:
        """The disk says `creating` before the call, and goes back only where the gateway did surely nothing."""
        self._go_on(batch, "creating", is_further=False, asked_at=self._keeper.now_us())

    def _asked(self, batch: LiveBatch, told: BatchTold | CallTrouble, *, back_to: BatchStep) -> Halt | None:
        if isinstance(told, BatchTold):
            self._created(batch, told)
            return None
        if told.fate == "unclear":
            self._say(f"no clear reply to the creation of a batch ({told.failure.message}): it is looked for")
            batch.content, batch.absent_since = b"", None
            batch.failing_since, batch.failures = None, 0
            return None
        self._go_on(batch, back_to, is_further=False)
        is_full = told.failure.kind == "rate_limited" and self._has_others_out(batch)
        if not is_full and batch.entry.requests > 1 and TOO_MANY_TOKENS.search(told.failure.message):
            # It would be refused for ever: as where a batch is made and fails for it, fewer may pass.
            fault = Fault("not_sent", "connection", f"its batch was refused: {told.failure.message}")
            batch.ending = Ending({}, fault, step="released", is_uncounted=True, is_too_much=True)
            batch.due = 0.0
            return None
        halt = self._troubled(batch, told, "it takes no batch", is_no_trouble=is_full)
        if halt is None and told.failure.kind == "rate_limited":
            self._full_until[batch.variant] = batch.due
        return halt

    async def _find(self, batch: LiveBatch) -> Halt | None:
        """Nobody knows whether the create call was heard: the batch is found, or free to be submitted.

        Free only where the list was readable twice, so far apart as lists may lag, and had none that it may be.
        """
        form, entry = self._forms[batch.variant], batch.entry
        listed = await form.listed(since_seconds(entry))
        if isinstance(listed, CallTrouble):
            return self._troubled(batch, listed, "it does not list its batches")
        if entry.file_id is not None:
            found = [one for one in listed if one.file_id == entry.file_id]
            self._found(batch, found)
            await self._cancel_others(batch, form, found)
            return None
        not_it = self._keeper.book.batch_ids | batch.ruled_out
        return await self._decide(batch, suspects_of(entry, listed, not_it))

    def _found(self, batch: LiveBatch, found: Sequence[BatchTold]) -> None:
        """The batches of its file, the latest first."""
        if found:
            self._created(batch, found[-1])
        elif self._is_absent(batch):
            self._go_on(batch, "uploaded")

    async def _decide(self, batch: LiveBatch, suspects: Sequence[BatchTold]) -> Halt | None:
        """Each suspect that is over is read: it is this batch, it is not, or it says nothing and never will."""
        entry, silent = batch.entry, list[str]()
        for one in suspects:
            if one.state not in ("ended", "refused"):
                continue
            verdict = await self._verdict(batch, one)
            if isinstance(verdict, CallTrouble):
                return self._troubled(batch, verdict, f"it does not tell what was in {one.id}")
            if verdict:
                return None
            if verdict is None:
                silent.append(one.id)
            else:
                batch.ruled_out |= {one.id}
        left = tuple(one.id for one in suspects if one.id not in batch.ruled_out)
        if left != entry.suspects:
            self._go_on(batch, "creating", suspects=left)
        if left and len(left) > len(silent):
            self._tell_suspects(batch, entry.suspects)
            batch.absent_since, batch.due = None, self._now() + self._limits.look_seconds
        elif not self._is_absent(batch):  # the list may lag: another suspect may come
            return None
        elif left and not any(done_at_the_end(one, entry.requests) for one in suspects if one.id in left):
            self._end(batch, Ending({}, EMPTY, step="released", is_uncounted=True), EMPTY.message)
        elif left:
            self._end(batch, Ending({}, UNDECIDED, step="lost"), f"nothing tells any more what was in {left[0]}")
        else:
            self._end(batch, Ending({}, NOT_THERE, step="released", is_uncounted=True), NOT_THERE.message)
        return None

    async def _verdict(self, batch: LiveBatch, one: BatchTold) -> bool | CallTrouble | None:
        """As `is_it` says; where it is, what was read of it is kept: nobody knows how long the gateway has it."""
        form, read = self._forms[batch.variant], dict[str, bytes]()
        for kind, name in one.files:
            content = await form.read(name)
            if isinstance(content, bytes):
                read[kind] = content
            elif content.fate != "not_there":
                return content
        verdict = is_it(batch.entry, (line for content in read.values() for line in form.lines(content)))
        if verdict:
            self._created(batch, one)
            self._ended(batch, one)
            for kind, content in read.items():
                self._keeper.book.keep_raw(batch.entry, kind, content)
        return verdict

    def _tell_suspects(self, batch: LiveBatch, told: Sequence[str]) -> None:
        left = batch.entry.suspects
        if left != told:
            requests = counted(batch.entry.requests, "request")
            self._say(
                f"a batch of {requests} may be {' or '.join(left)}: nothing of it is sent again until that ends"
            )

    def _end(self, batch: LiveBatch, ending: Ending, words: str) -> None:
        self._say(f"a batch of {counted(batch.entry.requests, 'request')}: {words}")
        batch.ending, batch.due = ending, 0.0

    def _is_absent(self, batch: LiveBatch) -> bool:
        """Whether the list has not had it for as long as lists may lag; else it is looked for again."""
        now, limits = self._now(), self._limits
        if batch.absent_since is None:
            batch.absent_since = now
        elif now - batch.absent_since >= limits.absent_seconds:
            batch.absent_since = None
            return True
        batch.failing_since, batch.failures = None, 0
        batch.due = now + limits.absent_seconds / 2
        return False

    def _created(self, batch: LiveBatch, told: BatchTold) -> None:
        entry = batch.entry
        batch.content, batch.absent_since = b"", None
        self._go_on(batch, "created", batch_id=told.id, status=told.status, suspects=())
        self._say(f"batch {told.id}: {counted(entry.requests, 'request')} submitted, {_of(entry.variant)}")
        batch.was_running = told.state not in ("ended", "refused")
        batch.due = self._now() + (self._limits.look_seconds if batch.was_running else 0.0)

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
            self._ended(batch, told)
            return None
        if (told.status, told.done or 0) != (entry.status, entry.done):
            self._go_on(batch, "created", status=told.status, done=told.done or 0)
        batch.was_running = True
        batch.failing_since, batch.failures = None, 0
        batch.due = self._now() + self._limits.look_seconds
        return None

    def _ended(self, batch: LiveBatch, told: BatchTold) -> None:
        why = told.why if told.why is None or told.code is None else f"{told.code}: {told.why}"
        done = done_at_the_end(told, batch.entry.requests)
        self._go_on(batch, "ended", status=told.status, done=done, files=told.files, why=why)

    async def _fetch(self, batch: LiveBatch) -> Halt | None:
        """All that it has left, however it has ended; kept as it comes, before anything is read of it.

        What a killed session has kept is not asked for again: it is here, and may be there no more. What is not
        there, or comes with fewer lines than were done (a proxy cut it, a page came in its place), is asked for
        once more, as late as lists may lag: to take it for all there is is to pay for the rest twice.
        """
        entry, book, gone = batch.entry, self._keeper.book, dict[str, str]()
        again = batch.fetched if batch.absent_since is not None and self._lacks_lines(batch) else ()
        wanted = [file for file in entry.files if file[0] in again or book.kept(entry, file[0]) is None]
        for kind, name in wanted:
            there = book.kept(entry, kind)
            content = await self._forms[batch.variant].read(name)
            if isinstance(content, bytes):
                before = b"" if there is None else book.raw(there) + b"\n"
                book.keep_raw(entry, kind, before + content)
                batch.fetched.add(kind)
            elif content.fate != "not_there":
                return self._troubled(batch, content, f"it does not give the {kind} of {entry.batch_id}")
            elif there is None:
                gone[kind] = content.failure.message
        if (gone or (wanted and self._lacks_lines(batch))) and not self._is_absent(batch):
            self._say(f"batch {entry.batch_id}: not all of its results came; they are asked for once more")
            return None
        for kind, why in gone.items():
            self._say(f"batch {entry.batch_id}: its {_WHAT[kind]} gone ({why})")
        kept = (book.kept(entry, kind) for kind, _ in entry.files)
        self._go_on(batch, "stored", raw=tuple(name for name in kept if name is not None))
        return None

    def _lacks_lines(self, batch: LiveBatch) -> bool:
        """Whether what is kept of its files has fewer replies than the gateway says it has done."""
        entry, book, form = batch.entry, self._keeper.book, self._forms[batch.variant]
        kept = [book.raw(name) for kind, _ in entry.files if (name := book.kept(entry, kind)) is not None]
        arrivals, _ = arrivals_by_serial([line for raw in kept for line in form.lines(raw)], entry)
        return sum(isinstance(one, Response) for one in arrivals.values()) < entry.done

    def _go_on(self, batch: LiveBatch, step: BatchStep, *, is_further: bool = True, **known: Any) -> None:
        """`is_further`: what had failed has passed; else the same call may fail again, and waits longer then."""
        batch.entry = structs.replace(batch.entry, step=step, **known)
        self._keeper.book.write(batch.entry)
        batch.due = 0.0
        if is_further:
            batch.failing_since, batch.failures = None, 0

    def _troubled(
        self, batch: LiveBatch, trouble: CallTrouble, what: str, *, is_no_trouble: bool = False
    ) -> Halt | None:
        """Later again, where that may help; else why not. `is_no_trouble`: it may take as long as it takes."""
        failure = trouble.failure
        tries = structs.replace(NO_TRIES, counted=batch.failures, refused=batch.failures)
        decision = decide(failure, tries, FOREVER, lane_has_succeeded=False, lane_was_reached=True, draw=1.0)
        if isinstance(decision, Halt):
            return decision
        now = self._now()
        if isinstance(decision, GiveUp) or trouble.fate == "not_there":
            more = f"; {_too_large(batch)}" if failure.kind == "too_long" else ""
            return Halt(EXIT_GATEWAY_REFUSED, f"the gateway refuses this job: {what} ({failure.message}){more}")
        assert isinstance(decision, Again)
        batch.failures += 1
        batch.failing_since = now if batch.failing_since is None or is_no_trouble else batch.failing_since
        if now - batch.failing_since >= self._limits.give_up_seconds:
            return Halt(EXIT_GATEWAY_REFUSED, f"the gateway could not be asked for too long: {failure.message}")
        batch.due = now + decision.delay_seconds
        return None


def _too_large(batch: LiveBatch) -> str:
    size = f"{counted(batch.entry.requests, 'request')}, {len(batch.content) / 1e6:.3g} MB"
    return f"it has {size}: set batch.max_megabytes lower, or batch.max_requests"


def _of(variant: str) -> str:
    return f"variant {variant}"


STEPS: Mapping[BatchStep, Callable[[BatchSteps, LiveBatch], Awaitable[Halt | None]]] = {
    "intended": BatchSteps._begin,
    "uploaded": BatchSteps._create,
    "creating": BatchSteps._find,
    "created": BatchSteps._look,
    "ended": BatchSteps._fetch,
}
"""What the disk says last -> what is done next. `stored` is settled by the sender, which knows the rows."""
