"""What a gateway offers and what is left of the credit: one question each, for the commands of that name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import structs

from crun_batch.gateway.control import ControlClient, ControlFault, list_models, read_balance
from crun_batch.load.job.job import ANYWHERE, Job, load_job
from crun_batch.options import RunOptions
from crun_batch.pricing.prices import choose_price, price_as_text
from crun_batch.records import decimal_text, pico_of
from crun_batch.workload.endpoint import endpoint_of


def gateway_job(job: Job | str | Path | None, options: RunOptions) -> Job:
    """The job whose gateway is meant; without one, the default gateway with the default key."""
    if job is None:
        job = Job(structs.replace(Job(model="any", prompt={"user": "any"}).document, source="no job file"))
    if isinstance(job, Job):
        return job.with_overrides(options.overrides) if options.overrides else job
    return load_job(Path(job), options.overrides, environ=options.environ, needs_table=False, allow_paths=ANYWHERE)


async def offered_models(job: Job, environ: Mapping[str, str], at: datetime) -> dict[str, Any]:
    """The models with their prices; `models` null: there is no such call; `fault`: why it failed.

    Of a list of endpoints what the first says, and each in `endpoints`. Raises InputError where a key is missing.
    """
    return _of_list([await _models_at(one, environ, at) for one in job.at_each_endpoint])


async def _models_at(job: Job, environ: Mapping[str, str], at: datetime) -> dict[str, Any]:
    base_url = job.endpoint.base_url
    async with _gateway(job, environ) as gateway:
        found = await list_models(gateway)
    if isinstance(found, ControlFault):
        return {"name": job.endpoint.name, "base_url": base_url, "models": None, "fault": found.message}
    models = None
    if found is not None:
        models = []
        for model in found:
            spec = job.prices.models.get(model.id)
            choice = choose_price(model.id, base_url, job_spec=spec, quote=model.quote, at=at)
            price = None if choice.price is None else price_as_text(choice.price)
            models.append({"id": model.id, "price": price, "price_from": choice.reason})
    return {"name": job.endpoint.name, "base_url": base_url, "models": models, "fault": None}


async def offered_credit(job: Job, environ: Mapping[str, str]) -> dict[str, Any]:
    """The balance; `balance` null: there is no such call; its `amount` null: unlimited; `fault`: why it failed.

    Of a list of endpoints what the first says, and each in `endpoints`. Raises InputError where a key is missing.
    """
    return _of_list([await _credit_at(one, environ) for one in job.at_each_endpoint])


async def _credit_at(job: Job, environ: Mapping[str, str]) -> dict[str, Any]:
    base_url = job.endpoint.base_url
    async with _gateway(job, environ) as gateway:
        found = await read_balance(gateway) or await _refused_key(gateway)
    if isinstance(found, ControlFault):
        return {"name": job.endpoint.name, "base_url": base_url, "balance": None, "fault": found.message}
    balance = None
    if found is not None:
        amount = None if found.amount is None else decimal_text(pico_of(found.amount))
        balance = {"amount": amount, "unit": found.unit, "source": found.source}
    return {"name": job.endpoint.name, "base_url": base_url, "balance": balance, "fault": None}


def _of_list(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer, or that of the first with those of all; a call that has failed at each of them has failed."""
    if len(found) == 1:
        return found[0]
    faults = [f"endpoint {one['name']}: {one['fault']}" for one in found if one["fault"] is not None]
    fault = "; ".join(faults) if len(faults) == len(found) else None
    return {**found[0], "fault": fault, "endpoints": found}


def _gateway(job: Job, environ: Mapping[str, str]) -> ControlClient:
    return endpoint_of(job, environ, simulated=False).control_client(job.endpoint.base_url)


async def _refused_key(gateway: ControlClient) -> ControlFault | None:
    """A gateway whose style is unknown seems to have no balance call where it only refuses the key."""
    models = await list_models(gateway)
    return models if isinstance(models, ControlFault) and models.kind == "refused" else None
