"""One seed of the batch lane in virtual time: a job, a gateway that sells batches badly, kills; played to the end.

The gateway is the simulator's, its clock the loop's; the process dies at operations of its disk and between a call
to the gateway and its reply; some come back when the gateway has what batches brought no more. Some jobs send live
what batches leave undone. What must hold is in `batch_laws`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import polars as pl
from msgspec import Struct, structs

from crun_batch import RunOptions
from crun_batch.api.run_handle import Run
from crun_batch.errors import DiskFailed, RefusedToStart
from crun_batch.load.job.job import Job
from crun_batch.options import Platform
from crun_batch.pipeline import run_job
from crun_batch.records import Fault, Response
from crun_batch.simulator.batches.batch import Batch
from crun_batch.simulator.batches.faults import hits
from crun_batch.simulator.connection import Delivery, ReceivedRequest
from crun_batch.simulator.gateway import SimulatedGateway
from crun_batch.simulator.ledger import Charge
from crun_batch.store.batches import read_batches
from crun_batch.store.directory import RunDirectory
from crun_batch.store.journal import JournalSettings
from tests.chaos.batch_job import FORMS

from .gateway import BASE_URL, MODEL, arrival_of, parsed, settings_of
from .loop import EPOCH_US, LoopSyncer, VirtualLoop, run_virtual, virtual_clock
from .mortal import DEADLY, Killed, MortalDisk
from .pages import Platters
from .play import PRICES, Kill

MOST_SESSIONS = 60
STRANGER = "stranger"
KEPT_SECONDS = 6 * 3600.0
"""How long the gateway has what a batch brought, where a run is left alone for longer."""
LINE_FAULTS = ("line_errors", "missing", "doubled", "expired")
BATCH_FAULTS = ("failed_lines", "output_gone", "shuffled")
CALL_FAULTS = ("upload_lost", "create_lost", "create_failed")


class BatchScenario(Struct, frozen=True):
    """All that a seed decides."""

    seed: int
    form: str
    rows: int
    max_requests: int
    faults: dict[str, float]
    batch_seconds: float
    list_lag_seconds: float
    enqueued_tokens: int | None
    kills: tuple[Kill, ...]
    dies_in_calls: tuple[int, ...]
    """Of each session that is to be killed in a call: at which one; 0: in none."""
    turns: int
    segment_bytes: int
    cancels_at: tuple[int, ...] = ()
    """At which calls to the gateway, of all sessions, somebody else cancels every batch just before."""
    cancel_seconds: float = 0.0
    """How long a batch that is to be cancelled still works."""
    strangers_at: tuple[int, ...] = ()
    """At which batches of ours somebody else with the same key makes one of as many requests."""
    lane: str = "batch"
    live_faults: dict[str, float] = {}
    """What goes wrong with requests that go live."""
    is_left_long: bool = False
    """Whether a killed run goes on only when the gateway has what batches have brought until then no more."""


def drawn(seed: int, forms: Sequence[str] = tuple(FORMS)) -> BatchScenario:
    """The scenario of a seed; the forms take turns."""
    chance = random.Random(seed)
    faults: dict[str, float] = {}
    for kinds, most in ((LINE_FAULTS, 0.3), (BATCH_FAULTS, 0.3), (CALL_FAULTS, 0.5)):
        for kind in chance.sample(kinds, chance.randint(0, len(kinds))):
            faults[kind] = round(chance.uniform(0.05, most), 3)
    kills = tuple(
        Kill(int(2 ** chance.uniform(0, 6.5)), chance.choice(DEADLY), chance.random() < 0.25)
        for _ in range(chance.randint(0, 5))
    )
    return BatchScenario(
        seed=seed,
        form=forms[seed % len(forms)],
        rows=chance.randint(1, chance.choice((6, 12, 30))),
        max_requests=chance.choice((1, 3, 7, 50)),
        faults=faults,
        batch_seconds=chance.choice((0.0, 30.0, 3600.0, 20_000.0)),
        list_lag_seconds=chance.choice((0.0, 0.0, 20.0, 55.0)),
        enqueued_tokens=chance.choice((None, None, None, 150, 600)),
        kills=kills,
        dies_in_calls=tuple(chance.choice((0, 0, chance.randint(1, 8), chance.randint(6, 20))) for _ in kills),
        turns=chance.choice((1, 1, 1, 2)),
        segment_bytes=chance.choice((4_000, 2**26)),
        cancels_at=tuple(chance.randint(3, 30) for _ in range(chance.choice((0, 0, 1, 3)))),
        cancel_seconds=chance.choice((0.0, 30.0, 7_200.0)),
        strangers_at=tuple(chance.randint(1, 8) for _ in range(chance.choice((0, 2, 4)))),
        lane=chance.choice(("batch", "batch-then-live")),
        live_faults=chance.choice(({}, {}, {"503": 0.3}, {"500": 0.2, "429": 0.2})),
        is_left_long=chance.random() < 0.3,
    )


class BatchWorld:
    """The gateway and its books; outlives the processes that are killed."""

    def __init__(self, scenario: BatchScenario) -> None:
        self.now = 0.0
        settings = settings_of(
            scenario.seed,
            gateway_style=FORMS[scenario.form].gateway_style,
            output_tokens_median=15.0,
            ledger_entries=True,
            batch_seconds=scenario.batch_seconds,
            batch_list_lag_seconds=scenario.list_lag_seconds,
            batch_enqueued_tokens=scenario.enqueued_tokens,
            batch_cancel_seconds=scenario.cancel_seconds,
            batch_faults=scenario.faults,
            batch_output_seconds=KEPT_SECONDS if scenario.is_left_long else None,
            faults=scenario.live_faults,
        )
        self.all_calls = 0
        self.cancels_at = scenario.cancels_at
        self.gateway = SimulatedGateway(settings, epoch_seconds=lambda: EPOCH_US / 1e6 + self.now)
        self.calls = 0
        self.dies_at = 0
        self.strangers_at = scenario.strangers_at
        self.created: Counter[str] = Counter()
        """Input file, or all that came inline -> how often a batch of it was accepted."""
        self.accepted: set[str] = set()
        self.kept: set[str] = set()
        """Of what batches brought that which is kept on the disk, and not said to be: its name at the gateway."""
        self.asked_again: set[str] = set()
        """That which was asked for nevertheless."""
        self.came_too_late: set[str] = set()
        """Batches of which something was asked for that the gateway had no more."""

    def transport(self, loop: VirtualLoop, disk: MortalDisk) -> httpx.MockTransport:
        """The calls that are no requests one by one."""

        async def handle(request: httpx.Request) -> httpx.Response:
            query = request.url.query.decode()
            headers = {name.lower(): value for name, value in request.headers.items()}
            received = ReceivedRequest(request.method, request.url.path, query, headers, request.content)
            delivery = await self.call(received, loop, disk)
            if delivery.end == "reset":
                raise httpx.ReadError("the connection was reset")
            status, found, body, _ = parsed(b"".join(data for _, data in delivery.steps))
            return httpx.Response(status or 500, headers=found, content=body)

        return httpx.MockTransport(handle)

    async def call(self, received: ReceivedRequest, loop: VirtualLoop, disk: MortalDisk) -> Delivery:
        """Each call takes a second, half of it before the gateway has heard it; the process may die in either."""
        self.calls += 1
        is_last = self.calls == self.dies_at
        await asyncio.sleep(0.5)
        if is_last and self.dies_at % 2:
            self._die(disk)
        self.now = loop.time()
        self.all_calls += 1
        if self.all_calls in self.cancels_at:
            self._cancel_all()
        before = len(self.gateway.batches.desk.batches)
        self._heed(received.path)
        delivery = self.gateway.handle(received)
        for batch in list(self.gateway.batches.desk.batches.values())[before:]:
            self.created[batch.terms.input_file_id or " ".join(one.custom_id for one in batch.lines)] += 1
            self.accepted.add(batch.terms.id)
            if sum(self.created.values()) in self.strangers_at:
                self._make_a_strangers(batch)
        await asyncio.sleep(0.5)
        if delivery.finished is not None:
            delivery.finished()
        if is_last:
            self._die(disk)
        return delivery

    @property
    def charges(self) -> list[Charge]:
        """What the books have against us."""
        return [one for one in self.gateway.ledger.entries if not str(one.custom_id).startswith(STRANGER)]

    def _heed(self, path: str) -> None:
        """Whether something is asked for that a batch has brought, and that is on the disk or here no more."""
        desk, names = self.gateway.batches.desk, set(path.split("/"))
        self.asked_again |= self.kept & names
        for batch in desk.batches.values():
            is_late = batch.ended_at is not None and desk.clock() > batch.ended_at + KEPT_SECONDS
            if is_late and names & {batch.left_files.get("output", batch.terms.id)}:
                self.came_too_late.add(batch.terms.id)

    def leave_long(self, folder: Path) -> None:
        """After a kill: what is on the disk stays there, and the gateway has it no more."""
        for entry in read_batches(RunDirectory(folder)).values():
            files = RunDirectory(folder).batch_files
            if entry.step == "ended":
                kept = ((name, files / f"{entry.number:06d}-{kind}.jsonl") for kind, name in entry.files)
                self.kept |= {name for name, path in kept if path.exists()}
        self.now += 2 * KEPT_SECONDS

    def _make_a_strangers(self, ours: Batch) -> None:
        """A batch that looks like ours from outside."""
        desk = self.gateway.batches.desk
        lines = [structs.replace(line, custom_id=f"{STRANGER}-{number}") for number, line in enumerate(ours.lines)]
        terms = structs.replace(ours.terms, id=desk.new_id(STRANGER), metadata=None, input_file_id=None)
        desk.batches[terms.id] = Batch(terms, lines, None)

    def is_gone(self, charge: Charge) -> bool:
        """Whether the file that its reply is in can no longer be read."""
        if charge.batch in self.came_too_late:
            return True
        left = "_output" if str(charge.batch).startswith("batch_") and self.gateway.batches.desk.files else ""
        return hits(self.gateway.settings, "output_gone", f"{charge.batch}{left}")

    def _cancel_all(self) -> None:
        """As somebody with the same key does it, in another window."""
        for name in self.accepted:
            self.gateway.batches.desk.batches[name].cancel(EPOCH_US / 1e6 + self.now)

    def _die(self, disk: MortalDisk) -> None:
        disk.dead = True
        disk.died_in = "a call to the gateway"
        raise Killed("in a call")


class LiveWire(Struct):
    """What goes live reaches the same gateway."""

    world: BatchWorld
    loop: VirtualLoop
    disk: MortalDisk

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Response | Fault:
        """Implements the wire."""
        lower = {name.lower(): value for name, value in headers.items()}
        received = ReceivedRequest("POST", url.removeprefix("http://127.0.0.1:9"), "", lower, body)
        delivery = await self.world.call(received, self.loop, self.disk)
        return arrival_of(b"".join(data for _, data in delivery.steps), "the connection was closed")

    async def close(self) -> None:
        """Nothing is open."""


class BatchPlayed(Struct):
    """What came of it."""

    run: Run
    world: BatchWorld
    kills: int
    exit_codes: list[int | None]
    power_cuts: int


def job_of(scenario: BatchScenario, folder: Path) -> Job:
    turns = ["Label this: {{ text }}", "Are you sure?"][: scenario.turns]
    return Job(
        name="batched",
        lane=scenario.lane,
        batch={
            "max_requests": scenario.max_requests,
            "look_every_seconds": 600.0,
            "form": FORMS[scenario.form].written,
        },
        endpoint={
            "base_url": BASE_URL,
            "api_key_env": "SIMULATED_KEY",
            "protocol": FORMS[scenario.form].protocol,
        },
        model=MODEL,
        prompt={"turns": turns} if scenario.turns > 1 else {"user": turns[0]},
        params={"max_output_tokens": 60},
        budget={"credits": "off"},  # else a dozen calls go before the first upload
        limits={
            "max_attempts": 12,
            "max_unknown_retries": 8,
            "stop_at_error_rate": 1.0,
            "give_up_after_minutes": 600,
        },
        prices={
            "models": {MODEL: {**PRICES, "minimum_per_request": 0}},
            "batch_share": 0.5,
            "credits_per_usd": 200,
        },
        output={"dir": str(folder)},
    )


def play(scenario: BatchScenario, folder: Path) -> BatchPlayed:
    """First the sessions that are killed, then others until the run has finished."""
    world, platters, power = BatchWorld(scenario), Platters(), random.Random(scenario.seed + 3)
    chance = random.Random(scenario.seed + 1)
    table = pl.DataFrame(
        {"text": [f"row {row}: " + "word " * chance.randint(1, 40) for row in range(scenario.rows)]}
    )
    played = BatchPlayed(Run(folder, {}), world, 0, [], 0)
    deaths: list[tuple[Kill | None, int]] = list(zip(scenario.kills, scenario.dies_in_calls, strict=True))
    deaths += [(None, 0)] * MOST_SESSIONS
    for kill, call in deaths:
        world.calls, world.dies_at = 0, call
        disk_kill = None if call else kill
        summary = _session(scenario, folder, table, world, platters, disk_kill)
        played.exit_codes.append(None if summary is None else summary["exit_code"])
        if summary is None:
            played.kills += 1
            if kill is not None and kill.power_cut and not call:
                platters.power_cut(power)
                played.power_cuts += 1
            if scenario.is_left_long:
                world.leave_long(folder)
        elif summary["status"] == "finished":
            return played
    raise AssertionError(f"not finished after {len(played.exit_codes)} sessions: {played.exit_codes}")


def _session(
    scenario: BatchScenario,
    folder: Path,
    table: pl.DataFrame,
    world: BatchWorld,
    platters: Platters,
    kill: Kill | None,
) -> Mapping[str, Any] | None:
    """The summary with which it ended; None: it was killed."""
    loop = VirtualLoop(world.now)
    disk = MortalDisk(*((kill.at, kill.when) if kill is not None else ()), platters=platters)
    platform = Platform(
        standstill_every_seconds=86_400.0,  # no process stands still here
        disk=disk,
        journal=JournalSettings(segment_bytes=scenario.segment_bytes, reserve_bytes=2**16),
        syncer=lambda: LoopSyncer(loop, disk),
        in_place=True,
        transport=world.transport(loop, disk),
        summary_every_seconds=600.0,  # else most operations of the disk, at which it dies, are these
    )
    options = RunOptions(
        handle_signals=False,
        clock=virtual_clock(loop),
        platform=platform,
        wire=lambda job: LiveWire(world, loop, disk),
        environ={"SIMULATED_KEY": "ak_sim_0123456789abcdef"},
    )
    try:
        summary: Mapping[str, Any] = run_virtual(loop, run_job(job_of(scenario, folder), table, options))
        return summary
    except RefusedToStart as error:
        return {"exit_code": error.exit_code, "status": "refused to start"}
    except (Killed, DiskFailed):
        return None
    finally:
        world.now = max(world.now, loop.time())
        disk.bury()
