"""Sessions of the batch lane ended at every operation of their disk: `python -m chaos.batches` in `tests`.

By kill -9, Ctrl-C and SIGTERM, in each form in which gateways take batches. The gateway is the simulator in a
process of its own, which keeps its own books; replies of calls that create a batch are lost too.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from msgspec import Struct, field

from crun_batch import open_run
from crun_batch.simulator import SimulatorProcess
from crun_batch.simulator.settings import Settings
from crun_batch.store.verify import verify

from .batch_job import FORMS, batch_job
from .deadly import sent
from .sessions import Nursery

ROWS = 9
MOST_POINTS = 2_000
PICO = Decimal(10**12)
FAULTS: tuple[dict[str, float], ...] = (
    {},
    {"create_lost": 0.5},
    {"expired": 0.3, "doubled": 0.3, "shuffled": 1.0},
)
"""What else goes wrong, run by run."""
LANES = ("batch", "batch-then-live")


class Ending(NamedTuple):
    """By what a session ends: not yet in the operation of its disk, in the middle of it, or right after it."""

    when: str
    number: signal.Signals
    codes: frozenset[int]
    """With which it may end; 0: it was done already."""


ENDINGS = (
    *(Ending(when, signal.SIGKILL, frozenset({-signal.SIGKILL, 0})) for when in ("before", "within", "after")),
    Ending("after", signal.SIGINT, frozenset({130, 70, 0})),
    Ending("after", signal.SIGTERM, frozenset({143, -signal.SIGTERM, 0})),
)
"""A signal before the session sends is nobody's in the API: KeyboardInterrupt, or the end."""


class BatchFigures(Struct):
    """What was reached; the laws that broke are sentences."""

    kills: int = 0
    stops: int = 0
    sessions: int = 0
    batches: int = 0
    charges: int = 0
    live: int = 0
    lost_creates: int = 0
    broken: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        return (
            f"{self.kills:,} kills, {self.stops:,} stops by a signal, {self.sessions:,} sessions, "
            f"{self.batches:,} batches, {self.charges:,} requests charged, {self.live:,} of them live, "
            f"{self.lost_creates:,} lost replies to create calls; {len(self.broken)} laws broken"
        )


def kill_at_points(
    folder: Path, *, form: str, step: int, rounds: int = 1, first: int | None = None
) -> BatchFigures:
    """One run for each point: ended there, then gone on with; every `step`-th point, each ending in its turn.

    `rounds`: as many as there are endings have each point with each of them. `first`: the first point.
    """
    figures = BatchFigures()
    folder.mkdir(exist_ok=True)
    settings = Settings(
        tokenizer="words",
        gateway_style=FORMS[form].gateway_style,  # type: ignore[arg-type]
        batch_seconds=0.05,
        output_tokens_median=15.0,
        ledger_path=str(folder / "ledger"),
        balance_credits=Decimal(10**6),
    )
    with SimulatorProcess(settings) as simulator:
        nursery = Nursery(folder / "log")
        try:
            for number in range(rounds):
                for point in range(1 + step // 3 if first is None else first, MOST_POINTS, step):
                    turn = point // step + number
                    simulator.change(batch_faults=FAULTS[turn % len(FAULTS)])
                    place = folder / f"{form}{number}-{point:05d}"
                    tree = batch_job(
                        simulator.base_url,
                        "CHAOS_KEY",
                        str(place),
                        form=form,
                        lane=LANES[turn % len(LANES)],
                        input={"table": str(place.with_suffix(".parquet")), "id": "id"},
                        batch={"max_requests": 4, "look_every_seconds": 0.02},
                    )
                    place.with_suffix(".json").write_text(json.dumps(tree))
                    if not _ended_run(simulator, nursery, place, point, ENDINGS[turn % len(ENDINGS)], figures):
                        break
        finally:
            nursery.close()
        figures.lost_creates = _faults(simulator).get("create_lost", 0)
    return figures


def _faults(simulator: SimulatorProcess) -> dict[str, int]:
    found: dict[str, int] = simulator.stats()["faults"]
    return found


def _ended_run(
    simulator: SimulatorProcess, nursery: Nursery, place: Path, point: int, ending: Ending, figures: BatchFigures
) -> bool:
    """Whether the session came so far that it was ended."""
    table = place.with_suffix(".parquet")
    pl.DataFrame(
        {"id": [f"r{row}" for row in range(ROWS)], "text": [f"{place.name} row {row}" for row in range(ROWS)]}
    ).write_parquet(table)
    before = simulator.ledger()["count"] - 1
    order = {
        "job": str(place.with_suffix(".json")),
        "at": point,
        "when": ending.when,
        "signal": ending.number.name,
        "segment_bytes": 2**26,
        "absent_seconds": 0.3,
    }
    code = nursery.session(order, None)
    found = [] if code in ending.codes else [nursery.told(code)]
    is_killed = code == -signal.SIGKILL
    is_stopped = sent(ending.number) in nursery.last_words()
    for _ in range(2):
        code = nursery.session({**order, "at": 0}, None)
        found += [] if code == 0 else [nursery.told(code)]
    figures.sessions += 3
    figures.kills += is_killed
    figures.stops += is_stopped
    entries = simulator.ledger(entries=True, after=before)["entries"]
    figures.charges += len(entries)
    figures.live += sum(not entry.get("batch") for entry in entries)
    figures.batches += len({entry["batch"] for entry in entries if entry.get("batch")})
    found += _broken_laws(place, [entry for entry in entries if entry.get("batch")])
    found += _broken_live_laws(place, entries)
    figures.broken += [
        f"{place.name}, {ending.number.name} {ending.when} operation {point}: {law}" for law in found
    ]
    return is_killed or is_stopped


def _broken_laws(place: Path, entries: list[dict[str, Any]]) -> Iterator[str]:
    """Every row once; in batches every request paid once and read, the cost that of the books; the files whole."""
    run = open_run(place)
    results = run.results().collect()
    attempts = run.attempts().filter(pl.col("endpoint") == "batch").collect()
    if sorted(results["id"].to_list()) != [f"r{row}" for row in range(ROWS)]:
        yield f"{results.height} results"
    twice = {name: times for name, times in Counter(one["request_sha256"] for one in entries).items() if times > 1}
    if twice:
        yield f"{len(twice)} requests are paid more than once"
    charged = sum(entry["charge_pico"] for entry in entries) / PICO
    known = attempts["cost_credits"].sum() or Decimal(0)
    if known != charged:
        yield f"the books say {charged}, the run {known}"
    unknown = attempts.filter(pl.col("outcome") == "unknown").height
    if unknown:
        yield f"{unknown} attempts of unknown outcome, where none can be"
    yield from (
        f"verify: {found.file}: {found.what}" for found in verify(place, data=True) if found.severity != "info"
    )


def _broken_live_laws(place: Path, entries: list[dict[str, Any]]) -> Iterator[str]:
    """Nothing that a batch has done goes live too; what was in flight at the kill is bounded by its holds."""
    attempts = open_run(place).attempts().filter(pl.col("endpoint").is_null()).collect()
    live = [entry for entry in entries if not entry.get("batch")]
    batched = {entry["request_sha256"] for entry in entries if entry.get("batch")}
    if batched & {entry["request_sha256"] for entry in live}:
        yield "what a batch had done went live too"
    charged = Decimal(sum(entry["charge_pico"] for entry in live)) / PICO
    known = attempts["cost_credits"].sum() or Decimal(0)
    held = attempts.filter(pl.col("outcome") == "unknown")["held_credits"].sum() or Decimal(0)
    if not known <= charged <= known + held:
        yield f"the books say {charged} of what went live, known {known}, held {held}"


def main() -> int:
    """`[STEP [FIRST]] [FORM...]`: every point with all endings, or every `step`-th with one; 1: a law broke."""
    numbers = [int(one) for one in sys.argv[1:] if one.isdecimal()]
    forms = [one for one in sys.argv[1:] if not one.isdecimal()]
    step, first = (*numbers, 1)[0], (*numbers[1:], None)[0]
    rounds = len(ENDINGS) if step == 1 else 1
    broken = False
    for form in forms or FORMS:
        with tempfile.TemporaryDirectory() as folder:
            figures = kill_at_points(Path(folder), form=form, step=step, rounds=rounds, first=first)
        print(*figures.broken, f"{form}: {figures.sentence()}", sep="\n", flush=True)
        broken |= bool(figures.broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
