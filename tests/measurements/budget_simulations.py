"""10,000 random jobs against the budget: none may spend more than it has, and at least 99 % of it must be usable.

Run: python tests/measurements/budget_simulations.py [--jobs 10000]
Each job has more work than money, a random cap (dollars, credits or both), holds of at most 1 % of the cap, 1 to
64 requests in flight that end in any order, and requests that cost anything up to their hold, nothing (not
sent, refused), or an unknown amount. Sessions end and go on from what is recorded. Unused: what the cap still has
when not one more request fits and none is in flight.
"""

from __future__ import annotations

import argparse
import random
import time

from msgspec import Struct

from crun_batch.pricing.budget import Budget, Reservations
from crun_batch.records import Cost, Hold

PICO = 10**12


class Result(Struct, frozen=True):
    """One job's end: how far the bill went over the cap (0: not), and the share of the cap that was used."""

    overshoot_pico: int
    used_share: float
    unused_below_largest_hold: bool
    requests: int


def simulate(seed: int) -> Result:
    """One random job until its money is gone; checks the cap after every step."""
    rng = random.Random(seed)
    cap = rng.randrange(1, 50 * PICO)
    largest = max(1, cap // rng.randrange(100, 400))
    credits_per_usd = rng.choice((None, 1, 200))
    budget = Budget(cap, None if credits_per_usd is None else cap * credits_per_usd)
    book, bill, unknown = Reservations(budget), 0, 0
    concurrency, unknown_rate = rng.randrange(1, 65), rng.choice((0.0, 0.0, 0.02))
    flying: list[tuple[Hold, int]] = []
    overshoot = requests = 0
    while True:
        hold = _hold(rng.randrange(1, largest + 1), credits_per_usd)
        while len(flying) < concurrency and book.reserve(hold):
            flying.append((hold, rng.randrange(0, (hold.usd_pico or 0) + 1)))
            hold = _hold(rng.randrange(1, largest + 1), credits_per_usd)
            requests += 1
        if not flying:
            break
        hold, cost = flying.pop(rng.randrange(len(flying)))
        drawn = rng.random()
        if drawn < 0.05:
            book.release(hold)
        elif drawn < 0.05 + unknown_rate:
            book.settle(hold, Cost())
            bill, unknown = bill + cost, unknown + (hold.usd_pico or 0)
        else:
            book.settle(hold, Cost(cost, None if credits_per_usd is None else cost * credits_per_usd))
            bill += cost
        in_flight = sum(hold.usd_pico or 0 for hold, _ in flying)
        overshoot = max(overshoot, bill + in_flight - cap)
        if rng.random() < 0.002 and not flying:
            book = _next_session(budget, book)
    used = book.usd.spent_pico + unknown
    return Result(max(0, overshoot), used / cap, cap - used <= largest, requests)


def _hold(usd_pico: int, credits_per_usd: int | None) -> Hold:
    return Hold(usd_pico, None if credits_per_usd is None else usd_pico * credits_per_usd)


def _next_session(budget: Budget, book: Reservations) -> Reservations:
    spent = Cost(book.usd.spent_pico, book.credits.spent_pico)
    return Reservations(budget, spent=spent, unknown=Hold(book.usd.unknown_pico, book.credits.unknown_pico))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--jobs", type=int, default=10_000)
    jobs = arguments.parse_args().jobs
    started = time.perf_counter()
    results = [simulate(seed) for seed in range(jobs)]
    shares = sorted(result.used_share for result in results)
    print(f"{jobs:,} jobs, {sum(r.requests for r in results):,} requests, {time.perf_counter() - started:.0f} s")
    print(f"over the cap: {sum(r.overshoot_pico > 0 for r in results)} jobs")
    print(f"unused above the largest hold: {sum(not r.unused_below_largest_hold for r in results)} jobs")
    print(f"used: least {shares[0]:.2%}, median {shares[len(shares) // 2]:.2%}")


if __name__ == "__main__":
    main()
