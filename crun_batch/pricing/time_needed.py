"""How long the requests still to be sent need, at the least, under the limits of a job."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from crun_batch.pricing.figures import Limits, Span, TimeNeeded, VariantEstimate


def time_needed(requests: int, tokens: int | None, limits: Limits) -> TimeNeeded:
    """Seconds that so many requests and tokens (input and output; None: unknown) need under the limits."""
    asked = {}
    if limits.requests_per_minute:
        asked["requests_per_minute"] = requests * 60.0 / limits.requests_per_minute
    if limits.tokens_per_minute and tokens is not None:
        asked["tokens_per_minute"] = tokens * 60.0 / limits.tokens_per_minute
    if limits.latency_seconds is not None:
        rounds = math.ceil(requests / limits.concurrency)
        asked["concurrency"] = rounds * limits.latency_seconds
    if not asked:
        return TimeNeeded()
    limit = max(asked, key=asked.__getitem__)
    return TimeNeeded(asked[limit], limit)


def time_of(variants: Sequence[VariantEstimate], limits: Limits, end: Callable[[Span], int | None]) -> TimeNeeded:
    """Of all variants together; `end`: which end of the output tokens is meant."""
    per_model: dict[str, tuple[int, int | None]] = {}
    for variant in variants:
        requests, tokens = per_model.get(variant.model, (0, 0))
        output = end(variant.output_tokens)
        known = None if output is None or tokens is None else tokens + variant.input_tokens + output
        per_model[variant.model] = requests + variant.requests, known
    everything = time_needed(
        sum(requests for requests, _ in per_model.values()),
        None,
        Limits(limits.concurrency, latency_seconds=limits.latency_seconds),
    )
    rates = Limits(limits.concurrency, limits.requests_per_minute, limits.tokens_per_minute)
    each = [time_needed(requests, tokens, rates) for requests, tokens in per_model.values()]
    return max((everything, *each), key=lambda needed: needed.seconds or 0.0)
