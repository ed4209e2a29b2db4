"""A worker that a coordinator grants its part: a run of one shard, steered over a network.

Where the coordinator is away, the worker goes on to the end of its lease, waits, and goes on when it is back, with
the same coordinator or with one that has taken its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from crun_batch.console.progress import Progress
from crun_batch.errors import EXIT_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED, CrunBatchError, InputError
from crun_batch.gateway.steering import SteeredSession
from crun_batch.records import Halt
from crun_batch.scale.exchange import FromShard, ToShard, Unanswered
from crun_batch.scale.granted import LOOKED_EVERY_SECONDS, GrantedPart
from crun_batch.scale.messages import Ended, Failed, Figured, FromWorker, Progressed, Reported, Sentence
from crun_batch.session.metrics import Figures

AGAIN_AFTER_SECONDS = 0.5
PATIENCE_SECONDS = 1800.0
"""How long a coordinator may be away until a worker ends, with an exit code that says: start it again."""
PATIENCE_TO_TELL_SECONDS = 300.0
"""How long a worker that has ended tries to say so; after a signal only a moment."""
PATIENCE_AT_A_SIGNAL_SECONDS = 5.0
MOST_SENTENCES = 100

Carry = Callable[[FromShard], Awaitable[ToShard]]
"""Takes a document to the coordinator and brings one back. Raises Unanswered, InputError (it is refused there)."""


class RemotePart:
    """Steers the session by what a coordinator grants, and tells it how far it is."""

    def __init__(
        self,
        carry: Carry,
        first: FromShard,
        *,
        owner: Callable[[], str],
        is_one_run: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        """What every document of this worker says is `first`.

        `owner`: its name in its run directory's lock; `is_one_run`: whether the coordinator has merged the shards.
        """
        self._carry = carry
        self.has_begun = False
        """Whether the session sends, or may: from then on its run directory is its own."""
        self._said = first
        self._owner = owner
        self._is_one_run = is_one_run
        self._say = say
        self._part = GrantedPart()
        self._sentences: list[Sentence] = []
        self._progress: Progress | None = None
        self._figures: Callable[[], Figures] | None = None
        self._figured: Figures | None = None
        self._sequence = 0
        self._keeper: str | None = None
        self._away_since: float | None = None

    def said(self, sentence: str) -> None:
        """Something to pass on with the next words."""
        self._sentences = [*self._sentences, Sentence(sentence)][-MOST_SENTENCES:]

    def moved(self, progress: Progress) -> None:
        """How far the shard is."""
        self._progress = progress

    def given(self, figures: Callable[[], Figures]) -> None:
        """What reads the session's figures."""
        self._figures = figures

    async def __call__(self, session: SteeredSession) -> None:
        """Beside the sending, to its end."""
        loop, owner = asyncio.get_running_loop(), self._owner()
        self.has_begun = True
        try:
            while True:
                report = self._part.report_if_due(session, loop.time())
                if report is not None:
                    self._read_figures()
                    await self._ask(session, owner, Reported(report))
                await asyncio.sleep(LOOKED_EVERY_SECONDS)
        finally:
            self._read_figures()

    def _read_figures(self) -> None:
        self._figured = None if self._figures is None else self._figures()

    async def _ask(self, session: SteeredSession, owner: str, report: Reported) -> None:
        loop = asyncio.get_running_loop()
        try:
            told = await self._carry(self._document(owner, [*self._waiting(), report]))
        except Unanswered as error:
            self._part.unanswered()
            self._is_away(session, error, loop.time())
            await asyncio.sleep(AGAIN_AFTER_SECONDS)
            return
        if self._away_since is not None:
            self._say("the coordinator is back")
            self._away_since = None
        if self._keeper != told.keeper:
            self._keeper = told.keeper
            self._part.forget_clock()
        for message in told.messages:
            self._part.take(session, message, loop.time())
        self._part.unanswered()  # whatever it was told, it may ask again

    def _is_away(self, session: SteeredSession, error: Unanswered, now: float) -> None:
        if self._away_since is None:
            self._away_since = now
            self._say(f"{error}; going on with what is leased, then waiting for it")
        elif now - self._away_since > PATIENCE_SECONDS:
            session.stop(Halt(EXIT_TERMINATED, f"{error}, for {PATIENCE_SECONDS / 60:g} minutes"))

    async def tell_end(self, summary: dict[str, Any], owner: str) -> None:
        """The summary of the shard, as written."""
        was_signalled = summary["exit_code"] in (EXIT_INTERRUPTED, EXIT_TERMINATED)
        patience = PATIENCE_AT_A_SIGNAL_SECONDS if was_signalled else PATIENCE_TO_TELL_SECONDS
        await self._tell(Ended(summary), owner, patience)

    async def tell_failure(self, error: CrunBatchError, owner: str) -> None:
        """Why the shard could not go on."""
        await self._tell(Failed(error.exit_code, str(error), error.advice), owner, PATIENCE_TO_TELL_SECONDS)

    async def _tell(self, message: FromWorker, owner: str, patience_seconds: float) -> None:
        """Until somebody has heard it, or nobody needs to. Who was ended by a signal waits only a moment."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_seconds
        is_said = False
        while True:
            try:
                await self._carry(self._document(owner, [*self._waiting(), message]))
            except InputError as error:
                if isinstance(message, Ended) and message.summary["exit_code"] != EXIT_INPUT:
                    self._say(f"{error}; it does not know that this shard has ended")
                return  # where it was refused before, it has ended for that
            except Unanswered as error:
                if self._is_one_run():
                    return  # a predecessor had told the end of this shard: the coordinator has merged, and gone
                if loop.time() >= until:
                    self._say(f"{error}; it does not know that this shard has ended")
                    return
                if not is_said:
                    is_said = True
                    self._say(f"{error}; waiting to tell it that this shard has ended")
                await asyncio.sleep(AGAIN_AFTER_SECONDS)
            else:
                return

    def _waiting(self) -> list[FromWorker]:
        """What is to be told since last time. Where it gets lost on the way, the next figures are newer."""
        moved = [] if self._progress is None else [Progressed(self._progress)]
        figured = [] if self._figured is None else [Figured(self._figured)]
        waiting: list[FromWorker] = [*self._sentences, *moved, *figured]
        self._sentences, self._progress, self._figured = [], None, None
        return waiting

    def _document(self, owner: str, messages: list[FromWorker]) -> FromShard:
        self._sequence += 1
        first = self._said
        return FromShard(first.shard, owner, self._sequence, first.asks, messages)
