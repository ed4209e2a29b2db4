"""How well admission finds and keeps a gateway's limits: against gateways played in virtual time, in two minutes.

    python benchmarks/admission.py             prints them and writes docs/benchmarks.md

The lane as the pool drives it, against a gateway whose limit, refusals and latency are known here and unknown to
it. Latencies are log-normal (median 2 s), every draw is seeded: the same figures every time, anywhere. Refusals at
random meet the pool itself, also where every answer takes as long and requests go in bursts; the rules were tuned
on some of these scenarios, those marked "held out" were never looked at before.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

import played_gateway as played_pool
from msgspec import Struct

from crun_batch.gateway.admission import Admitted, Lane
from crun_batch.gateway.per_minute import NEVER

LIMITS = (7, 40, 300, 1000)
RETRY_AFTER: tuple[float | None, ...] = (None, 5.0)
CEILING = 2000
WARM_UP_SECONDS = 120.0
RUN_SECONDS = 1200.0
LATENCY_SECONDS, LATENCY_SIGMA = 2.0, 0.6
REFUSAL_SECONDS = 0.05
STORM_BEGINS, STORM_ENDS = 300.0, 330.0
RECOVERY_BIN_SECONDS = 5.0
KNEES = (40, 300)
CLIFFS = {"grows with the load": 1.0, "grows with its square": 2.0, "grows with its cube": 3.0}
"""Above the knee the latency is (in flight / knee) to this power times what it was."""
CLIFF_RUN_SECONDS, CLIFF_WARM_UP_SECONDS = 3600.0, 1800.0
"""At four times the knee a reply may take minutes: so long is the way down."""
REQUESTS_PER_MINUTE = (60, 600, 10_000)
TOKENS_PER_MINUTE = (100_000, 2_000_000)
OUTPUT_BOUND_TOKENS = 1000


class Gateway(Struct, frozen=True):
    """What the lane does not know: room at a time, and the latency's factor for so many in flight."""

    room: Callable[[float], float]
    slowness: Callable[[int], float] = lambda inside: 1.0
    retry_after_seconds: float | None = None


class Sent(Struct):
    """One request: when it went, when it came back, what it used."""

    admitted: Admitted
    taken: bool
    back_at: float
    tokens: int


class Played(Struct, frozen=True):
    """A whole run: every request, how the number inside the gateway changed, cuts in each wave of refusals."""

    sent: list[Sent]
    changes: list[tuple[float, int]]
    cuts: list[int]

    def mean_inside(self, begin: float, end: float) -> float:
        """Requests that the gateway worked on, averaged over the time between."""
        return played_pool.mean_between(self.changes, begin, end)

    def answered(self, begin: float, end: float) -> int:
        return sum(sent.taken and begin <= sent.back_at < end for sent in self.sent)

    def refused_share(self) -> float:
        return sum(not sent.taken for sent in self.sent) / len(self.sent)


def play(lane: Lane, gateway: Gateway, seconds: float, *, seed: int = 1) -> Played:
    """Work without end through `lane`, event by event."""
    draw = random.Random(seed)
    now, inside = 0.0, 0
    waves = Waves(lane)
    sent: list[Sent] = []
    changes: list[tuple[float, int]] = []
    events: list[tuple[float, int]] = []
    tokens, bound = tokens_of(draw)
    while now < seconds:
        wait = lane.wait_seconds(now, bound)
        while wait == 0.0:
            taken = inside < gateway.room(now)
            inside += taken
            latency = draw.lognormvariate(math.log(LATENCY_SECONDS), LATENCY_SIGMA) * gateway.slowness(inside)
            back_at = now + (latency if taken else REFUSAL_SECONDS)
            heapq.heappush(events, (back_at, len(sent)))
            sent.append(Sent(lane.admit(now, bound), taken, back_at, tokens))
            tokens, bound = tokens_of(draw)
            wait = lane.wait_seconds(now, bound)
        changes.append((now, inside))
        now = min(events[0][0] if events else NEVER, now + max(wait, 1e-6))
        while events and events[0][0] <= now:
            back = sent[heapq.heappop(events)[1]]
            inside -= back.taken
            if back.taken:
                lane.answered(now, back.admitted, back.tokens)
            else:
                waves.refused(now, back.admitted, gateway.retry_after_seconds)
        changes.append((now, inside))
    return Played([each for each in sent if each.back_at <= seconds], changes, waves.cuts)


def tokens_of(draw: random.Random) -> tuple[int, int]:
    """What a request will use and the bound it goes with: its input, and an output cut off at the bound."""
    input_tokens = draw.randint(50, 500)
    output_tokens = min(OUTPUT_BOUND_TOKENS, int(draw.lognormvariate(math.log(150), 0.8)))
    return input_tokens + output_tokens, input_tokens + OUTPUT_BOUND_TOKENS


class Waves:
    """Counts, from outside, how often the limit fell in each wave.

    A wave is the refusals of all requests that went before its first refusal was back.
    """

    def __init__(self, lane: Lane) -> None:
        self.cuts: list[int] = []
        self._lane = lane
        self._began_at = -NEVER

    def refused(self, now: float, admitted: Admitted, retry_after_seconds: float | None) -> None:
        if admitted.started_at > self._began_at:
            self._began_at = now
            self.cuts.append(0)
        before = self._lane.limit.value
        self._lane.refused(now, admitted, retry_after_seconds)
        self.cuts[-1] += self._lane.limit.value < before


def figures() -> Iterator[dict[str, Any]]:
    """Every figure with its goal: `what`, `reached`, `goal`, and whether it is `met`."""
    for part in (unknown_limits, storms, cliffs, requests_per_minute, tokens_per_minute, scattered, fixed_beside):
        yield from part()


def unknown_limits() -> Iterable[dict[str, Any]]:
    for limit in LIMITS:
        for retry_after in RETRY_AFTER:
            gateway = Gateway(lambda now, limit=limit: limit, retry_after_seconds=retry_after)
            played = play(Lane(ceiling=CEILING), gateway, RUN_SECONDS)
            where = f"limit of {limit}, {told(retry_after)}"
            yield at_least(f"{where}: used", played.mean_inside(WARM_UP_SECONDS, RUN_SECONDS) / limit, 0.9)
            yield at_most(f"{where}: refused", played.refused_share(), 0.02)
            yield cuts_per_wave(where, played)


def storms() -> Iterable[dict[str, Any]]:
    for limit in LIMITS:
        for retry_after in RETRY_AFTER:
            gateway = Gateway(
                lambda now, limit=limit: 0 if STORM_BEGINS <= now < STORM_ENDS else limit,
                retry_after_seconds=retry_after,
            )
            played = play(Lane(ceiling=CEILING), gateway, RUN_SECONDS)
            where = f"storm of {STORM_ENDS - STORM_BEGINS:.0f} s at a limit of {limit}, {told(retry_after)}"
            yield row(f"{where}: back at 90 % after", recovery_seconds(played), 60.0, "{:.0f} s", most=True)
            yield at_most(f"{where}: refused", played.refused_share(), 0.02)
            yield cuts_per_wave(where, played)


def recovery_seconds(played: Played) -> float:
    """From the storm's end to the end of the first five seconds at 90 % of what it was before."""
    former = played.mean_inside(WARM_UP_SECONDS, STORM_BEGINS)
    end = STORM_ENDS + RECOVERY_BIN_SECONDS
    while end < RUN_SECONDS and played.mean_inside(end - RECOVERY_BIN_SECONDS, end) < 0.9 * former:
        end += 1.0
    return end - STORM_ENDS


def cliffs() -> Iterable[dict[str, Any]]:
    for knee in KNEES:
        for shape, power in CLIFFS.items():
            gateway = Gateway(
                lambda now: NEVER,
                slowness=lambda inside, knee=knee, power=power: max(1.0, inside / knee) ** power,
            )
            fixed = max(
                answers_per_second(Lane(ceiling=int(knee * share), adaptive=False), gateway, 600.0, 60.0)
                for share in (0.8, 1.0, 1.25, 2.0)
            )
            found = answers_per_second(Lane(ceiling=4 * knee), gateway, CLIFF_RUN_SECONDS, CLIFF_WARM_UP_SECONDS)
            yield at_least(
                f"latency {shape} above {knee}: second half-hour, of the best fixed limit", found / fixed, 0.75
            )


def answers_per_second(lane: Lane, gateway: Gateway, seconds: float, warm_up_seconds: float) -> float:
    return play(lane, gateway, seconds).answered(warm_up_seconds, seconds) / (seconds - warm_up_seconds)


def requests_per_minute() -> Iterable[dict[str, Any]]:
    for limit in REQUESTS_PER_MINUTE:
        lane = Lane(ceiling=CEILING, requests_per_minute=limit)
        played = play(lane, Gateway(lambda now: NEVER), RUN_SECONDS)
        yield from kept(
            f"{limit:,} requests per minute", [(each.admitted.started_at, 1) for each in played.sent], limit
        )


def tokens_per_minute() -> Iterable[dict[str, Any]]:
    for limit in TOKENS_PER_MINUTE:
        lane = Lane(ceiling=CEILING, tokens_per_minute=limit)
        played = play(lane, Gateway(lambda now: NEVER), RUN_SECONDS)
        used = [(each.admitted.started_at, each.tokens) for each in played.sent]
        yield from kept(f"{limit:,} tokens per minute", used, limit)


def kept(what: str, amounts: list[tuple[float, int]], limit: int) -> Iterable[dict[str, Any]]:
    """Worst minute and use of amounts at times; use without the first two minutes and the last."""
    times = [time for time, _ in amounts]
    sums = [0, *accumulate(amount for _, amount in amounts)]
    worst = max(sums[bisect_left(times, time + 60.0)] - sums[index] for index, time in enumerate(times))
    first, last = bisect_left(times, WARM_UP_SECONDS), bisect_left(times, RUN_SECONDS - 60.0)
    minutes = (RUN_SECONDS - 60.0 - WARM_UP_SECONDS) / 60.0
    yield at_most(f"{what}: worst minute, over the limit by", max(0.0, worst / limit - 1), 0.01)
    yield at_least(f"{what}: used", (sums[last] - sums[first]) / minutes / limit, 0.95)


SCATTERED = {
    "": [(0.01, 1.0, 429), (0.01, 5.0, 429), (0.01, None, 503), (0.03, 1.0, 429), (0.1, 1.0, 429)],
    ", held out": [(0.02, 2.0, 429), (0.05, None, 429), (0.07, 20.0, 503), (0.1, 0.3, 503)],
}
SCATTER_GOALS = ((0.01, 0.9), (0.03, 0.85), (0.1, 0.7))
BESIDE = {"": (7, 20, 100, 400), ", held out": (13, 60, 250)}


def drained_seconds(rules: list[Any], latency: Any, refusal_seconds: float) -> float:
    gateway = played_pool.Gateway(rules, latency, refusal_seconds)
    return played_pool.play(gateway, rows=6_000, lanes=[Lane(ceiling=64)], concurrency=64, seed=7).drained_at()


def scattered() -> Iterable[dict[str, Any]]:
    """Until the last row went for the first time, against the same run without refusals."""
    for name, latency, refusal_seconds in (
        ("in bursts", played_pool.constant(0.1), 0.1),
        ("one by one", played_pool.spread(2.0), 0.05),
    ):
        plain = drained_seconds([], latency, refusal_seconds)
        for held_out, cases in SCATTERED.items():
            for share, wait, status in cases:
                goal = next(kept for most, kept in SCATTER_GOALS if share <= most)
                rule = played_pool.Scatter(share, wait, status, seed=23 if held_out else 11)
                kept = plain / drained_seconds([rule], latency, refusal_seconds)
                yield at_least(f"{share:.0%} {status} at random, {told(wait)}, {name}{held_out}: kept", kept, goal)


def fixed_beside() -> Iterable[dict[str, Any]]:
    """An unknown limit in bursts, beside one refusal in a hundred at random."""
    for held_out, limits in BESIDE.items():
        for limit in limits:
            rules = [
                played_pool.Room(lambda now, limit=limit: limit, 5.0),
                played_pool.Scatter(0.01, 5.0, seed=23 if held_out else 11),
            ]
            gateway = played_pool.Gateway(rules, played_pool.constant(2.0), 0.05)
            played = played_pool.play(gateway, seconds=300.0, lanes=[Lane(ceiling=512)], concurrency=512)
            where = f"limit of {limit} in bursts, 1 % at random{held_out}"
            yield at_least(f"{where}: used", played.mean_inside(60.0, 300.0) / limit, 0.9)
            yield at_most(f"{where}: refused", played.refused_share(), 0.03)


def told(retry_after: float | None) -> str:
    return "no Retry-After" if retry_after is None else f"Retry-After {retry_after:g} s"


def cuts_per_wave(where: str, played: Played) -> dict[str, Any]:
    return row(f"{where}: most cuts in a wave", max(played.cuts, default=0), 1, "{}", most=True)


def at_least(what: str, reached: float, goal: float) -> dict[str, Any]:
    return row(what, reached, goal, "{:.1%}", most=False)


def at_most(what: str, reached: float, goal: float) -> dict[str, Any]:
    return row(what, reached, goal, "{:.2%}", most=True)


def row(what: str, reached: float, goal: float, form: str, *, most: bool) -> dict[str, Any]:
    return {
        "what": what,
        "reached": form.format(reached),
        "goal": f"at {'most' if most else 'least'} {form.format(goal)}",
        "met": reached <= goal if most else reached >= goal,
    }
