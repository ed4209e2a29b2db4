"""The books of a run that goes on under other prices: recorded attempts priced anew, the account with them.

Every step can be repeated: job.json says that repricing has begun until it says the new prices. Owns that order.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from crun_batch.preflight.prices import Bill, Prices, Repricing, changes, frozen_prices, must_reprice
from crun_batch.pricing.account import Account, Sums
from crun_batch.session.sending import open_journal, settle_leftovers_of
from crun_batch.state.opening import Standing
from crun_batch.state.platform import Ground
from crun_batch.store.directory import RunDirectory, write_json
from crun_batch.store.recover import recover
from crun_batch.store.reprice import reprice, unit_costs, variant_costs
from crun_batch.store.schema import RunSchema
from crun_batch.store.seal import seal_segment
from crun_batch.workload.workload import Workload


def bring_up_to_date(
    workload: Workload, standing: Standing, prices: Prices, ground: Ground, say: Callable[[str], None]
) -> bool:
    """Say which prices have changed since the session before; where the job file's have, price all anew.

    Returns whether it did. Needs the lock. Raises DiskFailed.
    """
    job, frozen = workload.job, frozen_prices(standing.document)
    models = {variant.name: variant.job.model for variant in workload.variants}
    judges = {judge.spec.name: judge.job.model for judge in workload.judges}
    for model in (*frozen.models, *models.values(), *judges.values()):
        prices.choice(model or None)
    repriced = must_reprice(job, standing.document) and standing.recovered is not None
    for sentence in changes(frozen, prices, job, repriced=repriced):
        say(sentence)
    if not repriced:
        return False
    bill = Bill(prices.price, job.prices.credits_per_usd)
    repricing = Repricing(frozen, prices, bill, models, judges)
    _begin(standing, repricing.fingerprint)
    _price_anew(workload, standing, repricing, ground)
    return True


def _begin(standing: Standing, fingerprint: str) -> None:
    """From here until job.json is written with the new prices, a kill must not leave the work half done."""
    run = standing.directory
    standing.document = {**standing.document, "repricing": fingerprint}
    write_json(run, run.job, standing.document)


def _price_anew(workload: Workload, standing: Standing, repricing: Repricing, ground: Ground) -> None:
    """Settle what a kill left, seal it, price the sealed files, start a segment from the new account."""
    run = standing.directory
    journal = open_journal(standing, ground)
    try:
        settle_leftovers_of(workload, standing, journal, repricing.bill)
        for priced in (False, True):
            if priced:
                reprice(run, standing.schema, repricing, repricing.fingerprint)
                _account_anew(standing.account, run, standing.schema)
            closed = journal.maybe_rotate(standing.account.to_checkpoint, force=True)
            if closed is not None:
                seal_segment(run, closed, standing.schema)
    finally:
        journal.close()
    standing.recovered = recover(run)


def _account_anew(account: Account, run: RunDirectory, schema: RunSchema) -> None:
    """Put the sums over the priced attempts in the place of the old ones."""
    for costs in variant_costs(run, schema):
        sums = {name: getattr(costs, name) for name in costs.__struct_fields__ if name not in ("variant", "judge")}
        if costs.judge is not None:
            account.judges[costs.judge] = structs.replace(account.judges.get(costs.judge, Sums()), **sums)
        elif costs.variant is not None:
            account.variants[costs.variant] = structs.replace(account.variants.get(costs.variant, Sums()), **sums)
    for unit in unit_costs(run, schema, account.open_units):
        so_far, cost = account.open_units[unit.key], unit.cost
        so_far.cost_usd, so_far.cost_credits = cost.usd_pico, cost.credits_pico
        so_far.cost_source = cost.source
