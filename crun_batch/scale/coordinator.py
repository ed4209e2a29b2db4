"""The coordinator: gives workers, whom others start, their parts of one job, and survives its own death.

Owns who is at work on which shard. A worker is known by its name in the lock of its run directory, which is looked
at each time it asks: who is no longer named there has been replaced, is given nothing more and told to stop. Each
grant is on the disk before it is given. A worker that does not ask any more has nothing once its lease is over;
its money becomes what its journal says then. It may ask again; so may a successor, after that moment.

Called from several threads; nothing of transports is known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from crun_batch.errors import (
    EXIT_INPUT,
    EXIT_OK,
    EXIT_OUT_OF_MONEY,
    EXIT_ROWS_FAILED,
    EXIT_RUN_DIRECTORY,
)
from crun_batch.paths import is_folder
from crun_batch.records import Halt
from crun_batch.scale.exchange import FromShard, ToShard, why_not_alike
from crun_batch.scale.giver import Giver, WorkerEnd
from crun_batch.scale.kept_leases import Begun, Closed, Given, KeptLeases, Over
from crun_batch.scale.leases import LEASE_SECONDS, WorkerReport
from crun_batch.scale.messages import Ended, Failed, Reported, Stop, ToWorker
from crun_batch.scale.restarts import COMES_AGAIN
from crun_batch.store.holder import holder, signed_by

DONE = (EXIT_OK, EXIT_ROWS_FAILED)
LATE_SECONDS = 1.0
"""After the end of a lease, until what was written under it can be read on any host."""
AWAITED_SECONDS = 60.0
"""A shard that had used up its money, as its run directory alone says, may come again, under another cap."""


class _ShardNow(Struct):
    owner: str = ""
    epoch: int = 0
    sequence: int = 0
    is_here: bool = False
    end: WorkerEnd | None = None


class Coordinator:
    """Answers workers until all shards have ended. `places`: their run directories, which it must see."""

    def __init__(
        self,
        giver: Giver,
        kept: KeptLeases,
        places: Sequence[Path],
        asks: Mapping[str, str],
        attempt_timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._giver = giver
        self._kept = kept
        self._places = places
        self._asks = asks
        self._attempt_timeout_seconds = attempt_timeout_seconds
        self._lock = giver.lock
        self._shards = [_ShardNow() for _ in places]
        self.keeper = f"{time.time_ns():x}-{threading.get_native_id()}"
        self.failure: Exception | None = None
        """Why nothing can be given any more."""
        self._has_begun = False
        self._used_up: dict[int, WorkerEnd] = {}
        """Shards that had used up their money, as nothing but their run directory says."""
        self._recall(self._clock())
        is_waiting = not kept.has_begun and any(map(signed_by, places))  # what was given is on no disk
        self._is_lost = kept.is_lost or is_waiting
        """Who has ended is told by the run directories alone."""
        self._begins_at = self._clock() + (LEASE_SECONDS + LATE_SECONDS if is_waiting else 0.0)
        self.look_after()

    def _recall(self, now: float) -> None:
        """Go on from what an earlier coordinator gave."""
        for number, given in self._kept.given.items():
            self._giver.book.recall(number, given.part, now)
            self._shards[number] = _ShardNow(given.owner, given.part.epoch, is_here=True)
        for number, over in self._kept.over.items():
            shard = self._shards[number]
            self._giver.book.leave(number, shard.epoch, self._giver.watchers.committed(number), now)
            shard.is_here, shard.end = False, WorkerEnd(over.exit_code, message=over.message)

    @property
    def ends(self) -> list[WorkerEnd] | None:
        """How each shard has ended; None as long as one is at work, or waited for."""
        with self._lock:
            ends, halt = [shard.end for shard in self._shards], self._giver.halt
            if any(shard.is_here for shard in self._shards):
                return None
            if halt is not None:
                ends = [end or WorkerEnd(halt.exit_code, message=halt.words) for end in ends]
            known = [end for end in ends if end is not None]
            return known if len(known) == len(ends) else None

    @property
    def over(self) -> list[bool]:
        """Of each shard, whether it has ended and is not waited for."""
        with self._lock:
            return [shard.end is not None for shard in self._shards]

    @property
    def halt(self) -> tuple[int, str] | None:
        """Why all workers were told to stop, if they were: exit code and words."""
        halt = self._giver.halt
        return None if halt is None else (halt.exit_code, halt.words)

    @property
    def largest_hold_pico(self) -> tuple[int, int]:
        """In dollars and credits what one request of any worker may cost at most."""
        return self._giver.book.largest_hold()

    def stop(self, halt: Halt) -> None:
        """All workers are to stop, also those who come yet; what is in flight is waited for."""
        with self._lock:
            self._giver.stop(halt)

    def exchange(self, said: FromShard) -> ToShard:
        """Hear a worker and answer it. Raises what stands in the way of giving anything any more."""
        with self._lock:
            if self.failure is not None:
                raise self.failure
            try:
                return ToShard(self.keeper, self._answers(said, self._clock()))
            except Exception as error:
                self.failure = error
                raise

    def look_after(self) -> None:
        """To be called now and then: workers whose lease has ended without a word lose what they had.

        Raises what stands in the way of giving anything any more.
        """
        try:
            with self._lock:
                if not self._has_begun and self._clock() >= self._begins_at:
                    self._begin()
                if self._clock() >= self._begins_at + AWAITED_SECONDS:
                    self._await_no_longer()
                shards = enumerate(self._shards)
                late = [number for number, shard in shards if shard.is_here and self._is_late(number)]
            for number in late:
                self._lose(number)
        except Exception as error:
            self.failure = self.failure or error
            raise

    def close(self) -> None:
        """All has ended in order."""
        with self._lock:
            self._kept.keep(Closed())

    def _answers(self, said: FromShard, now: float) -> list[ToWorker]:
        refusal = self._refusal(said)
        if refusal is not None:
            return [refusal]
        number = said.shard[0] - 1
        shard = self._shards[number]
        if said.owner == shard.owner and said.sequence <= shard.sequence:
            return []
        answers: list[ToWorker] = []
        for message in said.messages:
            if isinstance(message, Reported):
                answers += self._granted(number, said, message.report, now)
            elif isinstance(message, Ended | Failed):
                end = self._giver.told(number, message)
                if end is not None and (said.owner or not shard.is_here):
                    self._ended(number, end, now)  # also of a successor that had nothing to ask for
            else:
                self._giver.told(number, message)
        if said.owner == shard.owner:
            shard.sequence = said.sequence
        halt = self._giver.halt
        return answers if halt is None else [Stop(halt.exit_code, halt.words)]

    def _refusal(self, said: FromShard) -> Stop | None:
        """Why this is no worker of this job, or none any more."""
        number, count = said.shard
        if count != len(self._places) or not 1 <= number <= count:
            return Stop(EXIT_INPUT, f"the coordinator has {len(self._places)} shards; this is {number}/{count}")
        why = why_not_alike(self._asks, said.asks)
        if why is not None:
            return Stop(EXIT_INPUT, why)
        place = self._places[number - 1]
        if not said.owner or (there := signed_by(place)) == said.owner:
            return None
        if there is None:
            return Stop(
                EXIT_RUN_DIRECTORY,
                f"the coordinator sees no run directory of shard {number}/{count} at {place.absolute()}: it and "
                "its workers need one folder that all of them see",
            )
        return Stop(
            EXIT_RUN_DIRECTORY, f"{there} has taken over shard {number}/{count}; nothing more is sent from here"
        )

    def _granted(self, number: int, said: FromShard, report: WorkerReport, now: float) -> list[ToWorker]:
        shard = self._shards[number]
        if not self._has_begun:
            return []
        if not (shard.is_here and shard.owner == said.owner) and not self._joins(number, said, report, now):
            return []
        granted = self._giver.renewed(number, shard.epoch, report, now)
        if granted is None:
            return []
        self._keep(number)
        return [granted]

    def _joins(self, number: int, said: FromShard, report: WorkerReport, now: float) -> bool:
        """Whether it is at work from now on. A successor waits until what its predecessor was given has ended."""
        shard, book = self._shards[number], self._giver.book
        if shard.is_here:
            if now < book.lease_ends_at(number):
                return False
            committed = report.usd.committed_pico, report.credits.committed_pico
            book.leave(number, shard.epoch, committed, now)
        if shard.owner == said.owner:
            book.come_back(number)
        else:
            shard.owner, shard.epoch = said.owner, book.join(number)
        shard.is_here, shard.end = True, None
        return True

    def _keep(self, number: int) -> None:
        """On the disk before it is given, where it is not what stands there."""
        given = Given(number, self._shards[number].owner, self._giver.book.held(number))
        if self._kept.given.get(number) != given or number in self._kept.over:
            self._kept.keep(given)

    def _ended(self, number: int, end: WorkerEnd, now: float) -> None:
        shard, watchers = self._shards[number], self._giver.watchers
        if shard.is_here:
            self._giver.book.leave(number, shard.epoch, watchers.committed(number), now)
            shard.is_here = False
        else:
            self._giver.book.recount(number, watchers.committed(number))
        if end.exit_code in COMES_AGAIN and self._giver.halt is None:
            watchers.say(
                f"shard {number + 1} has ended ({end.message}); it is waited for until it is started again"
            )
            return
        self._over(number, end)
        halt = self._giver.halt_after(end)
        if halt is not None:
            self._giver.stop(halt)

    def _is_late(self, number: int) -> bool:
        return self._clock() >= self._giver.book.lease_ends_at(number) + LATE_SECONDS

    def _lose(self, number: int) -> None:
        """Its lease is over: what it committed stands in its journal, what it has in flight ends by itself.

        Who is gone may have ended unheard: with all of its rows done it would not come again to say so.
        """
        process, committed = holder(self._places[number]), self._giver.watchers.committed(number)
        end = None if process else self._giver.watchers.ended(number)
        with self._lock:
            shard, book = self._shards[number], self._giver.book
            if not (shard.is_here and self._is_late(number)):
                return
            ends_at = book.lease_ends_at(number)
            drained_at = ends_at + self._attempt_timeout_seconds if process else 0.0
            book.leave(number, shard.epoch, committed, self._clock(), drained_at=drained_at)
            shard.is_here = False
            if end is not None and end.exit_code in DONE:
                self._over(number, end)
                self._giver.watchers.say(f"shard {number + 1} is done, as its run directory says")
                return
            still = f"{process} still has its run directory" if process else "its process is gone"
            self._giver.watchers.say(
                f"shard {number + 1} has not asked for {LEASE_SECONDS + LATE_SECONDS:g} s ({still}): its part is "
                "given on; it is waited for"
            )

    def _begin(self) -> None:
        """From now on all that was used is known: by grants that hold, or from the run directories."""
        if not self._kept.has_begun:
            self._kept.keep(Begun(self._is_lost))
        for number, place in enumerate(self._places):
            if not self._shards[number].is_here:
                committed = self._giver.watchers.committed(number)
                is_held = _is_held(place)
                self._giver.book.recount(number, committed, has_own_part=is_held)
                if self._is_lost and not is_held and self._shards[number].end is None:
                    self._recall_end(number)
        self._has_begun = True

    def _recall_end(self, number: int) -> None:
        """Nothing was kept of who has ended: who has will not come to say so again, and says it on its disk."""
        end = self._giver.watchers.ended(number)
        if end is not None and end.exit_code in DONE:
            self._over(number, end)
            return
        if end is not None and end.exit_code == EXIT_OUT_OF_MONEY:
            self._used_up[number] = end
        if signed_by(self._places[number]):
            awaited = f", at most {AWAITED_SECONDS:g} s" if number in self._used_up else ""
            self._giver.watchers.say(
                f"shard {number + 1} is not done, as its run directory says; it is waited for{awaited}"
            )

    def _await_no_longer(self) -> None:
        for number, end in self._used_up.items():
            if not self._shards[number].owner:
                self._over(number, end)
        self._used_up = {}

    def _over(self, number: int, end: WorkerEnd) -> None:
        self._shards[number].end = end
        self._kept.keep(Over(number, end.exit_code, end.message))


def _is_held(place: Path) -> bool:
    return is_folder(place) and holder(place) is not None
