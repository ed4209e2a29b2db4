"""Whether a gateway takes batches, and how it is asked: said before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence

from crun_batch.gateway.batches.form import BatchForm
from crun_batch.gateway.batches.openai_form import BatchAddress, OpenAIBatches
from crun_batch.gateway.control import control_wire
from crun_batch.gateway.http.bodies import ByteBudget, WireSettings
from crun_batch.options import Clock, Platform
from crun_batch.workload.endpoint import Endpoint
from crun_batch.workload.target import Target

MOST_FILE_BYTES = 2**31
"""Of what a batch leaves: 50,000 replies of 40 kB."""


def batches_at(target: Target, endpoint: Endpoint, platform: Platform, clock: Clock) -> BatchForm:
    """The way to a gateway's batches for one variant. Raises InputError where a proxy cannot be used."""
    settings = WireSettings(ByteBudget(2 * MOST_FILE_BYTES, 1), MOST_FILE_BYTES)
    job = target.job
    return OpenAIBatches(
        control_wire(settings, target.url, endpoint.ca_file, platform.transport),
        BatchAddress(job.endpoint.base_url, endpoint.query, endpoint.headers, endpoint.redact),
        target.protocol,
        window=job.batch.completion_window,
        epoch_seconds=clock.epoch_seconds,
    )


async def without_batches(
    served: Sequence[tuple[Target, Endpoint]], platform: Platform, clock: Clock
) -> str | None:
    """Why one of these cannot be asked in batches that is to be; None: the gateway takes batches, or may."""
    batched = [(target, endpoint) for target, endpoint in served if target.goes_in_batches]
    if not batched:
        return None
    target, endpoint = batched[0]
    form = batches_at(target, endpoint, platform, clock)
    try:
        trouble = await form.probe()
    finally:
        await form.close()
    if trouble is None or trouble.fate != "not_there":
        return None
    words = f"GET /batches at {target.job.endpoint.base_url}: {trouble.failure.message}"
    return f"it has no batches ({words}); set lane: live"
