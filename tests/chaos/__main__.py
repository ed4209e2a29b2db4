"""`python -m tests.chaos`: the long form. Kills, seeds, then all other suites; writes docs/promises.md.

    python -m tests.chaos [--kills 1000] [--seeds 10000] [--minutes 600] [--first-seed 0]

Exit 1 where a law broke. What was reached when the minutes were over is what the page says.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from simulation.seeds import play_for

from .kills import Figures, chaos
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
    "store": ["tests/test_journal.py", "tests/test_seal.py", "tests/test_power_cut.py", "tests/test_verify.py"],
    "admission": ["tests/test_admit.py"],
}


def main() -> int:
    """Run it all."""
    wanted = _arguments()
    began = time.monotonic()
    until = began + wanted.minutes * 60
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        playing = executor.submit(play_for, wanted.minutes * 60, wanted.first_seed, wanted.seeds)
        killed = _kills(wanted.kills, until)
        print(killed, flush=True)
        tally = playing.result()
    print(tally.sentence(), flush=True)
    suites = {name: _suite(paths) for name, paths in SUITES.items()}
    reached = Reached(killed, tally, suites, round((time.monotonic() - began) / 60))
    (ROOT / "docs" / "promises.md").write_text(page(reached), encoding="utf-8")
    broken = [*killed.broken, *tally.broken, *(name for name, suite in suites.items() if suite.failed)]
    print(*broken, sep="\n")
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0)
    return parser.parse_args()


def _kills(count: int, until: float) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        return chaos(Path(folder), kills=count, seed=time.time_ns() % 2**32, until=until)


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
