"""Before the start: what the gateway offers, what the open units will cost, whether they may be sent.

Asks the gateway for its models and the balance (the only calls made here); everything else is arithmetic.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct

from crun_batch.corridor.source import Done
from crun_batch.corridor.workload import Variant, Workload
from crun_batch.errors import InputError, Mistake
from crun_batch.load.render import RowRejected
from crun_batch.plan.account import Sums
from crun_batch.plan.budget import Budget, Needs, Preflight, Reservations, may_start
from crun_batch.plan.estimate import SAMPLE_ABOVE_ROWS, SAMPLE_ROWS, Finished, Limits, Tally, Terms, combine
from crun_batch.plan.figures import Estimate
from crun_batch.plan.prices import PriceChoice, choose_price, decimal_text, pico_of, price_as_text
from crun_batch.plan.tokens import Counter, count_body, token_counter
from crun_batch.records import Hold, Price, Row
from crun_batch.send.gateway import Balance, ModelInfo

REJECTIONS_SHOWN = 20
ESTIMATE_SEED = 0


class Offer(Struct, frozen=True):
    """What the gateway said of itself. None: it has no such call, or was not asked."""

    models: tuple[ModelInfo, ...] | None = None
    balance: Balance | None = None
    notes: tuple[str, ...] = ()
    refusal: str | None = None
    """Why the gateway refuses this job already now: its key is not accepted."""
    is_complete: bool = False
    """Whether a model that is not in `models` is known not to exist."""


class Prices:
    """The price of each model, chosen once and then frozen."""

    def __init__(self, workload: Workload, offer: Offer, at: datetime) -> None:
        self._job = workload.job
        self._quotes = {model.id: model.quote for model in offer.models or ()}
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

    def _choose(self, model: str | None) -> PriceChoice:
        if model is None:
            return PriceChoice(None, "the request names no model")
        return choose_price(
            model,
            self._job.endpoint.base_url,
            job_spec=self._job.prices.models.get(model),
            quote=self._quotes.get(model),
            at=self._at,
        )


def unlisted_models(workload: Workload, offer: Offer) -> list[str]:
    """A sentence for each model that the gateway's list does not have."""
    if offer.models is None:
        return []
    listed = {model.id for model in offer.models}
    sentences = []
    for name in dict.fromkeys(variant.job.model for variant in workload.variants):
        if name is None or _is_listed(name, listed):
            continue
        near = difflib.get_close_matches(name, listed, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it lists {len(listed)} models"
        sentences.append(f"the gateway does not list the model {name!r}{hint}")
    return sentences


def _is_listed(name: str, listed: set[str]) -> bool:
    """A listed id, a dated version of the name, or one that a wildcard covers."""
    return name in listed or any(
        model.startswith((f"{name}-", f"{name}:")) or (model.endswith("*") and name.startswith(model[:-1]))
        for model in listed
    )


class Assessment(Struct, frozen=True):
    """An estimate of what is still to be sent, with the rows that were read for it."""

    estimate: Estimate
    open_rows: int
    rejections: tuple[str, ...]


def assess(
    workload: Workload,
    done: Done,
    prices: Prices,
    *,
    everything: bool,
    finished: Mapping[str, Finished],
    latency_seconds: float | None,
    tick: Callable[[int], None],
) -> Assessment:
    """Render and count the open units: all of them, or above SAMPLE_ABOVE_ROWS rows a random part.

    `tick` is told how many rows have been read.
    """
    sampled = workload.table.selected_rows > SAMPLE_ABOVE_ROWS and not everything
    rows: Iterator[list[Row]]
    if sampled:
        rows = iter([workload.table.random_rows(SAMPLE_ROWS, ESTIMATE_SEED, workload.columns)])
    else:
        rows = workload.table.rows(workload.columns)
    tallies = [_Tallies(variant, prices, workload) for variant in workload.variants]
    rejections: list[str] = []
    read_rows = open_rows = 0
    for batch in rows:
        for row in batch:
            read_rows += 1
            is_open = False
            for tallied in tallies:
                if any(
                    done.is_open(workload.slot(row.position, tallied.index, r)) for r in range(workload.repeats)
                ):
                    is_open = True
                    tallied.add(row, rejections)
            open_rows += is_open
        tick(read_rows)
        if len(rejections) >= REJECTIONS_SHOWN:
            break
    total_open = open_rows if not sampled else _scaled(open_rows, read_rows, workload.table.selected_rows)
    limits = workload.job.limits
    estimates = [t.estimate(total_open, finished) for t in tallies]
    combined = combine(
        [estimate for group in estimates for estimate in group],
        Limits(limits.concurrency, limits.requests_per_minute, limits.tokens_per_minute, latency_seconds),
    )
    return Assessment(combined, total_open, tuple(rejections))


def _scaled(count: int, read: int, total: int) -> int:
    return count * total // read if read else 0


class _Tallies:
    """One variant's tallies, one for each model that its requests name."""

    def __init__(self, variant: Variant, prices: Prices, workload: Workload) -> None:
        self.index = variant.index
        self._variant = variant
        self._prices = prices
        self._workload = workload
        self._tallies: dict[str | None, tuple[Tally, Counter]] = {}

    def add(self, row: Row, rejections: list[str]) -> None:
        try:
            request = self._variant.request(row)
        except RowRejected as error:
            rejections.append(str(error))
            return
        known = self._tallies.get(request.model)
        if known is None:
            known = self._tallies[request.model] = self._tally(request.model, request.output_bound_tokens)
        tally, counter = known
        counted = count_body(request.body, counter)
        tally.row()
        tally.add(counted.tokens, request.request_hash, counted.uncounted_parts)

    def _tally(self, model: str | None, output_limit: int | None) -> tuple[Tally, Counter]:
        counter = token_counter(model or "")
        choice = self._prices.choice(model)
        terms = Terms(
            name=self._variant.name,
            model=model or "",
            price=choice.price,
            price_reason=choice.reason,
            max_output_tokens=output_limit,
            repeats=self._workload.repeats,
            counter_name=counter.name,
            counter_exact=counter.exact,
            credits_per_usd=self._workload.job.prices.credits_per_usd,
        )
        return Tally(terms), counter

    def estimate(self, open_rows: int, finished: Mapping[str, Finished]) -> list[Any]:
        read = sum(tally.rows_read for tally, _ in self._tallies.values())
        return [
            tally.estimate(_scaled(tally.rows_read, read, max(open_rows, read)), finished.get(self._variant.name))
            for tally, _ in self._tallies.values()
        ]


def refuse_rejected(workload: Workload, assessment: Assessment) -> None:
    """Rows without a prompt are mistakes in the table or the templates: nothing is sent before they are mended."""
    if not assessment.rejections:
        return
    shown = assessment.rejections[:REJECTIONS_SHOWN]
    raise InputError(
        [Mistake(text, file=workload.job.source) for text in shown],
        advice="Mend the rows, leave them out with input.where, or let the template say what a null means.",
    )


def reservations_of(workload: Workload, totals: Sums) -> Reservations:
    """The budget of the run directory, with what its earlier sessions spent and hold."""
    budget = workload.job.budget
    return Reservations(
        Budget(
            None if budget.max_cost_usd is None else pico_of(budget.max_cost_usd),
            None if budget.max_cost_credits is None else pico_of(budget.max_cost_credits),
        ),
        spent=Hold(totals.cost_usd, totals.cost_credits),
        unknown=Hold(totals.held_usd, totals.held_credits),
    )


def judge(
    workload: Workload, assessment: Assessment, offer: Offer, reservations: Reservations, *, until_budget: bool
) -> Preflight:
    """May the open units be sent, as far as caps and balance go?"""
    finished_rows = workload.table.selected_rows - assessment.open_rows
    estimate = assessment.estimate
    needs = {
        unit: Needs(assessment.open_rows, finished_rows, span.low, span.expected)
        for unit, span in (("usd", estimate.cost_usd), ("credits", estimate.cost_credits))
    }
    budget = workload.job.budget
    balance = offer.balance
    return may_start(
        needs,  # type: ignore[arg-type]
        reservations,
        balance=None if balance is None or balance.amount is None else (balance.amount, balance.unit),
        credits_mode=budget.credits,
        keep=budget.keep_credits,
        until_budget=until_budget,
    )


def estimate_document(
    workload: Workload, assessment: Assessment, offer: Offer, verdict: Preflight
) -> dict[str, Any]:
    """The estimate for --json: everything that the words say, amounts as decimal text."""
    balance = offer.balance
    return {
        "name": workload.job.name,
        "open_rows": assessment.open_rows,
        **assessment.estimate.to_dict(),
        "balance": None
        if balance is None
        else {"amount": _text(balance.amount), "unit": balance.unit, "source": balance.source},
        "may_start": verdict.may_start,
        "checks": [*([verdict.sentence] if verdict.sentence else []), *verdict.notes],
    }


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else decimal_text(pico_of(amount))


def now_utc(epoch_us: int) -> datetime:
    """The moment as a datetime."""
    return datetime.fromtimestamp(epoch_us / 1e6, UTC)
