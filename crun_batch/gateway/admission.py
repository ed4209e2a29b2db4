"""May this request go now? Decided here, without I/O and without `await`, so that it cannot race.

A lane is what a gateway limits: one (base URL, key, model), whatever the variants that use it. Every function
takes the time as an argument: monotonic seconds. The lane knows nothing of rows, money or files.
"""

from __future__ import annotations

from math import ceil

from msgspec import Struct

from crun_batch.gateway.per_minute import NEVER, Pace, TokenSlice, TokenWindow, UsedShare
from crun_batch.gateway.refusals import Evidence
from crun_batch.gateway.trial import Trial

FIRST_LIMIT = 8
RAMP_SECONDS = 0.1
CUT = 0.9
CUT_WHILE_NOTHING_SUCCEEDS = 0.5
UNDER_THE_REFUSED_LEVEL = 0.95
FIRST_PROBE_AFTER_SUCCESSES = 16
LAST_PROBE_AFTER_SUCCESSES = 6400
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0


class AdaptiveLimit:
    """Requests in flight that the gateway bears: found by rising fast, kept by rising slowly, cut once per wave.

    Until the first cut the limit doubles (every tenth of a second, or with every answer) up to the ceiling. Where
    a level is refused it falls to below that level, and back up where others at the level are then answered. From
    far below a refused level the limit doubles again, from near below it rises by one a round. Beyond it, it goes
    once some answers came back, and by ever larger steps while that goes well; each probe that is refused makes
    the next one wait for twice as many answers: so refusals stay under two in a hundred even where the limit is
    small. Where no refusal says that less in flight would get more done, trials do.
    """

    def __init__(self, ceiling: int, *, adaptive: bool) -> None:
        self.ceiling = ceiling
        self.value = float(min(ceiling, FIRST_LIMIT) if adaptive else ceiling)
        self.trial = Trial()
        self._refused_level = NEVER
        self._adaptive = adaptive
        self._risen_at = -NEVER
        self._successes = 0
        self._probe_after = FIRST_PROBE_AFTER_SUCCESSES
        self._probe_step = 0.0
        self._before_the_cut: tuple[float, float, int] | None = None

    def set_ceiling(self, ceiling: int) -> None:
        """Another ceiling: the limit falls to a lower one at once, and rises to a higher one as it does ever."""
        if ceiling == self.ceiling:
            return
        self.ceiling = ceiling
        self.trial.interrupt()
        self.value = min(self.value, float(ceiling)) if self._adaptive else float(ceiling)

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

    def cut_below(self, level: int) -> None:
        """What goes at this level is refused."""
        if not self._adaptive:
            return
        self._before_the_cut = (self.value, self._refused_level, self._probe_after)
        if self._probe_step > 0.0:
            self._probe_after = min(self._probe_after * 2, LAST_PROBE_AFTER_SUCCESSES)
            self._probe_step = 0.0
        self._refused_level = float(max(2, level))
        self._fall_to(level * UNDER_THE_REFUSED_LEVEL)

    def restore(self, level: int) -> None:
        """The last cut below a level was for nothing: others went at this one, no lower, and were answered."""
        if self._before_the_cut is not None:
            value, self._refused_level, self._probe_after = self._before_the_cut
            self.value = max(self.value, min(value, 2.0 * level))
            self._before_the_cut = None

    def cut_a_little(self) -> None:
        """Too many are refused, at whatever level."""
        if self._adaptive:
            self._before_the_cut = None
            self._refused_level = max(2.0, self.value)
            self._fall_to(self.value * CUT)

    def halve(self, *, again: bool) -> None:
        """All are refused. `again`: nothing has succeeded since the last time, so it matters not how many go.

        Which level is too high, that does not say: one that is known stays, else it is where the limit was.
        """
        if self._adaptive:
            self._before_the_cut = None
            if not again and self._refused_level == NEVER:
                self._refused_level = max(2.0, self.trial.limit_without(self.value))
            self._fall_to(self.value * CUT_WHILE_NOTHING_SUCCEEDS)

    def _fall_to(self, value: float) -> None:
        self.trial.interrupt()
        self._successes = 0
        self.value = max(1.0, min(self.value, value))

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
    serial: int
    """Among the requests of its lane, in the order in which they went."""


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
        self.quickest_seconds = NEVER
        """What the quickest answer took: as long as one takes that need not queue."""
        self.was_reached = False
        """Something has answered, whatever it said."""
        self._pace = Pace(requests_per_minute) if requests_per_minute else None
        self._window = TokenWindow(tokens_per_minute) if tokens_per_minute else None
        self._used_share = UsedShare()
        self._is_full = False
        self._waves_in_a_row = 0
        self._wave_at = self._cut_at = -NEVER
        self._evidence = Evidence(ceiling)

    def set_ceiling(self, ceiling: int) -> None:
        """Another ceiling of requests in flight; those above a lower one are waited for."""
        self._evidence.grow(ceiling)
        self.limit.set_ceiling(ceiling)

    def set_rates(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """Other limits per minute; None: none. A limit of tokens counts what went under a former one."""
        if requests_per_minute is None:
            self._pace = None
        elif self._pace is None:
            self._pace = Pace(requests_per_minute)
        else:
            self._pace.set_limit(requests_per_minute)
        if self._window is not None:
            self._window.limit = NEVER if tokens_per_minute is None else tokens_per_minute
        elif tokens_per_minute is not None:
            self._window = TokenWindow(tokens_per_minute)

    def heed_wave(self, now: float, until: float) -> None:
        """Others under the same limits met a wave of refusals: one cut and one pause for all of them.

        The pause of a wave that was met here, or has been told of, may become longer; that is no second cut.
        """
        if until > self.paused_until and now < until:
            if now >= self.paused_until:
                self._cut_at = now
                self.limit.halve(again=False)
            self.paused_until = until

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
        return Admitted(now, self.in_flight, tokens, counted, entry, self._evidence.sent(self.in_flight))

    def answered(self, now: float, admitted: Admitted, used_tokens: int | None) -> None:
        """A reply came; None where it did not say what it used: then the bound stays counted."""
        self._left(now, admitted, used_tokens)
        if self._window is not None and used_tokens is not None and admitted.bound_tokens > 0:
            self._used_share.learn(used_tokens / admitted.bound_tokens)
        self.has_succeeded = True
        self.quickest_seconds = min(self.quickest_seconds, now - admitted.started_at)
        if admitted.started_at > self._wave_at:
            self._waves_in_a_row = 0
        suspect = self._evidence.suspect
        if suspect and admitted.level >= suspect and self._evidence.suspect_answered():
            self.limit.restore(admitted.level)
        self.limit.succeeded(now, crowded=self._is_full)

    def failed(self, now: float, admitted: Admitted, *, was_sent: bool) -> None:
        """Neither an answer nor a refusal for lack of room: the limit stays as it is."""
        self._left(now, admitted, None if was_sent else 0)

    def refused(self, now: float, admitted: Admitted, retry_after_seconds: float | None) -> None:
        """The gateway has no room (429, 503, 529, 455) for this request. What that means for others:

        1. It went before the last cut: that has taken care of it. A pause it may lengthen, by what it is told.
        2. Chance: nothing. The row waits for itself, as long as it was told, which is not the lane's matter.
        3. What goes at this level is refused: the limit falls below that level.
        4. Too many are refused, whatever their level: it falls a little.
        5. All are refused: it halves, and nothing goes for as long as was told; where nothing was, for half a
           second, and twice as long each time until something is answered.
        """
        self._left(now, admitted, 0)
        is_late = admitted.started_at <= self._cut_at
        verdict = self._evidence.refused(
            admitted.serial, admitted.level, is_late=is_late, nothing_borne=self._waves_in_a_row > 0
        )
        if admitted.started_at <= self._wave_at and retry_after_seconds is not None:
            self.paused_until = max(self.paused_until, now + retry_after_seconds)
        if verdict == "scatter":
            return
        self._cut_at = now
        if verdict == "level":
            self.limit.cut_below(admitted.level)
        elif verdict == "share":
            self.limit.cut_a_little()
        else:
            self._pause(now, retry_after_seconds)

    def _pause(self, now: float, told_seconds: float | None) -> None:
        self._wave_at = now
        self._waves_in_a_row += 1
        self.limit.halve(again=self._waves_in_a_row > 1)
        if told_seconds is None:
            told_seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._waves_in_a_row - 1, 16))
        self.paused_until = max(self.paused_until, now + told_seconds)

    def heed(self, now: float, reset_seconds: float) -> None:
        """The headers of an answer say that nothing remains: wait until their reset, at most a minute."""
        self.limit.trial.interrupt()
        self.paused_until = max(self.paused_until, now + min(reset_seconds, LONGEST_PAUSE_SECONDS))

    def _expected(self, bound_tokens: int) -> int:
        return ceil(bound_tokens * self._used_share.expected(self.in_flight))

    def _left(self, now: float, admitted: Admitted, used_tokens: int | None) -> None:
        self.in_flight -= 1
        if self._window is not None and admitted.entry is not None:
            used = admitted.bound_tokens if used_tokens is None else used_tokens
            self._window.correct(now, admitted.entry, used - admitted.counted_tokens)
