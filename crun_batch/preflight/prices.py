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


NOT_YET = "the price of the last session: prices.models.{model} holds from {moment} on"
KEPT = "what is recorded keeps its price (was it wrong? --correct-prices)"


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

    def __init__(
        self, job: Job, sellers: Sequence[Seller], at: datetime, former: Mapping[str, Price | None] = {}
    ) -> None:
        self.is_told = any(seller.listed is not None for seller in sellers)
        """Whether a gateway told its models: without, their own prices are not known today."""
        self._job = job
        self._sellers = sellers or (Seller(job.endpoint.base_url, None, frozenset([None])),)
        self._at = at
        self._former = former
        """The last session's prices: they hold until a new one's `valid_from`."""
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
        spec = self._job.prices.models.get(model)
        if spec is not None and spec.valid_from is not None and spec.valid_from > self._at:
            until = NOT_YET.format(model=model, moment=spec.valid_from.isoformat())
            return PriceChoice(self._former.get(model), until)
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
    held_before = any(spec.valid_from is not None for spec in job.prices.models.values())
    return held_before and has_changed(job, document)


def has_changed(job: Job, document: Mapping[str, Any]) -> bool:
    """Whether the job file's `prices` are not those of the session before."""
    return bool(document) and document["job"].get("prices") != job.public_dict()["prices"]


def changes(frozen: Frozen, prices: Prices, job: Job, *, corrected: bool) -> list[str]:
    """A sentence for each price that is not what it was in the session before."""
    follows = "stored tokens are priced anew" if corrected else KEPT
    sentences = []
    for model, before in frozen.models.items():
        if before is not None and before.source == "models" and not prices.is_told:
            continue
        told = difference(before, prices.price(model or None))
        if told is not None:
            sentences.append(
                f"the price of {model} has changed since the last session: {told}; "
                f"{follows if corrected else _since(job, model) or follows}"
            )
    ratio = job.prices.credits_per_usd
    if frozen.models and frozen.credits_per_usd != ratio:
        both = (frozen.credits_per_usd, ratio)
        told = " -> ".join("not set" if value is None else f"{value:f}" for value in both)
        sentences.append(f"prices.credits_per_usd has changed: {told}; {follows}")
    return sentences


def _since(job: Job, model: str) -> str | None:
    spec = job.prices.models.get(model)
    if spec is None or spec.valid_from is None:
        return None
    return f"what was sent since {spec.valid_from.isoformat()} is priced anew, the rest keeps its price"


def since_us(job: Job) -> dict[str, int]:
    """Model -> when its price began to hold, where the job file says so."""
    return {
        model: round(spec.valid_from.timestamp() * 1e6)
        for model, spec in job.prices.models.items()
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
    since_us: Mapping[str, int] = {}
    """Model -> when its price began to hold, in microseconds since 1970; one that is not named: from now on."""
    corrects: bool = True
    """Whether the earlier prices were wrong, whenever something was sent."""

    @property
    def fingerprint(self) -> str:
        """Names the prices, wherever they are from."""
        terms = [self.prices.told(), self.corrects, self.since_us]
        return hashlib.sha256(orjson.dumps(terms, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def __call__(self, stored: Stored) -> tuple[Cost, Hold]:
        asked = self.models.get(stored.variant) if stored.judge is None else self.judges.get(stored.judge)
        model = asked or self.frozen.named(stored.model)
        since = None if model is None else self.since_us.get(model)
        if not self.corrects and (since is None or stored.started_at < since):
            return stored.cost, stored.hold
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
