"""kill -9 of sessions that ask several rows in one request: `python -m chaos.packs [KILLS [SEED]]` in `tests`.

At random moments and at named operations of the disk, over HTTP; the gateway is the simulator in a process of its
own, which keeps its own books, and whose replies are late, lost, garbled and refused.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct, field
from simulation.play import recorded_ends

from crun_batch import open_run
from crun_batch.simulator import SimulatorProcess
from crun_batch.simulator.settings import Settings
from crun_batch.store.directory import RunDirectory
from crun_batch.store.verify import verify

from .kills import CONCURRENCY, MOST_BROKEN, PICO, order_of
from .sessions import Nursery

ROWS_TOGETHER = 5
MOST_SESSIONS = 9
FAULTS: tuple[dict[str, float], ...] = (
    {},
    {"500": 0.08, "429": 0.08, "reset_after": 0.08, "truncated": 0.04},
    {"malformed": 0.05, "error_in_200": 0.05, "close": 0.05},
)
GARBLED: tuple[dict[str, float], ...] = (
    {},
    {"missing": 0.01, "doubled": 0.01, "renumbered": 0.01, "cut": 0.03, "fenced": 0.2},
)
LIMITS = {"attempt_timeout_seconds": 20, "stop_at_error_rate": 1.0, "max_attempts": 20, "max_unknown_retries": 9}
"""No row fails for a fault that passes."""
POISON = "[[fault:content_filter*always]]"
PRICE = {"currency": "credits", "input_per_mtok": 500, "cached_input_per_mtok": 50, "output_per_mtok": 3000}


class PackKills(Struct):
    """What was reached; the laws that broke are sentences."""

    runs: int = 0
    sessions: int = 0
    kills: int = 0
    charges: int = 0
    packed_charges: int = 0
    """Of them those for requests of several rows whose reply was recorded."""
    suspects: int = 0
    """Requests of unknown outcome."""
    broken: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        return (
            f"{self.kills:,} kills in {self.sessions:,} sessions of {self.runs:,} runs, {self.charges:,} requests "
            f"charged, {self.packed_charges:,} of them of several rows, {self.suspects:,} suspects; "
            f"{len(self.broken)} laws broken"
        )


def pack_kills(folder: Path, *, kills: int, seed: int) -> PackKills:
    """Kill sessions of one run after the other until there were so many kills."""
    figures, chance = PackKills(), random.Random(seed)
    settings = Settings(tokenizer="words", seed=seed, latency_seconds=0.02, latency_sigma=0.6)
    with SimulatorProcess(settings) as simulator:
        nursery = Nursery(folder / "log")
        try:
            while figures.kills < kills and len(figures.broken) < MOST_BROKEN:
                place = folder / f"run{figures.runs:05d}"
                simulator.change(faults=chance.choice(FAULTS), pack_faults=chance.choice(GARBLED))
                figures.broken += _killed_run(simulator, nursery, place, chance, figures)
        finally:
            nursery.close()
    return figures


def _killed_run(
    simulator: SimulatorProcess, nursery: Nursery, place: Path, chance: random.Random, figures: PackKills
) -> list[str]:
    """One run: sessions that are killed, two that are not, and the laws that broke."""
    job = _write_job(simulator, place, chance)
    before = simulator.ledger()["count"] - 1
    recorded: dict[int, bytes] = {}
    for _ in range(chance.randint(2, MOST_SESSIONS)):
        order = order_of(job, chance)
        order["at"] = int(2 ** chance.uniform(2, 8)) if chance.random() < 0.6 else 0
        code = nursery.session(order, None if order["at"] else 0.2 + chance.expovariate(1 / 0.3))
        figures.sessions += 1
        if code != -signal.SIGKILL:
            figures.broken += [] if code in (0, 1) else [f"{place.name}: {nursery.told(code)}"]
            break
        figures.kills += 1
        recorded |= {serial: digest for serial, (digest, _) in recorded_ends(RunDirectory(place))}
    found: list[str] = []
    for _ in range(2):
        code = nursery.session(order_of(job, chance), None)
        found += [] if code in (0, 1) else [nursery.told(code)]
    figures.sessions += 2
    figures.runs += 1
    entries = simulator.ledger(entries=True, after=before)["entries"]
    found += _broken_laws(place, entries, recorded, figures) if not found else []
    return [f"{place.name}: {law}" for law in found]


def _write_job(simulator: SimulatorProcess, place: Path, chance: random.Random) -> Path:
    rows = chance.randint(20, 120)
    poisoned = chance.choice((None, chance.randrange(rows)))
    texts = [
        f"{place.name} row {row}{' ' + POISON if row == poisoned else ''}{' word' * chance.randint(0, 20)}"
        for row in range(rows)
    ]
    table = place.with_suffix(".parquet")
    pl.DataFrame({"id": [f"r{row}" for row in range(rows)], "text": texts}).write_parquet(table)
    job = place.with_suffix(".json")
    tree: dict[str, Any] = {
        "name": "packs",
        "input": {"table": str(table), "id": "id"},
        "endpoint": {"base_url": simulator.base_url, "api_key_env": "CHAOS_KEY"},
        "model": "gpt-5.4",
        "prompt": {"system": "Label each text with one of: good, bad, mixed.", "user": "{{ text }}"},
        "params": {"max_output_tokens": 12},
        "pack": {"rows": ROWS_TOGETHER, "format": chance.choice(("json", "lines")), "seed": chance.randrange(9)},
        "limits": {**LIMITS, "concurrency": CONCURRENCY},
        "prices": {"models": {"gpt-5.4": {**PRICE, "minimum_per_request": "0.01"}}},
        "output": {"dir": str(place)},
    }
    job.write_text(json.dumps(tree))
    return job


def _broken_laws(
    place: Path, entries: list[dict[str, Any]], recorded: dict[int, bytes], figures: PackKills
) -> Iterator[str]:
    """Every row once, no answered row asked again, every reply a charge of the books to the last digit."""
    run = open_run(place)
    results, attempts = run.results().collect(), run.attempts().collect()
    table = pl.read_parquet(place.with_suffix(".parquet"))
    if sorted(table["id"].to_list()) != sorted(results["id"].to_list()):
        yield f"{results.height} results of {table.height} rows"
    poisoned = set(table.filter(pl.col("text").str.contains(POISON, literal=True))["id"])
    refused = set(results.filter(pl.col("status") != "ok")["id"])
    if refused != poisoned:
        yield f"not ok are {sorted(refused)}, which should be {sorted(poisoned)}"
    answered = attempts.filter(pl.col("outcome") == "done", pl.col("error_kind").is_null())
    twice = [row for row, times in Counter(answered["id"].to_list()).items() if times > 1]
    if twice:
        yield f"{len(twice)} rows were asked again that had an answer, {twice[0]} for one"
    lost = set(recorded) - set(attempts["serial"])
    if lost:
        yield f"the replies of the attempts {sorted(lost)} are lost"
    yield from _books(attempts, entries, figures)
    if pico(results["cost_credits"].sum()) != pico(attempts["cost_credits"].sum()):
        yield "results and attempts differ in what they cost"
    yield from (f"verify: {one.file}: {one.what}" for one in verify(place, data=True) if one.severity == "error")


def _books(attempts: pl.DataFrame, entries: list[dict[str, Any]], figures: PackKills) -> Iterator[str]:
    """Tokens and cost of each request that was answered are a charge; what is charged beside is a suspect's."""
    request = (pl.col("serial") - pl.col("pack_place").fill_null(1)).alias("request")
    sums = pl.col("input_tokens", "output_tokens", "cost_credits", "held_credits").sum()
    by_request = attempts.group_by(request, "outcome").agg(sums, pl.len().alias("rows"))
    done = by_request.filter(pl.col("outcome") == "done")
    suspects = by_request.filter(pl.col("outcome") == "unknown")
    columns = done.select("input_tokens", "output_tokens", "cost_credits").rows()
    paid = Counter((read, written, pico(cost)) for read, written, cost in columns if cost)
    charged = Counter((one["input_tokens"], one["output_tokens"], one["charge_pico"]) for one in entries)
    figures.charges += len(entries)
    figures.packed_charges += done.filter(pl.col("rows") > 1).height
    figures.suspects += suspects.height
    if paid - charged:
        yield f"{(paid - charged).total()} requests cost what the books do not say: {next(iter(paid - charged))}"
    beside = charged - paid
    if beside.total() > suspects.height:
        yield f"{beside.total()} charges for {suspects.height} suspects"
    held = pico(suspects["held_credits"].sum())
    if sum(charge * times for (_, _, charge), times in beside.items()) > held:
        yield f"the suspects were charged more than the {held} that is held for them"


def pico(credits_: Any) -> int:
    """In integers."""
    return int((credits_ or 0) * PICO)


def main() -> int:
    """`[KILLS [SEED]]`; exit 1 where a law broke."""
    kills, seed = map(int, [*sys.argv[1:3], *("300", "1")[len(sys.argv[1:3]) :]])
    with tempfile.TemporaryDirectory() as folder:
        figures = pack_kills(Path(folder), kills=kills, seed=seed)
    print(*figures.broken, figures.sentence(), sep="\n", flush=True)
    return 1 if figures.broken else 0


if __name__ == "__main__":
    sys.exit(main())
