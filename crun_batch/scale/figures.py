"""The figures of a job by several workers: of all of them together, and of each.

Each worker tells its own about once a second. Those of one that has ended, or died, stay as they were last: what
was done and spent has been.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal

from crun_batch.load.job.job import Job
from crun_batch.options import RunOptions
from crun_batch.records import decimal_text, pico_of
from crun_batch.session.metrics import (
    BUCKETS_SECONDS,
    CAP,
    CONCURRENCY,
    COOLING,
    PAUSED,
    UNITS,
    Figures,
    LatencyHistogram,
    Samples,
)
from crun_batch.session.prometheus import Pages, metrics_text, served
from crun_batch.session.steerers import METRICS_PATH, place_for_figures

WORKERS_PATH = f"{METRICS_PATH}/workers"
"""Where each worker's figures are, under its number; a sum over both places would count all twice."""
ALIKE = (CONCURRENCY.name, PAUSED.name, COOLING.name)
"""Figures that are not divided among workers: of all together the largest is told."""


class FiguresOfAll:
    """The last figures of each worker."""

    def __init__(self, job_name: str, caps: Samples) -> None:
        self._job_name = job_name
        self.caps = caps
        """What all of them may spend together."""
        self._last: dict[int, Figures] = {}

    @classmethod
    def of(cls, job: Job) -> FiguresOfAll:
        """Of a job that begins now."""
        return cls(job.name, caps_of_all(job))

    def figured(self, number: int, figures: Figures) -> None:
        """A worker tells, by its number from 0."""
        self._last = {**self._last, number: figures}

    def capped(self, job: Job) -> None:
        """What all of them may spend together is what the job says now."""
        self.caps = caps_of_all(job)

    @property
    def last(self) -> Mapping[int, Figures]:
        """By worker from 0, those that have told."""
        return self._last

    def whole(self) -> Figures:
        """All of them together."""
        last = list(self._last.values())
        samples: dict[str, Samples] = {}
        for name in {name: None for figures in last for name in figures.samples}:
            samples[name] = _together(name, [figures.samples.get(name, []) for figures in last])
        samples[CAP.name] = self.caps
        counts = [sum(bucket) for bucket in zip(*(figures.histogram.counts for figures in last), strict=True)]
        seconds = sum(figures.histogram.total_seconds for figures in last)
        histogram = LatencyHistogram(counts or [0] * (len(BUCKETS_SECONDS) + 1), seconds)
        return Figures(samples, histogram, self._job_name)

    @property
    def pages(self) -> Pages:
        """What is served of it."""
        return {
            METRICS_PATH: lambda: metrics_text([({}, self.whole())]),
            WORKERS_PATH: lambda: metrics_text(
                [({"worker": str(number + 1)}, figures) for number, figures in sorted(self._last.items())]
            ),
        }


@asynccontextmanager
async def figures_served(figures: FiguresOfAll, options: RunOptions) -> AsyncIterator[None]:
    """Serve them while what is inside goes on, where they were asked for. Raises InputError: no port, no extra."""
    server = place_for_figures(options)
    if server is None:
        yield
        return
    try:
        async with served(server, figures.pages) as address:
            options.say(f"metrics: {address}{METRICS_PATH} (of each worker: {address}{WORKERS_PATH})")
            yield
    finally:
        server.server_close()


def caps_of_all(job: Job) -> Samples:
    """The caps of a job, by unit."""
    amounts = {unit: getattr(job.budget, f"max_cost_{unit}") for unit in UNITS}
    known = {unit: pico_of(amount) for unit, amount in amounts.items() if amount is not None}
    return [({"unit": unit}, decimal_text(pico)) for unit, pico in known.items()]


def _together(name: str, samples: list[Samples]) -> Samples:
    """One figure of all workers: added up by its labels, or the largest."""
    found: dict[tuple[tuple[str, str], ...], list[Decimal]] = {}
    for own in samples:
        for labels, value in own:
            found.setdefault(tuple(labels.items()), []).append(Decimal(value))
    add = max if name in ALIKE else sum
    return [(dict(labels), f"{add(values):f}") for labels, values in found.items()]
