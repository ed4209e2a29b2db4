"""What reply headers say about waiting and limits.

Owns the forms of times: Retry-After (seconds, HTTP date, and against the standard a duration), durations (`6m0s`,
`20ms`), epochs, RFC 3339. Pure: the time comes from the caller or from the reply's own Date. A value of no known
form says nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT_SECONDS = 31 * 86_400.0
"""A month, as long as quotas last. Without any success a run ends long before, after
`limits.give_up_after_minutes`, and says what it was told."""

_SMALLEST_EPOCH_SECONDS = 1e9
_SMALLEST_EPOCH_MILLISECONDS = 1e11

_UNITS = (
    (86_400.0, ("d", "day", "days")),
    (3_600.0, ("h", "hr", "hrs", "hour", "hours")),
    (60.0, ("m", "min", "mins", "minute", "minutes")),
    (1.0, ("s", "sec", "secs", "second", "seconds")),
    (0.001, ("ms", "msec", "millisecond", "milliseconds")),
    (1e-6, ("us", "µs")),
    (1e-9, ("ns",)),
)
UNIT_SECONDS = {name: seconds for seconds, names in _UNITS for name in names}
"""How many seconds a unit is, in each spelling, in lower case."""
UNIT = "|".join(sorted(UNIT_SECONDS, key=len, reverse=True))
NUMBER = r"[0-9]{1,12}(?:\.[0-9]{0,9})?"
_PIECE = re.compile(rf"({NUMBER})\s*({UNIT})(?![a-zµ])", re.IGNORECASE)
_DURATION = re.compile(rf"(?:PT)?(?:{NUMBER}\s*(?:{UNIT})(?![a-zµ])[\s,]*(?:and\s+)?)+", re.IGNORECASE)

_NAMES = {
    "requests": (
        "x-ratelimit-{}-requests",
        "anthropic-ratelimit-requests-{}",
        "x-ratelimit-{}-requests-day",
        "x-ratelimit-{}",
        "ratelimit-{}",
    ),
    "tokens": (
        "x-ratelimit-{}-tokens",
        "x-ratelimit-{}-tokens-minute",
        "x-ratelimit-{}-tokens-per-minute",
        "anthropic-ratelimit-tokens-{}",
        "anthropic-ratelimit-input-tokens-{}",
    ),
}
"""OpenAI's names, Anthropic's, Cerebras's, DigitalOcean's, and what stands in where none of them came:
OpenRouter's, those of the IETF's draft (draft-ietf-httpapi-ratelimit-headers-06: Kong, Envoy), and the input
tokens alone."""
_PAIRS = tuple(
    tuple((name.format("remaining"), name.format("reset")) for name in names) for names in _NAMES.values()
)
"""A gateway may hand on a provider's headers beside its own: what remains and its reset are of one name."""


def retry_after_seconds(headers: Mapping[str, str], now_epoch_seconds: float | None = None) -> float | None:
    """How long the reply asks to wait, 0 to `LONGEST_WAIT_SECONDS`: `retry-after-ms`, then `retry-after`.

    An HTTP date is compared with the reply's own Date, which no wall-clock jump of ours disturbs, else with
    `now_epoch_seconds`.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _wait(milliseconds / 1000)
    said = headers.get("retry-after")
    if said is None:
        return None
    seconds = _number(said)
    if seconds is None:
        seconds = duration_seconds(said)
    if seconds is not None:
        return _wait(seconds)
    until = _http_date(said)
    now = _http_date(headers.get("date")) or now_epoch_seconds
    return None if until is None or now is None else _wait(until - now)


def used_up_seconds(headers: Mapping[str, str], now_epoch_seconds: float) -> float | None:
    """Until the last reset of what has none remaining; None: something of each remains, or no reset is to come.

    A reset that is over (or a clock of ours that is ahead) says as little as none. Most replies tell that much
    remains: then nothing but that is read.
    """
    if "ratelimit" not in " ".join(headers):
        return None
    resets = [_reset_where_used_up(headers, pairs, now_epoch_seconds) for pairs in _PAIRS]
    return max(filter(None, resets), default=None)


def _reset_where_used_up(
    headers: Mapping[str, str], pairs: Iterable[tuple[str, str]], now_epoch_seconds: float
) -> float | None:
    for remaining, reset in pairs:
        if remaining in headers:
            is_used_up = _number(headers[remaining]) == 0
            return reset_seconds(headers.get(reset), now_epoch_seconds) if is_used_up else None
    return None


def reset_seconds(said: str | None, now_epoch_seconds: float) -> float | None:
    """Seconds from now: of a duration, a small number (seconds), a large one (epoch s or ms), or RFC 3339."""
    if said is None:
        return None
    number = _number(said)
    if number is None:
        duration = duration_seconds(said)
        return _wait(duration) if duration is not None else _until(_rfc_3339(said), now_epoch_seconds)
    if number < _SMALLEST_EPOCH_SECONDS:
        return _wait(number)
    epoch_seconds = number if number < _SMALLEST_EPOCH_MILLISECONDS else number / 1000
    return _until(epoch_seconds, now_epoch_seconds)


def _until(epoch_seconds: float | None, now_epoch_seconds: float) -> float | None:
    return None if epoch_seconds is None else _wait(epoch_seconds - now_epoch_seconds)


def _wait(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


def _number(text: str | None) -> float | None:
    """A finite number from 0 on."""
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) and number >= 0 else None


def duration_seconds(text: str) -> float | None:
    """Seconds of a text such as `6m0s`, `20ms`, `1 minute 30 seconds` or `PT3S`; None where it is none."""
    if not _DURATION.fullmatch(text.strip()):
        return None
    return sum(float(number) * UNIT_SECONDS[unit.lower()] for number, unit in _PIECE.findall(text))


def _http_date(text: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(text) if text is not None else None
        return None if moment is None else _epoch(moment)
    except (ValueError, OverflowError, TypeError):
        return None


def _rfc_3339(text: str) -> float | None:
    try:
        return _epoch(datetime.fromisoformat(text.strip()))
    except (ValueError, OverflowError):
        return None


def _epoch(moment: datetime) -> float:
    """Epoch seconds; a time without a zone is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
