"""What a pilot tells of the rest of its run beside the bill: how long it takes, and whether rows may go packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crun_batch.load.job.job import Job
from crun_batch.preflight.assessment import speed_limits
from crun_batch.preflight.pack_agreement import agreement_document
from crun_batch.preflight.pilot_sums import MICROSECONDS, OpenUnits, PilotRowSums, forecast_of
from crun_batch.pricing.time_needed import time_needed
from crun_batch.state.run_state import RunContext


def outlook(context: RunContext, sums: Sequence[PilotRowSums], still_open: OpenUnits, seed: int) -> dict[str, Any]:
    """`seconds` to the end, and how packed answers agree with others (`packing`, null where nothing is packed)."""
    return {"seconds": _seconds(context, sums, still_open), "packing": agreement_document(context, seed)}


def _seconds(context: RunContext, sums: Sequence[PilotRowSums], still_open: OpenUnits) -> dict[str, Any]:
    """How long the open units still take, limits and latency being what they were."""
    if not sums:
        return {"low": None, "expected": None, "high": None, "limited_by": "not known"}
    busy = forecast_of([row.latency_us for row in sums], still_open)
    tokens = forecast_of([row.tokens for row in sums], still_open)
    workload = context.workload
    limits = workload.job.limits
    requests = still_open.units * (1 + len(workload.judges))
    together = -(-requests // min(_rows_together(variant.job) for variant in workload.variants))
    ends: dict[str, Any] = {"limited_by": "not limited"}
    for end in ("low", "expected", "high"):
        busy_end, tokens_end = getattr(busy, end), getattr(tokens, end)
        if busy_end is None or tokens_end is None or not requests:
            ends[end] = None if requests else 0.0
            continue
        latency_seconds = (busy_end - busy.known) / MICROSECONDS / requests
        concurrency = min(limits.concurrency, together)
        bounds = speed_limits(context, concurrency, latency_seconds)
        needed = time_needed(together, tokens_end - tokens.known, bounds)
        ends[end] = None if needed.seconds is None else round(needed.seconds, 3)
        ends["limited_by"] = needed.limited_by or ends["limited_by"]
    return ends


def _rows_together(job: Job) -> int:
    """How many rows one request asks."""
    return 1 if job.pack is None else job.pack.rows
