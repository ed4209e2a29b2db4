"""One seed: a job, a gateway with faults, kills; played to the end."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct, field

from crun_batch import RunOptions
from crun_batch.api.run_handle import Run
from crun_batch.errors import DiskFailed, RefusedToStart
from crun_batch.load.job.job import Job
from crun_batch.options import Platform
from crun_batch.pipeline import run_job
from crun_batch.store.directory import RunDirectory
from crun_batch.store.events import EndEvent, Event, HeadEvent, StartEvent
from crun_batch.store.journal import JournalSettings
from crun_batch.store.recover import late_events, replay
from crun_batch.workload.loading import load_workload

from .gateway import BASE_URL, MODEL, NOT_CONNECTED, STORMS, Faults, Storm, World, settings_of
from .loop import LoopSyncer, VirtualLoop, run_virtual, virtual_clock
from .mortal import DEADLY, Killed, MortalDisk
from .pages import Platters

Row = dict[str, Any]
API_KEY = "ak_sim_0123456789abcdef"
FINISHED = (0, 1)
MOST_SESSIONS = 60
DAY_US = 86_400_000_000
HARMLESS = ("500", "502", "504", "408", "409", NOT_CONNECTED, "reset_before", "code_500", "error_in_200")
BILLED = ("reset_after", "close", "stall", "stall_body", "truncated", "malformed", "empty", "wrong_type", "drip")
FINAL = ("400", "422", "content_filter", "501")


class Kill(Struct, frozen=True):
    """How a session ends: at which of its disk operations, and whether the power goes too."""

    at: int
    when: str
    power_cut: bool


class Scenario(Struct, frozen=True):
    """All that a seed decides."""

    seed: int
    rows: int
    concurrency: int
    segment_bytes: int
    faults: Faults
    gateway_concurrency: int | None
    kills: tuple[Kill, ...]
    max_cost_credits: str | None
    clock_jumps: tuple[tuple[float, int], ...]
    key: str = "row"
    """The id: a column of the table, or the rows' positions."""
    calm_segment_bytes: int = 2**26
    """Of the uninterrupted run: where the journal is cut must make no difference."""
    temperatures: tuple[float, ...] = ()
    """The variants of a sweep; none: no sweep."""


class Played(Struct):
    """What came of a job, after all its sessions."""

    folder: Path
    world: World
    exit_codes: list[int | None] = field(default_factory=list)
    """Of each session; None: killed."""
    deaths: list[str] = field(default_factory=list)
    lost_starts: int = 0
    """Start records that power cuts took."""
    recorded: dict[int, bytes] = field(default_factory=dict)
    """Serial of every end that was on the disk at a kill, and the digest of its body."""
    seconds: float = 0.0


def drawn(seed: int) -> Scenario:
    """The scenario of a seed."""
    chance = random.Random(seed)
    kinds = chance.sample([*HARMLESS, *BILLED], chance.randint(0, 7)) + chance.sample(FINAL, chance.randint(0, 1))
    shares = {kind: round(chance.uniform(0.01, 0.08), 3) for kind in kinds}
    if chance.random() < 0.1:
        shares["402"] = 0.01
    storms = tuple(
        Storm(begins, begins + chance.uniform(1, 30), chance.choice(STORMS))
        for begins in (chance.uniform(0, 20) for _ in range(chance.choice((0, 0, 1, 2))))
    )
    power = chance.choice((0.0, 0.0, 0.0, 0.6))
    ends = (*DEADLY, *DEADLY, "full", "short", "sync")
    kills = tuple(
        Kill(int(2 ** chance.uniform(0, 7.3)), chance.choice(ends), chance.random() < power)
        for _ in range(chance.randint(1, 5))
    )
    segment_bytes = chance.choice((4_000, 15_000, 2**26))
    return Scenario(
        seed=seed,
        rows=chance.randint(1, chance.choice((8, 16, 40))),
        concurrency=chance.choice((1, 2, 5, 16)),
        segment_bytes=segment_bytes,
        faults=Faults(seed, shares, storms),
        gateway_concurrency=chance.choice((None, None, 3)),
        kills=kills,
        max_cost_credits=f"{chance.uniform(1, 10):.2f}" if chance.random() < 0.2 else None,
        clock_jumps=tuple(
            (chance.uniform(0, 60), chance.choice((-DAY_US, DAY_US))) for _ in range(chance.randint(0, 2))
        ),
        key=chance.choice(("row", "row", "row", "row", "review_id")),
        calm_segment_bytes=chance.choice((2**26, 2**26, segment_bytes)),
        temperatures=(0.0, 0.7) if chance.random() < 0.15 else (),
    )


def table_of(scenario: Scenario) -> pl.DataFrame:
    """Rows with a text each of a length of its own."""
    chance = random.Random(scenario.seed + 1)
    texts = [f"row {row}: " + "word " * chance.randint(1, 60) for row in range(scenario.rows)]
    return pl.DataFrame({"review_id": [f"r{row}" for row in range(scenario.rows)], "text": texts})


def job_of(scenario: Scenario, folder: Path) -> Job:
    """The job that a scenario runs in that folder."""
    budget = {"max_cost_credits": scenario.max_cost_credits} if scenario.max_cost_credits else {}
    return Job(
        name="simulated",
        input={} if scenario.key == "row" else {"id": scenario.key},
        endpoint={"base_url": BASE_URL, "api_key_env": "SIMULATED_KEY"},
        model=MODEL,
        prompt={"user": "Label this: {{ text }}"},
        params={"max_output_tokens": 60},
        sweep={"params.temperature": list(scenario.temperatures)} if scenario.temperatures else {},
        limits={
            "concurrency": scenario.concurrency,
            "attempt_timeout_seconds": 60,
            "max_attempts": 4,
            "stop_at_error_rate": 1.0,
            "give_up_after_minutes": 600,
        },
        budget=budget,
        prices={"models": {MODEL: PRICES}},
        output={"dir": str(folder)},
    )


SEALED = ["request_hash", "error_kind", "http_status"]
PRICES = {
    "currency": "credits",
    "input_per_mtok": "513.7",
    "output_per_mtok": "3001.3",
    "minimum_per_request": "0.01",
}


class Stage:
    """One folder, one gateway, one job: sessions follow each other here, each in a process that may be killed."""

    def __init__(self, scenario: Scenario, folder: Path, digests: dict[str, bytes] | None = None) -> None:
        self.scenario = scenario
        self.table = table_of(scenario)
        self.job = job_of(scenario, folder)
        settings = settings_of(scenario.seed, concurrency=scenario.gateway_concurrency, output_tokens_median=15.0)
        self.world = World(settings, scenario.faults, random.Random(scenario.seed + 2))
        self.played = Played(folder, self.world)
        self.digests = digests or digests_of(self.job, self.table)
        self.platters = Platters()
        self.power = random.Random(scenario.seed + 3)
        self.now = 0.0

    def session(self, kill: Kill | None) -> int | None:
        """Run until it ends or is killed; its exit code."""
        loop = VirtualLoop(self.now)
        disk = MortalDisk(*((kill.at, kill.when) if kill is not None else ()), platters=self.platters)
        platform = Platform(
            disk=disk,
            journal=JournalSettings(segment_bytes=self.scenario.segment_bytes, reserve_bytes=2**16),
            syncer=lambda: LoopSyncer(loop, disk),
            in_place=True,
            transport=self.world.transport(),
        )
        options = RunOptions(
            handle_signals=False,
            until_budget=True,
            clock=virtual_clock(loop, self.scenario.clock_jumps),
            wire=lambda job: self.world,
            platform=platform,
            environ={"SIMULATED_KEY": API_KEY},
        )
        exit_code: int | None = None
        try:
            summary = run_virtual(loop, run_job(self.job, self.table, options))
            run = Run(Path(summary["output_dir"]), summary)
            exit_code = run.exit_code
        except RefusedToStart as error:
            exit_code = error.exit_code
        except Killed:
            self.played.deaths.append(disk.died_in)
            self._after_death(kill, exit_code)
        except DiskFailed as error:
            exit_code = error.exit_code
            self._after_death(kill, exit_code)
        finally:
            self.now = loop.time()
            disk.bury()
        self.played.exit_codes.append(exit_code)
        self.played.seconds = self.now
        return exit_code

    @cached_property
    def results(self) -> list[Row]:
        """What users see of the results; read once, when all sessions have been."""
        return Run(self.played.folder, {}).results().collect().to_dicts()

    @cached_property
    def attempts(self) -> list[Row]:
        """What users see of the attempts; read once, when all sessions have been."""
        return Run(self.played.folder, {}).attempts().collect().to_dicts()

    def _after_death(self, kill: Kill | None, exit_code: int | None) -> None:
        run = RunDirectory(self.played.folder)
        found = dict(recorded_ends(run))
        if kill is not None and kill.power_cut:
            before, starts = found, starts_in(run)
            if exit_code is not None:
                self.played.deaths.append("power cut after a disk that failed")
            self.platters.power_cut(self.power)
            found = dict(recorded_ends(run))
            self.played.lost_starts += len(starts - starts_in(run))
            for serial in before.keys() - found.keys():
                self.played.recorded.pop(serial, None)
        self.played.recorded |= {serial: digest for serial, (digest, _) in found.items()}
        counts = Counter(request for _, request in found.values() if request) + self._sealed_ends(run)
        self.world.gateway.recorded = Counter({self.digests[request]: count for request, count in counts.items()})

    def _sealed_ends(self, run: RunDirectory) -> Counter[str]:
        files = [run.attempt_file(number) for number in run.sealed_files() if number not in run.segments()]
        if not files:
            return Counter()
        frame = pl.concat([pl.read_parquet(file, columns=SEALED) for file in files])
        in_storm = pl.col("http_status").is_in([int(status) for status in STORMS], nulls_equal=True)
        kept = frame.filter(pl.col("error_kind").ne_missing("unknown_outcome"), ~in_storm)
        return Counter(kept["request_hash"].to_list())


def recorded_ends(run: RunDirectory) -> Iterator[tuple[int, tuple[bytes, str]]]:
    """(serial, (digest of the body, request hash)) of every end in the live segments; no hash for a storm's."""
    starts: dict[int, str] = {}
    for event in (*live_events(run), *late_events(run)):
        if isinstance(event, StartEvent):
            starts[event.n] = event.request_hash
        elif isinstance(event, EndEvent):
            counted = "" if str(event.http_status) in STORMS else starts.get(event.n, "")
            yield event.n, (hashlib.sha256(event.raw_body()).digest(), counted)
        elif hasattr(event, "in_flight"):
            starts |= {start.n: start.request_hash for start in event.in_flight}


def live_events(run: RunDirectory) -> Iterator[Event]:
    """The events of the segments that are not sealed."""
    return (event for number in run.segments() for event in replay(run.segment(number)))


def starts_in(run: RunDirectory) -> set[int]:
    """Serials of the starts in the live segments, and of those that the segments' heads name."""
    heads = (event.in_flight for event in live_events(run) if isinstance(event, HeadEvent))
    named = {start.n for starts in heads for start in starts}
    return named | {event.n for event in live_events(run) if isinstance(event, StartEvent)}


def digests_of(job: Job, table: pl.DataFrame) -> dict[str, bytes]:
    """Request hash -> what the gateway knows the request by."""
    workload = load_workload(job, table)
    rows = [row for rows in workload.table.rows(workload.columns) for row in rows]
    requests = [variant.request(row) for variant in workload.variants for row in rows]
    return {request.request_hash: hashlib.sha256(request.body).digest() for request in requests}


def play(
    scenario: Scenario, folder: Path, *, kills: tuple[Kill, ...], digests: dict[str, bytes] | None = None
) -> Stage:
    """All sessions: first those that are killed, then until the run has finished or no money is left."""
    stage = Stage(scenario, folder, digests)
    for kill in kills:
        if stage.session(kill) in FINISHED:
            break
    for _ in range(MOST_SESSIONS):
        before = len(stage.played.exit_codes)
        posts = stage.world.posts
        code = stage.session(None)
        if code in FINISHED or (code is not None and before > 2 and stage.world.posts == posts):
            return stage
    raise AssertionError(f"not finished after {len(stage.played.exit_codes)} sessions: {stage.played.exit_codes}")
