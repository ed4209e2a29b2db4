"""What does a refusal for lack of room say: about this request, about its level, or about the whole lane?

A router over many deployments refuses one request in a hundred whatever anybody does; a gateway with room for 100
refuses every 101st; one that is down refuses all. Told apart by what other requests met: at that level (requests
in flight) and above, and at the same time. Knows no time, no rows and no limit: that is `admission`.

What was sent before a refused request and has not been refused counts as borne. To wait for answers would take a
minute where they are long, and refusals come at once: they would look like all there is.
"""

from __future__ import annotations

from collections import deque
from math import ceil, log, sqrt
from typing import Literal

Verdict = Literal["scatter", "level", "share", "lane"]
"""`scatter`: chance, a matter of this request alone. `level`: what goes at this level is refused. `share`: too
many are, whatever their level: more go in a second than are borne. `lane`: all are, now."""

FEWEST_REMEMBERED = 128
"""Requests of a generation, at least; and twice the highest level, as a burst goes at every level once."""
CHANCE_OF_A_STREAK = 1e-6
"""So improbable a row of refusals is no chance."""
SHORTEST_STREAK, LONGEST_STREAK = 4, 16
LATER_COUNTED = 512
MOST_SHARE = 0.3
FEWEST_FOR_A_SHARE = 100
MOST_SCATTER = 0.25
DOUBTED_REFUSALS, DOUBTED_REQUESTS = 1.0, 50.0
"""What is assumed before anything is known: one refused in fifty."""
FORGOTTEN_AFTER = 1000
SLACK = 1.5
DEVIATIONS = 2.0


class RefusalGeneration:
    """Requests sent in a while, and those refused, by level."""

    def __init__(self, ceiling: int) -> None:
        self.sent = [0] * (ceiling + 1)
        self.refused = [0] * (ceiling + 1)

    def grow(self, ceiling: int) -> None:
        """Have room for levels up to this one."""
        more = [0] * (ceiling + 1 - len(self.sent))
        self.sent += more
        self.refused += more

    def clear(self) -> None:
        self.sent[:] = bytes(len(self.sent))
        self.refused[:] = bytes(len(self.refused))


class Evidence:
    """What became of a lane's latest requests: two generations, each at least twice as long as a full house."""

    def __init__(self, ceiling: int) -> None:
        self.suspect = 0
        """The level that was blamed last, until requests at it were answered; 0: none."""
        self._serial = 0
        self._current, self._older = RefusalGeneration(ceiling), RefusalGeneration(ceiling)
        self._sent = self._current.sent
        self._levels = [0] * (2 * ceiling + LATER_COUNTED)
        self._highest_level = 0
        self._began_at = 0
        self._ends_at = FEWEST_REMEMBERED
        self._scattered = 0
        self._counted_from = 0
        self._latest_refused: deque[int] = deque(maxlen=LONGEST_STREAK)
        self._suspect_borne = self._suspect_refused = 0

    def grow(self, ceiling: int) -> None:
        """More may be in flight from now on; nothing that is known is forgotten."""
        self._current.grow(ceiling)
        self._older.grow(ceiling)
        former, wanted = self._levels, 2 * ceiling + LATER_COUNTED
        if wanted > len(former):
            self._levels = [0] * wanted
            for serial in range(max(1, self._serial - len(former) + 1), self._serial + 1):
                self._levels[serial % wanted] = former[serial % len(former)]

    def sent(self, level: int) -> int:
        """A request goes; returns its serial number among the lane's."""
        self._serial += 1
        self._levels[self._serial % len(self._levels)] = level
        self._sent[level] += 1
        if level > self._highest_level:
            self._highest_level = level
        if self._serial >= self._ends_at:
            self._end_generation()
        return self._serial

    def refused(self, serial: int, level: int, *, is_late: bool, nothing_borne: bool) -> Verdict:
        """What the refusal of a request says.

        `is_late`: it went before the last cut, which has taken care of it. `nothing_borne`: nothing that went
        since all was refused has been answered, so that levels cannot be compared.
        """
        self._current.refused[level] += 1
        self._latest_refused.append(serial)
        is_suspect = bool(self.suspect) and level >= self.suspect
        if is_suspect:
            self._suspect_refused += 1
        if is_late:
            if not nothing_borne and not is_suspect:
                self._count_scattered()
            return "scatter"
        verdict = self._verdict(serial, level, nothing_borne)
        if verdict in ("scatter", "level"):
            self._count_scattered()
        else:
            self._forget()
        return verdict

    def suspect_answered(self) -> bool:
        """An answer came from the blamed level or above. True: it was blamed without reason, and no longer is."""
        self._suspect_borne += 1
        if self._is_more_than_scatter(self._suspect_borne, self._suspect_refused):
            return False
        self.suspect = 0
        return True

    def _verdict(self, serial: int, level: int, nothing_borne: bool) -> Verdict:
        if self._ends_a_streak(serial):
            self._scattered = max(0, self._scattered - len(self._latest_refused))
            self.suspect = 0
            return "lane"
        if nothing_borne:
            return "scatter"
        borne, refused = self._known(serial, level)
        if self._is_more_than_scatter(borne, refused):
            self.suspect = level
            self._suspect_borne, self._suspect_refused = borne, refused
            return "level"
        borne, refused = self._known(serial, 0)
        if borne + refused >= FEWEST_FOR_A_SHARE and refused > MOST_SHARE * (borne + refused):
            return "share"
        return "scatter"

    def _ends_a_streak(self, serial: int) -> bool:
        """Of the last requests sent up to this one, so many were refused, nearly without a gap."""
        wanted = max(SHORTEST_STREAK, ceil(log(CHANCE_OF_A_STREAK) / log(self._scatter_share())))
        first = serial - wanted - wanted // 6
        return sum(first < refused <= serial for refused in self._latest_refused) >= wanted

    def _known(self, serial: int, level: int) -> tuple[int, int]:
        """Borne and refused among those that went up to this request, from `level` to below a suspect level."""
        top = self.suspect if self.suspect > level else None
        sent = sum(self._current.sent[level:top]) + sum(self._older.sent[level:top])
        refused = sum(self._current.refused[level:top]) + sum(self._older.refused[level:top])
        refused = max(1, refused - sum(one > serial for one in self._latest_refused))
        return max(0, sent - self._later(serial, level) - refused), refused

    def _later(self, serial: int, level: int) -> int:
        """How many at this level or above went after a request: what becomes of them is not known yet.

        Of the first `LATER_COUNTED` they are counted, of the rest as many in proportion.
        """
        later = min(self._serial - serial, len(self._levels))
        counted = min(later, LATER_COUNTED)
        if not counted:
            return 0
        begin, end = (serial + 1) % len(self._levels), (serial + counted) % len(self._levels) + 1
        levels = self._levels[begin:end] if begin < end else self._levels[begin:] + self._levels[:end]
        return sum(level <= one for one in levels) * later // counted

    def _is_more_than_scatter(self, borne: int, refused: int) -> bool:
        expected = SLACK * self._scatter_share() * (borne + refused)
        return refused >= expected + DEVIATIONS * sqrt(expected) + 0.5

    def _scatter_share(self) -> float:
        """The share that is refused anyway: what is known of it and one standard deviation more."""
        sent = self._serial - self._counted_from
        refused = self._scattered + sqrt(self._scattered) + DOUBTED_REFUSALS
        return min(MOST_SCATTER, refused / (sent + DOUBTED_REQUESTS))

    def _count_scattered(self) -> None:
        self._scattered += 1
        sent = self._serial - self._counted_from
        if sent > FORGOTTEN_AFTER:
            self._counted_from += sent // 2
            self._scattered //= 2

    def _end_generation(self) -> None:
        self._ends_at = self._began_at + max(FEWEST_REMEMBERED, 2 * self._highest_level)
        if self._serial >= self._ends_at:
            self._current, self._older = self._older, self._current
            self._current.clear()
            self._begin_generation()

    def _forget(self) -> None:
        """What was borne before all was refused says nothing now."""
        self._current.clear()
        self._older.clear()
        self._begin_generation()

    def _begin_generation(self) -> None:
        self._sent = self._current.sent
        self._highest_level = 0
        self._began_at = self._serial
        self._ends_at = self._serial + FEWEST_REMEMBERED
