"""What people tell a running session: other limits and caps, a pause, an end. Checked, done, and put into words.

A change is checked as the job file is, and in the whole: where one value is wrong nothing changes. What is
committed of the money cannot be taken back, so no cap goes below it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from crun_batch.console.amounts import from_pico, money
from crun_batch.errors import EXIT_TERMINATED, InputError, Mistake
from crun_batch.load.job.job import Job
from crun_batch.preflight.affordability import caps_of
from crun_batch.pricing.budget import Budget, Purse, Reservations
from crun_batch.records import Halt
from crun_batch.state.steered import SETTABLE, value_of

SOURCE = "set"
LEASED = (
    "this is one worker of a job, and what it may use is leased to it: name the job instead "
    "(`crun-batch set JOB KEY=VALUE`), whose limits and caps are those of all its workers"
)


class Steerable(Protocol):
    """What can be told other limits and caps, a pause, an end: one session, or a job by several workers."""

    is_one_of_several: bool
    """A worker, whose limits and caps are leased to it."""

    @property
    def job(self) -> Job:
        """As it is now: with what was set since the start."""

    @property
    def purses(self) -> Reservations:
        """What is spent and held of the money."""

    @property
    def in_flight(self) -> int:
        """Requests that have been sent and are not back."""

    @property
    def drains_in_seconds(self) -> float:
        """After how long a stop has ended at the latest."""

    @property
    def is_paused(self) -> bool:
        """Nothing new is sent until it is told to go on."""

    @property
    def is_stopping(self) -> bool:
        """Nothing new is sent any more."""

    def part_of(self, amount: int) -> int:
        """What of an amount that is the whole job's is for its rows."""

    def is_overruled(self, limit: str) -> bool:
        """Whether every endpoint has a limit of this name of its own."""

    def set_job(self, job: Job) -> None:
        """Other limits from now on. Raises InputError where these cannot be."""

    def set_caps(self, caps: Budget) -> None:
        """Other caps from now on."""

    def set_paused(self, *, is_paused: bool) -> None:
        """No new requests until it is set otherwise."""

    def stop(self, halt: Halt) -> None:
        """No new requests from now on; what is in flight is waited for."""


Order = Callable[[Steerable, Mapping[str, Any], str], list[dict[str, Any]]]
"""Does what is asked for whoever is named; returns what it changed: key, old, new."""


def set_values(steering: Steerable, question: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
    """Other limits and caps from now on. Raises InputError with every mistake; then nothing has changed."""
    if steering.is_one_of_several:
        raise InputError(LEASED)
    values = question.get("values")
    if not isinstance(values, dict) or not values:
        raise InputError(f"name what is to change, as in limits.concurrency=200; it may be {', '.join(SETTABLE)}")
    unknown = [Mistake(_unknown(key), key=key) for key in values if key not in SETTABLE]
    if unknown:
        raise InputError(unknown)
    before, job = steering.job, steering.job.with_overrides(values, source=SOURCE)
    refusals = [*_refused_caps(job, steering, values), *_overruled(steering, values)]
    if refusals:
        raise InputError(refusals)
    steering.set_job(job)
    if any(key.startswith("budget.") for key in values):
        steering.set_caps(_caps_of(job, steering))
    return [{"key": key, "old": value_of(before, key), "new": value_of(job, key)} for key in values]


def pause(steering: Steerable, question: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
    """No new requests until `resume`."""
    return _paused(steering, is_paused=True)


def resume(steering: Steerable, question: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
    """Go on after a pause."""
    return _paused(steering, is_paused=False)


def stop(steering: Steerable, question: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
    """An orderly end: no new requests, what is in flight is waited for."""
    was_stopping = steering.is_stopping
    steering.stop(Halt(EXIT_TERMINATED, f"stopped by {user}"))
    return [{"key": "stop", "old": was_stopping, "new": True}]


ORDERS: Mapping[str, Order] = {"set": set_values, "pause": pause, "resume": resume, "stop": stop}


def _paused(steering: Steerable, *, is_paused: bool) -> list[dict[str, Any]]:
    before = steering.is_paused
    steering.set_paused(is_paused=is_paused)
    return [{"key": "pause", "old": before, "new": is_paused}]


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, SETTABLE, n=1)
    if near:
        return f"there is nothing of this name to set; did you mean {near[0]}?"
    return f"it cannot change while the run goes on; what can: {', '.join(SETTABLE)}"


def _refused_caps(job: Job, steering: Steerable, values: Mapping[str, Any]) -> list[Mistake]:
    caps, purses = _caps_of(job, steering), steering.purses
    units = (("usd", caps.max_usd_pico, purses.usd), ("credits", caps.max_credits_pico, purses.credits))
    told = ((unit, _cap_problem(unit, cap, purse)) for unit, cap, purse in units if cap is not None)
    mistakes = [Mistake(problem, key=f"budget.max_cost_{unit}") for unit, problem in told if problem]
    return [mistake for mistake in mistakes if mistake.key in values]


def _cap_problem(unit: str, cap_pico: int, purse: Purse) -> str | None:
    if purse.has_met_unbounded:
        return (
            f"what a request costs in {unit} is not known, so nothing could be reserved under a cap: the run "
            "would end at once"
        )
    if cap_pico >= purse.committed_pico:
        return None
    spent, held = _money(purse.spent_pico, unit), _money(purse.committed_pico - purse.spent_pico, unit)
    gone = f"{spent} spent and {held} held" if purse.spent_pico else f"{held} spent, or held"
    return (
        f"{_money(cap_pico, unit)} is less than what is gone: {gone} for requests in flight or of unknown "
        "outcome; `stop` ends the run"
    )


def _caps_of(job: Job, steering: Steerable) -> Budget:
    return caps_of(job.budget.max_cost_usd, job.budget.max_cost_credits, steering.part_of)


def _overruled(steering: Steerable, values: Mapping[str, Any]) -> list[Mistake]:
    """A limit per minute that every endpoint has its own of would change nothing; places are the job's anyway."""
    keys = [key for key in values if key.endswith("_per_minute")]
    return [
        Mistake("every endpoint of the job has its own, which goes before it", key=key)
        for key in keys
        if steering.is_overruled(key.removeprefix("limits."))
    ]


def _money(pico: int, unit: str) -> str:
    amount = from_pico(pico)
    return money(amount, None) if unit == "usd" else money(None, amount)
