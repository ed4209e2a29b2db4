"""When a session is to stop: a time of the day, a moment, or so many minutes from now.

Owns how people write it. What has no zone is of this machine's; a time of the day is the next one.
"""

from __future__ import annotations

import math
from datetime import datetime, time, timedelta

from msgspec import Struct

from crun_batch.errors import InputError, Mistake

MOST_MINUTES = 366 * 1440
FORMS = "06:00, 2026-11-29 06:00 or 2026-11-29T06:00:00Z"


class Deadline(Struct, frozen=True):
    """From this moment on a session sends nothing new; what is in flight is waited for."""

    at: datetime
    """With its zone."""
    words: str
    """As it was asked for: at 06:00, after 90 minutes."""

    def seconds_left(self, epoch_seconds: float) -> float:
        """Until then, from a moment in seconds since 1970; 0 where it is over."""
        return max(0.0, self.at.timestamp() - epoch_seconds)


def deadline_of(until: object, max_minutes: object, now: datetime) -> Deadline | None:
    """The sooner of the two, of which each may be None. Raises InputError for what is no time, or is over."""
    found = [
        *(() if until is None else (_until(until, now),)),
        *(() if max_minutes is None else (_after(max_minutes, now),)),
    ]
    return min(found, key=lambda deadline: deadline.at, default=None)


def _until(until: object, now: datetime) -> Deadline:
    at = until if isinstance(until, datetime) else _written(str(until), now)
    at = at.astimezone()
    if at <= now:
        raise InputError(Mistake(f"{at.isoformat(sep=' ', timespec='seconds')} is over", key="until"))
    said = until.isoformat(sep=" ", timespec="seconds") if isinstance(until, datetime) else str(until).strip()
    return Deadline(at, f"at {said}")


def _written(text: str, now: datetime) -> datetime:
    try:
        if len(text.strip()) <= len("06:00:00"):
            return _next(time.fromisoformat(text.strip()), now)
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise InputError(Mistake(f"{text!r} is no time; write {FORMS}", key="until")) from None


def _next(clock: time, now: datetime) -> datetime:
    """The next moment at which a clock here shows that: twice in the night in which clocks go back."""
    today = now.astimezone().date()
    days = (today + timedelta(days=later) for later in range(3))
    times = (datetime.combine(day, clock.replace(fold=fold)).astimezone() for day in days for fold in (0, 1))
    return next(at for at in times if at > now)


def _after(max_minutes: object, now: datetime) -> Deadline:
    is_number = isinstance(max_minutes, int | float) and not isinstance(max_minutes, bool)
    minutes = float(max_minutes) if isinstance(max_minutes, int | float) else math.nan
    if not is_number or not 0 < minutes <= MOST_MINUTES:
        raise InputError(
            Mistake(f"{max_minutes!r}: minutes are a number above 0, at most a year", key="max_minutes")
        )
    return Deadline(now + timedelta(minutes=minutes), f"after {minutes:g} minute{'' if minutes == 1 else 's'}")
