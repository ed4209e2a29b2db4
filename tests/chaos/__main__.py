"""`python -m tests.chaos`: the long form. Kills beside seeds, then the other suites; writes docs/promises.md.

    python -m tests.chaos [--kills 1000] [--seeds 10000] [--processes CORES+1] [--minutes 600] [--first-seed 0]

Exit 1 where a law broke. What was reached when the minutes were over is what the page says.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from simulation.seeds import Tally, play_until

from .kills import Figures, killed_until
from .promises import Reached, Suite, page

ROOT = Path(__file__).parents[2]
SUITES = {
    "faults": ["tests/chaos/test_faults.py", "tests/test_wire.py", "tests/test_check.py"],
    "disk": ["tests/chaos/test_disk.py"],
    "keys": ["tests/chaos/test_keys.py"],
    "tables": ["tests/chaos/test_tables.py"],
    "signals and races": ["tests/chaos/test_kills.py"],
    "hostile input": ["tests/chaos/test_hostile_input.py"],
    "simulation": ["tests/simulation"],
    "store": [
        "tests/test_journal.py",
        "tests/test_bad_disks.py",
        "tests/test_seal.py",
        "tests/test_power_cut.py",
        "tests/test_verify.py",
    ],
    "admission": ["tests/test_admit.py"],
}


KILLS_AT_ONCE = 25
SEEDS_AT_ONCE = 50


def main() -> int:
    """Run it all."""
    wanted = _arguments()
    began = time.monotonic()
    killed, tally = _long_form(wanted, began + wanted.minutes * 60)
    suites = {name: _suite(paths) for name, paths in SUITES.items()}
    reached = Reached(killed, tally, suites, round((time.monotonic() - began) / 60), wanted.processes)
    (ROOT / "docs" / "promises.md").write_text(page(reached), encoding="utf-8")
    broken = [*killed.broken, *tally.broken, *(name for name, suite in suites.items() if suite.failed)]
    print(*broken, sep="\n")
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=(os.cpu_count() or 1) + 1)
    parser.add_argument("--minutes", type=float, default=600.0)
    return parser.parse_args()


def _long_form(wanted: argparse.Namespace, until: float) -> tuple[Figures, Tally]:
    """Kills and seeds in small parts, mixed so that both halves come to their end together."""
    killed, tally = Figures(), Tally()
    with ProcessPoolExecutor(wanted.processes, mp_context=get_context("spawn")) as executor:
        parts = [executor.submit(*part) for part in _parts(wanted, until)]
        for done, part in enumerate(as_completed(parts), 1):
            known = len(killed.broken) + len(tally.broken)
            _add(part, killed, tally)
            if len(killed.broken) + len(tally.broken) > known:
                print(*killed.broken, *tally.broken.items(), sep="\n", flush=True)
            if done % max(1, len(parts) // 40) == 0:
                print(f"{killed.kills:,} kills, {tally.sentence()}", flush=True)
    return killed, tally


def _parts(wanted: argparse.Namespace, until: float) -> list[tuple[object, ...]]:
    drawn = time.time_ns() % 2**32
    kills = [
        (killed_until, min(KILLS_AT_ONCE, wanted.kills - first), drawn + first, until)
        for first in range(0, wanted.kills, KILLS_AT_ONCE)
    ]
    end = wanted.first_seed + wanted.seeds
    seeds = [
        (play_until, until, range(first, min(first + SEEDS_AT_ONCE, end)))
        for first in range(wanted.first_seed, end, SEEDS_AT_ONCE)
    ]
    placed = [(place / len(half), part) for half in (kills, seeds) for place, part in enumerate(half)]
    return [part for _, part in sorted(placed, key=lambda one: one[0])]


def _add(part: Future[Figures | Tally], killed: Figures, tally: Tally) -> None:
    if (error := part.exception()) is not None:
        killed.broken.append("".join(traceback.format_exception(error)))
    elif isinstance(found := part.result(), Tally):
        tally.add_all(found)
    else:
        killed.add(found)


def _suite(paths: list[str]) -> Suite:
    """Run one part of the test suite in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:warnings", *paths]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    collected = subprocess.run(
        [*command, "--collect-only"], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ)
    )
    tests = sum(int(count) for count in re.findall(r"^\S+\.py: (\d+)$", collected.stdout, re.MULTILINE))
    return Suite(tests, failed=ended.returncode != 0 or not tests)


if __name__ == "__main__":
    sys.exit(main())
