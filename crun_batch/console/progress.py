"""The progress of a run, as the one line that is printed or shown beside a bar.

Owns the wording only: no clock, no terminal, no bar. The command line decides when and where.
"""

from __future__ import annotations

from msgspec import Struct

from crun_batch.console.amounts import (
    UNKNOWN,
    apart_money,
    count,
    counted,
    duration,
    from_pico,
    money,
    noun_of,
    rate,
    share,
)
from crun_batch.console.words import one_line

VARIANTS_NAMED = 6
"""More than that are told by their number."""


class VariantProgress(Struct, frozen=True):
    """Where one variant of a sweep is; what it counts is what `Progress` counts."""

    name: str
    rows_done: int
    rows_not_ok: int


class Progress(Struct, frozen=True):
    """Where a run is. Amounts are pico-units, None where unknown; the limit is the pool's current one.

    `rows_*` count what is sent and finished one by one: rows; units, where a row has several (`units_per_row`);
    while judges are asked (`is_judging`), the questions to them.
    """

    rows_total: int
    rows_done: int
    rows_failed: int = 0
    """Those that ended as errors."""
    rows_otherwise: tuple[tuple[str, int], ...] = ()
    """By status, how many got an answer and are not ok: invalid, truncated, refused."""
    rows_per_second: float = 0.0
    spent_usd_pico: int | None = None
    spent_credits_pico: int | None = None
    projected_usd_pico: int | None = None
    projected_credits_pico: int | None = None
    held_usd_pico: int | None = None
    held_credits_pico: int | None = None
    in_flight: int = 0
    limit: int = 0
    eta_seconds: float | None = None
    waiting_reason: str | None = None
    """Why nothing goes out right now: 'cooling down after 429, 12 s'."""
    variants: tuple[VariantProgress, ...] = ()
    """Of a sweep."""
    stops_in_seconds: float | None = None
    """When it is to stop, where it was told to."""
    units_per_row: int = 1
    """Variants times repeats."""
    is_judging: bool = False
    """The rows have been sent for; now the judges of their answers are asked."""
    is_apart: bool = False
    """Some are priced in dollars alone, or in credits alone: the two are not one amount."""

    @property
    def noun(self) -> str:
        """What is counted: row, unit, or question."""
        return "question" if self.is_judging else noun_of(self.units_per_row)

    def text(self) -> str:
        """Everything in one line, for a log or a pipe."""
        done = f"{count(self.rows_done)} of {counted(self.rows_total, self.noun)}"
        reserved = held(self)
        phrases = [
            f"{done} ({share(self.rows_done, self.rows_total)})",
            *not_ok(self),
            rate(self.rows_per_second, self.noun),
            f"spent {spent(self)}",
            f"projected {projected(self)}",
            f"held {reserved}" if reserved else "",
            f"{count(self.in_flight)} in flight (limit {count(self.limit)})",
            f"{UNKNOWN if self.eta_seconds is None else duration(self.eta_seconds)} left",
            stops(self),
            one_line(self.waiting_reason or ""),
            by_variant(self),
        ]
        return ", ".join(phrase for phrase in phrases if phrase)


def stops(progress: Progress) -> str:
    """When it is to stop; empty where nobody said so, or where it would be done before."""
    seconds, left = progress.stops_in_seconds, progress.eta_seconds
    return "" if seconds is None or (left is not None and left < seconds) else f"stops in {duration(seconds)}"


def spent(progress: Progress) -> str:
    """Known cost so far."""
    return _shown(progress, progress.spent_usd_pico, progress.spent_credits_pico)


def projected(progress: Progress) -> str:
    """What the whole run is going to cost at this rate."""
    return _shown(progress, progress.projected_usd_pico, progress.projected_credits_pico)


def held(progress: Progress) -> str | None:
    """What is reserved for requests in flight and for those of unknown outcome; None where nothing is.

    A unit in which nothing is held is not told: there may be no price in it.
    """
    usd, credits_ = progress.held_usd_pico or None, progress.held_credits_pico or None
    return _shown(progress, usd, credits_) if usd or credits_ else None


def _shown(progress: Progress, usd_pico: int | None, credits_pico: int | None) -> str:
    show = apart_money if progress.is_apart else money
    return show(from_pico(usd_pico), from_pico(credits_pico))


def by_variant(progress: Progress) -> str:
    """The variants of a sweep, those with most rows that are not ok first; empty where there is no sweep."""
    ordered = sorted(progress.variants, key=lambda one: -one.rows_not_ok)
    named = [
        f"{one_line(one.name)} {count(one.rows_done)}"
        + (f" ({count(one.rows_not_ok)} not ok)" if one.rows_not_ok else "")
        for one in ordered[:VARIANTS_NAMED]
    ]
    others = len(ordered) - VARIANTS_NAMED
    return " · ".join([*named, f"{others} more"] if others > 0 else named)


def not_ok(progress: Progress) -> list[str]:
    """0 failed; 2 truncated: each status by its own name."""
    others = [f"{count(rows)} {status}" for status, rows in progress.rows_otherwise if rows]
    return [f"{count(progress.rows_failed)} failed", *others]


def _bill(progress: Progress) -> str:
    """What is spent of what it is going to be, as far as either is known."""
    so_far, in_all = spent(progress), projected(progress)
    if so_far == UNKNOWN:
        return f"cost {UNKNOWN}"
    return f"{so_far} spent" if in_all == UNKNOWN else f"{so_far} of about {in_all}"


def tqdm_postfix(progress: Progress) -> str:
    """What a bar does not show by itself (it has the rows, the rate and the time left)."""
    phrases = [
        *not_ok(progress),
        _bill(progress),
        f"{count(progress.in_flight)}/{count(progress.limit)} in flight",
        stops(progress),
        one_line(progress.waiting_reason or ""),
        by_variant(progress),
    ]
    return ", ".join(phrase for phrase in phrases if phrase)
