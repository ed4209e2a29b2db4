"""What people have told the sessions of a run: kept in job.json, and told again where it no longer holds.

The job file is the contract: a value that was set while a session ran holds until that session ends. `steering` in
job.json has `now`, how the latest session was set in the end, and `log`, the last MOST_KEPT times that anything
was told, each with `at`, `by`, and what it changed.

Of a job by several workers the same stands beside its grants as long as no run is merged, with `goes_on`: whether
whoever takes the place of a killed coordinator goes on with what was set, as its workers do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crun_batch.console.words import one_line
from crun_batch.paths import is_there
from crun_batch.store.directory import STEERING_NAME, RunDirectory, leases_folder, read_json

if TYPE_CHECKING:
    from crun_batch.load.job.job import Job

MOST_KEPT = 1000
SETTABLE = (
    "limits.concurrency",
    "limits.requests_per_minute",
    "limits.tokens_per_minute",
    "budget.max_cost_usd",
    "budget.max_cost_credits",
)
"""Keys of the job file that may change while a session runs; the others shape what has been sent already."""
NOTHING_TOLD: Mapping[str, Any] = {"paused": None, "values": {}, "stopped": None}
"""How a session stands that nobody has told anything."""


def steering_begun(document: Mapping[str, Any]) -> dict[str, Any]:
    """What job.json says of it at the start of a session: the log goes on, what was set is over."""
    return {"now": dict(NOTHING_TOLD), "log": document.get("steering", {}).get("log", [])}


def steering_after(steering: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The same once more was told: `do`, `at`, `by`, and of `set` the `changes` (key, old, new)."""
    now, mark = dict(steering["now"]), {"at": told["at"], "by": told["by"]}
    if told["do"] == "set":
        former = now["values"]
        now["values"] = {
            **former,
            **{
                one["key"]: {
                    "value": one["new"],
                    "was": former.get(one["key"], {"was": one["old"]})["was"],
                    **mark,
                }
                for one in told["changes"]
            },
        }
    elif told["do"] == "stop":
        now["stopped"] = now["stopped"] or mark
    else:
        now["paused"] = mark if told["do"] == "pause" else None
    return {"now": now, "log": [*steering["log"], dict(told)][-MOST_KEPT:]}


def steering_now(directory: RunDirectory) -> dict[str, Any]:
    """How the running session, or else the last one, was steered: `paused`, `values`, `stopped`."""
    document = read_json(directory.job) if directory.has_job else {}
    return {**NOTHING_TOLD, **document.get("steering", {}).get("now", {})}


def told_to_workers(leases: Path) -> dict[str, Any]:
    """What people have told the workers of a job, as it stands beside their leases. Raises RunDamaged."""
    path = leases / STEERING_NAME
    return read_json(path) if is_there(path) else {**steering_begun({}), "goes_on": False}


def as_set(job: Job, steering: Mapping[str, Any]) -> Job:
    """The job with what was set of it; where it says something else than it did then, that is newer, and holds."""
    return job.with_overrides({key: one["value"] for key, one in what_holds(job, steering).items()})


def what_holds(job: Job, steering: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What was set of a job whose file says the same of it as it did then, by key."""
    told = steering["now"]["values"]
    return {key: one for key, one in told.items() if value_of(job, key) == one["was"]}


def job_of_workers(job: Job) -> Job:
    """The job as people have set it for its workers. Raises RunDamaged."""
    return as_set(job, told_to_workers(leases_folder(job.output.dir)))


def settings_now(directory: RunDirectory) -> dict[str, Any]:
    """The SETTABLE values of the running session: as it was told, else as its job says. Raises RunDamaged."""
    document = read_json(directory.job)
    told = {**NOTHING_TOLD, **document.get("steering", {}).get("now", {})}["values"]
    job = document["job"]
    return {
        key: told[key]["value"] if key in told else job[section].get(name)
        for key in SETTABLE
        for section, name in [key.split(".")]
    }


def tell_what_no_longer_holds(
    document: Mapping[str, Any], value_of: Callable[[str], Any], say: Callable[[str], None]
) -> None:
    """Say what was set while the last session ran and is another value now: `value_of` gives today's by key."""
    now = {**NOTHING_TOLD, **document.get("steering", {}).get("now", {})}
    for key, one in now["values"].items():
        today = value_of(key)
        if today != one["value"]:
            say(
                f"{key} was set to {written(one['value'])} while the last session ran ({by_whom(one)}); the job "
                f"says {written(today)}, which holds now: to keep it, change the job, or add "
                f"--set {key}={written(one['value'])}"
            )
    if now["paused"] is not None:
        say(f"the last session was paused when it ended ({by_whom(now['paused'])}); this one is not")


def value_of(job: Job, key: str) -> Any:
    """The value of a key of `limits` or `budget`, as JSON: a number, an amount as decimal text, None for none."""
    section, name = key.split(".")
    value = getattr(getattr(job, section), name)
    return f"{value.normalize():f}" if isinstance(value, Decimal) else value


def written(value: Any) -> str:
    """A value as it is written after `KEY=`."""
    return "null" if value is None else str(value)


def by_whom(mark: Mapping[str, Any]) -> str:
    """2026-11-28 14:02 by alice."""
    return one_line(f"{str(mark['at'])[:16].replace('T', ' ')} UTC by {mark['by']['user']}")
