"""Which of several endpoints takes a request: the decision alone over any state, and the pool in virtual time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from played_gateway import Gateway, Nothing, Played, PlayedWire, Room, Rows, Scatter, constant, spread
from simulation.loop import VirtualLoop

from crun_batch.errors import EXIT_GATEWAY_REFUSED, EXIT_OUT_OF_MONEY
from crun_batch.gateway.admission import Lane
from crun_batch.gateway.pool_seams import PoolSettings, Route
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.retry import RetryPolicy, retried
from crun_batch.gateway.spread import WORTH_WAITING_SECONDS, Destination, Spread
from crun_batch.gateway.spread_pool import SpreadPool
from crun_batch.records import Again, Failure, GiveUp, Halt, Row, Ticket, Tries, Unit

NOW = 1000.0
REFUSED = Halt(EXIT_GATEWAY_REFUSED, "the gateway refuses this job: HTTP 401: no")
NO_CREDIT = Halt(EXIT_OUT_OF_MONEY, "the gateway has no credit left: HTTP 402: no")

DESTINATION = st.fixed_dictionaries(
    {
        "in_flight": st.integers(0, 8),
        "weight": st.sampled_from([0.5, 1.0, 4.0]),
        "pause": st.sampled_from([0.0, 0.0, 0.5, 30.0]),
        "state": st.sampled_from(["open", "open", "refused", "silent", "unreached"]),
        "seconds": st.sampled_from([None, 0.1, 5.0]),
        "avoided": st.sampled_from([None, None, -5.0, 0.5, 60.0]),
    }
)


def made(states: Sequence[dict[str, object]], last: int | None) -> tuple[Spread, Ticket]:
    """A spread over endpoints in these states, and a ticket that was sent to one of them last."""
    told: list[object] = []
    places = []
    for index, state in enumerate(states):
        lane = Lane(ceiling=8, adaptive=False)
        for _ in range(state["in_flight"]):
            lane.admit(NOW - 1.0, 0)
        lane.paused_until = NOW + state["pause"]
        place = Destination(f"e{index}", lane, state["weight"])
        if state["seconds"] is not None:
            place.answered(NOW, NOW - state["seconds"])
        if state["state"] == "refused":
            place.refusal = REFUSED
        elif state["state"] != "open":
            place.left_out_until, place.times_left_out = NOW + 20.0, 1
        places.append(place)
    avoids = tuple(
        (f"e{index}", NOW + state["avoided"]) for index, state in enumerate(states) if state["avoided"] is not None
    )
    endpoint = None if last is None else f"e{last % len(states)}"
    ticket = Ticket(Unit(0, 0, 0, 0), Row(0, 0, {}), b"", "h", endpoint=endpoint, avoids=avoids)
    return Spread(places, lambda *each: told.append(each)), ticket


def is_free(place: Destination, ticket: Ticket) -> bool:
    """Whether nothing of its own keeps a request from going there now."""
    return place.lane.wait_seconds(NOW, 0) <= 0.0 and dict(ticket.avoids).get(place.name, NOW) <= NOW


@settings(max_examples=500, deadline=None)
@given(st.lists(DESTINATION, min_size=1, max_size=4), st.none() | st.integers(0, 3))
def test_the_choice_keeps_every_law(states, last):
    """Never where it is told to wait, nor where nothing is sent; elsewhere after a failure; some, if one can."""
    spread_, ticket = made(states, last)
    left = [place for place in spread_.places if place.is_open(NOW)]
    open_places = left or [place for place in spread_.places if place.refusal is None] or list(spread_.places)
    chosen = spread_.choose(NOW, ticket)
    free = [place for place in open_places if is_free(place, ticket)]
    if isinstance(chosen, float):
        assert chosen > 0.0
        assert all(place.name == ticket.endpoint for place in free)
        return
    assert chosen in free
    if chosen.name == ticket.endpoint:
        others = [place for place in open_places if place is not chosen]
        soon = [place.lane.wait_seconds(NOW, 0) <= WORTH_WAITING_SECONDS for place in others]
        assert not any(soon) or any(avoid > NOW + WORTH_WAITING_SECONDS for _, avoid in ticket.avoids)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7))
def test_in_flight_goes_by_weight(one, other):
    """Of equal endpoints each holds its weight's share of what is in flight, to the nearest request."""
    places = [
        Destination(name, Lane(ceiling=10**6, adaptive=False), weight)
        for name, weight in (("a", one), ("b", other))
    ]
    spread_ = Spread(places, lambda *_: None)
    for _ in range(10 * (one + other)):
        spread_.choose(NOW, Ticket(Unit(0, 0, 0, 0), Row(0, 0, {}), b"", "h")).lane.admit(NOW, 0)
    assert (10 * one, 10 * other) == pytest.approx(tuple(place.lane.in_flight for place in places), abs=1)


def test_the_last_one_is_never_left_out_and_what_all_say_is_said():
    """Out of money where one of them is, else refused; with every reason."""
    places = [Destination(name, Lane(ceiling=8), 1.0) for name in "abc"]
    told: list[tuple[str, str | None]] = []
    spread_ = Spread(places, lambda *each: told.append(each))
    assert spread_.leave_out(places[0], REFUSED) is None
    assert spread_.leave_out(places[1], NO_CREDIT) is None
    halt = spread_.leave_out(places[2], REFUSED)
    assert EXIT_OUT_OF_MONEY == halt.exit_code
    assert f"no endpoint is left: a: {REFUSED.reason}; b: {NO_CREDIT.reason}; c: {REFUSED.reason}" == halt.reason
    assert [("a", REFUSED.reason), ("b", NO_CREDIT.reason)] == told


@pytest.mark.parametrize("action", ["stop_credits", "stop_refused", "stop_model"])
def test_a_refusal_of_the_job_sends_the_row_elsewhere_uncounted(action):
    places = [Destination(name, Lane(ceiling=8), 1.0) for name in "ab"]
    spread_ = Spread(places, lambda *_: None)
    failure = Failure("rejected", "bad_request", action, "no")
    ticket = Ticket(Unit(0, 0, 0, 0), Row(0, 0, {}), b"", "h", tries=Tries(2, 1, 3))
    assert Again(0.0, ticket.tries) == spread_.failed(NOW, places[0], failure, REFUSED, ticket)
    halt = spread_.failed(NOW, places[1], failure, REFUSED, ticket)
    assert isinstance(halt, Halt)


@pytest.mark.parametrize("kind", ["bad_request", "not_found", "too_long"])
def test_a_request_that_one_gateway_does_not_take_is_asked_once_at_each(kind):
    """It cost nothing; refused everywhere it fails. What a content filter refuses is not shopped around."""
    places = [Destination(name, Lane(ceiling=8), 1.0) for name in "abc"]
    spread_ = Spread(places, lambda *_: None)
    ticket = Ticket(Unit(0, 0, 0, 0), Row(0, 0, {}), b"", "h", tries=Tries(1))
    failure = Failure("rejected", kind, "fail_row", "no")
    asked = []
    while True:
        place = spread_.choose(NOW, ticket)
        asked.append(place.name)
        ticket = structs.replace(ticket, endpoint=place.name)
        decision = spread_.failed(NOW, place, failure, GiveUp(ticket.tries), ticket)
        if isinstance(decision, GiveUp):
            break
        assert Tries(1) == decision.tries
        ticket = retried(ticket, decision, NOW)
    assert ["a", "b", "c"] == sorted(asked)
    filtered = structs.replace(failure, kind="content_filter")
    first = structs.replace(ticket, avoids=(), endpoint="a")
    assert GiveUp(first.tries) == spread_.failed(NOW, places[0], filtered, GiveUp(first.tries), first)


def test_a_row_whose_last_endpoint_has_refused_it_is_not_left_waiting():
    """The other one, which might have taken it, was left out meanwhile."""
    places = [Destination(name, Lane(ceiling=8), 1.0) for name in "ab"]
    spread_ = Spread(places, lambda *_: None)
    ticket = Ticket(Unit(0, 0, 0, 0), Row(0, 0, {}), b"", "h", endpoint="a", avoids=(("a", math.inf),))
    spread_.leave_out(places[1], REFUSED)
    assert places[0] is spread_.choose(NOW, ticket)


# --- the pool in virtual time ----------------------------------------------------------------------------------


def play(
    gateways: Sequence[Gateway],
    *,
    rows: int,
    weights: Sequence[float] = (1.0, 1.0, 1.0),
    concurrency: int = 32,
    change: tuple[float, Callable[[PlayedWire], None]] | None = None,
) -> tuple[Played, list[tuple[float, str, str | None]]]:
    """So many rows over one endpoint for each gateway; what was told of them, with its time."""
    loop = VirtualLoop()
    wire = PlayedWire(gateways, loop, 1)
    told: list[tuple[float, str, str | None]] = []
    lanes = [Lane(ceiling=concurrency) for _ in gateways]
    places = [Destination("abc"[n], lane, weights[n]) for n, lane in enumerate(lanes)]
    spread_ = Spread(places, lambda name, why: told.append((loop.time(), name, why)))
    routes = {
        place.name: Route(lane, str(n), {}, PROTOCOLS["chat"], False, "v", spread=spread_, place=place)
        for n, (lane, place) in enumerate(zip(lanes, places, strict=True))
    }
    variant = Route(lanes[0], "", {}, PROTOCOLS["chat"], False, "v", spread=spread_, by_endpoint=routes)
    pool = SpreadPool(
        wire=wire,
        routes=[variant],
        source=Rows(rows, 1),
        hooks=Nothing(),
        settings=PoolSettings(concurrency, 600.0, RetryPolicy(), 1800.0),
        epoch_seconds=lambda: 0.0,
        rest=loop.rest,
    )
    if change is not None:
        loop.call_later(change[0], change[1], wire)
    try:
        halt = loop.run_until_complete(pool.run())
        return Played(wire.requests, wire.changes, loop.time(), halt), told
    finally:
        loop.close()


def answered(played: Played) -> Counter[str]:
    return Counter("abc"[each.variant] for each in played.requests if not each.refused)


WELL = Gateway([], constant(0.5), 0.05)


@pytest.mark.parametrize("status", [500, 503])
def test_an_endpoint_that_fails_for_long_is_left_out_and_asked_again(status):
    """Down for five minutes: left out, asked by one request at a time, ever less often, then back to its share."""
    down = [Scatter(1.0, None, status)]
    sick = Gateway(down, constant(0.5), 0.05)
    played, told = play([WELL, sick], rows=40_000, change=(300.0, lambda wire: down.clear()))
    assert played.halt is None
    assert 40_000 == sum(answered(played).values())
    assert {"b"} == {name for _, name, _ in told}
    assert told[0][0] <= 40.0
    assert told[-1][2] is None
    while_out = [each for each in played.requests if each.variant == 1 and told[0][0] < each.sent_at < 300.0]
    assert len(while_out) <= 20
    back = told[-1][0]
    assert 300.0 <= back <= 620.0
    after = [each.variant for each in played.requests if each.sent_at > back + 30.0]
    assert 0.4 <= sum(after) / len(after) <= 0.6


@pytest.mark.parametrize("wait", [None, 1.0, 20.0])
def test_scattered_refusals_go_elsewhere_at_once_and_never_back_too_early(wait):
    """No row is sent to an endpoint before the Retry-After that it was told there."""
    gateways = [Gateway([Scatter(0.1, wait, seed=n)], spread(0.5), 0.05) for n in range(3)]
    played, _ = play(gateways, rows=3000)
    assert 3000 == sum(answered(played).values())
    assert 0 == played.too_early()
    alone = play([Gateway([], spread(0.5), 0.05)] * 3, rows=3000)[0].drained_at()
    assert 0.7 * played.drained_at() <= alone


def test_each_gets_what_it_bears():
    """Unknown limits of 4, 12 and 40 in flight: all three are used, and few requests are refused."""
    gateways = [Gateway([Room(lambda now, room=room: room, 1.0)], spread(1.0), 0.05) for room in (4, 12, 40)]
    played, _ = play(gateways, rows=20_000, concurrency=200)
    begin, end = 60.0, played.drained_at()
    counts = Counter(each.variant for each in played.requests if not each.refused and begin < each.sent_at < end)
    mean = [counts[n] * 1.2 / (end - begin) for n in range(3)]
    assert all(used >= 0.8 * room for used, room in zip(mean, (4, 12, 40), strict=True))
    assert played.refused_share() <= 0.03


def test_one_that_hangs_gets_next_to_nothing():
    """It takes ten minutes for an answer: what went there before the first answer elsewhere, and nothing more."""
    played, _ = play([WELL, Gateway([], constant(599.0), 0.05)], rows=5000)
    assert 5000 == sum(answered(played).values())
    assert answered(played)["b"] <= 16
    assert all(each.sent_at <= 1.0 for each in played.requests if each.variant == 1)


def test_where_every_endpoint_is_down_the_run_ends_as_with_one():
    """No success for half an hour: exit 5, in the gateway's words."""
    down = Gateway([Scatter(1.0, 5.0)], constant(0.5), 0.05)
    played, _ = play([down, down], rows=100)
    assert EXIT_GATEWAY_REFUSED == played.halt.exit_code
    assert "no success for 30 minutes; what failed last: HTTP 429: too many requests" == played.halt.words
    assert math.isclose(1800.0, played.seconds, abs_tol=1.0)
