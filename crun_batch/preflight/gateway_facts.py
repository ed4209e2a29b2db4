"""What the gateway says before the start, and its balance every minute from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Sequence
from decimal import Decimal
from typing import Any

from crun_batch.errors import EXIT_OUT_OF_MONEY, RefusedToStart
from crun_batch.gateway.control import Balance, ControlFault, Gateway, list_models, read_balance
from crun_batch.gateway.retry import Halt
from crun_batch.load.job.job import Job
from crun_batch.preflight.affordability import Offer, Site
from crun_batch.preflight.pilot import ReadBalance
from crun_batch.pricing.costs import decimal_text, pico_of
from crun_batch.session.recorder import Session
from crun_batch.state.platform import Ground
from crun_batch.workload.endpoint import Endpoint
from crun_batch.workload.target import Asked


async def ask_all(variants: Sequence[Asked], endpoints: Sequence[Endpoint], ground: Ground) -> tuple[Site, ...]:
    """Every gateway that the variants name, asked once under each key. Raises RefusedToStart, as `ask` does."""
    found: dict[tuple[str, Hashable], list[tuple[Asked, Endpoint]]] = {}
    for variant, endpoint in zip(variants, endpoints, strict=True):
        found.setdefault((variant.job.endpoint.base_url, endpoint.account), []).append((variant, endpoint))
    sites = []
    for served in found.values():
        first, endpoint = served[0]
        offer = await ask(first.job, endpoint, ground)
        variants, reached_by = zip(*served, strict=True)
        sites.append(Site(offer, variants, reached_by))
    return tuple(sites)


async def ask(job: Job, endpoint: Endpoint, ground: Ground) -> Offer:
    """Models and balance. What cannot be learned is said in `notes`; a refused key is the offer's `refusal`.

    Raises RefusedToStart where credits are required and the balance call fails.
    """
    async with Gateway(job.endpoint.base_url, endpoint.headers, transport=ground.transport) as gateway:
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


Keeper = Callable[[Session, Callable[[Halt], None]], Coroutine[Any, Any, None]]


def balance_keeper(sites: Sequence[Site], ground: Ground) -> Keeper | None:
    """Reads the balance again and again and stops the run before `keep_credits` is touched; None: nothing to keep.

    Of several gateways each is kept; only the balance of a single one also bounds what may be spent.
    """
    keepers = [keeper for site in sites if (keeper := _keeper(site, ground, bounds=len(sites) == 1))]
    if not keepers:
        return None

    async def keep(session: Session, stop: Callable[[Halt], None]) -> None:
        await asyncio.gather(*(keeper(session, stop) for keeper in keepers))

    return keep


def _keeper(site: Site, ground: Ground, *, bounds: bool) -> Keeper | None:
    job, endpoint, offer = site.job, site.endpoints[0], site.offer
    if offer.balance is None or offer.balance.amount is None or job.budget.credits != "require":
        return None
    source = offer.balance.source

    async def keep(session: Session, stop: Callable[[Halt], None]) -> None:
        observe(offer.balance if bounds else None, job, session)
        async with Gateway(job.endpoint.base_url, endpoint.headers, transport=ground.transport) as gateway:
            while True:
                await asyncio.sleep(ground.balance_every_seconds)
                balance = await read_balance(gateway, source)
                if isinstance(balance, Balance):
                    observe(balance if bounds else None, job, session)
                    if balance.amount is not None and balance.amount <= job.budget.keep_credits:
                        stop(Halt(EXIT_OUT_OF_MONEY, _too_low(balance, job.budget.keep_credits)))

    return keep


def balance_reader(sites: Sequence[Site], ground: Ground) -> ReadBalance | None:
    """Reads the balance of the only gateway; None where there are several, or it has none to read."""
    [site, *others] = sites
    balance = site.offer.balance
    if others or balance is None or balance.amount is None:
        return None
    source, base_url, headers = balance.source, site.job.endpoint.base_url, site.endpoints[0].headers

    async def read() -> Balance | None:
        async with Gateway(base_url, headers, transport=ground.transport) as gateway:
            found = await read_balance(gateway, source)
        return found if isinstance(found, Balance) else None

    return read


def observe(balance: Balance | None, job: Job, session: Session) -> None:
    """From here on at most this balance, less what must stay, may be spent."""
    if balance is not None and balance.amount is not None:
        session.reservations.observe_balance(
            pico_of(balance.amount), balance.unit, pico_of(job.budget.keep_credits)
        )


def _too_low(balance: Balance, keep: Decimal) -> str:
    amount = decimal_text(pico_of(balance.amount or Decimal(0)))
    kept = decimal_text(pico_of(keep))
    return f"the balance is down to {amount} {balance.unit}, and {kept} must stay (budget.keep_credits)"
