"""The prices of a run: chosen once per model, frozen in job.json, and what follows when they have changed since.

Owns: which price a session uses, and what recorded attempts cost under it. What was priced by the job file is
priced anew when its `prices` change; what a reply stated stays, and so does what a gateway's or a public list
priced at the time. Nothing is read or written here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from msgspec import Struct, structs

from crun_batch.load.job.job import Job
from crun_batch.pricing.bill import Bill
from crun_batch.pricing.costs import charge
from crun_batch.pricing.prices import PriceChoice, choose_price, in_batches, price_as_text
from crun_batch.pricing.repricing import difference, price_from_text, rebound, reprice
from crun_batch.pricing.service_tiers import prices_by_request, tier_without_price
from crun_batch.records import FREE_OUTCOMES, Cost, Hold, Price, decimal_text
from crun_batch.store.reprice import Stored

if TYPE_CHECKING:
    from crun_batch.gateway.control import ModelInfo

SEVERAL_PRICES = (
    "{model} is asked at several gateways, which do not charge the same; add prices.models.{model} to the job file"
)


Endpoints = Collection[str | None] | None
"""Names of endpoints; None among them: one that has none."""


class Priced(NamedTuple):
    """What has a price: a model, at an endpoint where that has a name."""

    model: str | None
    endpoint: str | None = None

    def __str__(self) -> str:
        return f"{self.model}" if self.endpoint is None else f"{self.model} at {self.endpoint}"


NOT_YET = "prices.models.{model} holds from {moment} on, and until then {what_holds}"
FORMER_HOLDS, NONE_HOLDS = "the price of the last session", "no price is known"
GONE = "the price of the last session: {endpoint} is no endpoint of this job any more"
KEPT = "what is recorded keeps its price (was it wrong? --correct-prices)"


class Seller(Struct, frozen=True):
    """A gateway as far as prices go: the job at its endpoint, what it lists, the models that are asked there."""

    job: Job
    listed: Sequence[ModelInfo] | None
    asked: frozenset[str | None]
    """None among them: the requests themselves name the model."""

    @property
    def endpoint(self) -> str | None:
        """The endpoint's name, where it has one: its prices are its own then."""
        return self.job.endpoint.name

    def choice(self, model: str, at: datetime, former: Mapping[Priced, Price | None]) -> PriceChoice:
        """What the model costs here."""
        spec = self.job.prices.models.get(model)
        if spec is not None and spec.valid_from is not None and spec.valid_from > at:
            price = former.get(Priced(model, self.endpoint))
            what_holds = NONE_HOLDS if price is None else FORMER_HOLDS
            moment = spec.valid_from.isoformat()
            return PriceChoice(price, NOT_YET.format(model=model, moment=moment, what_holds=what_holds))
        choice = self.live_choice(model, at)
        return in_batches(model, choice, self.job.prices.batch_share) if self.job.lane == "batch" else choice

    def live_choice(self, model: str, at: datetime) -> PriceChoice:
        """What a single request costs here now, also where all go in batches."""
        spec = self.job.prices.models.get(model)
        quote = next((info.quote for info in self.listed or () if info.id == model), None)
        return choose_price(model, self.job.endpoint.base_url, job_spec=spec, quote=quote, at=at)


class Prices:
    """The price of each model, chosen once, then frozen: one at each named endpoint, else one wherever it is."""

    def __init__(
        self, job: Job, sellers: Sequence[Seller], at: datetime, former: Mapping[Priced, Price | None] = {}
    ) -> None:
        self.is_told = any(seller.listed is not None for seller in sellers)
        """Whether a gateway told its models: without, their own prices are not known today."""
        self._job = job
        self._sellers = sellers or [Seller(one, None, frozenset([None])) for one in job.in_each_lane]
        self._at = at
        self._former = former
        """The last session's prices: they hold until a new one's `valid_from`."""
        self._chosen: dict[Priced, PriceChoice] = {}

    def choice(self, model: str | None, endpoint: str | None = None) -> PriceChoice:
        """The price and the reason for it."""
        key = Priced(model, endpoint)
        found = self._chosen.get(key)
        if found is None:
            found = self._chosen[key] = self._choose(key)
        return found

    def price(self, model: str | None, endpoint: str | None = None) -> Price | None:
        """The price, or None where it is unknown."""
        return self.choice(model, endpoint).price

    def live_price(self, model: str) -> Price | None:
        """What a single request would cost, also where all go in batches; None: unknown."""
        sellers = self._sellers_of(model)
        return sellers[0].live_choice(model, self._at).price if sellers else None

    def choices(
        self, model: str | None, service_tier: str | None = None, at: Endpoints = None
    ) -> list[PriceChoice]:
        """The prices that a request of the model may have, each once: one for all, or those of its endpoints.

        Of one that asks for a service tier also those of the tiers at which it may be served instead. One that is
        unknown comes first, with the endpoint in its reason. `at`: of those that go to these endpoints alone.
        """
        found: dict[Price | None, PriceChoice] = {}
        for key in self.keys(model):
            if at is not None and key.endpoint not in at:
                continue
            for choice in self._choices_at(self.choice(*key), model, service_tier):
                if choice.price is None and key.endpoint is not None:
                    choice = structs.replace(choice, reason=f"endpoint {key.endpoint}: {choice.reason}")
                found.setdefault(choice.price, choice)
        return sorted(found.values(), key=lambda choice: choice.price is not None)

    def keys(self, model: str | None) -> list[Priced]:
        """Under which endpoints the model has a price."""
        names = [seller.endpoint for seller in self._sellers_of(model)]
        return [Priced(model, name) for name in dict.fromkeys(names)]

    def _choices_at(self, choice: PriceChoice, model: str | None, service_tier: str | None) -> list[PriceChoice]:
        by_tier = [structs.replace(choice, price=price) for price in prices_by_request(choice.price, service_tier)]
        if choice.price is not None and by_tier[0].price is None:
            return [PriceChoice(None, tier_without_price(model or "", service_tier or ""))]
        return by_tier

    def prices(
        self, model: str | None, service_tier: str | None = None, at: Endpoints = None
    ) -> list[Price | None]:
        """As `choices`, the prices alone."""
        return [choice.price for choice in self.choices(model, service_tier, at)]

    def choose_all(self, models: Iterable[str | None]) -> None:
        """Choose what these models cost everywhere, so that job.json tells it."""
        for model in models:
            self.choices(model or None)

    def to_document(self) -> dict[str, Any]:
        """The prices used and where they are from, for job.json."""
        credits_per_usd = self._job.prices.credits_per_usd
        return {
            "at": self._at.isoformat(),
            "credits_per_usd": None if credits_per_usd is None else str(credits_per_usd),
            "models": self._texts(None),
            "endpoints": {name: self._texts(name) for name in dict.fromkeys(self._names()) if name is not None},
        }

    def _names(self) -> list[str | None]:
        return [key.endpoint for key in self._chosen]

    def _texts(self, endpoint: str | None) -> dict[str, Any]:
        return {
            key.model or "": {"from": choice.reason, **(price_as_text(choice.price) if choice.price else {})}
            for key, choice in self._chosen.items()
            if key.endpoint == endpoint
        }

    def told(self) -> dict[str, Any]:
        """The prices, wherever they are from: two sessions with the same ones tell the same."""
        document = self.to_document()
        listed = {None: document["models"], **document["endpoints"]}
        texts = {
            str(Priced(model, name)): {**text, "from": None}
            for name, models in listed.items()
            for model, text in models.items()
        }
        return {"credits_per_usd": document["credits_per_usd"], "models": texts}

    def _choose(self, key: Priced) -> PriceChoice:
        if key.model is None:
            return PriceChoice(None, "the request names no model")
        sellers = self._sellers_of(key.model)
        own = [seller for seller in sellers if seller.endpoint == key.endpoint]
        if not own and key in self._former:
            return PriceChoice(self._former[key], GONE.format(endpoint=key.endpoint))
        choices = [seller.choice(key.model, self._at, self._former) for seller in own or sellers]
        if all(choice.price == choices[0].price for choice in choices):
            return choices[0]
        return PriceChoice(None, SEVERAL_PRICES.format(model=key.model))

    def _sellers_of(self, model: str | None) -> Sequence[Seller]:
        return [seller for seller in self._sellers if {model, None} & seller.asked] or self._sellers


class Frozen(Struct, frozen=True):
    """The prices of the session before, as job.json has them."""

    models: Mapping[Priced, Price | None]
    credits_per_usd: Decimal | None
    repricing: str | None = None
    """The fingerprint of prices to which a session that was killed had begun to change."""

    def named(self, model: str | None) -> str | None:
        """The model that was asked for, by the name that a reply gives it: its own, or a dated version's."""
        names = {key.model for key in self.models}
        if model is None or model in names:
            return model
        return max((name for name in names if name and model.startswith(name)), key=len, default=None)

    def price(self, key: Priced) -> Price | None:
        """The price there; of an endpoint that had none of its own, the model's."""
        return self.models.get(key, self.models.get(Priced(key.model)))


def frozen_prices(document: Mapping[str, Any]) -> Frozen:
    """The prices of a job.json; none of a run that has none yet."""
    prices = document.get("prices") or {"models": {}, "credits_per_usd": None}
    ratio = prices["credits_per_usd"]
    listed = {None: prices["models"], **prices.get("endpoints", {})}
    models = {
        Priced(model, name): price_from_text(text) for name, own in listed.items() for model, text in own.items()
    }
    return Frozen(models, None if ratio is None else Decimal(ratio), document.get("repricing"))


def must_reprice(job: Job, document: Mapping[str, Any], *, correct_prices: bool) -> bool:
    """Whether recorded attempts are to be priced anew.

    1. A kill cut a repricing off: it is finished.
    2. The job file's prices differ from those of the session before, and say that they held before now.
    3. They do, and the earlier ones are said to have been wrong.
    """
    if not document:
        return False
    if document.get("repricing"):
        return True
    if correct_prices:
        return has_changed(job, document) or bool(document.get("earlier_prices"))
    return bool(since_us(job)) and has_changed(job, document)


def has_changed(job: Job, document: Mapping[str, Any]) -> bool:
    """Whether the job file's `prices`, an endpoint's own among them, are not those of the session before."""
    return bool(document) and _written(document["job"]) != _written(job.public_dict())


def _written(job: Mapping[str, Any]) -> Any:
    """The prices in a job file; of endpoints that a list has lost or gained they are no change."""
    endpoints = job.get("endpoint")
    own = (
        {one["name"]: one.get("prices") for one in endpoints if one.get("prices")}
        if type(endpoints) is list
        else {}
    )
    return job.get("prices"), own


def changes(frozen: Frozen, prices: Prices, job: Job, *, corrected: bool) -> list[str]:
    """A sentence for each price that is not what it was in the session before."""
    follows = "stored tokens are priced anew" if corrected else KEPT
    sentences = []
    for key, before in frozen.models.items():
        if before is not None and before.source == "models" and not prices.is_told:
            continue
        if key not in prices.keys(key.model or None):
            continue  # an endpoint that is gone, or a model that has one price at each of several now
        told = difference(before, prices.price(key.model or None, key.endpoint))
        if told is not None:
            sentences.append(
                f"the price of {key} has changed since the last session: {told}; "
                f"{follows if corrected else _since(job, key) or follows}"
            )
    ratio = job.prices.credits_per_usd
    if frozen.models and frozen.credits_per_usd != ratio:
        both = (frozen.credits_per_usd, ratio)
        told = " -> ".join("not set" if value is None else f"{value:f}" for value in both)
        sentences.append(f"prices.credits_per_usd has changed: {told}; {follows}")
    return sentences


def _since(job: Job, key: Priced) -> str | None:
    since = since_us(job).get(key)
    if since is None:
        return None
    moment = datetime.fromtimestamp(since / 1e6, UTC).isoformat()
    return f"what was sent since {moment} is priced anew, the rest keeps its price"


def since_us(job: Job) -> dict[Priced, int]:
    """What has a price -> when that began to hold, where the job file says so."""
    return {
        Priced(model, one.endpoint.name): round(spec.valid_from.timestamp() * 1e6)
        for one in job.in_each_lane
        for model, spec in one.prices.models.items()
        if spec.valid_from is not None
    }


class Repricing(Struct, frozen=True):
    """Prices a recorded attempt under today's prices: where they held when it was sent, or correct wrong ones."""

    frozen: Frozen
    prices: Prices
    bill: Bill
    models: Mapping[str, str | None]
    """Variant -> its model; None where each request names its own."""
    judges: Mapping[str, str | None] = {}
    """Judge -> its model."""
    since_us: Mapping[Priced, int] = {}
    """When a price began to hold, in microseconds since 1970; one that is not named: from now on."""
    corrects: bool = True
    """Whether the earlier prices were wrong, whenever something was sent."""

    @property
    def fingerprint(self) -> str:
        """Names the prices, wherever they are from."""
        terms = [self.prices.told(), self.corrects, {str(key): since for key, since in self.since_us.items()}]
        return hashlib.sha256(orjson.dumps(terms, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def __call__(self, stored: Stored) -> tuple[Cost, Hold]:
        asked = self.models.get(stored.variant) if stored.judge is None else self.judges.get(stored.judge)
        model = asked or self.frozen.named(stored.model)
        key = Priced(model, stored.endpoint)
        since = None if model is None else self.since_us.get(key)
        if not self.corrects and (since is None or stored.started_at < since):
            return stored.cost, stored.hold
        if model is None or key not in self.prices.keys(model):
            return self._in_both_units(stored.cost), stored.hold
        price = self.prices.price(model, stored.endpoint)
        if self._keeps(stored.cost, price):
            return self._in_both_units(stored.cost), stored.hold
        hold = self._hold(stored, key, price)
        if stored.outcome in FREE_OUTCOMES:
            return self.bill.nothing(model, stored.endpoint), hold
        cost = Cost()
        if stored.outcome == "done":
            rate = self.bill.credits_per_usd
            cost = reprice(price, stored.usage, stored.cost, rate, stored.reported_usd)
        return cost, hold

    def _keeps(self, cost: Cost, price: Price | None) -> bool:
        """A list's price of the time stays, as long as the job file has none."""
        return cost.source in ("models", "list") and (price is None or price.source != "job")

    def _in_both_units(self, cost: Cost) -> Cost:
        if cost.usd_pico is None:
            return cost
        stated = decimal_text(cost.usd_pico)
        both = charge(None, None, reported_usd=stated, credits_per_usd=self.bill.credits_per_usd)
        return structs.replace(cost, credits_pico=both.credits_pico)

    def _hold(self, stored: Stored, key: Priced, price: Price | None) -> Hold:
        before = self.frozen.price(key)
        if self.frozen.repricing is not None and self.frozen.repricing != self.fingerprint:
            return Hold()
        if difference(before, price) is None and self.frozen.credits_per_usd == self.bill.credits_per_usd:
            return stored.hold
        return rebound(stored.hold, before, price, self.bill.credits_per_usd, stored.service_tier)
