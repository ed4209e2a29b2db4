"""Laws of the pool: what is recorded before what, whatever comes at once, fails or is abandoned."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation.loop import VirtualLoop

from crun_batch.gateway.admission import Lane
from crun_batch.gateway.pool import Pool
from crun_batch.gateway.pool_seams import PoolSettings, Route
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.retry import RetryPolicy
from crun_batch.records import Attempt, Fault, Halt, Outcome, Response, Room, Row, Ticket, Unit

BODY = b'{"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}'


class Tape:
    """Hooks that write down what happens, in order; `|` ends what was written together."""

    def __init__(self, *, fails_on: int | None = None) -> None:
        self.events: list[str] = []
        self._fails_on = fails_on
        self._serials = count(1)

    @contextmanager
    def together(self) -> Iterator[None]:
        before = len(self.events)
        yield
        if len(self.events) > before:
            self.events.append("|")

    def reserve(self, ticket: Ticket) -> Room:
        return "held"

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        self.events += [f"start {ticket.unit.position}" for ticket in tickets]
        return [Attempt(ticket, next(self._serials)) for ticket in tickets]

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        self.events += [f"end {attempt.ticket.unit.position}" for attempt, _ in arrivals]
        if arrivals:
            self.events.append("|")
        return [arrival for _, arrival in arrivals]

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        positions = [outcome.attempt.ticket.unit.position for outcome in outcomes]
        if self._fails_on in positions:
            raise RuntimeError("a bug")
        self.events += [f"read {position}" for position in positions]
        return [None for _ in outcomes]


class Rows:
    """So many tickets, one after the other."""

    def __init__(self, count: int) -> None:
        self._tickets = iter(
            Ticket(Unit(position, position, 0, 0), Row(position, position, {}), b"{}", "h")
            for position in range(count)
        )

    def next(self) -> Ticket | Literal["wait", "end"]:
        return next(self._tickets, "end")


class Gate:
    """A wire that answers everything that waits when it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def post(self, url: str, headers: object, body: bytes, deadline_seconds: float) -> Response | Fault:
        await self.opened.wait()
        return Response(200, {}, BODY)

    async def close(self) -> None:
        """Nothing is open."""


def pool_of(wire: Gate, hooks: Tape, rows: int, in_flight: int) -> Pool:
    lane = Lane(ceiling=in_flight, adaptive=False)
    settings = PoolSettings(in_flight, 60.0, RetryPolicy(), 60.0)
    route = Route(lane, "http://127.0.0.1:9", {}, PROTOCOLS["chat"], stream=False)
    return Pool(
        wire=wire,
        routes=[route],
        source=Rows(rows),
        hooks=hooks,
        settings=settings,
        epoch_seconds=lambda: 0.0,
        rest=lambda seconds: None,
    )


async def opened_soon(pool: Pool, gate: Gate) -> Halt | None:
    asyncio.get_running_loop().call_later(0.01, gate.opened.set)
    return await pool.run()


def test_replies_that_come_together_are_recorded_together_and_before_they_are_read() -> None:
    """Starts are written before anything is sent, ends before anything is read, reads before the run is over."""

    async def scenario() -> list[str]:
        gate, tape = Gate(), Tape()
        await opened_soon(pool_of(gate, tape, rows=3, in_flight=3), gate)
        return tape.events

    starts, ends, reads = ([f"{what} {row}" for row in range(3)] for what in ("start", "end", "read"))

    assert [*starts, "|", *ends, "|", *reads, "|"] == asyncio.run(scenario())


@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=30))
def test_a_reply_waits_for_others_no_longer_than_its_time_bears(delays: list[float]) -> None:
    """2 ms where that is a twentieth of it, 5 ms where that is a hundredth; then all that came is recorded."""
    came: dict[int, float] = {}
    recorded: dict[int, float] = {}
    loop = VirtualLoop()

    class Delayed(Gate):
        async def post(self, url: str, headers: object, body: bytes, deadline_seconds: float) -> Response | Fault:
            position = len(came)
            came[position] = delays[position]
            await asyncio.sleep(delays[position])
            return Response(200, {}, BODY)

    class Clocked(Tape):
        def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
            positions = {attempt.ticket.unit.position for attempt, _ in arrivals}
            recorded.update(dict.fromkeys(positions, loop.time()))
            return super().arrived(arrivals)

    try:
        loop.run_until_complete(pool_of(Delayed(), Clocked(), rows=len(delays), in_flight=len(delays)).run())
    finally:
        loop.close()

    assert came.keys() == recorded.keys()
    for row, moment in came.items():
        longest = max(min(0.05 * recorded[row], 0.002), min(0.01 * recorded[row], 0.005))
        assert -1e-9 <= recorded[row] - moment <= longest + 1e-9
    turns = sorted(set(recorded.values()))
    assert all(not came[row] + 1e-9 < turn < recorded[row] - 1e-9 for row in came for turn in turns)


def test_the_next_requests_start_in_the_write_that_concludes_the_last() -> None:
    """A read and the start that follows it share a write; the start is there before its request is sent."""

    async def scenario() -> list[str]:
        gate, tape = Gate(), Tape()
        await opened_soon(pool_of(gate, tape, rows=2, in_flight=1), gate)
        return tape.events

    assert ["start 0", "|", "end 0", "|", "read 0", "start 1", "|", "end 1", "|", "read 1", "|"] == asyncio.run(
        scenario()
    )


def test_a_bug_with_one_reply_leaves_all_recorded() -> None:
    """Replies are paid: the run ends with the error, and all that came is recorded for the next start."""

    async def scenario() -> list[str]:
        gate, tape = Gate(), Tape(fails_on=1)
        with pytest.raises(RuntimeError, match="a bug"):
            await opened_soon(pool_of(gate, tape, rows=5, in_flight=3), gate)
        return tape.events

    events = asyncio.run(scenario())

    assert ["end 0", "end 1", "end 2"] == [event for event in events if event[0] in "er"]
    assert "start 3" not in events


def test_after_it_was_abandoned_nothing_is_recorded() -> None:
    """The journal is closed then: a reply that comes later must not touch it, and the process can end."""

    async def scenario() -> tuple[list[str], Halt | None]:
        gate, tape = Gate(), Tape()
        pool = pool_of(gate, tape, rows=9, in_flight=2)
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, pool.stop, Halt(130, "Ctrl-C"))
        loop.call_later(0.02, pool.abandon)
        halt = await pool.run()
        gate.opened.set()
        await asyncio.sleep(0.01)
        return tape.events, halt

    events, halt = asyncio.run(asyncio.wait_for(scenario(), 5))

    assert (["start 0", "start 1", "|"], Halt(130, "Ctrl-C")) == (events, halt)


def test_an_abandoned_pool_waits_for_nothing() -> None:
    """It ends at once; the loop that ends with it cancels what is in flight."""

    async def scenario() -> None:
        pool = pool_of(Gate(), Tape(), rows=1, in_flight=1)
        asyncio.get_running_loop().call_later(0.01, pool.abandon)
        await pool.run()

    asyncio.run(asyncio.wait_for(scenario(), 5))
