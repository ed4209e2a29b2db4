"""What a provider's cache of prompts saved, or cost: each request priced again as if nothing had been cached."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import duckdb
from msgspec import structs

from crun_batch.pricing.costs import charge
from crun_batch.records import PICO, Usage
from crun_batch.reporting.data import Amount, CacheFigures
from crun_batch.store.recorded_usage import USAGE_COLUMNS, recorded_usage
from crun_batch.store.requests import REQUESTS

_ROWS_AT_ONCE = 10_000
_PICO = Decimal(1) / PICO


def cache_figures(connection: duckdb.DuckDBPyConnection, document: Mapping[str, Any]) -> CacheFigures | None:
    """Over the answered requests; None where no token was read from a cache or written to one.

    `document`: job.json, with the run's prices. What has no price there adds nothing to what was saved.
    """
    [(read, cached, written)] = connection.execute(
        "select coalesce(sum(input_tokens), 0)::bigint, coalesce(sum(cached_input_tokens), 0)::bigint, "
        "coalesce(sum(cache_write_tokens), 0)::bigint from attempts where outcome = 'done'"
    ).fetchall()
    if not cached and not written:
        return None
    from crun_batch.preflight.prices import Priced, frozen_prices  # a report without cached tokens loads no job

    frozen = frozen_prices(document)
    usd = credits_ = 0
    priced = False
    rows = connection.execute(
        f"select model, endpoint, {', '.join(USAGE_COLUMNS)}, count(*) from {REQUESTS} "
        "where outcome = 'done' and other_charges is null "
        "and input_tokens is not null and output_tokens is not null "
        "and cached_input_tokens + cache_write_tokens > 0 group by all"
    )
    while found := rows.fetchmany(_ROWS_AT_ONCE):
        for model, endpoint, *told, number in found:
            usage = recorded_usage(told) or Usage()
            price = frozen.price(Priced(frozen.named(model), endpoint))
            plain = structs.replace(usage, cached_input_tokens=0, cache_write_tokens=0, cache_write_1h_tokens=0)
            was, would = (charge(price, one, credits_per_usd=frozen.credits_per_usd) for one in (usage, plain))
            if was.usd_pico is not None and would.usd_pico is not None:
                usd += number * (would.usd_pico - was.usd_pico)
                priced = True
            if was.credits_pico is not None and would.credits_pico is not None:
                credits_ += number * (would.credits_pico - was.credits_pico)
                priced = True
    saved = Amount(usd * _PICO if usd else None, credits_ * _PICO if credits_ else None) if priced else Amount()
    return CacheFigures(read, cached, written, saved)
