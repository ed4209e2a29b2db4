"""kill -9 of real sessions against a gateway in a process of its own, which keeps its own books."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from msgspec import Struct, field, structs
from simulation.play import recorded_ends

from crun_batch import open_run
from crun_batch.load.job.job import load_job
from crun_batch.simulator import SimulatorProcess
from crun_batch.simulator.settings import Settings
from crun_batch.store.directory import RunDirectory
from crun_batch.store.verify import verify
from crun_batch.workload.loading import load_workload

from .operators import OPERATORS, deleted
from .sessions import Nursery, fresh_session

CONCURRENCY = 8
FRESH = 0.2
"""Share of the sessions to be killed that are a `crun-batch run` of their own, not forked by the nursery."""
OPERATED = 0.25
"""Share of the runs that people do something to; no reader of ours has them open."""
MOST_BROKEN = 5
PICO = 10**12
TIMES = ("latency_seconds", "started_at", "finished_at")
COUNTS_OF_ATTEMPTS = ("attempt_count", "unknown_attempts")
MARKERS = (
    "",
    "",
    "[[fault:500]]",
    "[[fault:429]]",
    "[[fault:reset_after]]",
    "[[fault:close]]",
    "[[fault:truncated]]",
    "[[fault:malformed]]",
    "[[fault:error_in_200*2]]",
    "[[fault:400*always]]",
    "[[fault:content_filter*always]]",
)
JOB = """
name: chaos
input: {{table: {table}, id: id}}
endpoint: {{base_url: "{base_url}", api_key_env: CHAOS_KEY}}
model: gpt-5.4
prompt: {{user: "{{{{ text }}}}"}}
params: {{max_output_tokens: 40}}
limits: {{concurrency: {concurrency}, adaptive: false, attempt_timeout_seconds: 20, stop_at_error_rate: 1.0}}
prices:
  models:
    gpt-5.4:
      currency: credits
      input_per_mtok: 500
      cached_input_per_mtok: 50
      output_per_mtok: 3000
      minimum_per_request: 0.01
output: {{dir: "{folder}"}}
"""


class Figures(Struct):
    """What was reached; the laws that broke are sentences."""

    runs: int = 0
    sessions: int = 0
    kills: int = 0
    self_kills: int = 0
    """Of the kills those at a named operation."""
    fresh_kills: int = 0
    """Of the kills those of a `crun-batch run` of its own."""
    recorded: int = 0
    """Replies that were on the disk at a kill."""
    suspects: int = 0
    """Attempts named as of unknown outcome because of a kill."""
    charges: int = 0
    charged_without_reply: int = 0
    """Charges for requests whose reply was not recorded: cut by a fault, or by a kill."""
    operated: Counter[str] = field(default_factory=Counter)
    """What people did to runs, how often."""
    reads: int = 0
    swaps: int = 0
    """Reads by name that met a swap of the link, and succeeded when repeated."""
    broken: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Take in what another process reached."""
        for name in structs.asdict(other):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Readers:
    """The process that reads what is being written."""

    def __init__(self, folder: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("reader.py")), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def close(self, figures: Figures) -> None:
        said, _ = self._child.communicate(b"\n", timeout=60)
        found = orjson.loads(said)
        figures.reads += found["reads"]
        figures.swaps += found["swaps"]
        figures.broken += found["failures"]


def killed_until(count: int, seed: int, until: float) -> Figures:
    """`chaos` in a folder of its own; found here, not in `__main__`, by the processes that it is sent to."""
    with tempfile.TemporaryDirectory() as folder:
        return chaos(Path(folder), kills=count, seed=seed, until=until)


def chaos(folder: Path, *, kills: int, seed: int, until: float = float("inf")) -> Figures:
    """Kill sessions of one run after the other until there were `kills`, or it is `until` (monotonic)."""
    figures = Figures()
    operated = folder / "operated"
    operated.mkdir()
    chance = random.Random(seed)
    settings = Settings(latency_seconds=0.02, latency_sigma=0.6, seed=seed, ledger_path=str(folder / "ledger"))
    with SimulatorProcess(settings) as simulator:
        nursery, readers = Nursery(folder / "log"), Readers(folder)
        try:
            while figures.kills < kills and time.monotonic() < until and len(figures.broken) < MOST_BROKEN:
                parent = operated if chance.random() < OPERATED else folder
                place = parent / f"run{figures.runs:05d}"
                killed_run(simulator, nursery, place, chance, figures, most_kills=kills - figures.kills)
        finally:
            nursery.close()
            readers.close(figures)
    return figures


def killed_run(
    simulator: SimulatorProcess,
    nursery: Nursery,
    place: Path,
    chance: random.Random,
    figures: Figures,
    most_kills: int,
) -> None:
    """One run: some sessions that are killed, one that is not, and the laws."""
    job = write_job(simulator, place, rows=chance.randint(5, chance.choice((40, 150))), seed=chance.random())
    before = simulator.ledger()["count"] - 1
    recorded: dict[int, bytes] = {}
    killed = 0
    for _ in range(min(most_kills, chance.randint(4, 12))):
        if place.parent.name == "operated" and chance.random() < 0.5:
            operator, allowed = chance.choice(list(OPERATORS.items()))
            code = operator(nursery, order_of(job, chance), place, chance)
            figures.sessions += 1
            figures.operated[operator.__name__.replace("_", " ")] += 1
            if code not in allowed:
                figures.broken.append(f"{place.name}, {operator.__name__}: {nursery.told(code)}")
            if operator is deleted:
                figures.kills += killed
                before, killed, recorded = simulator.ledger()["count"] - 1, 0, {}
            killed += code == -signal.SIGKILL
            recorded |= {serial: digest for serial, (digest, _) in recorded_ends(RunDirectory(place))}
            continue
        is_fresh = chance.random() < FRESH
        at_operation = not is_fresh and chance.random() < 0.7
        order = order_of(job, chance)
        order["at"] = int(2 ** chance.uniform(0, 9)) if at_operation else 0
        if is_fresh:
            code = fresh_session(job, place, 0.2 + chance.expovariate(1 / 0.6), nursery.log)
        else:
            code = nursery.session(order, None if at_operation else 0.3 + chance.expovariate(1 / 0.8))
        figures.sessions += 1
        if code != -signal.SIGKILL:
            if code not in (0, 1):
                figures.broken.append(f"{place.name}: {nursery.told(code)}")
            break
        killed += 1
        figures.self_kills += at_operation
        figures.fresh_kills += is_fresh
        recorded |= {serial: digest for serial, (digest, _) in recorded_ends(RunDirectory(place))}
    for _ in range(2):
        code = nursery.session(order_of(job, chance), None)
    figures.sessions += 2
    figures.runs += 1
    figures.kills += killed
    figures.recorded += len(recorded)
    entries = simulator.ledger(entries=True, after=before)["entries"]
    figures.charges += len(entries)
    problems = [] if code in (0, 1) else [nursery.told(code)]
    problems += broken_laws(job, place, entries, recorded, killed, figures) if not problems else []
    figures.broken += [f"{place.name}: {problem}" for problem in problems]


def order_of(job: Path, chance: random.Random) -> dict[str, Any]:
    return {
        "job": str(job),
        "at": 0,
        "when": chance.choice(("before", "within", "after")),
        "segment_bytes": chance.choice((4_000, 2**26)),
    }


def write_job(simulator: SimulatorProcess, place: Path, *, rows: int, seed: float) -> Path:
    """A table and a job file; no other run asks the same."""
    chance = random.Random(seed)
    texts = [
        f"{place.name} row {row} {chance.choice(MARKERS)} " + "word " * chance.randint(1, 30)
        for row in range(rows)
    ]
    table = place.with_suffix(".parquet")
    pl.DataFrame({"id": [f"r{row}" for row in range(rows)], "text": texts}).write_parquet(table)
    job = place.with_suffix(".yaml")
    text = JOB.format(table=table, base_url=simulator.base_url, concurrency=CONCURRENCY, folder=place)
    job.write_text(text)
    return job


def broken_laws(
    job: Path, place: Path, entries: list[dict[str, Any]], recorded: dict[int, bytes], kills: int, figures: Figures
) -> Iterator[str]:
    """What does not hold of a run that was killed so often."""
    run = open_run(place)
    results, attempts = run.results().collect(), run.attempts().collect()
    table = pl.read_parquet(place.with_suffix(".parquet"))
    if sorted(table["id"].to_list()) != sorted(results["id"].to_list()):
        yield "not every unit has one result"
    yield from kept_replies(attempts, recorded)
    suspects = attempts.filter(pl.col("error_kind") == "unknown_outcome")
    figures.suspects += suspects.height
    if suspects.height > kills * CONCURRENCY:
        yield f"{suspects.height} suspects after {kills} kills with {CONCURRENCY} in flight"
    yield from books(job, attempts, entries, figures)
    yield from (
        f"verify: {found.file}: {found.what}" for found in verify(place, data=True) if found.severity == "error"
    )
    yield from _as_expected(results, table)


def kept_replies(attempts: pl.DataFrame, recorded: Mapping[int, bytes]) -> Iterator[str]:
    """Every reply that was on the disk at a kill is there: serial -> digest of its body."""
    rows = attempts.select("serial", "reply_body", "reply_base64").iter_rows()
    kept = {
        serial: hashlib.sha256((body or "").encode()).digest() for serial, body, coded in rows if coded is None
    }
    for serial, digest in recorded.items():
        if kept.get(serial, digest) != digest or serial not in attempts["serial"]:
            yield f"the reply of attempt {serial} is lost"


def books(job: Path, attempts: pl.DataFrame, entries: list[dict[str, Any]], figures: Figures) -> Iterator[str]:
    """known <= bill <= known + held; for each request too."""
    bill = sum(entry["charge_pico"] for entry in entries)
    unknown = attempts.filter(pl.col("outcome") == "unknown")
    known = int((attempts["cost_credits"].sum() or 0) * PICO)
    held = int((unknown["held_credits"].sum() or 0) * PICO)
    if not known <= bill <= known + held:
        yield f"known {known}, charged {bill}, held {held}"
    workload = load_workload(load_job(job))
    requests = (
        workload.variants[0].request(row) for rows in workload.table.rows(workload.columns) for row in rows
    )
    names = {hashlib.sha256(request.body).hexdigest(): request.request_hash for request in requests}
    charges = Counter(names[entry["request_sha256"]] for entry in entries)
    done = Counter(attempts.filter(pl.col("outcome") == "done")["request_hash"].to_list())
    maybe = done + Counter(unknown["request_hash"].to_list())
    figures.charged_without_reply += sum((charges - done).values())
    yield from (f"a request has {charges[name]} charges, {maybe[name]} attempts" for name in charges - maybe)
    yield from (f"a request has {charges[name]} charges, {done[name]} replies" for name in done - charges)


def _as_expected(results: pl.DataFrame, table: pl.DataFrame) -> Iterator[str]:
    """As without kills: a row that is refused always is refused, every other one has its answer."""
    expected = {"[[fault:400*always]]": "error", "[[fault:content_filter*always]]": "refused"}
    for text, status in table.join(results, on="id").select("text", "status").iter_rows():
        wanted = next((status for marker, status in expected.items() if marker in text), "ok")
        if status not in (wanted, "truncated" if wanted == "ok" else wanted):
            yield f"{text[:40]!r} ended {status}, not {wanted}"
