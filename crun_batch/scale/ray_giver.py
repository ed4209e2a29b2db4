"""The actor of a Ray cluster that gives leases: a coordinator, made anew from the disk each time Ray starts it.

Ray starts it again where it dies. What it gives and has given is on the disk that all nodes share, as with any
coordinator; between actors go the documents of `exchange`, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from msgspec import Struct

from crun_batch.errors import EXIT_BUG, CrunBatchError, InputError
from crun_batch.records import Halt
from crun_batch.scale.begun import begun_context
from crun_batch.scale.exchange import INSTALL_THE_SAME, decode_said
from crun_batch.scale.figures import FiguresOfAll
from crun_batch.scale.giver import WorkerEnd
from crun_batch.scale.giving import SaidOnce, coordinator_of
from crun_batch.scale.messages import decode_order, encode
from crun_batch.scale.orders import options_of_order, shard_places
from crun_batch.scale.steering import taken_up
from crun_batch.session.beside import heard
from crun_batch.workload.loading import load

LOOKED_EVERY_SECONDS = 0.2


class GiverNews(Struct, frozen=True):
    """What a driver shows, and whether all is over."""

    keeper: str
    """Which life of the giver tells: another one counts its sentences anew."""
    sentences: list[str]
    """All since the number that was asked for."""
    progress: Any
    over: list[bool]
    """Of each shard, whether it has ended and is not waited for."""
    ends: list[WorkerEnd] | None
    largest_hold_pico: tuple[int, int]
    figures: Mapping[int, Any]
    """The last ones of each worker."""
    failure: tuple[int, str, str] | None
    """Exit code, words and advice of what stands in the way of giving anything more."""
    caps: Any = ()
    """What all may spend together, as samples of a figure."""
    halt: tuple[int, str] | None = None
    """Why all workers were told to stop: exit code and words."""


class LeaseGiver:
    """One for each job. Each method is one call of a worker or a driver."""

    def __init__(self, order: bytes, folder: str) -> None:
        """`order`: the job, how many shards, how it is run; `folder`: where paths are seen from."""
        os.chdir(folder)
        self._sentences: list[str] = []
        self._progress: Any = None
        self._stack = ExitStack()
        told = decode_order.decode(order)
        if told.version != (here := version("crun-batch")):
            versions = f"its nodes have crun-batch {here}, this command is {told.version}"
            raise InputError(f"{versions}: {INSTALL_THE_SAME}")
        options = options_of_order(told, say=self._sentences.append, watch=self._moved)
        workload = load(Path(told.job), None, options, self._stack)
        run = workload.job.output.dir
        places = shard_places(run, told.shard[1], simulate=options.simulate)
        context = begun_context(workload, options, places)
        kept, context = self._stack.enter_context(taken_up(context, takes_over=True))
        self._figures = FiguresOfAll.of(workload.job)
        self._coordinator, job = coordinator_of(context, places, SaidOnce(options.say), kept, self._figures)
        beside = self._look_after(heard(job, job.keep, kept.folder, options))
        threading.Thread(target=asyncio.run, args=(beside,), name="leases", daemon=True).start()

    def exchange(self, said: bytes) -> bytes:
        """A worker's document; the answer."""
        return encode(self._coordinator.exchange(decode_said.decode(said)))

    def news(self, since: int) -> GiverNews:
        """What has happened. `since`: how many sentences are known."""
        coordinator, failure = self._coordinator, self._coordinator.failure
        told = None
        if failure is not None:
            code = failure.exit_code if isinstance(failure, CrunBatchError) else EXIT_BUG
            told = code, str(failure), getattr(failure, "advice", "")
        return GiverNews(
            coordinator.keeper,
            self._sentences[since:],
            self._progress,
            coordinator.over,
            coordinator.ends,
            coordinator.largest_hold_pico,
            self._figures.last,
            told,
            self._figures.caps,
            coordinator.halt,
        )

    def stop(self, exit_code: int, words: str) -> None:
        """All workers are to stop."""
        self._coordinator.stop(Halt(exit_code, words))

    def close(self) -> None:
        """All has ended in order."""
        self._coordinator.close()

    def _moved(self, progress: Any) -> None:
        self._progress = progress

    async def _look_after(self, people: AbstractAsyncContextManager[None]) -> None:
        async with people:
            while self._coordinator.failure is None:
                with suppress(Exception):  # the coordinator keeps it, and drivers are told
                    await asyncio.to_thread(self._coordinator.look_after)
                await asyncio.sleep(LOOKED_EVERY_SECONDS)
