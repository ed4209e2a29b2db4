"""Limits per minute: when the next request may go, so that no minute holds more than the gateway allows.

Knows nothing of what is in flight. Every function takes the time as an argument: monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from math import sqrt

NEVER = float("inf")
WINDOW_SECONDS = 60.0
SLICE_SECONDS = 0.25
REPLIES_BEFORE_LEARNING = 30
WEIGHT_OF_A_REPLY = 0.01
MARGIN_DEVIATIONS = 2.0


class Pace:
    """Requests per minute, spaced evenly (generic cell rate algorithm).

    Over any minute at most the limit plus half a percent may go: the slack lets a late event loop catch up.
    """

    def __init__(self, per_minute: float) -> None:
        self._next_due = -NEVER
        self.set_limit(per_minute)

    def set_limit(self, per_minute: float) -> None:
        """Another limit from the next request on: the one before it counts with what it was spaced by."""
        self._spacing_seconds = 60.0 / per_minute * (1 + 1e-9)
        self._slack_seconds = int(per_minute * 0.005) * self._spacing_seconds

    def wait_seconds(self, now: float) -> float:
        return max(0.0, self._next_due - self._slack_seconds - now)

    def take(self, now: float) -> None:
        self._next_due = max(now, self._next_due) + self._spacing_seconds


class TokenSlice:
    """Tokens admitted within one slice of the window; corrected in place when real usage is known."""

    __slots__ = ("opened_at", "tokens")

    def __init__(self, opened_at: float) -> None:
        self.opened_at = opened_at
        self.tokens = 0


class TokenWindow:
    """Tokens per minute as a sliding window: what was admitted in the last 60 seconds stays under the limit.

    A request counts with what it is expected to use when it goes, with its real usage once it is back. One that
    alone exceeds the limit goes when the window is empty.
    """

    def __init__(self, per_minute: float) -> None:
        self.limit = per_minute
        """May change at any time: what was admitted in the last minute counts under the new one. NEVER: none."""
        self._slices: deque[TokenSlice] = deque()
        self._total = 0

    def wait_seconds(self, now: float, tokens: int) -> float:
        self._forget(now)
        excess = self._total + tokens - self.limit
        if excess <= 0:
            return 0.0
        for entry in self._slices:
            excess -= entry.tokens
            if excess <= 0:
                return entry.opened_at + WINDOW_SECONDS + SLICE_SECONDS - now
        if not self._total:
            return 0.0
        return self._slices[-1].opened_at + WINDOW_SECONDS + SLICE_SECONDS - now

    def take(self, now: float, tokens: int) -> TokenSlice:
        if not self._slices or now - self._slices[-1].opened_at >= SLICE_SECONDS:
            self._slices.append(TokenSlice(now))
        self._slices[-1].tokens += tokens
        self._total += tokens
        return self._slices[-1]

    def correct(self, now: float, entry: TokenSlice, difference: int) -> None:
        """Count `difference` more (or, negative, fewer) tokens for a request that was admitted in `entry`."""
        self._forget(now)
        if self._slices and entry.opened_at >= self._slices[0].opened_at:
            entry.tokens += difference
            self._total += difference

    def _forget(self, now: float) -> None:
        slices = self._slices
        while slices and slices[0].opened_at + WINDOW_SECONDS + SLICE_SECONDS <= now:
            self._total -= slices.popleft().tokens


class UsedShare:
    """The share of its bound (input and output limit) that a request uses, learned from the replies.

    Bounds can be ten times what is used: counted in full, they would leave most of the limit unused while replies
    are long in coming. So a request counts with the mean share, and with so much more that all in flight together
    stay below what is counted, unless they exceed it by more than two standard deviations.
    """

    def __init__(self) -> None:
        self._replies = 0
        self._mean = 0.0
        self._variance = 0.0

    def learn(self, share: float) -> None:
        self._replies += 1
        weight = max(WEIGHT_OF_A_REPLY, 1 / self._replies)
        difference = share - self._mean
        self._mean += weight * difference
        self._variance += weight * ((1 - weight) * difference * difference - self._variance)

    def expected(self, in_flight: int) -> float:
        """For one more request beside those in flight; 1 until enough replies have come."""
        if self._replies < REPLIES_BEFORE_LEARNING:
            return 1.0
        error = self._variance * (1 / (in_flight + 1) + 1 / min(self._replies, 1 / WEIGHT_OF_A_REPLY))
        return min(1.0, self._mean + MARGIN_DEVIATIONS * sqrt(error))
