"""How fast something goes now: over the last half minute, not since it began."""

from __future__ import annotations

from collections import deque

RATE_OVER_SECONDS = 30.0


class RecentRate:
    """Made of readings of a count that grows, each with its monotonic second."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque()

    def per_second(self, now: float, count: int) -> float | None:
        """The rate at this reading, over the last RATE_OVER_SECONDS; None where no time lies between readings."""
        self._readings.append((now, count))
        while len(self._readings) > 2 and now - self._readings[0][0] > RATE_OVER_SECONDS:
            self._readings.popleft()
        then, count_then = self._readings[0]
        return (count - count_then) / (now - then) if now > then else None
