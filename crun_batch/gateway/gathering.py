"""How long a reply waits for others, so that they are taken in together: each of them then costs less CPU time.

Where a gateway is the limit its replies come one by one, and to wake for each, read it and write of it costs twice
what it costs among others. While requests queue there the loop may even stand still, as a network card holds its
interrupts back: what the gateway has to do lasts longer than that, so nothing is sent too late for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from msgspec import Struct

GATHER_SECONDS, MOST_GATHER_SHARE = 0.002, 0.05
LONGEST_GATHER_SECONDS, GATHER_SHARE = 0.005, 0.01

ENOUGH_REPLIES = 32
"""So many that have come are worth a step: nobody rests for more of them."""
TOGETHER_REPLIES, TOGETHER_SHARE = 128, 0.5
"""A rest is for so many, and at most such a share of those in flight: others are left for the gateway."""
BUSY_REPLIES_PER_SECOND = 1_000
"""With fewer the processor has time for each of them."""
REST_SHARE, LONGEST_REST_SECONDS = 0.25, 0.05
"""The share is of the time that requests queue at the gateway."""
STEPS_OF_RATE = 16
"""Over so many steps the rate of replies is measured."""
TRIAL_EVERY_SECONDS, FIRST_TRIAL_AFTER_SECONDS, TRIAL_PART_SECONDS = 60.0, 10.0, 2.0
RESTS_IN_TRIAL = (False, True, True, False)
"""Of its parts: a pace that only rises or falls meanwhile is the same with rests as without."""
BORNE_PACE = 0.95
"""With rests, of the pace without: less is a loss."""


def gather_seconds(took_seconds: float) -> float:
    """Of a reply that took so long: 2 ms where that is a twentieth of it at most, 5 ms where it is a hundredth.

    The loop counts whole milliseconds: where replies take less than 10 ms they do not wait, and come together.
    """
    briefly = min(MOST_GATHER_SHARE * took_seconds, GATHER_SECONDS)
    return max(briefly, min(GATHER_SHARE * took_seconds, LONGEST_GATHER_SECONDS))


class Crowd(Struct, frozen=True):
    """What has come since the last step, and in how dense a stream."""

    came: int
    in_flight: int
    """With those that came."""
    took_seconds: float
    """By the request of the latest of them."""
    quickest_seconds: float
    """By the quickest ever there. One that need not queue takes about that: answers differ up to twice that.
    Infinite, where not all go to one lane."""


class ReplyRate:
    """How many replies a second have come of late."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=STEPS_OF_RATE)

    def took_in(self, now: float, replies: int) -> None:
        """A step took in so many."""
        if replies:
            self._steps.append((now, replies))

    @property
    def replies_per_second(self) -> float:
        """0 while too little is known."""
        if len(self._steps) < STEPS_OF_RATE:
            return 0.0
        (began, first), (ended, _) = self._steps[0], self._steps[-1]
        return (sum(replies for _, replies in self._steps) - first) / (ended - began) if ended > began else 0.0


class RestTrial:
    """Whether rests lower the pace, tried once a minute: then the loop does without until the next trial.

    The quickest answer is all that is known of one that need not queue. Where others take much longer without a
    queue, as some have a thousand words and others two, nothing but a trial tells that they do not wait in one.
    """

    def __init__(self) -> None:
        self.may_rest = True
        self._rests_are_borne = True
        self._began: float | None = None
        self._came = {False: 0, True: 0}

    def took_in(self, now: float, replies: int) -> None:
        """A step took in so many."""
        self._began = now if self._began is None else self._began
        since = (now - self._began) % TRIAL_EVERY_SECONDS - FIRST_TRIAL_AFTER_SECONDS
        part = int(since // TRIAL_PART_SECONDS)
        if 0 <= part < len(RESTS_IN_TRIAL):
            self.may_rest = RESTS_IN_TRIAL[part]
            self._came[self.may_rest] += replies
            return
        if any(self._came.values()):
            self._rests_are_borne = self._came[True] >= BORNE_PACE * self._came[False]
            self._came = {False: 0, True: 0}
        self.may_rest = self._rests_are_borne


def rest_seconds(crowd: Crowd, replies_per_second: float) -> float:
    """How long the loop may stand still, until about 128 replies have come; 0 where it should go on.

    What a request takes on average, queueing included, follows from how many are in flight and how many come
    (Little's law). What the latest took says less: servers are not fair, and some requests wait while others pass.
    """
    if crowd.came >= ENOUGH_REPLIES or replies_per_second < BUSY_REPLIES_PER_SECOND:
        return 0.0
    together = min(TOGETHER_REPLIES, TOGETHER_SHARE * crowd.in_flight)
    queued_seconds = max(0.0, crowd.in_flight / replies_per_second - 2 * crowd.quickest_seconds)
    return min(together / replies_per_second, REST_SHARE * queued_seconds, LONGEST_REST_SECONDS)


class Gathering:
    """Calls `step` when what comes together is there. `rest` stands still for so many seconds, and so the loop."""

    def __init__(
        self, crowd: Callable[[], Crowd], step: Callable[[], None], rest: Callable[[float], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._crowd = crowd
        self._step = step
        self._rest = rest
        self._rate = ReplyRate()
        self._trial = RestTrial()
        self._handle: asyncio.Handle | None = None

    def begin(self) -> None:
        """A reply has come. What was sent just now leaves before the loop rests."""
        if self._handle is None:
            self._handle = self._loop.call_soon(self._wait)

    def end(self, replies: int) -> None:
        """All that has come is being taken in: so many."""
        now = self._loop.time()
        self._rate.took_in(now, replies)
        self._trial.took_in(now, replies)
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _wait(self) -> None:
        crowd = self._crowd()
        seconds = rest_seconds(crowd, self._rate.replies_per_second) if self._trial.may_rest else 0.0
        if seconds > 0.0:
            self._rest(seconds)
            # In the next turn of the loop what has come is read, in the one after it its calls are over.
            soon = self._loop.call_soon
            self._handle = soon(soon, soon, self._step)
        else:
            self._handle = self._loop.call_later(gather_seconds(crowd.took_seconds), self._step)
