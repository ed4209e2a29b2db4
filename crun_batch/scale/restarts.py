"""Whether a worker that was lost is started again: yes, but not where it is lost again and again at once.

A run of days loses a worker now and then: a node goes, memory runs out. One that cannot live dies within minutes.
"""

from __future__ import annotations

from collections import deque

from crun_batch.errors import EXIT_BUG, EXIT_DISK, EXIT_INTERRUPTED, EXIT_TERMINATED

COMES_AGAIN = (EXIT_DISK, EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED)
"""Exit codes after which a worker is started again: a full disk, a bug, an interrupt, a node that goes away."""
MOST_STARTS = 4
WITHIN_SECONDS = 3600.0
LOST_TOO_OFTEN = f"was lost {MOST_STARTS} times within an hour"


class Restarts:
    """The starts of one worker. Times are in seconds of one clock."""

    def __init__(self) -> None:
        self._starts: deque[float] = deque(maxlen=MOST_STARTS)

    def start(self, now: float) -> None:
        """It is started."""
        self._starts.append(now)

    def may_start(self, now: float) -> bool:
        """Whether it may be started now."""
        return len(self._starts) < MOST_STARTS or now - self._starts[0] > WITHIN_SECONDS
