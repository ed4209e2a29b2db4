"""Which of two limits in flight brings more answers per second? Decided by trying both.

Knows nothing of refusals, pauses or limits per minute: it times rounds of answers under a full house.
"""

from __future__ import annotations

from math import ceil
from typing import Literal

from crun_batch.gateway.per_minute import NEVER

FIRST_STRIDE = 0.75
LONGEST_STRIDE = 0.3
SMALLEST_LIMIT = 16
FEWEST_ANSWERS = 100
FIRST_REST_SECONDS = 60.0
"""A shorter run has nothing to gain from a trial, which costs it half a round of answers."""
LONGEST_REST_ROUNDS = 64
BETTER = 1.1


class Trial:
    """Where latency grows steeply with the load, more in flight gets less done, and no refusal says so.

    A round of answers is timed at the limit as it is, then at three quarters of it; if fewer in flight answered
    clearly more, the limit is held there. While that goes well the strides grow. When it does not, the next trial
    goes the other way, after a rest that doubles: so without such a cliff it costs under 1 % in the end. The
    first rest is `FIRST_REST_SECONDS`, from the first answer on.
    """

    def __init__(self) -> None:
        self.held_at = NEVER
        """Not to be exceeded: fewer in flight answer more."""
        self._stage: Literal["rest", "time", "settle", "time other"] = "rest"
        self._rest_rounds = 1
        self._rest_until: float | None = None
        self._stride = FIRST_STRIDE
        self._downwards = True
        self._answers = 0
        self._began_at = 0.0
        self._limit = self._per_second = 0.0

    @property
    def is_under_way(self) -> bool:
        """The limit must not change for other reasons now."""
        return self._stage != "rest"

    def limit_without(self, limit: float) -> float:
        """What the limit would be if nothing else were being tried."""
        return self._limit if self._stage in ("settle", "time other") else limit

    def interrupt(self) -> None:
        """The house is not full, or refusals came: what was timed says nothing."""
        self._stage = "rest"
        self._answers = 0

    def answered(self, now: float, limit: float, top: float) -> float:
        """One more answer; returns the limit from now on. A trial upwards goes up to `top`."""
        self._answers += 1
        if self._rest_until is None:
            self._rest_until = now + FIRST_REST_SECONDS
        if now < self._rest_until:
            return limit
        rounds = self._rest_rounds if self._stage == "rest" else 1
        if self._answers < rounds * whole_rounds(limit) or (limit < SMALLEST_LIMIT and not self.is_under_way):
            return limit
        per_second = self._answers / max(now - self._began_at, 1e-9)
        self._answers, self._began_at = 0, now
        if self._stage == "rest":
            self._stage, self._limit = "time", limit
        elif self._stage == "time":
            self._stage, self._per_second = "settle", per_second
            return limit * self._stride if self._downwards else min(limit / self._stride, top)
        elif self._stage == "settle":
            self._stage = "time other"
        else:
            self._stage = "rest"
            return self._decide(limit, per_second, top)
        return limit

    def _decide(self, limit: float, per_second: float, top: float) -> float:
        fewer, more = (per_second, self._per_second) if self._downwards else (self._per_second, per_second)
        if (fewer > BETTER * more) == self._downwards:
            self.held_at = limit if limit < top else NEVER
            self._downwards = self._downwards or self.held_at == NEVER
            self._stride = max(LONGEST_STRIDE, self._stride * self._stride)
            self._rest_rounds = 1
            return limit
        self._downwards = not self._downwards or self.held_at == NEVER
        self._stride = FIRST_STRIDE
        self._rest_rounds = min(2 * self._rest_rounds, LONGEST_REST_ROUNDS)
        return self._limit


def whole_rounds(limit: float) -> int:
    """Answers to be timed: whole rounds, as they come in bursts once all have paused together."""
    return ceil(FEWEST_ANSWERS / int(limit)) * int(limit)
