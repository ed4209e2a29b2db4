"""Kills of jobs by several workers, on one machine, under a coordinator, on Ray: real processes, real books.

    python -m tests.chaos.workers kills 300 [SEED] [TEAM...]     deaths of all who take part, and workers cut off
    python -m tests.chaos.workers budgets 200 [SEED] [TEAM...]   jobs that use up their money, and are killed

Teams: "one machine" (`run --workers`), "coordinated" (a coordinator and its workers), "ray" (a cluster of several
nodes, on this machine). A seed draws the teams, who dies and when; the machine draws the rest. Exit 1 where a law
broke; its job stays where it was.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct, field
from simulation.play import recorded_ends

from crun_batch import open_run
from crun_batch.scale.leases import LEASE_SECONDS
from crun_batch.simulator import SimulatorProcess
from crun_batch.simulator.settings import Settings
from crun_batch.state.recovery import journal_now
from crun_batch.store.directory import RunDirectory
from crun_batch.store.verify import verify

from .cluster import nodes_of_this_machine
from .kills import Figures, books, kept_replies
from .nest import Nest
from .teams import DRIVER, GIVER, NODE, OVER, TEAMS, WORKER, OnRay, Team, stopped

KEY = {"SIM_KEY": "ak_sim_chaos"}
CUT_SECONDS = 2 * LEASE_SECONDS
SLACK_SECONDS = 0.5
"""A lease counts from when it was asked for: at the latest then, a cut worker has sent its last request."""
LONGEST_SECONDS = 240.0
LOOKED_EVERY_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 10.0
"""What lasts longer is time in which the whole machine, or all of this, was stopped by somebody else."""
MANY = 8
"""So many workers use at least LEAST_USED of a budget."""
LEAST_USED = Decimal("0.99")
CUT = "cut off"


class Death(Struct, frozen=True):
    """One way to die."""

    weight: int
    parts: Callable[[Mapping[str, int], random.Random], Sequence[str]]
    """Of the parts that live, those that die; none where there is none of this kind."""


DEATHS = {
    "a worker": Death(4, lambda parts, draw: draw.sample(_workers(parts), min(1, len(_workers(parts))))),
    "who gives leases": Death(2, lambda parts, _: [part for part in (GIVER, DRIVER) if part in parts][:1]),
    "its book is lost too": Death(1, lambda parts, _: [GIVER] if GIVER in parts else []),
    "the driver": Death(1, lambda parts, _: [DRIVER] if DRIVER in parts else []),
    "a node": Death(1, lambda parts, draw: draw.sample(_nodes(parts), min(1, len(_nodes(parts))))),
    "several": Death(2, lambda parts, draw: draw.sample(sorted(parts), min(len(parts), draw.randint(2, 4)))),
    "all": Death(1, lambda parts, _: sorted(parts)),
}


class Plan(Struct, frozen=True):
    """What a job of this suite is like."""

    rows: int
    workers: Sequence[int]
    concurrency: int
    latency_seconds: float
    deaths: tuple[int, int]
    """Per job, at least and at most."""
    pause_seconds: tuple[float, float]
    cap_credits: int | None = None
    cuts: float = 0.0
    """How many of the events are cuts instead of kills."""


KILLS = Plan(900, (2, 3, 4), 8, 0.1, (5, 10), (0.2, 2.0), cuts=0.1)
BUDGETS = Plan(800, (2, 4, MANY, MANY), 16, 0.2, (1, 4), (0.1, 1.0), cap_credits=40)
PLANS = {"kills": KILLS, "budgets": BUDGETS}


class Toll(Struct):
    """What was reached; the laws that broke are sentences."""

    jobs: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    processes: int = 0
    rows: int = 0
    recorded: int = 0
    """Replies that were on the disk at a kill of their worker."""
    in_flight: int = 0
    """Requests that killed workers had in flight."""
    unknown: int = 0
    billed_twice: int = 0
    least_used: dict[int, Decimal] = field(default_factory=dict)
    """By number of workers: of a budget, what was spent or is held by attempts of unknown outcome."""
    broken: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.deaths.total() - self.deaths[CUT]

    def sentence(self) -> str:
        died = ", ".join(f"{what} {count}" for what, count in sorted(self.deaths.items()))
        used = ", ".join(f"{count}: {share:.2%}" for count, share in sorted(self.least_used.items()))
        return (
            f"{self.jobs.total()} jobs ({', '.join(f'{name} {n}' for name, n in sorted(self.jobs.items()))}), "
            f"{self.rows:,} rows; {self.kills} kills of {self.processes} processes ({died}): "
            f"{self.recorded:,} replies were on the disk of a killed worker, {self.in_flight} requests in flight; "
            f"{self.unknown} attempts named, {self.billed_twice} billed twice; "
            + (f"least used of a budget, by workers: {used}; " if used else "")
            + f"laws broken: {len(self.broken)}"
        )


class Play:
    """One job to its end, through deaths and cuts."""

    def __init__(
        self, simulator: SimulatorProcess, team: Team, plan: Plan, draw: random.Random, toll: Toll
    ) -> None:
        self.simulator, self.team, self.plan, self.draw, self.toll = simulator, team, plan, draw, toll
        self.recorded: list[dict[int, bytes]] = [{} for _ in team.places]
        self.in_flight = 0
        self.cuts: list[tuple[int, float, float]] = []
        """Worker from 0, from when, until when: by the clock of the day."""
        self._mended_at: dict[int, float] = {}

    def to_its_end(self) -> Iterator[str]:
        """Laws that broke on the way: it hangs, or ends in another way than it may."""
        left, spent, now = self.draw.randint(*self.plan.deaths), 0.0, time.monotonic()
        self.team.start()
        next_at = time.monotonic() + self.draw.uniform(*self.plan.pause_seconds)
        while self.team.exit_code not in OVER:
            spent, now = spent + min(LONGEST_LOOK_SECONDS, time.monotonic() - now), time.monotonic()
            if spent >= LONGEST_SECONDS:
                yield f"it hangs; alive: {self.team.parts()}"
                break
            self._mend_what_is_due()
            if left and time.monotonic() >= next_at and self.simulator.stats()["in_flight"]:
                left -= self._event()
                next_at = time.monotonic() + self.draw.uniform(*self.plan.pause_seconds)
            self.team.start()
            time.sleep(LOOKED_EVERY_SECONDS)
        for number in list(self._mended_at):
            self._mend(number)

    def _event(self) -> bool:
        """One kill or cut; whether there was whom it could meet."""
        if self.draw.random() < self.plan.cuts:
            number = self.draw.randrange(self.team.workers)
            if number in self._mended_at or not self.team.cut(number):
                return False
            self._mended_at[number] = time.monotonic() + CUT_SECONDS
            self.cuts.append((number, time.time(), time.time() + CUT_SECONDS))
            self.toll.deaths[CUT] += 1
            return True
        (death,) = self.draw.choices(list(DEATHS), [one.weight for one in DEATHS.values()])
        parts = self.team.parts()
        dying = DEATHS[death].parts(parts, self.draw)
        if dying:
            self._kill([one for part in dying for one in self.team.falls_with(parts[part])])
            if death == "its book is lost too":
                shutil.rmtree(self.team.run.with_name("run-leases"), ignore_errors=True)
            self.toll.deaths[death] += 1
        return bool(dying)

    def _kill(self, pids: Sequence[int]) -> None:
        """They stand still, all of them at once; what they leave is read, and then they die."""
        stopped(pids)
        dying = {part: pid for part, pid in self.team.parts().items() if pid in pids}
        for part in _workers(dying):
            number = int(part.split()[1]) - 1
            run = RunDirectory(self.team.places[number])
            self.recorded[number] |= {serial: digest for serial, (digest, _) in recorded_ends(run)}
            self.in_flight += len(journal_now(run).in_flight)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.toll.processes += len(dying)

    def _mend_what_is_due(self) -> None:
        for number, due in list(self._mended_at.items()):
            if time.monotonic() >= due:
                self._mend(number)

    def _mend(self, number: int) -> None:
        self.team.mend(number)
        del self._mended_at[number]

    def broken_laws(self, before: int) -> Iterator[str]:
        """Of the job when it is over. `before`: the last serial of the gateway's books when it began."""
        plan, team, toll = self.plan, self.team, self.toll
        entries = self.simulator.ledger(entries=True, after=before)["entries"]
        runs = [open_run(place) for place in team.places if (place / "job.json").exists()]
        parts = [run.attempts().collect() for run in runs]
        attempts = pl.concat(parts)
        rows = pl.concat([run.results().select("id", "status").collect() for run in runs])
        unknown = attempts.filter(pl.col("outcome") == "unknown")
        for run, own in zip(runs, parts, strict=True):
            number = team.places.index(run.directory)
            yield from (f"shard {number + 1}: {law}" for law in kept_replies(own, self.recorded[number]))
            if team.cuts_cables:
                yield from self._sent_while_cut(number, own)
        yield from books(team.job, attempts, entries, Figures())
        if unknown.height > self.in_flight:
            yield f"{unknown.height} attempts of unknown outcome, {self.in_flight} in flight at kills"
        twice = len(entries) - attempts.filter(pl.col("outcome") == "done").height
        if not 0 <= twice <= unknown.height:
            yield f"{twice} bills beyond the replies, {unknown.height} attempts of unknown outcome"
        most = self.simulator.stats()["max_in_flight"]
        if most > plan.concurrency:
            yield f"{most} were in flight, of {plan.concurrency}"
        if rows["id"].n_unique() != rows.height:
            yield f"{rows.height} results of {rows['id'].n_unique()} rows"
        yield from self._ended_as_it_should(rows, attempts, entries)
        toll.rows += rows.height
        toll.recorded += sum(map(len, self.recorded))
        toll.in_flight += self.in_flight
        toll.unknown += unknown.height
        toll.billed_twice += twice

    def _ended_as_it_should(
        self, rows: pl.DataFrame, attempts: pl.DataFrame, entries: Sequence[Mapping[str, Any]]
    ) -> Iterator[str]:
        """Every row is in the merged run; or the money is used up, and not more than that."""
        plan, team = self.plan, self.team
        if plan.cap_credits is None:
            if team.exit_code not in (0, 1) or rows.height != plan.rows:
                yield f"exit code {team.exit_code}, {rows.height} of {plan.rows} rows"
                return
            merged = open_run(team.run).results().select("id", "status").collect()
            if not merged.sort("id").equals(rows.sort("id")):
                yield "the merged run is not what its shards are"
            found = [one for one in verify(team.run, data=True) if one.severity == "error"]
            yield from (f"verify: {one.file}: {one.what}" for one in found)
            return
        if team.exit_code != 4:
            yield f"exit code {team.exit_code}, with money for half of the rows"
        billed = Decimal(sum(entry["charge_pico"] for entry in entries)).scaleb(-12)
        if billed > plan.cap_credits:
            yield f"{billed} are billed, of {plan.cap_credits}"
        unknown = attempts.filter(pl.col("outcome") == "unknown")
        used = (attempts["cost_credits"].sum() or 0) + (unknown["held_credits"].sum() or 0)
        share = Decimal(used) / plan.cap_credits
        if share < LEAST_USED:
            yield f"{share:.2%} of the budget are used"
        least = self.toll.least_used
        least[team.workers] = min(share, least.get(team.workers, Decimal(1)))

    def _sent_while_cut(self, number: int, attempts: pl.DataFrame) -> Iterator[str]:
        """A worker without a lease sends nothing."""
        started = attempts["started_at"].dt.timestamp("us") / 1e6
        for worker, since, until in self.cuts:
            late = ((started > since + LEASE_SECONDS + SLACK_SECONDS) & (started < until)).sum()
            if worker == number and late:
                yield f"shard {number + 1}: {late} requests were sent without a lease"


def _workers(parts: Mapping[str, int]) -> list[str]:
    return sorted(part for part in parts if part.startswith(WORKER))


def _nodes(parts: Mapping[str, int]) -> list[str]:
    return sorted(part for part in parts if part.startswith(NODE))


def write_job(simulator: SimulatorProcess, folder: Path, plan: Plan) -> Path:
    """A table and a job file; no other job asks the same."""
    ids = [f"r{row}" for row in range(plan.rows)]
    texts = [f"{folder.name} row {row}" for row in range(plan.rows)]
    pl.DataFrame({"id": ids, "text": texts}).write_parquet(folder / "t.parquet")
    price = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": 0.01}
    cap = {} if plan.cap_credits is None else {"budget": {"max_cost_credits": plan.cap_credits}}
    limits = {"concurrency": plan.concurrency, "adaptive": False, "attempt_timeout_seconds": 30}
    job = {
        "name": "many",
        "input": {"table": str(folder / "t.parquet"), "id": "id"},
        "endpoint": {"base_url": simulator.base_url, "api_key_env": "SIM_KEY"},
        "model": "gpt-5.4",
        "prompt": {"user": "{{ text }}"},
        "params": {"max_output_tokens": 40},
        "limits": limits,
        "prices": {"models": {"gpt-5.4": price}},
        "output": {"dir": str(folder / "run")},
        **cap,
    }
    file = folder / "many.json"
    file.write_text(json.dumps(job))
    return file


def played(plan: Plan, most_kills: int, most_jobs: int, seed: int, teams: Sequence[str], until: float) -> Toll:
    """Jobs until there were so many kills, or so many jobs, or it is `until` (monotonic), or a law broke."""
    toll = Toll()
    with ExitStack() as stack:
        nodes = [stack.enter_context(nodes_of_this_machine(KEY))] if "ray" in teams else []
        settings = Settings(
            latency_seconds=plan.latency_seconds, tokenizer="words", balance_credits=Decimal(10**6), seed=seed
        )
        simulator = stack.enter_context(SimulatorProcess(settings))
        nest = Nest(**KEY)
        stack.callback(nest.close)
        while toll.kills < most_kills and toll.jobs.total() < most_jobs and time.monotonic() < until:
            number = seed + toll.jobs.total()
            draw = random.Random(number)
            folder = Path(tempfile.mkdtemp(prefix=f"crun-batch-many-{number}-"))
            name, workers = draw.choice(teams), draw.choice(plan.workers)
            job = write_job(simulator, folder, plan)
            team = TEAMS[name](nest, job, workers, *(nodes if TEAMS[name] is OnRay else ()))
            before = simulator.ledger()["count"] - 1
            play = Play(simulator, team, plan, draw, toll)
            try:
                broken = list(play.to_its_end())
            finally:
                team.end()
            broken += play.broken_laws(before)
            toll.jobs[name] += 1
            toll.broken += [f"seed {number} ({name}, {workers} workers, {folder}): {law}" for law in broken]
            print(f"seed {number}: {name}, {workers} workers: {toll.sentence()}", flush=True)
            if broken:
                break
            shutil.rmtree(folder)
    return toll


def main() -> int:
    """`kills|budgets N [SEED [TEAM...]]`; exit 1 where a law broke."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    kind, count = sys.argv[1], int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    teams = sys.argv[4:] or list(TEAMS)
    most_kills, most_jobs = (count, 10**9) if kind == "kills" else (10**9, count)
    toll = played(PLANS[kind], most_kills, most_jobs, seed, teams, float("inf"))
    print(*toll.broken, toll.sentence(), sep="\n")
    return 1 if toll.broken else 0


if __name__ == "__main__":
    sys.exit(main())
