"""From targets to routes: who is asked where, and the limits that those share who are counted together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import structs

from crun_batch.gateway.admission import Lane
from crun_batch.gateway.pool import Pool
from crun_batch.gateway.pool_seams import Hooks, PoolSettings, Route, TicketSource
from crun_batch.gateway.retry import RetryPolicy
from crun_batch.gateway.spread import Destination, Spread, Tell
from crun_batch.gateway.spread_pool import SpreadPool
from crun_batch.load.job.secrets import key_in_words
from crun_batch.preflight.gateway_facts import TargetAtEndpoint, Ways
from crun_batch.session.resources import Resources
from crun_batch.state.run_state import RunContext
from crun_batch.workload.target import Target


class SkippingSource(TicketSource, Protocol):
    """Tickets in order, those of some targets left out from some moment on."""

    def skip(self, target: int) -> None:
        """Make no more tickets for this target: its units stay open."""


def pool_of(
    context: RunContext,
    resources: Resources,
    targets: Sequence[Target],
    source: TicketSource,
    hooks: Hooks,
    settings: PoolSettings,
) -> Pool:
    """A pool that asks these targets one by one."""
    routes = _routes_of(context, targets, resources)
    make = Pool if all(route.spread is None for route in routes) else SpreadPool
    return make(
        wire=resources.wire,
        routes=routes,
        source=source,
        hooks=hooks,
        settings=settings,
        epoch_seconds=context.options.clock.epoch_seconds,
        rest=context.options.clock.rest,
    )


def settings_of(
    context: RunContext, resources: Resources, targets: Sequence[Target], source: SkippingSource
) -> PoolSettings:
    """The job's limits for those who are asked; whom the gateway refuses already now is set aside at once."""
    limits, options, names = context.workload.job.limits, context.options, [target.name for target in targets]

    def set_aside(target: int, reason: str) -> None:
        source.skip(target)
        options.say(f"{names[target]} is set aside, the others go on: {reason}")

    named = resources.refusals.set_aside
    refused = {number: named[name] for number, name in enumerate(names) if name in named}
    for target, reason in refused.items():
        set_aside(target, reason)
    others_go_on = limits.on_variant_failure == "set_aside" and len(names) > 1
    return PoolSettings(
        concurrency=limits.concurrency,
        attempt_timeout_seconds=limits.attempt_timeout_seconds,
        retry=RetryPolicy(limits.max_attempts, limits.max_unknown_retries),
        give_up_after_seconds=limits.give_up_after_minutes * 60,
        set_aside=set_aside if others_go_on else None,
        refused=refused,
        allowance=resources.steering.allowance,
    )


def _routes_of(context: RunContext, targets: Sequence[Target], resources: Resources) -> tuple[Route, ...]:
    """One for each target; those that share an account and a model share its limits."""
    routes = []
    for target in targets:
        ways = tuple(way for way in resources.ways[target.index] if not way.target.goes_in_batches)
        if len(ways) == 1 and ways[0].target.endpoint_name is None:
            routes.append(_route_of(ways[0], resources))
        else:
            routes.append(_spread_route(context, target, ways, resources))
    return tuple(routes)


def _route_of(way: TargetAtEndpoint, resources: Resources) -> Route:
    target = way.target
    return Route(
        _lane_of(way, resources),
        target.url,
        way.endpoint.headers,
        target.protocol,
        target.job.endpoint.stream,
        target.name,
        key_in_words(target.job),
    )


def _spread_route(context: RunContext, target: Target, ways: Ways, resources: Resources) -> Route:
    """To the endpoints of a list; those that refuse already now are left out from the start."""
    routes = [_route_of(way, resources) for way in ways]
    endpoints = [way.target.job.endpoint for way in ways]
    lanes = tuple(route.lane for route in routes)
    spread = resources.spreads.get(lanes)
    if spread is None:
        pairs = zip(endpoints, lanes, strict=True)
        places = [Destination(one.name or "", lane, one.weight) for one, lane in pairs]
        spread = resources.spreads[lanes] = Spread(places, _telling(context))
    for place in spread.places:
        why = resources.refusals.left_out.get((target.name, place.name))
        if why is not None:
            spread.leave_out(place, why)
    by_endpoint = {
        place.name: structs.replace(route, spread=spread, place=place)
        for route, place in zip(routes, spread.places, strict=True)
    }
    return structs.replace(routes[0], spread=spread, by_endpoint=by_endpoint)


def _telling(context: RunContext) -> Tell:
    """Says it, and keeps it for the summary."""

    def tell(endpoint: str, why: str | None) -> None:
        if why is None:
            context.state.left_out.pop(endpoint, None)
            context.options.say(f"endpoint {endpoint} answers again")
        else:
            context.state.left_out[endpoint] = why
            context.options.say(f"endpoint {endpoint} is left out, the others go on: {why}")

    return tell


def _lane_of(way: TargetAtEndpoint, resources: Resources) -> Lane:
    return resources.steering.lane_of(way.target.job, way.endpoint.account)
