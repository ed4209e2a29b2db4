"""Kills of coordinators and workers at random moments, at any length: what is lost, billed twice, or overspent.

    python tests/measurements/coordinator_kills.py                          10 kills over jobs of 400 rows
    python tests/measurements/coordinator_kills.py --kills 300 --workers 4
    python tests/measurements/coordinator_kills.py --budgets 200            jobs with money for half of their rows

Each job runs under a coordinator, over real HTTP against the simulator, whose ledger is the bill. Who dies is
drawn: the coordinator (also with its book of grants), a worker, all at once; or a worker stands still for two
leases. All are started again by the same commands. A law that is broken ends it, and names the seed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import polars as pl
from run_kit import charged_credits, results, simulator
from test_coordinated_runs import command, free_port
from test_workers import job_file

import crun_batch
from crun_batch.scale.leases import LEASE_SECONDS
from crun_batch.simulator.process import SimulatorProcess

DEATHS = ("coordinator", "coordinator without its book", "worker", "all", "worker stands still")
IN_FLIGHT = 8


@dataclass
class Totals:
    """Over all jobs."""

    jobs: int = 0
    kills: int = 0
    rows: int = 0
    billed_beyond_rows: int = 0
    named_unknown: int = 0
    least_used: Decimal = Decimal(1)


class Play:
    """One job to its end, through so many deaths."""

    def __init__(self, at: SimulatorProcess, folder: Path, draw: random.Random, workers: int) -> None:
        self.at, self.folder, self.draw, self.workers = at, folder, draw, workers
        self.port = free_port()
        self.file = folder / "law.json"
        self.giver: subprocess.Popen[bytes] | None = None
        self.own: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Whoever is not there."""
        if self.giver is None or self.giver.poll() is not None:
            options = ["--shards", self.workers, "--port", self.port, "--yes", "--until-budget"]
            self.giver = command("coordinator", self.file, *options)
        for number in range(1, self.workers + 1):
            if number not in self.own or self.own[number].poll() not in (None, 0, 1, 4):
                shard, url = f"{number}/{self.workers}", f"http://127.0.0.1:{self.port}"
                self.own[number] = command("run", self.file, "--shard", shard, "--coordinator", url)

    def is_over(self) -> bool:
        """Whether the coordinator has ended by itself."""
        return self.giver is not None and self.giver.poll() in (0, 1, 4)

    def kill(self) -> int:
        """One death; how many processes died that may have had something in flight."""
        assert self.giver is not None
        death = self.draw.choice(DEATHS)
        one = self.draw.choice(list(self.own.values()))
        if death == "worker stands still":
            one.send_signal(signal.SIGSTOP)
            time.sleep(2 * LEASE_SECONDS)
            one.send_signal(signal.SIGCONT)
            return 0
        dying = {"worker": [one], "all": [self.giver, *self.own.values()]}.get(death, [self.giver])
        for process in dying:
            process.kill()
        for process in dying:
            process.communicate()
        if death == "coordinator without its book":
            shutil.rmtree(self.folder / "run-leases", ignore_errors=True)
        return sum(process is not self.giver for process in dying)

    def end(self) -> None:
        """Nothing is left running."""
        for process in (self.giver, *self.own.values()):
            if process is not None:
                process.kill()
                process.communicate()


def played(at: SimulatorProcess, seed: int, deaths: int, arguments: argparse.Namespace, totals: Totals) -> None:
    """One job; its laws are checked at its end."""
    draw, before, count = random.Random(seed), charged_credits(at), at.ledger()["count"]
    with tempfile.TemporaryDirectory(prefix="crun-batch-kills-") as name:
        folder = Path(name)
        cap = {"budget": {"max_cost_credits": 20}} if arguments.budgets else {}
        job_file(at, folder, arguments.rows, limits={"concurrency": IN_FLIGHT}, **cap)
        play, killed = Play(at, folder, draw, arguments.workers), 0
        try:
            play.start()
            while not play.is_over():
                time.sleep(draw.uniform(0.3, 2.0))
                if deaths and not play.is_over():
                    deaths, killed, totals.kills = deaths - 1, killed + play.kill(), totals.kills + 1
                    play.start()
        finally:
            play.end()
        runs = [crun_batch.open_run(one) for one in sorted(folder.glob("run-shard-*"))]
        attempts = pl.concat([run.attempts() for run in runs]).collect()
        rows = sum(results(run).height for run in runs)
        unknown = attempts.filter(pl.col("outcome") == "unknown").height
        cost, billed = sum(run.cost_credits or 0 for run in runs), charged_credits(at) - before
        held = attempts.filter(pl.col("outcome") == "unknown")["held_credits"].sum() or 0
        extra = at.ledger()["count"] - count - rows
        assert 0 <= extra <= unknown <= killed * IN_FLIGHT, (seed, extra, unknown, killed)
        assert cost <= billed <= cost + held, (seed, cost, billed, held)
        assert at.stats()["max_in_flight"] <= IN_FLIGHT, seed
        if arguments.budgets:
            assert billed <= 20, (seed, billed)
            totals.least_used = min(totals.least_used, (cost + held) / 20)
        else:
            assert arguments.rows == rows, (seed, rows)
        totals.jobs, totals.rows = totals.jobs + 1, totals.rows + rows
        totals.billed_beyond_rows += extra
        totals.named_unknown += unknown


def main() -> None:
    """Run it, and tell what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--kills-per-job", type=int, default=5)
    parser.add_argument("--budgets", type=int, default=0, help="so many jobs with a budget, in place of --kills")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jobs = arguments.budgets or -(-arguments.kills // arguments.kills_per_job)
    totals = Totals()
    with simulator(latency_seconds=0.1) as at:
        for seed in range(arguments.seed, arguments.seed + jobs):
            played(at, seed, arguments.kills_per_job, arguments, totals)
            print(f"seed {seed}: {totals}", flush=True)
    print(
        f"{totals.kills} kills over {totals.jobs} jobs, {totals.rows:,} rows: 0 recorded replies lost, "
        f"{totals.billed_beyond_rows} billed twice, all among {totals.named_unknown} named attempts"
        + (f"; 0 over the cap, at least {totals.least_used:.1%} of it used" if arguments.budgets else "")
    )


if __name__ == "__main__":
    main()
