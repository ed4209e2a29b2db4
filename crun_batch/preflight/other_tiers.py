"""At which other tiers a job could be asked: what of its file asks for each, and what a request costs there."""

from __future__ import annotations

from collections.abc import Mapping

from crun_batch.load.job.batch_forms import PROTOCOLS_OF, batch_form
from crun_batch.load.job.job import Job
from crun_batch.load.job.lanes import goes_in_batches
from crun_batch.pricing.prices import BATCH_TIER, PriceChoice, in_batches
from crun_batch.pricing.service_tiers import price_at
from crun_batch.records import Price

TIERS = {"flex": "params: {service_tier: flex}", BATCH_TIER: "lane: batch"}
"""Service tiers that cost less, and what of a job file asks for them."""
LIVE = "live"
"""What a job that goes in batches could be asked as instead, for ways that no batch can go."""


def other_tiers(job: Job) -> Mapping[str, str]:
    """Tier -> what of the job's file asks for it; "": nothing does, as the job is asked now."""
    if goes_in_batches(job.lane):
        return {LIVE: "lane: live"}
    endpoint = job.endpoint
    form = batch_form(job.batch.form, endpoint.protocol, endpoint.base_url)
    is_said = endpoint.protocol in PROTOCOLS_OF[form] and not (form == "openrouter" and job.prompt.body_column)
    is_refused = not is_said or endpoint.stream or job.prompt.stateful
    has_one_endpoint = len(job.at_each_endpoint) == 1
    return {**TIERS, BATCH_TIER: TIERS[BATCH_TIER] if has_one_endpoint and not is_refused else ""}


def price_there(job: Job, standard: Price, tier: str) -> Price | None:
    """What a request costs at the tier; None: nobody has said."""
    if tier == LIVE:
        return standard
    if tier == BATCH_TIER:
        return in_batches(job.model or "", PriceChoice(standard, ""), job.prices.batch_share).price
    return price_at(standard, tier)
