"""How many places in flight each of several lanes may take, so that a slow one does not end up with all of them.

Requests that take long give their places back late: unbounded, they would hold every place of the pool in the end,
and the others would go at their pace. So as many places as a lane had lately stay free for it, up to its equal
share; what is left over is anybody's. Decided without I/O; times are in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from crun_batch.gateway.per_minute import NEVER
from crun_batch.gateway.spread import AnyLane

REMEMBERED_SECONDS = 30.0
"""A lane's peak counts at least so long, at most twice: a pause does not cost it the places that it had."""


class Shares:
    """The places of several lanes; `look` is called before places are taken, `took` for each that is."""

    def __init__(self, concurrency: int, lanes: Sequence[AnyLane]) -> None:
        self.concurrency = concurrency
        self._lanes = tuple(dict.fromkeys(lanes))
        self._peaks = dict.fromkeys(self._lanes, 0)
        self._former_peaks = dict.fromkeys(self._lanes, 0)
        self._turned_at = -NEVER
        self._share = concurrency
        self._kept: dict[AnyLane, int] = {}
        self._all_kept = 0

    def look(self, now: float, unfinished: int) -> None:
        """How things stand now; so many lanes still have, or may still get, something to send."""
        if now - self._turned_at >= REMEMBERED_SECONDS:
            self._turned_at = now
            self._former_peaks, self._peaks = self._peaks, {lane: lane.in_flight for lane in self._lanes}
        self._share = -(-self.concurrency // max(1, unfinished))
        self._all_kept = 0
        for lane in self._lanes:
            peak = max(self._peaks[lane], self._former_peaks[lane])
            kept = self._kept[lane] = max(0, min(self._share, 2 * peak + 1) - lane.in_flight)
            self._all_kept += kept

    def may_take(self, lane: AnyLane, free: int) -> bool:
        """Whether the lane may have one of the free places: its share, or what is kept for no other."""
        return lane.in_flight < self._share or free > self._all_kept - self._kept[lane]

    def took(self, lane: AnyLane) -> None:
        """The lane has taken a place."""
        self._peaks[lane] = max(self._peaks[lane], lane.in_flight)
        if self._kept[lane] > 0:
            self._kept[lane] -= 1
            self._all_kept -= 1
