"""docs/promises.md: the table of promises, with the figures that a long run reached."""

from __future__ import annotations

from msgspec import Struct
from simulation.seeds import Tally

from .kills import CONCURRENCY, Figures

LONGEST_LAW = 300


class Suite(Struct, frozen=True):
    """A part of the test suite: how many tests it has, and whether one failed."""

    tests: int
    failed: bool

    def text(self) -> str:
        return f"{self.tests} tests, {'SOME FAILED' if self.failed else 'all pass'}"


class Reached(Struct, frozen=True):
    """All figures of a long run."""

    killed: Figures
    tally: Tally
    suites: dict[str, Suite]
    minutes: int
    processes: int


HEAD = """# Promises, and what proves each

Made by `make chaos` (`python -m tests.chaos`). The figures are those of its last run, {minutes} minutes with
{processes} processes side by side; `make test` runs a slice of the same. What is on the disk after a crash, and
where the promises end, is told in [crashes.md](crashes.md).

<!-- in short -->
- {killed.kills:,} times SIGKILL to real sessions, and {tally.seeds:,} whole jobs with faults, kills and power cuts
  in virtual time: {lost} lost of {killed.recorded:,} replies that were on the disk at a kill, laws broken:
  {broken}
<!-- end -->

- **Kills**: {killed.kills:,} times SIGKILL to real sessions, {killed.self_kills:,} of them at a disk operation
  (before, within or after a write, sync, rename, unlink or link), the others at random moments,
  {killed.fresh_kills:,} of these to a `crun-batch run` of its own (the rest are forked from a process that has
  loaded it); {killed.sessions:,} sessions of {killed.runs:,} runs, {concurrency} requests in flight, faults among
  them, against the bundled gateway in a process of its own that keeps its own books: {killed.charges:,} charges.
- **Operators**: what people did to a quarter of these runs while they were going on: {operated}.
- **Seeds**: {tally.seeds:,} whole jobs in virtual time, each played with and without its kills, power cuts and
  failing disks. At a power cut each sector that was not synced is there or not, whatever stands behind it; what a
  failed sync was to bring to the disk is gone, even if a later one succeeds: {tally.sessions:,} sessions,
  {tally.kills:,} kills at {moments} kinds of moment (before, within or
  after an operation of the disk), {tally.posts:,} requests, {hours:,.1f} simulated hours, {rate:.1f} simulated
  minutes in a minute of one process. A seed that breaks a law is printed and replays exactly:
  `python -m tests.simulation SEED`.
- **Hostile input**: templates, job files, tables and replies that mean ill: {hostile}.

{verdict}

| # | promise | proof | figure reached |
|---|---|---|---|
"""


def page(reached: Reached) -> str:
    """The whole page."""
    killed, tally = reached.killed, reached.tally
    broken = [
        *(" ".join(law.split())[-LONGEST_LAW:] for law in killed.broken),
        *(
            f"seed {seed}: {' '.join(laws[0].split())[-LONGEST_LAW:]}"
            for seed, laws in sorted(tally.broken.items())
        ),
        *(f"tests fail: {name}" for name, suite in reached.suites.items() if suite.failed),
    ]
    verdict = "\n".join(
        ["**Broken laws: " + (f"{len(broken)}.**\n" if broken else "none.**"), *(f"- {law}" for law in broken)]
    )
    head = HEAD.format(
        minutes=reached.minutes,
        killed=killed,
        tally=tally,
        hours=tally.virtual_seconds / 3600,
        rate=tally.virtual_seconds / max(tally.real_seconds, 1),
        moments=len(tally.died_in),
        processes=reached.processes,
        operated=_operated(killed),
        concurrency=CONCURRENCY,
        hostile=reached.suites["hostile input"].text(),
        verdict=verdict,
        lost=_lost(reached),
        broken=len(broken) or "none",
    )
    return head + "".join(
        f"| {n} | {promise} | {proof} | {figure} |\n" for n, promise, proof, figure in rows(reached)
    )


def _operated(killed: Figures) -> str:
    """What was done how often; a run whose directory was deleted is begun anew, and judged from then on."""
    done = ", ".join(f"{what} {count} times" for what, count in sorted(killed.operated.items()))
    return done or "nothing"


def _lost(reached: Reached) -> int:
    """Replies, of those that were recorded."""
    return sum("is lost" in law for law in reached.killed.broken) + _breaking(
        reached.tally, "is lost", "is another"
    )


def rows(reached: Reached) -> list[tuple[int, str, str, str]]:
    """(number, promise, proof, figure)."""
    killed, tally, suites = reached.killed, reached.tally, reached.suites
    return [
        (
            1,
            "a reply that was read is never lost",
            "kills; seeds",
            f"{_lost(reached)} lost of {killed.recorded:,} on the disk at a kill",
        ),
        (
            2,
            "at one kill, at most the requests in flight are billed twice, and the suspects are named",
            "kills: ledger minus attempts",
            f"{killed.suspects:,} suspects at {killed.kills:,} kills, "
            f"{killed.suspects / max(killed.kills, 1):.1f} each; {CONCURRENCY} in flight",
        ),
        (3, "one attempt record = one POST", "fault matrix, the server counts", suites["faults"].text()),
        (
            4,
            "a power cut costs at most the sync window",
            "enumerated crash states (tests/test_power_cut.py); seeds with power cuts",
            suites["store"].text(),
        ),
        (
            5,
            "full disk, I/O error, short writes: stop sending, keep what is in flight, clean resume",
            "seeds with failing disks; a full tmpfs and RLIMIT_FSIZE under real processes",
            f"{_breaking(tally, 'was not waited for')} lost; {suites['disk'].text()}",
        ),
        (
            6,
            "every file under its final name is whole and readable at every moment",
            "pyarrow, polars and duckdb reading all through the kills",
            f"{sum('with_' in law for law in killed.broken)} failures in {killed.reads:,} reads; {killed.swaps} "
            "by name met a swap between two opens of the library, and succeeded at once when repeated",
        ),
        (
            7,
            "interrupted + resumed = uninterrupted",
            "seeds: results, attempts, costs",
            f"{_breaking(tally, 'differ', 'uninterrupted', 'has finished')} of {tally.seeds:,} seeds differ",
        ),
        (
            8,
            "spend <= budget",
            "seeds with a cap; tests/test_budget.py",
            f"{_breaking(tally, 'spent', 'billed')} over",
        ),
        (
            9,
            "known cost <= bill <= known cost + held of the unknown",
            "kills and seeds: the ledger, in sum and for each request",
            f"{_breaking(tally, 'bill ', 'charged') + sum('charge' in law for law in killed.broken)} violations",
        ),
        (
            10,
            "a changed row, template or model is never mixed in silently",
            "edits between sessions",
            suites["tables"].text(),
        ),
        (11, "one writer per run directory", "100 racing starts", suites["signals and races"].text()),
        (
            12,
            "the key is in no file, log, traceback, process list",
            "a marked key, every byte searched",
            suites["keys"].text(),
        ),
        (
            13,
            "a hostile reply exhausts nothing and is kept as evidence",
            "30 replies that mean ill",
            suites["faults"].text(),
        ),
        (
            14,
            "no attempt outlives its deadline, no run hangs",
            "stall, drip; a seed that hangs is an error",
            suites["faults"].text(),
        ),
        (
            15,
            "429 storms: backs off together, recovers",
            "virtual clock (tests/test_admit.py); seeds with storms",
            suites["admission"].text(),
        ),
        (
            16,
            "wall-clock jumps change nothing",
            "a day forwards and back, the same schedule",
            suites["simulation"].text(),
        ),
        (17, "memory does not grow with rows", "benchmarks", "see [benchmarks.md](benchmarks.md)"),
        (18, "`verify --data` finds any flipped bit", "tests/test_verify.py", suites["store"].text()),
    ]


def _breaking(tally: Tally, *words: str) -> int:
    """How many seeds break a law whose sentence has one of these words."""
    return sum(any(word in law for law in laws for word in words) for laws in tally.broken.values())
