"""The requests behind the attempts, as a table for DuckDB: one row per request that was sent.

Rows that stood in one request are attempts of their own (`store.packs`), which are counted and summed here as what
they were. What such attempts do not share, an answer's fault, is that of any of them.
"""

from __future__ import annotations

from crun_batch.store.recorded_usage import USAGE_COUNTS

_SHARED = (
    *("variant", "purpose", "judge", "endpoint", "service_tier", "outcome", "http_status", "error_kind"),
    *("error_message", "model", "cost_source", "other_charges", "latency_seconds", "finished_at"),
)
_DIVIDED = {
    **dict.fromkeys(USAGE_COUNTS, "bigint"),
    **dict.fromkeys(("cost_usd", "cost_credits", "held_usd", "held_credits"), "decimal(38, 12)"),
}
"""What each row has its part of, and the type of the sum."""
REQUESTS = f"""(
    select {", ".join((*_SHARED, *_DIVIDED))}, 1::bigint as rows from attempts where pack_place is null
    union all by name
    select {", ".join(f"any_value({name}) as {name}" for name in _SHARED)},
        {", ".join(f"sum({name})::{type_} as {name}" for name, type_ in _DIVIDED.items())}, count(*) as rows
    from attempts where pack_place is not null group by serial - pack_place
)"""
"""To select from where there is a view `attempts`: its columns, and `rows`, how many the request asked."""
