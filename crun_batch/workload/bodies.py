"""Request bodies that come from the table: which model they name, what bounds them, what a budget cannot bear.

Reads the fields of the four protocols; sends and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crun_batch.records import ProtocolName

CACHE_CONTROL = b'"cache_control"'
"""The field by which a body asks for its input to be kept in a cache."""
OUTPUT_LIMITS: Mapping[ProtocolName, tuple[str, ...]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
    "completions": ("max_tokens",),
}
"""Protocol -> the fields that bound a reply's tokens. The gateway ignores those of another protocol."""

ANSWER_COUNTS = ("n", "best_of")
"""Fields that ask for several answers to one request, each of them billed."""

STORED_INPUTS = ("previous_response_id", "conversation", "prompt")
"""Fields of /responses that name what the gateway keeps: input whose tokens no byte of ours bounds."""


def model_of(fields: Mapping[str, Any]) -> str | None:
    """The model that the body names."""
    model = fields.get("model")
    return model if isinstance(model, str) else None


def service_tier_of(fields: Mapping[str, Any]) -> str | None:
    """The gateway's tier that the body, or the params of one, ask for: OpenAI's, Groq's and Anthropic's name."""
    tier = fields.get("service_tier")
    return tier if isinstance(tier, str) and tier else None


def output_limit_tokens(fields: Mapping[str, Any], protocol: ProtocolName) -> int | None:
    """The most tokens of a reply. None: the body does not say."""
    limits = [fields[name] for name in OUTPUT_LIMITS[protocol] if type(fields.get(name)) is int]
    return max(limits) if limits else None


def answers_asked(fields: Mapping[str, Any]) -> int:
    """How many answers a request may be billed for: each has the whole output limit for itself."""
    counts: list[int] = [fields[name] for name in ANSWER_COUNTS if type(fields.get(name)) is int]
    return max([1, *counts])


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
    return None
