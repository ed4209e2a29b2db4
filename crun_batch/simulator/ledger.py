"""The gateway's own books: who was charged what for which request, and what is left.

Owns the arithmetic of charges and the only balance. Amounts are integers of pico-credits. A line is written to
the file, where there is one, before the reply is sent; lines are only ever appended.
"""

from __future__ import annotations

import os
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from crun_batch.simulator.asks import ModelUsage
from crun_batch.simulator.settings import Model, Settings, pico, pico_per_token


class LedgerPrice(Struct, frozen=True):
    """Pico-credits per token of one model, and per request at least."""

    input: int
    output: int
    cached: int
    cache_write: int
    minimum: int


def price_of(model: Model, settings: Settings, share: Decimal = Decimal(1)) -> LedgerPrice:
    """The price that a request to this model is charged by, in the style of this gateway; a share of it."""
    price = pico_per_token(model.input_per_mtok * share)
    cached, written = model.cached_input_per_mtok, model.cache_write_per_mtok
    has_minimum = settings.gateway_style in ("crun", "kie")
    return LedgerPrice(
        input=price,
        output=pico_per_token(model.output_per_mtok * share),
        cached=price if cached is None else pico_per_token(cached * share),
        cache_write=price if written is None else pico_per_token(written * share),
        minimum=pico(model.minimum_per_request * share) if has_minimum else 0,
    )


def tier_prices_of(model: Model, settings: Settings) -> dict[str, LedgerPrice]:
    """Service tier -> what a request costs there."""
    prices = {}
    for name, own in model.service_tiers.items():
        stated = structs.asdict(own)
        if own.minimum_per_request is None:
            stated["minimum_per_request"] = model.minimum_per_request
        prices[name] = price_of(structs.replace(model, **stated), settings)
    return prices


def charge_pico(price: LedgerPrice, usage: ModelUsage) -> int:
    """max(minimum, tokens x price), cached and cache-write tokens at their own price."""
    plain = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
    tokens = (
        plain * price.input
        + usage.cached_tokens * price.cached
        + usage.cache_write_tokens * price.cache_write
        + usage.output_tokens * price.output
    )
    return max(price.minimum, tokens)


class Charge(Struct, frozen=True, omit_defaults=True, gc=False):
    """One charged request. `outcome` is `answered` or the fault that kept the reply from its client."""

    serial: int
    key_name: str
    endpoint: str
    model: str
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    charge_pico: int
    request_sha256: str
    at_seconds: float
    outcome: str
    batch: str | None = None
    """The batch that it came in, and its custom id there."""
    custom_id: str | None = None
    service_tier: str | None = None
    """The tier whose price it was; None: the model's own."""


class Ledger:
    """The balance, and every charge that lowered it."""

    def __init__(self, balance_pico: int, path: str | None, keep_entries: bool) -> None:
        self.balance_pico = balance_pico
        self.charged_pico = 0
        self.count = 0
        self.entries: list[Charge] = []
        self._keep_entries = keep_entries
        self._file = None if path is None else os.open(Path(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def charge(self, usage: ModelUsage, amount_pico: int, **about: Any) -> Charge:
        """Take the amount from the balance and write it down; `about` are the remaining fields of a Charge."""
        entry = Charge(
            serial=self.count,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            charge_pico=amount_pico,
            at_seconds=time.time(),
            **about,
        )
        self.count += 1
        self.charged_pico += amount_pico
        self.balance_pico -= amount_pico
        if self._keep_entries:
            self.entries.append(entry)
        if self._file is not None:
            os.write(self._file, msgspec.json.encode(entry) + b"\n")
        return entry

    def close(self) -> None:
        """Close the file; charges can no longer be made."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
