"""Gateways that refuse, in virtual time, behind the pool itself: what they refuse is known here, not to the pool.

The real `Pool` runs on an event loop that never waits, so nothing is kinder than over a socket: requests go in the
pool's own batches, refused rows come back after their own delay, all replies of an instant are taken in together.
"""

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Literal

from msgspec import Struct
from simulation.loop import VirtualLoop

from crun_batch.gateway.admission import Lane
from crun_batch.gateway.pool import Pool
from crun_batch.gateway.pool_seams import Hooks, PoolSettings, Route
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.retry import RetryPolicy
from crun_batch.records import Attempt, Fault, Halt, Outcome, Response, Row, Ticket, Unit

ANSWER = b'{"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}'
REFUSAL = b'{"error": {"message": "too many requests"}}'


class Refusal(Struct, frozen=True):
    """What a refused request is told; headers may say more than the wait."""

    retry_after_seconds: float | None = None
    status: int = 429
    headers: tuple[tuple[str, str], ...] = ()


class Scatter:
    """Refuses a share of the requests, drawn at random: a router over many deployments."""

    def __init__(
        self, share: float, retry_after_seconds: float | None = None, status: int = 429, seed: int = 11
    ) -> None:
        self._share, self._refusal = share, Refusal(retry_after_seconds, status)
        self._draw = random.Random(seed)

    def refuses(self, now: float, inside: int) -> Refusal | None:
        return self._refusal if self._draw.random() < self._share else None


class Room:
    """Works on so many requests at a time, and refuses what is more; the number may change with the time."""

    def __init__(self, room: Callable[[float], float], retry_after_seconds: float | None = None) -> None:
        self._room, self._refusal = room, Refusal(retry_after_seconds)

    def refuses(self, now: float, inside: int) -> Refusal | None:
        return self._refusal if inside >= self._room(now) else None


class Bucket:
    """So many requests a second, with some saved up."""

    def __init__(self, per_second: float, saved: float, retry_after_seconds: float | None = None) -> None:
        self._per_second, self._saved, self._left = per_second, saved, saved
        self._refusal, self._at = Refusal(retry_after_seconds), 0.0

    def refuses(self, now: float, inside: int) -> Refusal | None:
        self._left = min(self._saved, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1.0:
            return self._refusal
        self._left -= 1.0
        return None


class MinuteWindow:
    """So many requests in each minute of the clock; refusals may tell how long that minute still lasts."""

    def __init__(self, per_minute: int, *, tells: bool) -> None:
        self._per_minute, self._tells = per_minute, tells
        self._minute, self._used = -1, 0

    def refuses(self, now: float, inside: int) -> Refusal | None:
        minute = int(now // 60)
        if minute != self._minute:
            self._minute, self._used = minute, 0
        self._used += 1
        if self._used <= self._per_minute:
            return None
        return Refusal(60.0 * (minute + 1) - now if self._tells else None)


class Gateway(Struct, frozen=True):
    """All that refuses, and how long answers and refusals take."""

    rules: Sequence[Scatter | Room | Bucket | MinuteWindow]
    latency_seconds: Callable[[random.Random, int], float]
    refusal_seconds: float


def constant(seconds: float) -> Callable[[random.Random, int], float]:
    """Every answer takes as long: requests go in bursts, at every level at once."""
    return lambda draw, inside: seconds


def spread(median: float, sigma: float = 0.6) -> Callable[[random.Random, int], float]:
    """Log-normal: requests go one by one, each at the level that is allowed."""
    return lambda draw, inside: draw.lognormvariate(math.log(median), sigma)


class Request(Struct):
    """One request, as the gateway saw it."""

    row: int
    variant: int
    sent_at: float
    refused: bool
    back_at: float
    retry_after_seconds: float | None


class Played(Struct):
    """Every request, and when the last row was done."""

    requests: list[Request]
    changes: list[tuple[float, int]]
    seconds: float
    halt: Halt | None

    def answered(self, begin: float = 0.0, end: float = math.inf, variant: int = 0) -> int:
        return sum(
            not each.refused and each.variant == variant and begin <= each.back_at < end for each in self.requests
        )

    def refused(self, begin: float = 0.0, end: float = math.inf) -> int:
        return sum(each.refused and begin <= each.back_at < end for each in self.requests)

    def refused_share(self) -> float:
        return self.refused() / len(self.requests)

    def drained_at(self) -> float:
        """When the last row went for the first time: from then on there is nothing to do but to wait for rows."""
        first: dict[tuple[int, int], float] = {}
        for each in self.requests:
            first.setdefault((each.row, each.variant), each.sent_at)
        return max(first.values())

    def too_early(self) -> int:
        """Requests of a row sent before its own Retry-After was over."""
        due: dict[tuple[int, int], float] = {}
        wrong = 0
        for each in self.requests:
            wrong += each.sent_at < due.get((each.row, each.variant), 0.0) - 1e-6
            if each.refused:
                due[each.row, each.variant] = each.back_at + (each.retry_after_seconds or 0.0)
        return wrong

    def mean_inside(self, begin: float, end: float) -> float:
        """Requests that the gateway worked on, averaged over the time between."""
        return mean_between(self.changes, begin, end)


def mean_between(changes: Sequence[tuple[float, int]], begin: float, end: float) -> float:
    """The mean of a number over a time, of (when it changed, to what) in order; 0 before the first."""
    first = bisect_left(changes, (begin, 0))
    area, since, inside = 0.0, begin, changes[first - 1][1] if first else 0
    for at, after in changes[first : bisect_left(changes, (end, 0))]:
        area += inside * (at - since)
        since, inside = at, after
    return (area + inside * (end - since)) / (end - begin)


class PlayedWire:
    """Answers as the gateways do, each after its time; the URL is the number of the gateway."""

    def __init__(self, gateways: Sequence[Gateway], loop: asyncio.AbstractEventLoop, seed: int) -> None:
        self.requests: list[Request] = []
        self.changes: list[tuple[float, int]] = [(0.0, 0)]
        self._gateways, self._loop, self._draw = gateways, loop, random.Random(seed)
        self._inside = [0 for _ in gateways]

    def post(self, url: str, headers: object, body: bytes, deadline_seconds: float) -> asyncio.Future[Response]:
        now, number = self._loop.time(), int(url)
        gateway, inside = self._gateways[number], self._inside[number]
        refusals = [rule.refuses(now, inside) for rule in gateway.rules]
        refusal = next((each for each in refusals if each is not None), None)
        future: asyncio.Future[Response] = self._loop.create_future()
        if refusal is None:
            self._enter(number, 1)
            seconds = gateway.latency_seconds(self._draw, self._inside[number])
            response = Response(200, {}, ANSWER)
        else:
            seconds, response = gateway.refusal_seconds, told(refusal)
        wait = refusal.retry_after_seconds if refusal is not None else None
        self.requests.append(Request(int(body), number, now, refusal is not None, now + seconds, wait))
        self._loop.call_later(seconds, self._back, future, response, number)
        return future

    def _enter(self, number: int, change: int) -> None:
        self._inside[number] += change
        self.changes.append((self._loop.time(), sum(self._inside)))

    def _back(self, future: asyncio.Future[Response], response: Response, number: int) -> None:
        if response.status == 200:
            self._enter(number, -1)
        if not future.done():
            future.set_result(response)

    async def close(self) -> None:
        """Nothing is open."""


def told(refusal: Refusal) -> Response:
    headers = dict(refusal.headers)
    if refusal.retry_after_seconds is not None:
        headers["retry-after"] = f"{refusal.retry_after_seconds:.3f}"
    return Response(refusal.status, headers, REFUSAL)


class Nothing:
    """Hooks that record nothing."""

    def __init__(self) -> None:
        self._serials = count(1)

    @contextmanager
    def together(self) -> Iterator[None]:
        yield

    def reserve(self, ticket: Ticket) -> Literal["held", "wait", "none"]:
        return "held"

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        return [Attempt(ticket, next(self._serials)) for ticket in tickets]

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        return [arrival for _, arrival in arrivals]

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        return [None for _ in outcomes]


class Rows:
    """So many rows, each asked of so many variants, row by row; a request's body is its row's number."""

    def __init__(self, rows: int, variants: int) -> None:
        self._units = ((row, variant) for row in range(rows) for variant in range(variants))

    def next(self) -> Ticket | Literal["wait", "end"]:
        row, variant = next(self._units, (-1, -1))
        if row < 0:
            return "end"
        return Ticket(Unit(row, row, variant, 0), Row(row, row, {}), b"%d" % row, "h")


def play(
    gateways: Gateway | Sequence[Gateway],
    *,
    rows: int = 10**9,
    seconds: float = math.inf,
    lanes: Sequence[Lane],
    concurrency: int,
    seed: int = 1,
    hooks: Hooks | None = None,
    settings: PoolSettings | None = None,
    moves: Sequence[tuple[float, Callable[[Pool], None]]] = (),
) -> Played:
    """So many rows, or work without end for so many seconds, through the pool; a lane for each gateway.

    `moves`: what somebody does to the pool, each at its time.
    """
    loop = VirtualLoop()
    gateways = [gateways] if isinstance(gateways, Gateway) else gateways
    wire = PlayedWire(gateways, loop, seed)
    pool = Pool(
        wire=wire,
        routes=[
            Route(lane, str(number), {}, PROTOCOLS["chat"], stream=False, name=f"v{number}")
            for number, lane in enumerate(lanes)
        ],
        source=Rows(rows, len(lanes)),
        hooks=hooks or Nothing(),
        settings=settings or PoolSettings(concurrency, 600.0, RetryPolicy(), 1e9),
        epoch_seconds=lambda: 0.0,
        rest=loop.rest,
    )

    async def whole() -> Halt | None:
        for at, move in moves:
            loop.call_later(at, move, pool)
        if seconds < math.inf:
            loop.call_later(seconds, pool.stop, Halt(0, "enough"))
        return await pool.run()

    try:
        halt = loop.run_until_complete(whole())
        return Played(wire.requests, wire.changes, loop.time(), halt)
    finally:
        loop.close()
