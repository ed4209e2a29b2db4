"""The bundled simulator in the place of a run's gateway. Loaded only where a run is simulated.

A port is taken at once, and the job is pointed at it; the simulator itself starts when it is about to be called:
a run with nothing to send starts none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from typing import Any, Literal

from msgspec import structs

from crun_batch.load.job.batch_forms import batch_form
from crun_batch.load.job.endpoint_sections import EndpointSpec
from crun_batch.load.job.file import ForEachEndpoint
from crun_batch.load.job.job import Job
from crun_batch.load.job.sweep import variations
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.simulator.settings import MODELS, Model, Settings, TierPrice, read_settings
from crun_batch.store.directory import simulated_folder

SIMULATED_BALANCE_CREDITS = Decimal(1_000_000_000)


def in_simulated_folder(job: Job) -> Job:
    """The job with the directory of its simulated run."""
    return job.with_overrides({"output.dir": simulated_folder(job.output.dir)})


@contextmanager
def simulators_for(job: Job, settings: Mapping[str, Any]) -> Iterator[list[SimulatorProcess]]:
    """A simulator for each endpoint, with its address and not started, for as long as the context lasts.

    Each offers the models of all variants and judges, at the prices that the job has there.
    """
    with ExitStack() as stack:
        simulators = []
        for one in job.at_each_endpoint:
            simulator = SimulatorProcess(read_settings(settings, base=_settings_for(one)))
            stack.callback(simulator.stop)
            simulators.append(simulator.listen())
        yield simulators


def pointing_at(base_urls: Sequence[str], job: Job) -> dict[str, object]:
    """Keys that point a job, and each of its variants, at simulators there; endpoints keep their names."""
    names = [one.endpoint.name for one in job.at_each_endpoint]
    return {
        **({} if None in names else {"endpoint.name": ForEachEndpoint(names)}),
        "endpoint.base_url": ForEachEndpoint(base_urls),
        "endpoint.auth": "none",
        "endpoint.api_key_env": None,
        "endpoint.api_key_file": None,
        "endpoint.ca_file": None,
        "endpoint.headers": {},
        "endpoint.query": {},
        **({"batch.form": "openrouter"} if _is_openrouter(job) else {}),
    }


def _settings_for(job: Job) -> Settings:
    priced = {name: _simulated_model(spec, job) for name, spec in job.prices.models.items()}
    models = {**MODELS, **priced}
    asked = [*(variation.job.model for variation in variations(job)), *(spec.model for spec in job.score)]
    for name in asked:
        if name is not None:
            models.setdefault(name, Model())
    is_streamed = any(endpoint.stream and endpoint.protocol == "completions" for endpoint in _endpoints(job))
    style: Literal["crun", "openai"] = "openai" if is_streamed else "crun"
    found = Settings(models=models, balance_credits=SIMULATED_BALANCE_CREDITS, stream_style=style)
    return found if job.lane == "live" else _with_batches(found, job)


def _with_batches(settings: Settings, job: Job) -> Settings:
    """A gateway that has batches, which CRUN's own style does not, in the job's form, at what the job says."""
    share = job.prices.batch_share
    sold_at = settings.batch_price_share if share is None else share
    style: Literal["openrouter", "plain"] = "openrouter" if _is_openrouter(job) else "plain"
    return structs.replace(settings, gateway_style=style, batch_price_share=sold_at)


def _is_openrouter(job: Job) -> bool:
    """Whether its batches go in OpenRouter's form, which the address of a simulator does not say."""
    endpoint = job.endpoint
    return job.lane != "live" and batch_form(job.batch.form, endpoint.protocol, endpoint.base_url) == "openrouter"


def _endpoints(job: Job) -> Iterator[EndpointSpec]:
    """Of all variants and judges, as they are where nothing is simulated."""
    yield from (variation.job.endpoint for variation in variations(job))
    yield from (spec.endpoint for spec in job.score if spec.endpoint is not None)


def _simulated_model(spec: Any, job: Job) -> Model:
    """The job's price in credits, as the simulator charges; dollars by credits_per_usd, or one for one."""
    factor = 1 if spec.currency == "credits" else (job.prices.credits_per_usd or 1)

    def amount(value: Any) -> Any:
        return None if value is None else round(value * factor, 6)

    return Model(
        input_per_mtok=amount(spec.input_per_mtok),
        output_per_mtok=amount(spec.output_per_mtok),
        cached_input_per_mtok=amount(spec.cached_input_per_mtok),
        cache_write_per_mtok=amount(spec.cache_write_per_mtok),
        minimum_per_request=amount(spec.minimum_per_request or 0),
        service_tiers={
            name.lower(): TierPrice(
                input_per_mtok=amount(own.input_per_mtok),
                output_per_mtok=amount(own.output_per_mtok),
                cached_input_per_mtok=amount(own.cached_input_per_mtok),
                cache_write_per_mtok=amount(own.cache_write_per_mtok),
                minimum_per_request=amount(own.minimum_per_request),
            )
            for name, own in spec.service_tiers.items()
        },
    )
