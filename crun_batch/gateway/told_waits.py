"""The wait that an error body asks for, by Google's RetryInfo, a key or words, and the quotas that it names.

Sources: google.rpc.RetryInfo (`retryDelay`), the rate limit messages of OpenAI and Azure ("Please try again in
7.66s", "Please retry after 26 seconds"), Gemini ("Please retry in 20.5s"), GitHub Models ("Please wait 42 seconds
before retrying") and LiteLLM ("Try again in 60 seconds"), and proxies that put the header into the text. Pure; a
form that is not known says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from crun_batch.gateway.rate_headers import LONGEST_WAIT_SECONDS, NUMBER, UNIT, duration_seconds

_KEYS = {
    "retryDelay": 1.0,
    "retry_after": 1.0,
    "retry_after_seconds": 1.0,
    "retryAfter": 1.0,
    "retryAfterSeconds": 1.0,
    "retry-after": 1.0,
    "Retry-After": 1.0,
    "retry_in": 1.0,
    "retry_in_seconds": 1.0,
    "wait_seconds": 1.0,
    "reset_after": 1.0,
    "resets_in_seconds": 1.0,
    "retry_after_ms": 0.001,
    "retryAfterMs": 0.001,
}
"""Key -> how many seconds its unit is, where the value is a bare number."""

_AMOUNT = rf"{NUMBER}\s*(?:{UNIT})(?![a-zµ])"
_AMOUNTS = rf"((?:{_AMOUNT}(?:\s*,?\s*(?:and\s+)?(?=[0-9]))?)+)"
_WORDS = re.compile(
    r"(?:(?:try|retry(?:ing)?)\b(?:\s+(?:again|your|the|this|request))*\s+(?:in|after)"
    r"|wait(?:ing)?(?:\s+for)?|(?:resets?|available(?:\s+again)?)\s+(?:in|after))"
    rf"\s+(?:about\s+|approximately\s+|at\s+least\s+)?{_AMOUNTS}"
    rf"|retry[-_ ]after['\"]?\s*[:=]\s*['\"]?({NUMBER}(?:\s*(?:{UNIT})(?![a-zµ]))?)",
    re.IGNORECASE,
)


def wait_told(places: Sequence[Mapping[str, Any]], message: str) -> float | None:
    """Seconds, 0 to a month, by the first key in a place of a body, else by its words; None: not told."""
    for place in places:
        for key, unit_seconds in _KEYS.items():
            seconds = _seconds(place.get(key), unit_seconds)
            if seconds is not None:
                return min(seconds, LONGEST_WAIT_SECONDS)
    said = _WORDS.search(message)
    if said is None:
        return None
    seconds = duration_seconds(said[1] or said[2])
    return min(float(said[2]) if seconds is None else seconds, LONGEST_WAIT_SECONDS)


def with_quotas(words: str, details: Sequence[Mapping[str, Any]]) -> str:
    """The words, and the quotas of Google's QuotaFailure: only they say whether it is a minute's or a day's."""
    listed = [detail.get("violations") for detail in details]
    violations = [one for each in listed if isinstance(each, list) for one in each if isinstance(one, dict)]
    quotas = [quota for one in violations if isinstance(quota := one.get("quotaId"), str) and quota not in words]
    return f"{words} ({', '.join(quotas[:3])})" if quotas else words


def _seconds(value: object, unit_seconds: float) -> float | None:
    """Of a number, a text such as `51s`, or a Duration of seconds and nanos."""
    if isinstance(value, dict):
        parts = (value.get("seconds", 0), value.get("nanos", 0))
        whole, nanos = (_seconds(part, 1.0) for part in parts)
        return None if whole is None or nanos is None else whole + nanos * 1e-9
    if isinstance(value, str):
        seconds = duration_seconds(value)
        if seconds is not None:
            return seconds
        try:
            value = float(value)
        except ValueError:
            return None
    if type(value) not in (int, float):
        return None
    assert isinstance(value, int | float)
    return float(value) * unit_seconds if 0 <= value < 1e12 else None
