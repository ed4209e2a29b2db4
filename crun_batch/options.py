"""How a job is run, beside what it asks: options of a session, its clock, the platform that it stands on."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from msgspec import Struct, field, structs

from crun_batch.console.progress import Progress
from crun_batch.errors import InputError, Mistake
from crun_batch.gateway.http.wire import Wire
from crun_batch.gateway.steering import Steer
from crun_batch.load.deadline import Deadline, deadline_of
from crun_batch.load.job.env_file import read_env_file
from crun_batch.load.job.job import Job
from crun_batch.load.job.places import Argument, dotted
from crun_batch.records import STATUSES, ErrorKind

if TYPE_CHECKING:
    import httpx

    from crun_batch.store.disk import Disk
    from crun_batch.store.journal import JournalSettings
    from crun_batch.store.syncer import Syncer


class Clock(Struct, frozen=True):
    """Time, passed in: the day's clock in microseconds since 1970, UTC, and monotonic seconds."""

    epoch_us: Callable[[], int]
    monotonic: Callable[[], float]
    rest: Callable[[float], None]
    """Stands still for so many seconds."""

    def epoch_seconds(self) -> float:
        """Seconds since 1970, UTC."""
        return self.epoch_us() / 1e6

    def now(self) -> datetime:
        """The moment, in UTC."""
        return datetime.fromtimestamp(self.epoch_seconds(), UTC)


SYSTEM_CLOCK = Clock(epoch_us=lambda: time.time_ns() // 1000, monotonic=time.monotonic, rest=time.sleep)


class Environ(dict[str, str]):
    """Variables of the process. Each value may be a secret: the repr, which tracebacks print, shows none."""

    def __repr__(self) -> str:
        return f"Environ({len(self)} variables)"


def _silent(_: object) -> None:
    """Nobody watches."""


class Shard(Struct, frozen=True):
    """One of `count` parts of a job's rows; `number` counts from 1."""

    number: int
    count: int
    is_leased: bool = False
    """One process gives all shards their parts while they run; False: each has its own from the start."""

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def folder_name(self, name: str) -> str:
        """The name of its run directory, after that of the job's."""
        return f"{name}-shard-{self.number}-of-{self.count}"

    def share_of(self, amount: int) -> int:
        """Its part of what all shards have together: the parts of all of them add up to exactly that.

        Where it is leased, all of it: what of it the shard may use, the lease says.
        """
        if self.is_leased:
            return amount
        return amount * self.number // self.count - amount * (self.number - 1) // self.count


def shard_from(text: str | Shard) -> Shard:
    """The shard that `2/4` means. Raises InputError for any other text."""
    if isinstance(text, Shard):
        return text
    number, slash, count = (part.strip() for part in text.partition("/"))
    if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return Shard(int(number), int(count))
    raise InputError(f"--shard takes NUMBER/COUNT, counted from 1, such as 2/4 of 1/4 to 4/4; not {text!r}")


class Platform(Struct, frozen=True):
    """The defaults are the real things."""

    disk: Disk | None = None
    journal: JournalSettings | None = None
    syncer: Callable[[], Syncer] | None = None
    """Makes what syncs the journal; None: a thread."""
    in_place: bool = False
    """Read the table and seal segments where they are asked for, not in threads: what a simulation needs."""
    transport: httpx.AsyncBaseTransport | None = None
    """Carries the control calls (models, balance); None: the network."""
    batch_absent_seconds: float = 60.0
    """How long the list of batches must lack one, whose creation was not answered, before it is created again."""
    summary_every_seconds: float = 5.0
    """How often summary.json is replaced while requests are sent."""
    standstill_every_seconds: float = 5.0
    """How often this process looks whether it stood still meanwhile."""
    balance_every_seconds: float = 60.0
    """How often the balance is read while requests are sent."""
    balance_reads: int = 30
    """How often a pilot reads the balance at most, until it stands still."""
    balance_pause_seconds: float = 1.0
    """How long it waits between two of these readings."""


class RunOptions(Struct, frozen=True):
    """How a job is run: what is no part of the job itself."""

    overrides: Mapping[str, object] = {}
    """Dotted job keys with their values, as from --set."""
    allow_paths: tuple[str | Path, ...] = ()
    """Folders whose files rows and SQL may read, beside the job's own folder."""
    simulate: bool = False
    simulator: Mapping[str, Any] = {}
    """Settings of the bundled simulator."""
    simulators_at: tuple[str, ...] = ()
    """Addresses of simulators that somebody else has started, one for each endpoint; none: it is started here."""
    pilot: int | None = None
    retry: frozenset[str] = frozenset()
    """Statuses and error kinds whose finished units are asked again."""
    until_budget: bool = False
    redo_changed: bool = False
    shard: Shard | None = None
    """Only these of the selected rows; None: all of them."""
    correct_prices: bool = False
    """The job file's earlier prices were wrong: all that they priced is priced anew by today's."""
    confirm: Callable[[Mapping[str, Any]], bool] | None = None
    """Asked with the estimate (as `estimate` gives it) before anything is sent; None: never asks."""
    say: Callable[[str], None] = _silent
    watch: Callable[[Progress], None] | None = None
    """Shown where the run is, twice a second while it sends and once at the end."""
    progress: bool = False
    """Show a bar on standard error."""
    tick: Callable[[int], None] = _silent
    """Told how many rows the estimate has read."""
    resume_command: str | None = None
    handle_signals: bool = True
    clock: Clock = SYSTEM_CLOCK
    wire: Callable[[Job], Wire] | None = None
    deadline: Deadline | None = None
    """When it is to stop, as `until` and `max_minutes` say; None: when it is done."""
    metrics_port: int | None = None
    """Serve figures for Prometheus on this port of the loopback; 0: a free one."""
    otel: bool = False
    """Export figures by OpenTelemetry, to where its own variables say; needs the extra `otel`."""
    figures: Callable[[Callable[[], Any]], None] | None = None
    """Given what reads the session's figures (`session.metrics`), on its event loop, once it may send."""
    steer: Steer | None = None
    """Leases the session its part of the job's limits and money (`gateway.steering`); None: all is its own."""
    platform: Platform = Platform()
    may_lack_keys: bool = True
    """Of an estimate: whether a gateway whose key is missing is just not asked. False: as for a run, a mistake."""
    environ: Mapping[str, str] = field(default_factory=lambda: Environ(os.environ))
    env_file: str | Path | None = None
    """File of lines NAME=value: what `environ` lacks of them is added to it."""

    def __post_init__(self) -> None:
        if self.env_file is not None:
            variables = read_env_file(Path(self.env_file).expanduser())
            structs.force_setattr(self, "environ", Environ({**variables, **self.environ}))
        if not isinstance(self.environ, Environ):
            structs.force_setattr(self, "environ", Environ(self.environ))


AnyJob = Job | str | Path
"""A job, or where its file is."""
JOB_KEYS = {
    "limit": "input.limit",
    "max_cost_usd": "budget.max_cost_usd",
    "max_cost_credits": "budget.max_cost_credits",
    "output_dir": "output.dir",
}
"""Short names of overrides in Python and on the command line."""
DEADLINE_NAMES = ("until", "max_minutes")
"""Arguments that say when a run is to stop."""
RETRY_GROUPS = {"failed": frozenset(STATUSES) - {"ok"}, "all": frozenset(STATUSES)}
"""Names of several endings for `retry`: `failed` is every status but ok, `all` is every status."""
REPLACED_WHOLE = ("output_schema", "sweep")
"""Mappings that an override in Python replaces; the keys of the others are laid over the job's."""


def options_of(overrides: Mapping[str, Any], **named: Any) -> RunOptions:
    """Keyword arguments of the Python API as options. Raises InputError for a name that nothing takes.

    `named` are the arguments that a public function spells out: None and False, their defaults, say nothing.
    """
    given = {name: value for name, value in named.items() if value is not None and value is not False}
    overrides = {**given, **overrides}
    overrides, deadline = _deadline_in(overrides)
    fields = RunOptions.__struct_fields__
    overrides = {name: value for name, value in overrides.items() if name not in fields or value is not None}
    own = {name: value for name, value in overrides.items() if name in fields}
    own |= {name: read(own[name]) for name, read in _READ.items() if name in own}
    own |= {} if deadline is None else {"deadline": deadline}
    keys: dict[str, object] = {
        JOB_KEYS[name]: Argument(name, value)
        for name, value in overrides.items()
        if name in JOB_KEYS and value is not None
    }
    for name, value in overrides.items():
        if name in own or name in JOB_KEYS:
            continue
        if name not in Job.model_fields:
            raise InputError(_no_argument(name))
        merges = isinstance(value, Mapping) and name not in REPLACED_WHOLE
        parts = {dotted((name, str(key))): part for key, part in value.items()} if merges else {name: value}
        keys |= {key: Argument(name, part) for key, part in parts.items()}
    return RunOptions(**{**own, "overrides": {**keys, **own.get("overrides", {})}})


def _paths(given: str | Path | Collection[str | Path]) -> tuple[str | Path, ...]:
    return (given,) if isinstance(given, str | Path) else tuple(given)


def _pilot_rows(rows: Any) -> int:
    """How many rows a pilot sends. Raises InputError for what is no such number."""
    if isinstance(rows, bool) or not isinstance(rows, Integral) or rows < 1:
        raise InputError(Mistake(f"{rows!r}: a pilot sends a whole number of rows, at least 1", key="pilot"))
    return int(rows)


def _deadline_in(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], Deadline | None]:
    """The arguments without those that say when to stop, and what they say. Raises InputError."""
    others = {name: value for name, value in overrides.items() if name not in DEADLINE_NAMES}
    clock: Clock = overrides.get("clock") or SYSTEM_CLOCK
    return others, deadline_of(overrides.get("until"), overrides.get("max_minutes"), clock.now())


def _no_argument(name: str) -> str:
    known = sorted({*RunOptions.__struct_fields__, *JOB_KEYS, *DEADLINE_NAMES, *Job.model_fields})
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    keys = "a key of a section is given in its section, as in params={'max_output_tokens': 200}"
    return f"there is no argument {name!r}; {meant}{keys}; known are {', '.join(known)}"


def kinds(chosen: Collection[str]) -> frozenset[str]:
    """The statuses and error kinds of `retry`: names, or a text with commas between them; groups are expanded.

    Raises InputError for a kind that does not exist.
    """
    names = [part.strip() for part in chosen.split(",")] if isinstance(chosen, str) else list(chosen)
    known = [*RETRY_GROUPS, *STATUSES, *get_args(ErrorKind)]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise InputError(f"retry knows no {', '.join(map(repr, wrong))}; it knows {', '.join(known)}")
    return frozenset[str]().union(*(RETRY_GROUPS.get(name, {name}) for name in names))


_READ: Mapping[str, Callable[[Any], Any]] = {
    "retry": kinds,
    "shard": shard_from,
    "pilot": _pilot_rows,
    "allow_paths": _paths,
}
"""What is made of an argument that may be given in several ways."""
