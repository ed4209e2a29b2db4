"""May this request go now? Decided here, without I/O and without `await`, so that it cannot race.

A lane is what a gateway limits: one (base URL, key, model), whatever the variants that use it. Every function
takes the time as an argument: monotonic seconds. The lane knows nothing of rows, money or files.
"""

from __future__ import annotations

from math import ceil

from msgspec import Struct

from crun_batch.gateway.per_minute import NEVER, Pace, TokenSlice, TokenWindow, UsedShare
from crun_batch.gateway.trial import Trial
from crun_batch.records import RateHints

FIRST_LIMIT = 8
RAMP_SECONDS = 0.1
CUT = 0.9
CUT_WHILE_NOTHING_SUCCEEDS = 0.5
UNDER_THE_REFUSED_LEVEL = 0.95
FIRST_PROBE_AFTER_SUCCESSES = 100
LAST_PROBE_AFTER_SUCCESSES = 6400
LONGEST_PAUSE_SECONDS = 60.0


class AdaptiveLimit:
    """Requests in flight that the gateway bears: found by rising fast, kept by rising slowly, cut once per wave.

    Until the first refusal the limit doubles (every tenth of a second, or with every answer) up to the ceiling. A
    refusal cuts it below the level at which the refused request went. From far below that level it doubles again,
    from near below it rises by one a round. Beyond it, it goes once many answers came back, and by ever larger
    steps while that goes well; each probe that is refused makes the next one wait for twice as many answers: so
    refusals stay under two in a hundred even where the limit is small. Where no refusal says that less in flight
    would get more done, trials do.
    """

    def __init__(self, ceiling: int, *, adaptive: bool) -> None:
        self.ceiling = ceiling
        self.value = float(min(ceiling, FIRST_LIMIT) if adaptive else ceiling)
        self.trial = Trial()
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

    def succeeded(self, now: float, *, crowded: bool) -> None:
        """An answer came back; only answers under a full house say that there is room for more, or too much."""
        if not self._adaptive:
            return
        if not crowded:
            self.trial.interrupt()
            return
        top = min(float(self.ceiling), self._refused_level)
        if self.trial.is_under_way or self.value >= CUT * min(top, self.trial.held_at):
            self.value = self.trial.answered(now, self.value, top)
        if self.value >= self.ceiling or self.trial.is_under_way:
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
        self.trial.interrupt()
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
        if not self.trial.is_under_way:
            self.value = max(self.value, min(float(self.ceiling), self.trial.held_at, self.value + step))


class Admitted(Struct, frozen=True, gc=False):
    """What a lane remembers of a request in flight."""

    started_at: float
    level: int
    bound_tokens: int
    counted_tokens: int
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
        self.was_reached = False
        """Something has answered, whatever it said."""
        self._pace = Pace(requests_per_minute) if requests_per_minute else None
        self._window = TokenWindow(tokens_per_minute) if tokens_per_minute else None
        self._used_share = UsedShare()
        self._is_full = False
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
            wait = max(wait, self._window.wait_seconds(now, self._expected(tokens)))
        return wait

    def admit(self, now: float, tokens: int) -> Admitted:
        counted, entry = tokens, None
        if self._window is not None:
            counted = self._expected(tokens)
            entry = self._window.take(now, counted)
        if self._pace is not None:
            self._pace.take(now)
        self.in_flight += 1
        self._is_full = self.in_flight >= int(self.limit.value)
        return Admitted(now, self.in_flight, tokens, counted, entry)

    def answered(self, now: float, admitted: Admitted, used_tokens: int | None) -> None:
        """A reply came; None where it did not say what it used: then the bound stays counted."""
        self._left(now, admitted, used_tokens)
        if self._window is not None and used_tokens is not None and admitted.bound_tokens > 0:
            self._used_share.learn(used_tokens / admitted.bound_tokens)
        self.has_succeeded = True
        if admitted.started_at > self._wave_at:
            self._waves_in_a_row = 0
        self.limit.succeeded(now, crowded=self._is_full)

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
            self.limit.trial.interrupt()
            self.paused_until = max(self.paused_until, now + min(max(resets), LONGEST_PAUSE_SECONDS))

    def _expected(self, bound_tokens: int) -> int:
        return ceil(bound_tokens * self._used_share.expected(self.in_flight))

    def _left(self, now: float, admitted: Admitted, used_tokens: int | None) -> None:
        self.in_flight -= 1
        if self._window is not None and admitted.entry is not None:
            used = admitted.bound_tokens if used_tokens is None else used_tokens
            self._window.correct(now, admitted.entry, used - admitted.counted_tokens)
