"""Whether a gateway takes batches, and how it is asked: said before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence

from crun_batch.gateway.batches.anthropic_form import AnthropicBatches
from crun_batch.gateway.batches.asking import BatchAddress
from crun_batch.gateway.batches.form import BatchForm
from crun_batch.gateway.batches.openai_form import OpenAIBatches
from crun_batch.gateway.batches.openrouter_form import OpenRouterBatches
from crun_batch.gateway.control import control_wire
from crun_batch.gateway.http.bodies import ByteBudget, WireSettings
from crun_batch.load.job.batch_forms import BatchFormName, batch_form
from crun_batch.options import Clock, Platform
from crun_batch.workload.endpoint import Endpoint
from crun_batch.workload.target import Target

MOST_FILE_BYTES = 2**31
"""Of what a batch leaves: 50,000 replies of 40 kB."""


def batches_at(target: Target, endpoint: Endpoint, platform: Platform, clock: Clock) -> BatchForm:
    """The way to a gateway's batches for one variant. Raises InputError where a proxy cannot be used."""
    settings = WireSettings(ByteBudget(2 * MOST_FILE_BYTES, 1), MOST_FILE_BYTES)
    job = target.job
    wire = control_wire(settings, target.url, endpoint.ca_file, platform.transport)
    address = BatchAddress(job.endpoint.base_url, endpoint.query, endpoint.headers, endpoint.redact)
    protocol, window, epoch_seconds = target.protocol, job.batch.completion_window, clock.epoch_seconds
    form = form_of(target)
    if form == "anthropic":
        return AnthropicBatches(wire, address, protocol, epoch_seconds=epoch_seconds)
    if form == "openrouter":
        model = job.model or ""
        return OpenRouterBatches(wire, address, protocol, model=model, window=window, epoch_seconds=epoch_seconds)
    return OpenAIBatches(wire, address, protocol, window=window, epoch_seconds=epoch_seconds)


def form_of(target: Target) -> BatchFormName:
    """In which form the target's batches go."""
    endpoint = target.job.endpoint
    return batch_form(target.job.batch.form, endpoint.protocol, endpoint.base_url)


async def without_batches(
    served: Sequence[tuple[Target, Endpoint]], platform: Platform, clock: Clock
) -> str | None:
    """Why one of these cannot be asked in batches that is to be; None: the gateway takes batches, or may."""
    by_form = {form_of(target): (target, endpoint) for target, endpoint in served if target.goes_in_batches}
    for target, endpoint in by_form.values():
        form = batches_at(target, endpoint, platform, clock)
        try:
            trouble = await form.probe()
        finally:
            await form.close()
        if trouble is not None and trouble.fate == "not_there":
            words = f"GET {form.list_path} at {target.job.endpoint.base_url}: {trouble.failure.message}"
            return f"it has no batches ({words}); set lane: live, or another batch.form"
    return None
