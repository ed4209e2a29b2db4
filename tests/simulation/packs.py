"""Requests of several rows in virtual time: killed at any operation of their disk, with faults, and gone on with.

`python -m tests.simulation.packs` kills at every operation in three ways, with and without faults; `... 17` at
every 17th.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct, field, structs

from crun_batch import RunOptions
from crun_batch.api.run_handle import Run
from crun_batch.errors import DiskFailed
from crun_batch.load.job.job import Job
from crun_batch.options import Platform
from crun_batch.pipeline import run_job
from crun_batch.preflight.estimation import estimate_job
from crun_batch.store.directory import RunDirectory
from crun_batch.store.journal import JournalSettings
from crun_batch.store.verify import verify

from .gateway import BASE_URL, MODEL, Faults, World, settings_of
from .loop import LoopSyncer, VirtualLoop, run_virtual, virtual_clock
from .mortal import DEADLY, Killed, MortalDisk
from .pages import Platters
from .play import API_KEY, PRICES, recorded_ends

ROWS = 47
MOST_POINTS = 5_000
LABELS = "Label each text with one of: good, bad, mixed."
GARBLED: Mapping[str, float] = {"missing": 0.03, "doubled": 0.03, "renumbered": 0.02, "fenced": 0.3, "cut": 0.1}
FAILING: Mapping[str, float] = {"500": 0.1, "reset_after": 0.1, "malformed": 0.05, "400": 0.1}


class PackScene(Struct, frozen=True):
    """What a run meets: how it packs, what goes wrong at the gateway, where it is killed."""

    form: str = "lines"
    faults: Mapping[str, float] = {}
    pack_faults: Mapping[str, float] = {}
    at: int | None = None
    when: str = "before"
    seed: int = 0
    segment_bytes: int = 2**14
    keys: Mapping[str, Any] = {}
    """Of the job, in the place of those below."""
    gateway: Mapping[str, Any] = {}
    """Settings of the simulator."""


class PackFigures(Struct):
    """What was reached; the laws that broke are sentences."""

    kills: int = 0
    runs: int = 0
    charges: int = 0
    packed: int = 0
    broken: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        return (
            f"{self.kills:,} kills in {self.runs:,} runs, {self.charges:,} requests charged, "
            f"{self.packed:,} rows answered in packs; {len(self.broken)} laws broken"
        )


def job_of(scene: PackScene, folder: Path) -> Job:
    limits = {"concurrency": 3, "max_attempts": 4, "attempt_timeout_seconds": 60, "stop_at_error_rate": 1.0}
    tree: dict[str, Any] = {
        "name": "packed",
        "input": {"id": "id"},
        "endpoint": {"base_url": BASE_URL, "api_key_env": "SIMULATED_KEY"},
        "model": MODEL,
        "prompt": {"system": LABELS, "user": "{{ text }}"},
        "params": {"max_output_tokens": 12},
        "pack": {"rows": 8, "format": scene.form},
        "limits": limits,
        "prices": {"models": {MODEL: PRICES}},
        "output": {"dir": str(folder)},
    }
    return Job(**{**tree, **scene.keys})


TABLE = pl.DataFrame(
    {"id": [f"r{row}" for row in range(ROWS)], "text": [f"text {row} " * (1 + row % 5) for row in range(ROWS)]}
)


class PackStage:
    """One folder and one gateway: sessions follow each other here."""

    def __init__(self, scene: PackScene, folder: Path) -> None:
        self.scene = scene
        self.folder = folder
        settings = settings_of(scene.seed, pack_faults=dict(scene.pack_faults), **scene.gateway)
        self.world = World(settings, Faults(scene.seed, scene.faults), random.Random(scene.seed + 2))
        self.platters = Platters()
        self.now = 0.0
        self.exit_code: int | None = None
        """Of the last session; None: it was killed."""
        self.said: list[str] = []
        self.recorded: set[int] = set()
        """The requests whose reply was on the disk at a kill, by the serial of their first row."""

    def session(
        self, at: int | None = None, when: str = "before", table: pl.DataFrame = TABLE, **options: Any
    ) -> int | None:
        """The exit code; None where it was killed."""
        loop = VirtualLoop(self.now)
        disk = MortalDisk(at, when, platters=self.platters)  # type: ignore[arg-type]
        told = self._options(loop, disk, options)
        try:
            summary = run_virtual(loop, run_job(job_of(self.scene, self.folder), table, told))
            return Run(Path(summary["output_dir"]), summary).exit_code
        except Killed:
            self.recorded |= set(dict(recorded_ends(RunDirectory(self.folder))))
            return None
        except DiskFailed as error:
            return error.exit_code
        finally:
            self.now = loop.time()
            disk.bury()

    def estimate(self, table: pl.DataFrame) -> dict[str, Any]:
        """Of what is still open."""
        loop = VirtualLoop(self.now)
        told = self._options(loop, MortalDisk(), {})
        return run_virtual(loop, estimate_job(job_of(self.scene, self.folder), table, told))

    def _options(self, loop: VirtualLoop, disk: MortalDisk, options: Mapping[str, Any]) -> RunOptions:
        platform = Platform(
            disk=disk,
            journal=JournalSettings(segment_bytes=self.scene.segment_bytes, reserve_bytes=2**16),
            syncer=lambda: LoopSyncer(loop, disk),
            in_place=True,
            transport=self.world.transport(),
        )
        return RunOptions(
            handle_signals=False,
            clock=virtual_clock(loop, ()),
            wire=lambda job: self.world,
            platform=platform,
            environ={"SIMULATED_KEY": API_KEY},
            say=self.said.append,
            **options,
        )

    def results(self) -> pl.DataFrame:
        return Run(self.folder, {}).results().sort("id").collect()

    def attempts(self) -> pl.DataFrame:
        return Run(self.folder, {}).attempts().sort("serial").collect()


def broken_laws(stage: PackStage) -> Iterator[str]:
    """Every row once; known cost <= the bill <= that and what is held for the unknown; no answer paid twice."""
    results, attempts = stage.results(), stage.attempts()
    if results["id"].to_list() != sorted(TABLE["id"].to_list()):
        yield f"{results.height} results, {len(set(results['id']))} of them different"
    known, bill = pico(attempts["cost_credits"].sum()), stage.world.gateway.ledger.charged_pico
    held = pico(attempts.filter(pl.col("outcome") == "unknown")["held_credits"].sum())
    if not known <= bill <= known + held:
        yield f"bill {bill}, known {known}, held {held}"
    if pico(results["cost_credits"].sum()) != known:
        yield f"the results cost {pico(results['cost_credits'].sum())}, the attempts {known}"
    answered = attempts.filter(pl.col("outcome") == "done", pl.col("error_kind").is_null())
    twice = [row for row, times in Counter(answered["id"].to_list()).items() if times > 1]
    if twice:
        yield f"{len(twice)} rows were answered more than once, {twice[0]} for one"
    done = attempts.filter(pl.col("outcome") == "done")
    requests = done.select(pl.col("serial") - pl.col("pack_place").fill_null(1) + 1).unique().height
    if requests > sum(stage.world.gateway.charged.values()):
        yield f"{requests} requests are recorded as done, {sum(stage.world.gateway.charged.values())} were charged"
    yield from (
        f"verify: {one.file}: {one.what}" for one in verify(stage.folder, data=True) if one.severity != "info"
    )


def pico(credits_: Any) -> int:
    return int((credits_ or 0) * 10**12)


def play(scene: PackScene, folder: Path) -> tuple[PackStage, bool]:
    """Killed where the scene says, then gone on with to the end; whether it came so far that it was killed."""
    stage = PackStage(scene, folder)
    was_killed = scene.at is not None and stage.session(scene.at, scene.when) is None
    for _ in range(4):
        if stage.session() in (0, 1):
            break
    return stage, was_killed


def kill_at_points(folder: Path, scene: PackScene, *, step: int, ways: tuple[str, ...] = DEADLY) -> PackFigures:
    """One run for each point, killed there in one of the ways and gone on with."""
    figures = PackFigures()
    for point in range(1, MOST_POINTS, step):
        when = ways[(point // step) % len(ways)]
        place = folder / f"{scene.form}-{point:05d}-{when}"
        here = structs.replace(scene, at=point, when=when)
        stage, was_killed = play(here, place)
        if not was_killed:
            break
        figures.kills += 1
        figures.runs += 1
        figures.charges += sum(stage.world.gateway.charged.values())
        figures.packed += stage.attempts().filter(pl.col("pack_rows") > 1, pl.col("error_kind").is_null()).height
        figures.broken += [f"{place.name}: {law}" for law in broken_laws(stage)]
    return figures


def main() -> int:
    step = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    broken = False
    with tempfile.TemporaryDirectory() as folder:
        for number, (form, faults, garbled) in enumerate(
            (form, faults, garbled)
            for form in ("lines", "json")
            for faults in ({}, FAILING)
            for garbled in ({}, GARBLED)
        ):
            for when in DEADLY:
                scene = PackScene(form, faults, garbled, seed=number)
                figures = kill_at_points(Path(folder) / f"{number}{when}", scene, step=step, ways=(when,))
                print(form, dict(faults), dict(garbled), when, figures.sentence(), *figures.broken, sep="\n  ")
                broken = broken or bool(figures.broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
