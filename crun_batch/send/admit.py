"""May this request go now? Decided here, without I/O and without `await`, so that it cannot race.

A lane is what a gateway limits: one (base URL, key, model), whatever the variants that use it. Every function
takes the time as an argument: monotonic seconds. The lane knows nothing of rows, money or files.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from crun_batch.records import RateHints

NEVER = float("inf")
FIRST_LIMIT = 8
RAMP_SECONDS = 0.1
CUT = 0.9
CUT_WHILE_NOTHING_SUCCEEDS = 0.5
UNDER_THE_REFUSED_LEVEL = 0.95
FIRST_PROBE_AFTER_SUCCESSES = 100
LAST_PROBE_AFTER_SUCCESSES = 6400
LONGEST_PAUSE_SECONDS = 60.0
WINDOW_SECONDS = 60.0
SLICE_SECONDS = 0.25


class Pace:
    """Requests per minute, spaced evenly (generic cell rate algorithm).

    Over any minute at most the limit plus half a percent may go: the slack lets a late event loop catch up.
    """

    def __init__(self, per_minute: float) -> None:
        self._spacing_seconds = 60.0 / per_minute * (1 + 1e-9)
        self._slack_seconds = int(per_minute * 0.005) * self._spacing_seconds
        self._next_due = -NEVER

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

    A request counts with its bound (input and output limit) when it goes and with its real usage from then on when
    it is back. One that alone exceeds the limit goes when the window is empty.
    """

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._slices: deque[TokenSlice] = deque()
        self._total = 0

    def wait_seconds(self, now: float, tokens: int) -> float:
        self._forget(now)
        excess = self._total + tokens - self._limit
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


class AdaptiveLimit:
    """Requests in flight that the gateway bears: found by rising fast, kept by rising slowly, cut once per wave.

    Until the first refusal the limit doubles (every tenth of a second, or with every answer) up to the ceiling. A
    refusal cuts it below the level at which the refused request went. From far below that level it doubles again,
    from near below it rises by one a round. Beyond it, it goes once many answers came back, and by ever larger
    steps while that goes well; each probe that is refused makes the next one wait for twice as many answers: so
    refusals stay under two in a hundred even where the limit is small.
    """

    def __init__(self, ceiling: int, *, adaptive: bool) -> None:
        self.ceiling = ceiling
        self.value = float(min(ceiling, FIRST_LIMIT) if adaptive else ceiling)
        self._adaptive = adaptive
        self._refused_level = NEVER
        self._risen_at = -NEVER
        self._successes = 0
        self._probe_after = FIRST_PROBE_AFTER_SUCCESSES
        self._probe_step = 0.0

    def crowded(self, now: float) -> None:
        """All places are taken and more requests wait: before the first refusal, rise by the clock."""
        if self._refused_level == NEVER and now - self._risen_at >= RAMP_SECONDS:
            self._risen_at = now
            self._rise(self.value)

    def succeeded(self, *, crowded: bool) -> None:
        """An answer came back; only answers under a full house say that there is room for more."""
        if self.value >= self.ceiling or not crowded:
            return
        if self.value < CUT * self._refused_level:
            self._rise(1.0)
        elif self.value + 1 < self._refused_level:
            self._rise(1 / self.value)
        else:
            self._probe()

    def cut(self, level: int, *, again: bool) -> None:
        """A wave of refusals has begun; the first request refused went as the `level`-th in flight.

        `again`: nothing has succeeded since the wave before, so it is no matter of the level.
        """
        if not self._adaptive:
            return
        self._successes = 0
        if again:
            self.value = max(1.0, self.value * CUT_WHILE_NOTHING_SUCCEEDS)
            return
        if self._probe_step > 0.0:
            self._probe_after = min(self._probe_after * 2, LAST_PROBE_AFTER_SUCCESSES)
            self._probe_step = 0.0
        self._refused_level = float(max(2, level))
        self.value = max(1.0, min(self.value * CUT, level * UNDER_THE_REFUSED_LEVEL))

    def _probe(self) -> None:
        self._successes += 1
        probing = self._probe_step > 0.0
        if self._successes < (self.value if probing else self._probe_after):
            return
        self._successes = 0
        if probing:
            self._probe_after = FIRST_PROBE_AFTER_SUCCESSES
        self._probe_step = self._probe_step * 2 if probing else 1.0
        self._rise(self._probe_step)
        self._refused_level = self.value

    def _rise(self, step: float) -> None:
        self.value = min(float(self.ceiling), self.value + step)


class Admitted(Struct, frozen=True):
    """What a lane remembers of a request in flight."""

    started_at: float
    level: int
    tokens: int
    entry: TokenSlice | None


class Lane:
    """One (base URL, key, model): its limit in flight, its two limits per minute, its shared pause."""

    def __init__(
        self,
        *,
        ceiling: int,
        adaptive: bool = True,
        requests_per_minute: float | None = None,
        tokens_per_minute: int | None = None,
    ) -> None:
        self.limit = AdaptiveLimit(ceiling, adaptive=adaptive)
        self.in_flight = 0
        self.paused_until = -NEVER
        self.has_succeeded = False
        self._pace = Pace(requests_per_minute) if requests_per_minute else None
        self._window = TokenWindow(tokens_per_minute) if tokens_per_minute else None
        self._waves_in_a_row = 0
        self._wave_at = -NEVER

    def wait_seconds(self, now: float, tokens: int) -> float:
        """0: the request may go now. Infinite: not before another one is back."""
        if self.in_flight >= int(self.limit.value):
            self.limit.crowded(now)
            if self.in_flight >= int(self.limit.value):
                return RAMP_SECONDS if self.limit.value < self.limit.ceiling else NEVER
        wait = max(0.0, self.paused_until - now)
        if self._pace is not None:
            wait = max(wait, self._pace.wait_seconds(now))
        if self._window is not None:
            wait = max(wait, self._window.wait_seconds(now, tokens))
        return wait

    def admit(self, now: float, tokens: int) -> Admitted:
        self.in_flight += 1
        if self._pace is not None:
            self._pace.take(now)
        entry = self._window.take(now, tokens) if self._window is not None else None
        return Admitted(now, self.in_flight, tokens, entry)

    def answered(self, now: float, admitted: Admitted, used_tokens: int | None) -> None:
        """A reply came; None where it did not say what it used: then the bound stays counted."""
        crowded = self.in_flight >= int(self.limit.value)
        self._left(now, admitted, used_tokens)
        self.has_succeeded = True
        if admitted.started_at > self._wave_at:
            self._waves_in_a_row = 0
        self.limit.succeeded(crowded=crowded)

    def failed(self, now: float, admitted: Admitted, *, was_sent: bool) -> None:
        """Neither an answer nor a refusal for lack of room: the limit stays as it is."""
        self._left(now, admitted, None if was_sent else 0)

    def refused(self, now: float, admitted: Admitted, retry_after_seconds: float | None) -> None:
        """The gateway has no room (429, 503, 529, 455): cut once per wave, pause if told to or if it goes on.

        Refusals of requests sent before the cut belong to the same wave. The first wave without a Retry-After
        needs no pause, the cut is enough; each further one in a row doubles it.
        """
        self._left(now, admitted, 0)
        pause = retry_after_seconds
        if admitted.started_at > self._wave_at:
            self._wave_at = now
            self._waves_in_a_row += 1
            self.limit.cut(admitted.level, again=self._waves_in_a_row > 1)
            if pause is None and self._waves_in_a_row > 1:
                pause = min(LONGEST_PAUSE_SECONDS, 0.5 * 2 ** (self._waves_in_a_row - 1))
        if pause is not None:
            self.paused_until = max(self.paused_until, now + pause)

    def heed(self, now: float, hints: RateHints) -> None:
        """Where the headers say that nothing remains, wait until the reset they name, at most a minute."""
        resets = [
            reset
            for remaining, reset in (
                (hints.remaining_requests, hints.reset_requests_seconds),
                (hints.remaining_tokens, hints.reset_tokens_seconds),
            )
            if remaining == 0 and reset is not None
        ]
        if resets:
            self.paused_until = max(self.paused_until, now + min(max(resets), LONGEST_PAUSE_SECONDS))

    def _left(self, now: float, admitted: Admitted, used_tokens: int | None) -> None:
        self.in_flight -= 1
        if self._window is not None and admitted.entry is not None and used_tokens is not None:
            self._window.correct(now, admitted.entry, used_tokens - admitted.tokens)
