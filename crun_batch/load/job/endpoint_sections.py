"""The sections of a job file that say where requests go and what they cost there: `endpoint` and `prices`.

Like `sections`, it looks at one value at a time; which keys go together is said in `rules`, and what a list of
endpoints must be in `endpoint_lists`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from crun_batch.load.job.moments import Moment
from crun_batch.load.job.sections import (
    Amount,
    Count,
    EnvironmentName,
    Flag,
    Name,
    PositiveAmount,
    Query,
    Section,
    Text,
    Url,
    Weight,
    not_written,
)

DEFAULT_BASE_URL = "https://api.crun.ai/api/v1"


class PriceTier(Section):
    """Prices of a whole request with more input than a threshold."""

    above_input_tokens: Count
    """Threshold: applies to requests with more input tokens."""
    input_per_mtok: Amount | None = None
    """Per million input tokens. Default: the model's."""
    output_per_mtok: Amount | None = None
    """Per million output tokens. Default: the model's."""
    cached_input_per_mtok: Amount | None = None
    """Per million input tokens read from cache. Default: the model's."""
    cache_write_per_mtok: Amount | None = None
    """Per million input tokens written to cache. Default: the model's."""
    cache_write_1h_per_mtok: Amount | None = None
    """Per million of those that are kept for an hour. Default: the model's."""


def _rising(tiers: tuple[PriceTier, ...]) -> tuple[PriceTier, ...]:
    thresholds = [tier.above_input_tokens for tier in tiers]
    if thresholds != sorted(set(thresholds)):
        raise ValueError("must have rising values of above_input_tokens")
    return tiers


PriceTiers = Annotated[tuple[PriceTier, ...], AfterValidator(_rising)]


class ServiceTierPrice(Section):
    """What a model costs at one of the gateway's service tiers, in the model's currency."""

    input_per_mtok: Amount
    """Per million input tokens."""
    output_per_mtok: Amount
    """Per million output tokens."""
    cached_input_per_mtok: Amount | None = None
    """Per million input tokens read from cache. Default: this tier's input price."""
    cache_write_per_mtok: Amount | None = None
    """Per million input tokens written to cache. Default: not known."""
    cache_write_1h_per_mtok: Amount | None = None
    """Per million of those that are kept for an hour. Default: not known."""
    minimum_per_request: Amount | None = None
    """Least charge of a request. Default: the model's."""
    tiers: PriceTiers = ()
    """Other prices for long inputs, thresholds rising."""


class ModelPrice(Section):
    """What one model costs."""

    currency: Literal["usd", "credits"]
    """Unit of the amounts."""
    input_per_mtok: Amount
    """Per million input tokens."""
    output_per_mtok: Amount
    """Per million output tokens."""
    cached_input_per_mtok: Amount | None = None
    """Per million input tokens read from cache. Default: the input price."""
    cache_write_per_mtok: Amount | None = None
    """Per million input tokens written to cache. Default: not known; nor is then what a request costs that wrote
    some."""
    cache_write_1h_per_mtok: Amount | None = None
    """Per million of those that are kept for an hour (`ttl: 1h`). Default: not known, as above."""
    minimum_per_request: Amount | None = None
    """Least charge of a request. Default: not known; behind CRUN the price is then unknown."""
    tiers: PriceTiers = ()
    """Other prices for long inputs, thresholds rising."""
    service_tiers: dict[Text, ServiceTierPrice] = Field(default_factory=dict)
    """The gateway's service tiers (flex, priority) -> what the model costs there. What the reply names is billed,
    else what params.service_tier asks for; a tier that is not here has no known price."""
    valid_from: Moment | None = None
    """From when on this price holds, such as 2026-11-01 or 2026-11-01T12:00:00Z: what was sent since then is
    priced anew, until then the last session's price holds. Default: from the first session that has it."""


class PricesSpec(Section):
    """Prices that go before the gateway's own and public lists. Amounts are numbers or texts, taken exactly."""

    credits_per_usd: PositiveAmount | None = None
    """Credits that one dollar buys. Default: not known; then dollars and credits never meet."""
    models: dict[str, ModelPrice] = Field(default_factory=dict)
    """Model id -> its price."""
    batch_share: Annotated[Amount, Field(gt=0, le=1)] | None = None
    """What a request costs with `lane: batch`, as a share of its price: 0.5 at OpenAI, 1 without a discount.
    A price of the service tier `batch` goes before it. Default: not known."""


class EndpointLimits(Section):
    """Of `limits` what may differ between endpoints; what is not written is the job's."""

    concurrency: Count | None = None
    """Ceiling of requests in flight at this endpoint."""
    adaptive: Flag | None = None
    """Additive increase, multiplicative decrease under that ceiling."""
    requests_per_minute: Count | None = None
    """Limit for this endpoint and model."""
    tokens_per_minute: Count | None = None
    """Input and output limit at admission, corrected by real usage."""


class EndpointSpec(Section):
    """Which gateway is called, how, and where its key is found. The key itself never stands in a job file.

    Several keys or gateways for one model are a list of these, all of one protocol. See above.
    """

    name: Name | None = None
    """What results and messages call it. Default in a list: its host, and a number where that is taken."""
    base_url: Url = DEFAULT_BASE_URL
    """Address under which the protocol's path is called. The variable CRUN_BASE_URL changes the default."""
    protocol: Literal["chat", "responses", "messages", "completions"] = "chat"
    """The form of requests and replies; each has its path: /chat/completions, /responses, ..."""
    api_key_env: EnvironmentName | None = None
    """Variable that holds the key. Default: CRUN_API_KEY with the default base_url, otherwise none."""
    api_key_file: Text | None = None
    """File that holds the key and nothing else, relative to the job file. Excludes `api_key_env`."""
    ca_file: Text | None = None
    """File of CA certificates (PEM), relative to the job file: trusted here besides the system's."""
    auth: Literal["bearer", "x-api-key", "none"] = "bearer"
    """How the key is sent. Default: bearer where a key is named, otherwise none."""
    headers: dict[str, str] = Field(default_factory=dict)
    """More headers. ${NAME} is read from the environment at the start and never written anywhere."""
    query: Query = Field(default_factory=dict)
    """What follows '?' in the address of every call, such as {api-version: 2024-10-21}. No key belongs here."""
    stream: Flag = False
    """Ask for streamed replies; they are stored assembled. CRUN streams no completions, other servers do."""
    weight: Weight = 1.0
    """In a list: how much of the work it gets beside what the others' weights say."""
    limits: EndpointLimits = not_written()
    """Its own limits, in the place of the job's."""
    prices: dict[Text, ModelPrice] = Field(default_factory=dict)
    """What models cost here, where that is not what `prices.models` says."""
