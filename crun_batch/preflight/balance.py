"""The balance: read before and after a pilot, and every minute while requests are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from decimal import Decimal
from typing import Any

from crun_batch.errors import EXIT_OUT_OF_MONEY
from crun_batch.gateway.control import Balance, read_balance
from crun_batch.load.job.job import Job
from crun_batch.options import Platform
from crun_batch.preflight.gateway_facts import GatewayFacts
from crun_batch.pricing.budget import Reservations
from crun_batch.records import Halt, decimal_text, pico_of

ReadBalance = Callable[[], Awaitable[Balance | None]]
LeaveOut = Callable[[str | None, Halt], None]
"""Told that an endpoint of a list has no credit left; None: the only one, without which the session stops."""
KeepBalance = Callable[[Reservations, LeaveOut], Coroutine[Any, Any, None]]
"""Runs beside the sending: bounds what may be spent by the balance, and stops the session where it runs low."""


def balance_keeper(gateways: Sequence[GatewayFacts], platform: Platform) -> KeepBalance | None:
    """Reads the balance again and again and stops the run before `keep_credits` is touched; None: nothing to keep.

    Of several gateways each is kept; only the balance of a single one also bounds what may be spent.
    """
    keepers = [keeper for facts in gateways if (keeper := _keeper(facts, platform, bounds=len(gateways) == 1))]
    if not keepers:
        return None

    async def keep(reservations: Reservations, leave_out: LeaveOut) -> None:
        await asyncio.gather(*(keeper(reservations, leave_out) for keeper in keepers))

    return keep


def _keeper(facts: GatewayFacts, platform: Platform, *, bounds: bool) -> KeepBalance | None:
    job, endpoint, offer = facts.job, facts.endpoints[0], facts.offer
    if offer.balance is None or offer.balance.amount is None or job.budget.credits != "require":
        return None
    source = offer.balance.source

    async def keep(reservations: Reservations, leave_out: LeaveOut) -> None:
        observe(offer.balance if bounds else None, job, reservations)
        async with endpoint.control_client(job.endpoint.base_url, platform.transport) as gateway:
            while True:
                await asyncio.sleep(platform.balance_every_seconds)
                balance = await read_balance(gateway, source)
                if isinstance(balance, Balance):
                    observe(balance if bounds else None, job, reservations)
                    if balance.amount is not None and balance.amount <= job.budget.keep_credits:
                        too_low = Halt(EXIT_OUT_OF_MONEY, _too_low(balance, job.budget.keep_credits))
                        leave_out(facts.endpoint_name, too_low)

    return keep


def balance_reader(gateways: Sequence[GatewayFacts], platform: Platform) -> ReadBalance | None:
    """Reads the balance of the only gateway; None where there are several, or it has none to read."""
    [facts, *others] = gateways
    balance = facts.offer.balance
    if others or balance is None or balance.amount is None:
        return None
    source, base_url, endpoint = balance.source, facts.job.endpoint.base_url, facts.endpoints[0]

    async def read() -> Balance | None:
        async with endpoint.control_client(base_url, platform.transport) as gateway:
            found = await read_balance(gateway, source)
        return found if isinstance(found, Balance) else None

    return read


def observe(balance: Balance | None, job: Job, reservations: Reservations) -> None:
    """From here on at most this balance, less what must stay, may be spent."""
    if balance is not None and balance.amount is not None:
        reservations.observe_balance(pico_of(balance.amount), balance.unit, pico_of(job.budget.keep_credits))


def _too_low(balance: Balance, keep: Decimal) -> str:
    amount = decimal_text(pico_of(balance.amount or Decimal(0)))
    kept = decimal_text(pico_of(keep))
    return f"the balance is down to {amount} {balance.unit}, and {kept} must stay (budget.keep_credits)"
