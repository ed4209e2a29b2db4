"""A session in figures for whoever watches many: what is done, spent, in flight, how long requests take.

Owns the names of the figures and where each comes from. Labels are statuses, outcomes, kinds and units, never a
key, a prompt, a row or a variant (whose name may be a piece of a prompt). The figures are read on the event loop,
which takes some microseconds; making text of them and serving it is somebody else's, in a thread of his own.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

from msgspec import Struct

from crun_batch.gateway.pool_seams import Hooks
from crun_batch.pricing.account import Sums
from crun_batch.pricing.projection import reserved_pico
from crun_batch.records import OUTCOMES, STATUSES, Attempt, Fault, Outcome, Response, Room, Ticket, decimal_text
from crun_batch.session.steering import Steering
from crun_batch.session.tools import Recorder
from crun_batch.state.run_state import RunContext
from crun_batch.state.summary import TOKENS, settled

UNITS = ("usd", "credits")
BUCKETS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 600.0)
"""Upper ends of the histogram of latencies."""


class Family(NamedTuple):
    """One figure: what it is called, of what kind it is, and what it means."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str


ROWS = Family("crun_batch_rows", "gauge", "Units of work (id, variant, repeat) by status.")
ERRORS = Family("crun_batch_row_errors", "gauge", "Units of work that have an error_kind, by kind.")
ATTEMPTS = Family(
    "crun_batch_attempts", "counter", "Attempts that are over, all sessions, by outcome; one for each row."
)
TOKENS_USED = Family("crun_batch_tokens", "counter", "Tokens, all sessions, by kind.")
COST = Family("crun_batch_cost", "counter", "Known cost, all sessions, by unit.")
HELD = Family("crun_batch_held", "gauge", "Held for requests in flight or of unknown outcome, by unit.")
CAP = Family("crun_batch_cap", "gauge", "What may be spent and held, where there is a cap, by unit.")
IN_FLIGHT = Family(
    "crun_batch_in_flight", "gauge", "Requests that have been sent and are not back, in batches too."
)
LIMIT = Family(
    "crun_batch_limit", "gauge", "Requests that may be in flight now, as far as the gateway bears them."
)
CONCURRENCY = Family("crun_batch_concurrency", "gauge", "limits.concurrency, as it is now.")
PAUSED = Family("crun_batch_paused", "gauge", "1 where a person has paused the run.")
COOLING = Family("crun_batch_cooling_seconds", "gauge", "How long nothing may be sent after refusals.")
LATENCY = Family("crun_batch_attempt_seconds", "histogram", "From sending a request to its end, this session.")
FAMILIES = (
    *(ROWS, ERRORS, ATTEMPTS, TOKENS_USED, COST, HELD, CAP),
    *(IN_FLIGHT, LIMIT, CONCURRENCY, PAUSED, COOLING),
)
"""All but the histogram."""

Observe = Callable[[float], None]
"""Told how many seconds a request took."""
Samples = list[tuple[dict[str, str], str]]
"""(labels, value as decimal text) of one figure."""


class LatencyHistogram(Struct):
    """Latencies of this session: how many up to each end of a bucket, the last one without end."""

    counts: list[int]
    total_seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.total_seconds += seconds


class Figures(NamedTuple):
    """All figures of one moment."""

    samples: dict[str, Samples]
    """By the family's name."""
    histogram: LatencyHistogram
    job_name: str


class TimedHooks:
    """A pool's hooks that time its requests besides."""

    def __init__(self, hooks: Recorder, observe: Sequence[Observe]) -> None:
        self.attempts, self.tally = hooks.attempts, hooks.tally
        self._hooks = hooks
        self._observe = observe
        self._sent_at: dict[int, float] = {}
        self._now = asyncio.get_running_loop().time

    def together(self) -> AbstractContextManager[None]:
        """See `Hooks.together`."""
        return self._hooks.together()

    def reserve(self, ticket: Ticket) -> Room:
        """See `Hooks.reserve`."""
        return self._hooks.reserve(ticket)

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        """See `Hooks.started`."""
        attempts, now = self._hooks.started(tickets), self._now()
        self._sent_at.update((attempt.serial, now) for attempt in attempts)
        return attempts

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        """See `Hooks.arrived`."""
        now = self._now()
        for attempt, _ in arrivals:
            seconds = now - self._sent_at.pop(attempt.serial, now)
            for observe in self._observe:
                observe(seconds)
        return self._hooks.arrived(arrivals)

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        """See `Hooks.concluded`."""
        return self._hooks.concluded(outcomes)


class SessionMetrics:
    """The figures of a session, over its rows and its judges."""

    def __init__(self, context: RunContext, steering: Steering) -> None:
        self.histogram = LatencyHistogram([0] * (len(BUCKETS_SECONDS) + 1))
        self.observers: list[Observe] = [self.histogram.observe]
        """Told how long each request took."""
        self._context = context
        self._steering = steering
        self._open_before = context.open_units
        self._rows: Recorder | None = None

    def timed(self, recorder: Recorder) -> Hooks:
        """The hooks of a pool, watched. The first are those of the rows."""
        self._rows = self._rows or recorder
        return TimedHooks(recorder, self.observers)

    def read(self) -> Figures:
        """The figures of this moment; on the event loop."""
        totals, steering = self._context.state.account.totals(), self._steering
        standing, now = steering.standing(), asyncio.get_running_loop().time()
        cooling = max((until - now for until in standing.cooling_until.values()), default=0.0)
        plain = {
            IN_FLIGHT: standing.in_flight,
            LIMIT: standing.limit,
            CONCURRENCY: steering.job.limits.concurrency,
            PAUSED: int(steering.allowance.pauses),
            COOLING: round(cooling, 3),
        }
        samples: dict[str, Samples] = {family.name: [({}, str(value))] for family, value in plain.items()}
        samples |= self._of_rows(totals) | self._of_money(totals)
        samples[ATTEMPTS.name] = [({"outcome": name}, str(getattr(totals, name))) for name in OUTCOMES]
        samples[TOKENS_USED.name] = [({"kind": name}, str(getattr(totals, f"{name}_tokens"))) for name in TOKENS]
        return Figures(samples, self.histogram, self._context.workload.job.name)

    def _of_rows(self, totals: Sums) -> dict[str, Samples]:
        done = 0 if self._rows is None else self._rows.tally.finished_units
        statuses, error_kinds = settled(totals, self._context.state.done.reopened)
        by_status = {**{name: statuses.get(name, 0) for name in STATUSES}, "open": self._open_before - done}
        return {
            ROWS.name: [({"status": name}, str(number)) for name, number in by_status.items()],
            ERRORS.name: [({"kind": kind}, str(number)) for kind, number in sorted(error_kinds.items())],
        }

    def _of_money(self, totals: Sums) -> dict[str, Samples]:
        """What is not known is not there, rather than 0."""
        purses = {unit: getattr(self._steering.purses, unit) for unit in UNITS}
        known = {unit: getattr(totals, f"cost_{unit}") for unit in UNITS if getattr(totals, f"priced_{unit}")}
        held = {unit: pico for unit, purse in purses.items() if (pico := reserved_pico(purse)) is not None}
        caps = {unit: purse.cap_pico for unit, purse in purses.items() if purse.cap_pico is not None}
        return {
            family.name: [({"unit": unit}, decimal_text(pico)) for unit, pico in amounts.items()]
            for family, amounts in ((COST, known), (HELD, held), (CAP, caps))
        }
