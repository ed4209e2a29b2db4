"""What came over the wire, read: a reply, or a failure; and what its headers say of the gateway's limits."""

from __future__ import annotations

from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.pool_seams import Route
from crun_batch.gateway.rate_headers import used_up_seconds
from crun_batch.records import Failure, Fault, Reply, Response


def read_arrival(route: Route, arrival: Response | Fault, now: float, epoch_seconds: float) -> Reply | Failure:
    """Read what came on a route, and let its lane heed what the headers say."""
    if isinstance(arrival, Fault):
        return check_fault(arrival)
    result = check(route.protocol, arrival, stream=route.stream, now_epoch_seconds=epoch_seconds)
    used_up = used_up_seconds(arrival.headers, epoch_seconds)
    if used_up is not None and not (isinstance(result, Failure) and result.action == "cool_down"):
        route.lane.heed(now, used_up)
    if not isinstance(result, Failure) or result.action != "stop_unreached":
        route.lane.was_reached = True
    return result
