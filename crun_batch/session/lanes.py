"""From targets to routes: who is asked where, and the limits that those share who are counted together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from crun_batch.gateway.admission import Lane
from crun_batch.gateway.pool import Pool
from crun_batch.gateway.pool_seams import Hooks, PoolSettings, Route, TicketSource
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.retry import RetryPolicy
from crun_batch.load.job.secrets import key_in_words
from crun_batch.session.resources import Resources
from crun_batch.state.run_state import RunContext
from crun_batch.workload.endpoint import Endpoint
from crun_batch.workload.target import Target


class SkippingSource(TicketSource, Protocol):
    """Tickets in order, those of some targets left out from some moment on."""

    def skip(self, target: int) -> None:
        """Make no more tickets for this target: its units stay open."""


def pool_of(
    context: RunContext, resources: Resources, routes: Sequence[Route], source: SkippingSource, hooks: Hooks
) -> Pool:
    """A pool under the job's limits."""
    limits, options = context.workload.job.limits, context.options

    def set_aside(target: int, reason: str) -> None:
        source.skip(target)
        options.say(f"{routes[target].name} is set aside, the others go on: {reason}")

    refused = {
        number: resources.set_aside[route.name]
        for number, route in enumerate(routes)
        if route.name in resources.set_aside
    }
    for target, reason in refused.items():
        set_aside(target, reason)
    others_go_on = limits.on_variant_failure == "set_aside" and len(routes) > 1
    return Pool(
        wire=resources.wire,
        routes=routes,
        source=source,
        hooks=hooks,
        settings=PoolSettings(
            concurrency=limits.concurrency,
            attempt_timeout_seconds=limits.attempt_timeout_seconds,
            retry=RetryPolicy(limits.max_attempts, limits.max_unknown_retries),
            give_up_after_seconds=limits.give_up_after_minutes * 60,
            set_aside=set_aside if others_go_on else None,
            refused=refused,
        ),
        epoch_seconds=options.clock.epoch_seconds,
    )


def routes_of(targets: Sequence[Target], endpoints: Sequence[Endpoint], resources: Resources) -> tuple[Route, ...]:
    """One for each target; those that share an account and a model share its limits."""
    return tuple(
        Route(
            _lane_of(target, endpoint, resources),
            target.url,
            endpoint.headers,
            PROTOCOLS[target.protocol_name],
            target.job.endpoint.stream,
            target.name,
            key_in_words(target.job),
        )
        for target, endpoint in zip(targets, endpoints, strict=True)
    )


def _lane_of(target: Target, endpoint: Endpoint, resources: Resources) -> Lane:
    limits = target.job.limits
    key = (target.job.endpoint.base_url, endpoint.account, target.job.model)
    if key not in resources.lanes:
        resources.lanes[key] = Lane(
            ceiling=limits.concurrency,
            adaptive=limits.adaptive,
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
        )
    return resources.lanes[key]
