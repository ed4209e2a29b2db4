"""Request bodies that come from the table: which model they name, what bounds them, what a budget cannot bear.

Reads the fields of the four protocols; sends and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crun_batch.gateway.protocols.charges import billed_tier
from crun_batch.load.job.unbounded import HOSTED_FIELDS, STORED_INPUTS
from crun_batch.records import CacheTtl, ProtocolName

CACHE_CONTROL = b'"cache_control"'
"""The field by which a body asks for its input to be kept in a cache."""
FOR_AN_HOUR = b'"1h"'
"""How that field asks for an hour (Anthropic's `ttl`)."""
OUTPUT_LIMITS: Mapping[ProtocolName, tuple[str, ...]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
    "completions": ("max_tokens",),
}
"""Protocol -> the fields that bound a reply's tokens. The gateway ignores those of another protocol."""

ANSWER_COUNTS = ("n", "best_of")
"""Fields that ask for several answers to one request, each of them billed."""


def cache_ttl(body: bytes, is_always_cached: bool) -> CacheTtl:
    """For how long input of this body may be kept in a cache, at the price of writing it there."""
    if CACHE_CONTROL in body:
        return "1h" if FOR_AN_HOUR in body else "5m"
    return "5m" if is_always_cached else ""


def model_of(fields: Mapping[str, Any]) -> str | None:
    """The model that the body names."""
    model = fields.get("model")
    return model if isinstance(model, str) else None


def service_tier_of(fields: Mapping[str, Any]) -> str | None:
    """The gateway's tier that the body, or the params of one, ask for: OpenAI's, Groq's and Anthropic's names."""
    tier = fields.get("service_tier")
    return billed_tier(tier if isinstance(tier, str) and tier else None, fields)


def output_limit_tokens(fields: Mapping[str, Any], protocol: ProtocolName) -> int | None:
    """The most tokens of a reply. None: the body does not say."""
    limits = [fields[name] for name in OUTPUT_LIMITS[protocol] if type(fields.get(name)) is int]
    return max(limits) if limits else None


def answers_asked(fields: Mapping[str, Any]) -> int:
    """How many answers a request may be billed for: each has the whole output limit for itself."""
    counts: list[int] = [fields[name] for name in ANSWER_COUNTS if type(fields.get(name)) is int]
    return max([1, *counts])


def hosted(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of a body, or of the params of one, that ask for what the gateway does and bills."""
    return tuple(name for name, asks in HOSTED_FIELDS.items() if asks(fields.get(name)))


def unbounded_by(fields: Mapping[str, Any], protocol: ProtocolName) -> str | None:
    """Why nothing can be reserved for this request, in a sentence; None where its cost has a bound."""
    limit = output_limit_tokens(fields, protocol)
    if limit is None or limit < 1:
        names = " or ".join(OUTPUT_LIMITS[protocol])
        return f"its body has no {names}: with a budget every request must bound its reply"
    for name in ANSWER_COUNTS:
        if fields.get(name) not in (None, 1):
            return f"its body has {name}: {fields[name]!r}: with a budget it must be 1, more answers cost more"
    stored = next((name for name in STORED_INPUTS if protocol == "responses" and fields.get(name)), None)
    if stored is not None:
        return f"its body has {stored}: what the gateway keeps under it is billed, and nothing bounds that"
    for name in hosted(fields):
        return f"its body has {name}: what the gateway does for it is billed too, and nothing bounds that"
    return None
