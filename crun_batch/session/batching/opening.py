"""The batch lane's sender, made of a run's context: where each variant's batches go, under which limits."""

from __future__ import annotations

from crun_batch.errors import InputError
from crun_batch.gateway.pool_seams import Hooks, PoolSettings
from crun_batch.preflight.batch_offer import batches_at, form_of
from crun_batch.session.batching.drafts import BatchRoute, Drafts
from crun_batch.session.batching.keeper import BatchKeeper
from crun_batch.session.batching.left import LeftTickets
from crun_batch.session.batching.live import BatchLimits
from crun_batch.session.batching.sender import BatchSender
from crun_batch.session.lanes import SkippingSource
from crun_batch.session.resources import Resources
from crun_batch.session.tools import Tools
from crun_batch.state.run_state import RunContext

SIMULATED_LOOK_SECONDS = 1.0
"""How often a simulator is asked at least, whose batches take a second unless it is told otherwise."""


def batch_sender(
    context: RunContext,
    resources: Resources,
    tools: Tools,
    hooks: Hooks,
    source: SkippingSource,
    settings: PoolSettings,
    left: LeftTickets | None,
) -> BatchSender:
    """The sender of a job's variants in the batch lane. Raises InputError where a proxy cannot be used.

    `left`: where that goes which batches leave undone; None: into the next ones.
    """
    options, job, variants = context.options, context.workload.job, context.workload.variants
    if options.steer is not None:
        raise InputError(
            f"lane: {job.lane} cannot be shared out: a lease counts requests in flight, a batch has many"
        )
    routes = []
    for variant in variants:
        way = resources.ways[variant.index][0]
        form = batches_at(way.target, way.endpoint, options.platform, options.clock)
        name = form_of(way.target)
        routes.append(BatchRoute(variant.name, form, name, way.target.protocol, way.target.endpoint_name))
    every = job.batch.look_every_seconds
    limits = BatchLimits(
        requests=job.batch.max_requests,
        bytes=int(job.batch.max_megabytes * 10**6),
        enqueued_tokens=job.batch.max_enqueued_tokens,
        look_seconds=min(every, SIMULATED_LOOK_SECONDS) if options.simulate else every,
        absent_seconds=options.platform.batch_absent_seconds,
        give_up_seconds=job.limits.give_up_after_minutes * 60,
    )
    keeper = BatchKeeper(context, tools, resources)
    drafts = Drafts(routes, source, hooks, keeper, limits, left)
    return BatchSender(drafts, hooks, keeper, limits=limits, settings=settings, say=options.say)
