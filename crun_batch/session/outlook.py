"""What is told of a session while it goes on: how much it has to do, and what summary.json says meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crun_batch.api import RUNNING, Place, summary_of
from crun_batch.options import Options
from crun_batch.preflight.pilot import Pilot
from crun_batch.session.source import open_units
from crun_batch.session.watching import Extent
from crun_batch.state.opening import Standing
from crun_batch.workload.workload import Workload


def extent_of(workload: Workload, standing: Standing, pilot: Pilot | None) -> Extent:
    """How many units are done and how many are to be; of a pilot only its own."""
    open_count = open_units(workload, standing.done)
    if pilot is None:
        return Extent(workload.selected_units - open_count, open_count)
    return Extent(0, pilot.open_rows * len(workload.variants) * workload.repeats)


def running_summary(
    workload: Workload, standing: Standing, options: Options
) -> Callable[[int, float], Mapping[str, Any]]:
    """What summary.json says while the session goes on."""
    place = place_of(workload, standing, options)
    open_before = open_units(workload, standing.done)

    def summary(finished_units: int, seconds: float) -> Mapping[str, Any]:
        account = standing.account
        open_count = open_before - finished_units
        return summary_of(account, place, RUNNING, open_count=open_count, seconds=account.seconds + seconds)

    return summary


def place_of(workload: Workload, standing: Standing, options: Options) -> Place:
    """What a summary says of the run that no sum can tell."""
    return Place(workload.job.name, standing.directory.path, options.resume_command, standing.pilot)
