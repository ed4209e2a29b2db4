"""Where a gateway is: its base URL, and the query that all its calls carry."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

_KEY_NAMES = re.compile(
    r"(api|access|subscription)?[-_]?(key|token|secret|signature|sig|password|code)", re.IGNORECASE
)

_ADDED = re.compile(r"(/chat/completions|/completions|(?<=/v1)/(?:messages|responses))/*$")
"""What requests add to the address, which is easily copied with it."""


def base_url(value: str) -> str:
    """The URL without its last slash. Raises ValueError where it is none, or says more than an address."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # urlsplit's own words about brackets and ports
        usable = False
    if not usable or re.search(r"\s", value):
        raise ValueError("must be an http:// or https:// address with a host and, if any, a port up to 65535")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or a password; name the key in endpoint.api_key_env")
    if parts.fragment or "#" in value:
        raise ValueError("must be an address without '#'")
    if parts.query or "?" in value:
        names = ", ".join(name for name, _ in parse_qsl(parts.query, keep_blank_values=True)) or "NAME"
        raise ValueError(f"must be an address without '?'; what follows it ({names}) is written in endpoint.query")
    added = _ADDED.search(parts.path)
    if added is not None:
        raise ValueError(f"must end before {added[1]}, which is added to it")
    return value.rstrip("/")


def host_of(written: object) -> str | None:
    """The host of what is written as an address; None where it is none, which is told where that is checked."""
    try:
        return urlsplit(written).hostname if isinstance(written, str) else None
    except ValueError:
        return None


def query(value: Any) -> Any:
    """Names and values as text; a whole number or a date, which is how `2024-10-21` is read, as it was written."""
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping of names to texts, such as {api-version: 2024-10-21}")
    for name in value:
        if not isinstance(name, str) or not name:
            raise ValueError("must have texts as names")
        if _KEY_NAMES.fullmatch(name):
            raise ValueError("must not hold a key: addresses are logged; name it in endpoint.api_key_env")
    return {name: _text(item) for name, item in value.items()}


def query_text(items: Mapping[str, str]) -> str:
    """What follows the path of every call: "" or "?name=value"."""
    return f"?{urlencode(items)}" if items else ""


def _text(value: Any) -> str:
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must have texts as values; put them in quotes")
    return str(value)
