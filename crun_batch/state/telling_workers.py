"""Telling a job that is run by several workers something: who leases it to them, or else each of its shards.

Shards that are run by hand have nobody between them: all are told, or it is said whom it did not reach.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crun_batch.errors import NotRunning
from crun_batch.paths import is_folder
from crun_batch.state.finding import runs_of, shards_instead
from crun_batch.state.telling import tell
from crun_batch.store.directory import LEASES, leases_folder
from crun_batch.store.holder import holder

PATIENCE_SECONDS = 10.0
"""How long a worker that is about to start, or to end, is waited for."""
TRIES_EVERY_SECONDS = 0.1


def workers_of(path: Path, *, simulate: bool) -> list[Path]:
    """The shards, of a job file or of the run directory that is to be, in which sessions run now.

    None where the job has its own run, or none of its shards runs.
    """
    found = shards_instead(path, holder, simulate=simulate)
    return [] if found is None else found.places


def giver_of_leases(path: Path, *, simulate: bool) -> Path | None:
    """Where who leases a job to its workers can be told something; None: nobody does now.

    `path`: a job file, or the run directory that is to be.
    """
    runs = [] if is_folder(path) else runs_of(path, simulate=simulate)
    return next((place for place in map(leases_folder, runs) if holder(place) is not None), None)


def tell_giver(place: Path, question: Mapping[str, Any]) -> dict[str, Any]:
    """What it answers, once all workers hold to it. Raises NotRunning, and what `tell` raises."""
    answer = _answer(place, question, time.monotonic() + PATIENCE_SECONDS)
    if answer is None:
        raise NotRunning(f"{place}: the job has just ended; nothing was changed")
    return {**answer, "output_dir": str(place).removesuffix(LEASES)}


def tell_all(places: Sequence[Path], question: Mapping[str, Any]) -> dict[str, Any]:
    """What the first of them answers, with what all of them have in flight. Telling them twice is telling once.

    Raises NotRunning where one could not be reached, or none runs any more; what `tell` raises.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    answers = [answer for place in places if (answer := _answer(place, question, until)) is not None]
    if not answers:
        raise NotRunning(f"{places[0]}: no worker of this job runs any more; nothing was changed")
    return {**answers[0], "in_flight": sum(answer["in_flight"] for answer in answers)}


def _answer(place: Path, question: Mapping[str, Any], until: float) -> dict[str, Any] | None:
    """None: its session has ended."""
    while True:
        try:
            return tell(place, question)
        except NotRunning:
            if holder(place) is None:
                return None
            if time.monotonic() >= until:
                raise
        time.sleep(TRIES_EVERY_SECONDS)
