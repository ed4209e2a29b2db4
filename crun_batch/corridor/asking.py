"""What the gateway says before the start, and its balance every minute from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import httpx

from crun_batch.corridor.endpoint import Endpoint
from crun_batch.corridor.preflight import Offer
from crun_batch.corridor.session import Session
from crun_batch.errors import EXIT_OUT_OF_MONEY, RefusedToStart
from crun_batch.load.job import Job
from crun_batch.plan.prices import decimal_text, pico_of
from crun_batch.send.gateway import Balance, ControlFault, Gateway, list_models, read_balance
from crun_batch.send.retry import Halt

BALANCE_EVERY_SECONDS = 60.0


async def ask(job: Job, endpoint: Endpoint, transport: httpx.AsyncBaseTransport | None = None) -> Offer:
    """Models and balance. What cannot be learned is said in `notes`; a refused key is the offer's `refusal`.

    Raises RefusedToStart where credits are required and the balance call fails.
    """
    async with Gateway(job.endpoint.base_url, endpoint.headers, transport=transport) as gateway:
        models = await list_models(gateway)
        if isinstance(models, ControlFault) and models.kind == "refused":
            return Offer(refusal=f"the gateway does not accept the key: {models.message}")
        notes = (
            [f"the list of models cannot be read: {models.message}"] if isinstance(models, ControlFault) else []
        )
        balance = None if job.budget.credits == "off" else await read_balance(gateway)
    listed = None if isinstance(models, ControlFault) else models
    if isinstance(balance, ControlFault):
        notes.append(_about(balance, job))
        balance = None
    is_crun = balance is not None and balance.source == "crun"
    return Offer(listed, balance, tuple(notes), is_complete=is_crun)


def _about(fault: ControlFault, job: Job) -> str:
    """What a failed balance call means. Raises RefusedToStart where it must succeed."""
    if job.budget.credits == "require":
        raise RefusedToStart(
            f"the balance cannot be read: {fault.message}",
            advice="Try again, or set budget.credits: warn (or off) to start without looking at it.",
        )
    return f"the balance cannot be read: {fault.message}"


def balance_keeper(
    job: Job, endpoint: Endpoint, offer: Offer, transport: httpx.AsyncBaseTransport | None = None
) -> Callable[[Session, Callable[[Halt], None]], Coroutine[Any, Any, None]] | None:
    """Reads the balance every minute and stops the run before `keep_credits` is touched; None: nothing to keep."""
    if offer.balance is None or offer.balance.amount is None or job.budget.credits != "require":
        return None
    source = offer.balance.source

    async def keep(session: Session, stop: Callable[[Halt], None]) -> None:
        observe(offer.balance, job, session)
        async with Gateway(job.endpoint.base_url, endpoint.headers, transport=transport) as gateway:
            while True:
                await asyncio.sleep(BALANCE_EVERY_SECONDS)
                balance = await read_balance(gateway, source)
                if isinstance(balance, Balance):
                    observe(balance, job, session)
                    if balance.amount is not None and balance.amount <= job.budget.keep_credits:
                        stop(Halt(EXIT_OUT_OF_MONEY, _too_low(balance, job.budget.keep_credits)))

    return keep


def observe(balance: Balance | None, job: Job, session: Session) -> None:
    """From here on at most this balance, less what must stay, may be spent."""
    if balance is not None and balance.amount is not None:
        session.reservations.observe_balance(
            pico_of(balance.amount), balance.unit, pico_of(job.budget.keep_credits)
        )


def _too_low(balance: Balance, keep: Decimal) -> str:
    amount = decimal_text(pico_of(balance.amount or Decimal(0)))
    return f"the balance is down to {amount} {balance.unit}, and {decimal_text(pico_of(keep))} must stay"
