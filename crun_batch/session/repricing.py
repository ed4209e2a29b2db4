"""The books of a run that goes on under other prices: recorded attempts priced anew, the account with them.

Every step can be repeated: job.json says that repricing has begun until it says the new prices. Owns that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import structs

from crun_batch.preflight.gateway_facts import GatewayFacts, sellers_of
from crun_batch.preflight.pilot import refuse_wrong_price
from crun_batch.preflight.prices import Prices, Repricing, changes, frozen_prices, must_reprice, since_us
from crun_batch.pricing.account import Sums
from crun_batch.pricing.bill import Bill
from crun_batch.session.leftovers import conclude_leftovers
from crun_batch.session.sealing import Sealer, open_journal
from crun_batch.state.job_document import record_job
from crun_batch.state.run_state import RunContext, RunState
from crun_batch.store.directory import write_json
from crun_batch.store.recover import recover
from crun_batch.store.reprice import AttemptCosts, Of, attempt_costs, costs_to_be, reprice_files, unit_costs


def choose_prices(context: RunContext, gateways: Sequence[GatewayFacts]) -> tuple[Prices, Repricing | None]:
    """The prices of this session, and how what is recorded is to be priced anew; None: it keeps its prices.

    Where prices have changed since the last session, that is said. The sums of what is to be priced anew are known
    from here on; on disk they change with `record_prices`, so that a start that is refused or not confirmed leaves
    all as it was. Needs the lock. Raises RefusedToStart where the last pilot has measured another price.
    """
    state, options = context.state, context.options
    former = frozen_prices(state.document).models
    prices = Prices(context.workload.job, sellers_of(gateways), options.clock.now(), former)
    repricing = _repricing(context, prices)
    if repricing is not None:
        _sum_anew(state, costs_to_be(state.directory, state.schema, repricing, repricing.fingerprint))
    state.prices = prices.told()
    if options.pilot is None:
        refuse_wrong_price(state.pilot, state.prices)
    return prices, repricing


def record_prices(context: RunContext, prices: Prices, repricing: Repricing | None) -> None:
    """Price anew what is recorded, where these prices ask for it. Raises DiskFailed."""
    if repricing is None:
        return
    _begin(context.state, repricing)
    _price_anew(context, repricing)
    record_job(context, prices.to_document())


def record_late_prices(context: RunContext, prices: Prices) -> None:
    """A model that only a request body named was priced when it was met: job.json says so. Raises DiskFailed."""
    if prices.told() != context.state.prices:
        context.state.prices = prices.told()
        record_job(context, prices.to_document())


def _repricing(context: RunContext, prices: Prices) -> Repricing | None:
    """Say which prices have changed; how to price anew what is recorded, where the job file's have."""
    workload, state = context.workload, context.state
    job, frozen = workload.job, frozen_prices(state.document)
    models = {variant.name: variant.job.model for variant in workload.variants}
    judges = {judge.spec.name: judge.job.model for judge in workload.judges}
    prices.choose_all([*(key.model for key in frozen.models), *models.values(), *judges.values()])
    corrects = context.options.correct_prices or bool(state.document.get("corrects"))
    repriced = must_reprice(job, state.document, correct_prices=corrects) and state.recovered is not None
    told = changes(frozen, prices, job, corrected=corrects)
    for sentence in told:
        context.options.say(sentence)
    if told and state.recovered is not None and not corrects:
        _keep_earlier(state)
    if not repriced:
        return None
    if corrects:
        state.document = {key: value for key, value in state.document.items() if key != "earlier_prices"}
    bill = Bill(prices.price, job.prices.credits_per_usd)
    return Repricing(frozen, prices, bill, models, judges, since_us(job), corrects)


def _keep_earlier(state: RunState) -> None:
    """job.json goes on telling the prices under which earlier attempts were sent."""
    earlier = [*state.document.get("earlier_prices", ()), state.document["prices"]]
    state.document = {**state.document, "earlier_prices": earlier}


def _begin(state: RunState, repricing: Repricing) -> None:
    """From here until job.json is written with the new prices, a kill must not leave the work half done."""
    run = state.directory
    state.document = {**state.document, "repricing": repricing.fingerprint, "corrects": repricing.corrects}
    write_json(run, run.job, state.document)


def _price_anew(context: RunContext, repricing: Repricing) -> None:
    """Settle what a kill left, seal it, price the sealed files, start a segment from the new account."""
    state = context.state
    run = state.directory
    journal = open_journal(context)
    sealer = Sealer(state, journal, in_place=True)
    try:
        conclude_leftovers(context, journal, repricing.bill)
        for priced in (False, True):
            if priced:
                reprice_files(run, state.schema, repricing, repricing.fingerprint)
                _account_anew(state)
            sealer.begin_segment()
    finally:
        journal.close()
    state.recovered = recover(run)


def _account_anew(state: RunState) -> None:
    """Put the sums over the priced attempts in the place of the old ones."""
    account, run, schema = state.account, state.directory, state.schema
    _sum_anew(state, attempt_costs(run, schema))
    for unit in unit_costs(run, schema, account.open_units):
        so_far, cost = account.open_units[unit.key], unit.cost
        so_far.cost_usd, so_far.cost_credits = cost.usd_pico, cost.credits_pico
        so_far.cost_source = cost.source


def _sum_anew(state: RunState, sums_anew: Iterable[AttemptCosts]) -> None:
    account = state.account
    books: dict[Of, dict[str, Sums]] = {
        "variant": account.variants,
        "judge": account.judges,
        "endpoint": account.endpoints,
        "packed": account.packed,
    }
    for costs in sums_anew:
        book = books[costs.of]
        sums = {name: getattr(costs, name) for name in costs.__struct_fields__ if name not in ("of", "name")}
        book[costs.name] = structs.replace(book.get(costs.name, Sums()), **sums)
