"""How a run is to be gone through: what is no part of the job itself, and the short names of parts of the job."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, field

from crun_batch.console.progress import Progress
from crun_batch.errors import InputError
from crun_batch.gateway.http.wire import Wire
from crun_batch.load.job.job import Job
from crun_batch.session.recorder import Clock
from crun_batch.state.platform import Ground

SYSTEM_CLOCK = Clock(epoch_us=lambda: time.time_ns() // 1000, monotonic=time.monotonic)


def _silent(_: object) -> None:
    """Nobody watches."""


class Options(Struct, frozen=True):
    """How a run is to be gone through: what is no part of the job itself."""

    overrides: Mapping[str, object] = {}
    """Dotted job keys with their values, as from --set."""
    simulate: bool = False
    simulator: Mapping[str, Any] = {}
    """Settings of the bundled simulator."""
    pilot: int | None = None
    retry: frozenset[str] = frozenset()
    """Statuses and error kinds whose finished units are asked again."""
    until_budget: bool = False
    redo_changed: bool = False
    confirm: Callable[[Mapping[str, Any]], bool] | None = None
    """Asked with the estimate (as `estimate` gives it) before anything is sent; None: never asks."""
    say: Callable[[str], None] = _silent
    watch: Callable[[Progress], None] | None = None
    """Shown where the run is, twice a second while it sends and once at the end."""
    tick: Callable[[int], None] = _silent
    """Told how many rows the estimate has read."""
    resume_command: str | None = None
    handle_signals: bool = True
    clock: Clock = SYSTEM_CLOCK
    wire: Callable[[Job], Wire] | None = None
    ground: Ground = Ground()
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)


JOB_KEYS = {
    "limit": "input.limit",
    "max_cost_usd": "budget.max_cost_usd",
    "max_cost_credits": "budget.max_cost_credits",
    "output_dir": "output.dir",
}
"""Short names of overrides in Python and on the command line."""
REPLACED_WHOLE = ("output_schema", "sweep")
"""Mappings that an override in Python replaces; the keys of the others are laid over the job's."""


def options_of(overrides: Mapping[str, Any]) -> Options:
    """Keyword arguments of the Python API as options. Raises InputError for a name that nothing takes."""
    own = {name: value for name, value in overrides.items() if name in Options.__struct_fields__}
    keys = {JOB_KEYS[name]: value for name, value in overrides.items() if name in JOB_KEYS and value is not None}
    for name, value in overrides.items():
        if name in own or name in JOB_KEYS:
            continue
        if name not in Job.model_fields:
            known = ", ".join(sorted([*Options.__struct_fields__, *JOB_KEYS, *Job.model_fields]))
            raise InputError(f"run() takes no argument {name!r}; it takes {known}")
        merges = isinstance(value, Mapping) and name not in REPLACED_WHOLE
        keys |= {f"{name}.{key}": part for key, part in value.items()} if merges else {name: value}
    return Options(**{**own, "overrides": {**keys, **own.get("overrides", {})}})
