"""What a session sends with: opened once, shared by the rows and by the judges of their answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from msgspec import Struct, field

from crun_batch.gateway.http.wire import WidenedWire, Wire, open_wire
from crun_batch.gateway.spread import Spread
from crun_batch.preflight.balance import KeepBalance, balance_keeper
from crun_batch.preflight.gateway_facts import Refusals, Ways, refusals_in, ways_by_target
from crun_batch.preflight.plan import Plan
from crun_batch.pricing.bill import Bill
from crun_batch.records import Price
from crun_batch.session.steering import Steering
from crun_batch.session.summaries import Extent, extent_of, running_summary
from crun_batch.state.run_state import RunContext
from crun_batch.workload.endpoint import ca_files_of
from crun_batch.workload.redaction import Redactor


class Resources(Struct, frozen=True):
    """All that sending needs beside the run's context."""

    wire: Wire
    bill: Bill
    prices_of: Callable[..., Sequence[Price | None]]
    """Model, service tier that is asked for -> what it may cost, at whichever endpoint and tier it is served, or
    `at` some of these: see `Prices.prices`."""
    ways: Sequence[Ways]
    """To each variant, then to each judge."""
    redact: Redactor
    executor: Executor | None
    """Reads the table ahead, and says that there may be threads; None: everything in place."""
    extent: Extent
    summary: Callable[[int, float], Mapping[str, Any]]
    """What summary.json says after this session has finished so many units in so many seconds."""
    keep_balance: KeepBalance | None
    refusals: Refusals
    """Whom the gateways refuse already before the first request."""
    steering: Steering
    spreads: dict[tuple[Hashable, ...], Spread] = field(default_factory=dict)
    """What spreads requests over several lanes, by these."""


@asynccontextmanager
async def open_resources(context: RunContext, plan: Plan) -> AsyncIterator[Resources]:
    """The connection, the thread that reads the table, and what follows from the plan; closed in the end."""
    workload, options = context.workload, context.options
    wire = options.wire(workload.job) if options.wire is not None else _wire(context)
    threads = nullcontext() if options.platform.in_place else ThreadPoolExecutor(1, thread_name_prefix="table")
    ways = ways_by_target(plan.gateways, workload.targets)
    try:
        with threads as executor:
            yield Resources(
                wire=wire,
                bill=Bill(plan.prices.price, workload.job.prices.credits_per_usd),
                prices_of=plan.prices.prices,
                ways=ways,
                redact=ways[0][0].endpoint.redact,
                executor=executor,
                extent=extent_of(context, plan.pilot),
                summary=running_summary(context),
                keep_balance=balance_keeper(plan.gateways, options.platform),
                refusals=refusals_in(workload, plan.gateways),
                steering=Steering(context, wire.widen if isinstance(wire, WidenedWire) else _nothing),
            )
    finally:
        await wire.close()


def _nothing(_: int) -> None:
    """A wire that is somebody's own bears what it bears."""


def _wire(context: RunContext) -> Wire:
    targets = [at for target in context.workload.targets for at in target.at_each_endpoint]
    return open_wire(
        connections=context.workload.job.limits.concurrency,
        urls=[target.url for target in targets],
        ca_files=ca_files_of(targets),
    )
