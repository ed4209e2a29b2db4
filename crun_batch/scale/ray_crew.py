"""The actors of a job on a Ray cluster, to the process that drives them: found or started, watched, ended.

They outlive this process: each has a name, by which another one finds it. Whatever Ray raises ends here.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crun_batch.errors import EXIT_BUG, CrunBatchError, DiskFailed, InputError, RunDirectoryError
from crun_batch.load.job.job import Job
from crun_batch.options import RunOptions
from crun_batch.records import Halt
from crun_batch.scale.figures import FiguresOfAll, figures_served
from crun_batch.scale.giver import AllEnds
from crun_batch.scale.kept_leases import keeper_of_grants
from crun_batch.scale.messages import Order, encode
from crun_batch.scale.ray_cluster import beside
from crun_batch.scale.ray_giver import GiverNews, LeaseGiver
from crun_batch.scale.ray_worker import NAMESPACE, ShardWorker
from crun_batch.scale.restarts import COMES_AGAIN, LOST_TOO_OFTEN, MOST_STARTS, Restarts

LOOKED_EVERY_SECONDS = 0.5
ANSWERED_WITHIN_SECONDS = 5.0
SILENT_SECONDS = 120.0
"""A giver that has a name and does not answer for so long is ended, and another started: its grants are kept."""
LOST_SECONDS = 90.0
"""The same where no process has opened its book; twice as long for each successor that did not either.

Ray has lost one without a word, whose process died at the moment at which the driver did. To start takes seconds,
and a minute on an overloaded machine, where Ray's processes come last.
"""
NO_SENTENCES = sys.maxsize
"""As many are known as could ever be said: none of them is wanted."""
CANNOT_BEGIN = "the giver of leases cannot begin on the cluster"
WOULD_END_SO_AGAIN = "crun_batch.errors.InputError: "
"""What a giver raised is told by Ray as the last line of its traceback."""
FAILURES: dict[int, type[CrunBatchError]] = {
    error.exit_code: error for error in (InputError, RunDirectoryError, DiskFailed)
}


class RayCrew:
    """One giver and a worker for each order. `ray`: the module, connected to a cluster."""

    def __init__(self, ray: Any, job: Job, options: RunOptions) -> None:
        self._ray = ray
        self._figures = FiguresOfAll.of(job)
        self._options = options
        self._folder = str(Path.cwd())
        self._name = hashlib.sha256(str(job.output.dir.absolute()).encode()).hexdigest()[:16]
        self._run = job.output.dir
        self._giver: Any = None
        self._halt: Halt | None = None
        self._over: list[bool] = []
        self._is_over = False
        self._is_lost = False

    def is_there(self) -> bool:
        """Whether another process has started these actors, and they live."""
        return self._found("giver") is not None

    async def run(self, giver: Order, orders: Sequence[Order]) -> AllEnds:
        """Until all shards have ended; how each did. Raises what stands in the way of giving leases.

        Cancelled where the cluster is gone: then nobody there can be ended.
        """
        self._over = [False] * len(orders)
        self._giver = await self._found_or_started(giver)
        await self._asked_once(giver)
        workers = [asyncio.create_task(self._keep(number, order)) for number, order in enumerate(orders)]
        try:
            async with figures_served(self._figures, self._options):
                news = await self._watched(giver)
            await self._call(self._giver.close.remote())
            return AllEnds(news.ends or [], news.largest_hold_pico)
        except asyncio.CancelledError:
            self._is_lost = True
            raise
        finally:
            self._is_over = True
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            if not self._is_lost:
                await beside(self._end_all, len(orders))

    def stop(self, halt: Halt) -> None:
        """No new requests from now on, anywhere; what is in flight is waited for."""
        self._halt = self._halt or halt
        if self._giver is not None:
            self._giver.stop.remote(halt.exit_code, halt.words)

    def abandon(self) -> None:
        """End all workers now; what is in flight is of unknown outcome."""
        self._is_over = True
        threading.Thread(target=self._end_workers, args=(len(self._over),), daemon=True).start()

    def _found(self, what: str) -> Any:
        try:
            return self._ray.get_actor(f"{self._name}-{what}", namespace=NAMESPACE)
        except ValueError:
            return None

    async def _found_or_started(self, order: Order) -> Any:
        return await beside(self._found, "giver") or await beside(self._started_giver, order)

    def _started_giver(self, order: Order) -> Any:
        lasting: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0}
        # In order, a call that was lost on its way is waited for as long as its caller goes on to call.
        actor = self._ray.remote(allow_out_of_order_execution=True, **lasting)(LeaseGiver)
        named = actor.options(name=f"{self._name}-giver", namespace=NAMESPACE, lifetime="detached")
        return named.remote(encode(order), self._folder)

    def _started_worker(self, number: int) -> Any:
        actor = self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD")
        named = actor(ShardWorker).options(
            name=f"{self._name}-worker-{number}", namespace=NAMESPACE, lifetime="detached"
        )
        return named.remote(self._giver, f"{self._name}-giver", self._folder)

    async def _asked_once(self, order: Order) -> None:
        """The giver has begun. Raises InputError where it cannot, with what it met."""
        for start in range(1, MOST_STARTS + 1):
            try:
                patience = self._patience_seconds(start - 1)
                self._over = (await asyncio.wait_for(self._giver.news.remote(0), patience)).over
            except (self._ray.exceptions.RayError, TimeoutError) as error:
                last = _last_line(error)
                if start == MOST_STARTS or last.startswith(WOULD_END_SO_AGAIN):
                    raise InputError(f"{CANNOT_BEGIN}: {last.removeprefix(WOULD_END_SO_AGAIN)}") from None
                if isinstance(error, TimeoutError):
                    await beside(self._kill, "giver")
                await asyncio.sleep(LOOKED_EVERY_SECONDS)
                self._giver = await self._found_or_started(order)
            else:
                return

    async def _keep(self, number: int, order: Order) -> None:
        """One shard to its end, through deaths of its worker."""
        restarts, seconds = Restarts(), asyncio.get_running_loop().time
        while restarts.may_start(seconds()):
            restarts.start(seconds())
            found = await beside(self._found, f"worker-{number}")
            if found is None and self._over[number]:
                return
            worker = found or await beside(self._started_worker, number)
            try:
                code = await (worker.run.remote(encode(order)) if found is None else worker.ended.remote())
                said = f"ended with exit code {code}"
            except self._ray.exceptions.RayError as error:
                code, said = None, f"was lost ({_last_line(error)})"
            await beside(self._kill, f"worker-{number}")
            await self._look()
            if self._is_over or self._halt is not None or (code is not None and code not in COMES_AGAIN):
                return
            if restarts.may_start(seconds()) and not self._over[number]:
                self._options.say(f"worker {number + 1} {said}: started again; its shard goes on where it was")
        self.stop(Halt(EXIT_BUG, f"worker {number + 1} {LOST_TOO_OFTEN}"))

    async def _look(self) -> None:
        """What was told meanwhile: somebody else may have stopped all workers."""
        news = await self._news(NO_SENTENCES)
        if news is not None:
            self._take(news)

    async def _watched(self, order: Order) -> GiverNews:
        """Show what there is to show until all is over."""
        keeper, known, lost = "", 0, 0
        loop = asyncio.get_running_loop()
        answered_at = loop.time()
        while lost < MOST_STARTS:
            news = await self._news(known)
            if news is not None and news.keeper != keeper:
                keeper, known = news.keeper, 0
                news = await self._news(0)
            if news is not None:
                lost, answered_at = 0, loop.time()
                known += len(news.sentences)
                self._shown(news)
                if news.ends is not None:
                    return news
            elif await beside(self._is_gone, loop.time() - answered_at, lost):
                lost, answered_at = lost + 1, loop.time()
                self._giver = await beside(self._started_giver, order)
            await asyncio.sleep(LOOKED_EVERY_SECONDS)
        raise InputError(CANNOT_BEGIN)

    def _is_gone(self, silent_seconds: float, lost: int) -> bool:
        """Whether there is no giver; one that was silent for too long is ended."""
        if silent_seconds > self._patience_seconds(lost):
            self._kill("giver")
        return self._found("giver") is None

    def _patience_seconds(self, lost: int) -> float:
        """How long a giver may be silent, after so many that were lost."""
        is_there = keeper_of_grants(self._run) is not None
        return SILENT_SECONDS if is_there else min(SILENT_SECONDS, LOST_SECONDS * 2**lost)

    def _shown(self, news: GiverNews) -> None:
        self._take(news)
        for sentence in news.sentences:
            self._options.say(sentence)
        for number, figures in news.figures.items():
            self._figures.figured(number, figures)
        if self._options.watch is not None and news.progress is not None:
            self._options.watch(news.progress)
        if news.failure is not None:
            code, words, advice = news.failure
            raise FAILURES.get(code, RunDirectoryError)(words, advice=advice)

    def _take(self, news: GiverNews) -> None:
        self._over, self._figures.caps = news.over, news.caps
        if news.halt is not None:
            self._halt = self._halt or Halt(*news.halt)

    async def _news(self, known: int) -> GiverNews | None:
        """None: the giver is just being started again."""
        found: GiverNews | None = await self._call(self._giver.news.remote(known))
        return found

    async def _call(self, reference: Any) -> Any:
        try:
            return await asyncio.wait_for(reference, ANSWERED_WITHIN_SECONDS)
        except (self._ray.exceptions.RayError, TimeoutError):
            return None

    def _end_all(self, count: int) -> None:
        self._end_workers(count)
        self._kill("giver")

    def _end_workers(self, count: int) -> None:
        for number in range(count):
            self._kill(f"worker-{number}")

    def _kill(self, what: str) -> None:
        actor = self._found(what)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)


def _last_line(error: Exception) -> str:
    return (str(error).strip() or "it does not answer").splitlines()[-1]
