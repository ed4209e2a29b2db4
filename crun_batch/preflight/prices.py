"""The prices of a run: chosen once per model, frozen in job.json, and what follows when they have changed since.

Owns: which price a session uses, and what recorded attempts cost under it. What was priced by the job file is
priced anew when its `prices` change; what a reply stated stays, and so does what a gateway's or a public list
priced at the time. Nothing is read or written here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
from msgspec import Struct, structs

from crun_batch.gateway.control import ModelInfo
from crun_batch.load.job.job import Job
from crun_batch.pricing.bill import FREE_OUTCOMES, Bill
from crun_batch.pricing.costs import charge
from crun_batch.pricing.prices import PriceChoice, choose_price, price_as_text
from crun_batch.pricing.repricing import difference, price_from_text, rebound, reprice
from crun_batch.records import Cost, Hold, Price, decimal_text
from crun_batch.store.reprice import Stored

SEVERAL_PRICES = (
    "{model} is asked at several gateways, which do not charge the same; add prices.models.{model} to the job file"
)


class Seller(Struct, frozen=True):
    """A gateway as far as prices go: its address, what it lists, the models that are asked there."""

    base_url: str
    listed: Sequence[ModelInfo] | None
    asked: frozenset[str | None]
    """None among them: the requests themselves name the model."""

    def choice(self, model: str, job: Job, at: datetime) -> PriceChoice:
        """What the model costs here."""
        quote = next((info.quote for info in self.listed or () if info.id == model), None)
        return choose_price(model, self.base_url, job_spec=job.prices.models.get(model), quote=quote, at=at)


class Prices:
    """The price of each model, chosen once and then frozen. A model has one price, wherever it is asked."""

    def __init__(self, job: Job, sellers: Sequence[Seller], at: datetime) -> None:
        self.is_told = any(seller.listed is not None for seller in sellers)
        """Whether a gateway told its models: without, their own prices are not known today."""
        self._job = job
        self._sellers = sellers or (Seller(job.endpoint.base_url, None, frozenset([None])),)
        self._at = at
        self._chosen: dict[str | None, PriceChoice] = {}

    def choice(self, model: str | None) -> PriceChoice:
        """The price and the reason for it."""
        found = self._chosen.get(model)
        if found is None:
            found = self._chosen[model] = self._choose(model)
        return found

    def price(self, model: str | None) -> Price | None:
        """The price, or None where it is unknown."""
        return self.choice(model).price

    def to_document(self) -> dict[str, Any]:
        """The prices used and where they are from, for job.json."""
        credits_per_usd = self._job.prices.credits_per_usd
        return {
            "at": self._at.isoformat(),
            "credits_per_usd": None if credits_per_usd is None else str(credits_per_usd),
            "models": {
                model or "": {"from": choice.reason, **(price_as_text(choice.price) if choice.price else {})}
                for model, choice in self._chosen.items()
            },
        }

    def told(self) -> dict[str, Any]:
        """The prices, wherever they are from: two sessions with the same ones tell the same."""
        document = self.to_document()
        models = {model: {**text, "from": None} for model, text in document["models"].items()}
        return {"credits_per_usd": document["credits_per_usd"], "models": models}

    def _choose(self, model: str | None) -> PriceChoice:
        if model is None:
            return PriceChoice(None, "the request names no model")
        sellers = [seller for seller in self._sellers if {model, None} & seller.asked] or self._sellers
        choices = [seller.choice(model, self._job, self._at) for seller in sellers]
        if all(choice.price == choices[0].price for choice in choices):
            return choices[0]
        return PriceChoice(None, SEVERAL_PRICES.format(model=model))


class Frozen(Struct, frozen=True):
    """The prices of the session before, as job.json has them."""

    models: Mapping[str, Price | None]
    credits_per_usd: Decimal | None
    repricing: str | None = None
    """The fingerprint of prices to which a session that was killed had begun to change."""

    def named(self, model: str | None) -> str | None:
        """The model that was asked for, by the name that a reply gives it: its own, or a dated version's."""
        if model is None or model in self.models:
            return model
        return max((name for name in self.models if name and model.startswith(name)), key=len, default=None)


def frozen_prices(document: Mapping[str, Any]) -> Frozen:
    """The prices of a job.json; none of a run that has none yet."""
    prices = document.get("prices") or {"models": {}, "credits_per_usd": None}
    ratio = prices["credits_per_usd"]
    models = {model: price_from_text(text) for model, text in prices["models"].items()}
    return Frozen(models, None if ratio is None else Decimal(ratio), document.get("repricing"))


def must_reprice(job: Job, document: Mapping[str, Any]) -> bool:
    """Whether the job file's `prices` differ from those of the session before, or a kill cut the repricing off."""
    if not document:
        return False
    return bool(document.get("repricing")) or document["job"].get("prices") != job.public_dict()["prices"]


def changes(frozen: Frozen, prices: Prices, job: Job, *, repriced: bool) -> list[str]:
    """A sentence for each price that is not what it was in the session before."""
    follows = "stored tokens are priced anew" if repriced else "what is recorded keeps its price"
    sentences = []
    for model, before in frozen.models.items():
        if before is not None and before.source == "models" and not prices.is_told:
            continue
        told = difference(before, prices.price(model or None))
        if told is not None:
            sentences.append(f"the price of {model} has changed since the last session: {told}; {follows}")
    ratio = job.prices.credits_per_usd
    if frozen.models and frozen.credits_per_usd != ratio:
        both = (frozen.credits_per_usd, ratio)
        told = " -> ".join("not set" if value is None else f"{value:f}" for value in both)
        sentences.append(f"prices.credits_per_usd has changed: {told}; {follows}")
    return sentences


class Repricing(Struct, frozen=True):
    """Prices a recorded attempt under today's prices."""

    frozen: Frozen
    prices: Prices
    bill: Bill
    models: Mapping[str, str | None]
    """Variant -> its model; None where each request names its own."""
    judges: Mapping[str, str | None] = {}
    """Judge -> its model."""

    @property
    def fingerprint(self) -> str:
        """Names the prices, wherever they are from."""
        return hashlib.sha256(orjson.dumps(self.prices.told(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def __call__(self, stored: Stored) -> tuple[Cost, Hold]:
        asked = self.models.get(stored.variant) if stored.judge is None else self.judges.get(stored.judge)
        model = asked or self.frozen.named(stored.model)
        price = self.prices.price(model) if model is not None else None
        if model is None or self._keeps(stored.cost, price):
            return self._in_both_units(stored.cost), stored.hold
        if stored.outcome in FREE_OUTCOMES:
            return self.bill.nothing(model), self._hold(stored.hold, model, price)
        cost = Cost()
        if stored.outcome == "done":
            cost = reprice(price, stored.usage, stored.cost, self.bill.credits_per_usd)
        return cost, self._hold(stored.hold, model, price)

    def _keeps(self, cost: Cost, price: Price | None) -> bool:
        """A list's price of the time stays, as long as the job file has none."""
        return cost.source in ("models", "list") and (price is None or price.source != "job")

    def _in_both_units(self, cost: Cost) -> Cost:
        if cost.usd_pico is None:
            return cost
        stated = decimal_text(cost.usd_pico)
        both = charge(None, None, reported_usd=stated, credits_per_usd=self.bill.credits_per_usd)
        return structs.replace(cost, credits_pico=both.credits_pico)

    def _hold(self, hold: Hold, model: str, price: Price | None) -> Hold:
        before = self.frozen.models.get(model)
        if self.frozen.repricing is not None and self.frozen.repricing != self.fingerprint:
            return Hold()
        if difference(before, price) is None and self.frozen.credits_per_usd == self.bill.credits_per_usd:
            return hold
        return rebound(hold, before, price, self.bill.credits_per_usd)
