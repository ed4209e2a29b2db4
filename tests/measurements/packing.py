"""What packing promises and what it keeps, against the simulator, which packs wrongly at a known rate.

    python -m tests.measurements.packing coverage [--runs 100] [--first 0] [--rate 0.03] [--table labels]
    python -m tests.measurements.packing drawn [--runs 1000]
    python -m tests.measurements.packing savings [--jobs 20]
    python -m tests.measurements.packing whole

coverage: pilots whose packed answers are wrong at a known rate per item: how often the 95 % interval of the
agreement holds the truth. On labels, and on the 1,319 questions of ../shared/data where they are.

drawn: the same interval over drawn packs whose rows fail together, which the simulator does not do.

savings: jobs with other prompts, prices, sizes and formats. Promised is what `estimate` names, `expected`, of the
job as it is after 40 rows; realised is what the same rows cost packed against alone, in two runs.

whole: all 1,319 questions in packs, and the bill to the last digit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct

from crun_batch.simulator.settings import Model
from crun_batch.stats.packs import AnswerPair, pack_agreement
from tests.simulation.gateway import MODEL
from tests.simulation.packs import LABELS, PackScene, PackStage, pico
from tests.simulation.play import PRICES

QUESTIONS = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_test.parquet"
RATES = (0.01, 0.03, 0.1)
TOGETHER = 10
WORDS = [
    "the",
    "parcel",
    "came",
    "late",
    "but",
    "support",
    "was",
    "kind",
    "and",
    "sent",
    "another",
    "one",
    "at",
    "once",
    "so",
    "all",
    "is",
    "well",
    "now",
    "thanks",
]


class SavingJob(Struct, frozen=True):
    """A job whose saving is promised and measured."""

    system_words: int
    row_words: int
    rows: int
    form: str
    prices: tuple[str, str, str]
    """Credits per million tokens of input and output; the least per request."""


JOBS = tuple(
    SavingJob(system_words, row_words, rows, form, prices)
    for system_words, row_words, rows, form, prices in (
        (20, 12, 10, "lines", ("100", "600", "0.01")),
        (20, 12, 25, "lines", ("100", "600", "0.01")),
        (60, 12, 10, "lines", ("100", "600", "0.01")),
        (60, 40, 10, "lines", ("100", "600", "0.01")),
        (200, 12, 5, "lines", ("100", "600", "0.01")),
        (200, 40, 10, "lines", ("100", "600", "0")),
        (400, 12, 10, "lines", ("100", "600", "0")),
        (400, 80, 25, "lines", ("500", "3000", "0")),
        (400, 40, 50, "lines", ("500", "3000", "0.01")),
        (800, 20, 2, "lines", ("100", "600", "0")),
        (800, 20, 5, "lines", ("250", "1500", "0")),
        (200, 12, 10, "json", ("100", "600", "0.01")),
        (400, 12, 10, "json", ("100", "600", "0")),
        (400, 40, 25, "json", ("100", "600", "0")),
        (800, 12, 5, "json", ("100", "600", "0")),
        (800, 40, 10, "json", ("500", "3000", "0.01")),
        (800, 80, 25, "json", ("500", "3000", "0")),
        (1200, 20, 50, "json", ("100", "600", "0")),
        (30, 20, 10, "lines", ("20", "120", "0.01")),
        (30, 20, 50, "json", ("20", "120", "0.01")),
    )
)


def text_of(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=max(1, round(words * chance.uniform(0.5, 1.5)))))


def labelling(rows: int, seed: int) -> tuple[pl.DataFrame, dict[str, Any], dict[str, Any]]:
    """A table, the job's keys, the gateway's settings."""
    chance = random.Random(seed)
    table = pl.DataFrame(
        {"id": [f"r{n}" for n in range(rows)], "text": [text_of(chance, 12) for _ in range(rows)]}
    )
    return table, {}, {}


def questions(rows: int, seed: int) -> tuple[pl.DataFrame, dict[str, Any], dict[str, Any]]:
    """The same of real questions, graded by their number."""
    table = pl.read_parquet(QUESTIONS).select(id="question_id", text="question", gold="gold")
    table = table.sample(min(rows, table.height), seed=seed, shuffle=True)
    gold = {
        hashlib.sha256(text.strip().encode()).hexdigest(): right for text, right in table["text", "gold"].rows()
    }
    keys = {
        "prompt": {"system": "Solve the problem. Give the number last.", "user": "{{ text }}"},
        "params": {"max_output_tokens": 300},
        "score": [{"name": "right", "grader": "number", "expected": "{{ gold }}"}],
    }
    return (
        table,
        keys,
        {"gold": gold, "answer_style": "number", "models": {MODEL: priced_as_the_job()}},
    )


def priced_as_the_job() -> Model:
    """The model at the gateway, with room for long replies."""
    prices = {name: Decimal(PRICES[name]) for name in ("input_per_mtok", "output_per_mtok", "minimum_per_request")}
    return Model(max_output_tokens=16_384, **prices)


def whole(folder: Path) -> Iterator[str]:
    """A line for each form: all real questions in packs, and whether the run says what the gateway billed."""
    for form in ("json", "lines"):
        table, keys, gateway = questions(10**6, 0)
        keys = {**keys, "pack": {"rows": TOGETHER, "format": form}}
        faults = {"missing": 0.001, "wrong": 0.02}
        stage = PackStage(PackScene(form, pack_faults=faults, seed=1, keys=keys, gateway=gateway), folder / form)
        stage.session(table=table)
        known, billed = stage.attempts()["cost_credits"].sum(), stage.world.gateway.ledger.charged_pico
        agrees = "the run says so too" if pico(known) == billed else f"the run says {known}"
        yield (
            f"{stage.results().height:,} questions in {stage.world.posts} requests as {form}: "
            f"{Decimal(billed) / 10**12:f} credits billed, {agrees}"
        )


def coverage(folder: Path, name: str, seeds: range, pilot: int, rates: Sequence[float]) -> Iterator[str]:
    """A line for each rate."""
    made = TABLES[name]
    for rate in rates:
        held = 0
        for seed in seeds:
            table, keys, gateway = made(pilot, seed)
            keys = {**keys, "pack": {"rows": TOGETHER, "format": "lines"}}
            place = folder / f"{rate}-{seed}"
            stage = PackStage(PackScene(pack_faults={"wrong": rate}, seed=seed, keys=keys, gateway=gateway), place)
            stage.session(table=table, pilot=pilot)
            [told] = json.loads((place / "summary.json").read_bytes())["pilot"]["packing"].values()
            held += told["same"]["low"] <= 1 - rate <= told["same"]["high"]
        yield (
            f"{name}, {rate:.0%} of the packed answers wrong: {held} of {len(seeds)} intervals hold the truth "
            f"(seeds {seeds.start} to {seeds.stop - 1})"
        )


TABLES: dict[str, Any] = {"labels": labelling, **({"questions": questions} if QUESTIONS.exists() else {})}


def drawn_coverage(runs: int, rows: int) -> Iterator[str]:
    """The interval over drawn packs: with probability `together` all rows of a pack fail or hold together."""
    for rate in RATES:
        for together in (0.0, 0.3, 1.0):
            chance, held = random.Random(f"{rate} {together}"), 0
            for _ in range(runs):
                found = pack_agreement(list(_drawn(chance, rows, rate, together)))
                assert found is not None
                held += found.same.low <= 1 - rate <= found.same.high
            told = f"drawn, {rate:.0%} wrong, {together:.0%} of the packs as a whole"
            yield f"{told}: {held} of {runs} hold the truth"


def _drawn(chance: random.Random, rows: int, rate: float, together: float) -> Iterator[AnswerPair]:
    for pack in range(rows // TOGETHER):
        as_one = chance.random() < together
        whole = chance.random() < rate
        for place in range(1, TOGETHER + 1):
            is_wrong = whole if as_one else chance.random() < rate
            yield AnswerPair(pack, place, TOGETHER, "b" if is_wrong else "a", "a", not is_wrong)


def savings(folder: Path, jobs: int) -> Iterator[str]:
    """A line for each job: promised, realised; the last one says how many are within a tenth."""
    within = 0
    for number, job in enumerate(JOBS[:jobs]):
        promised, realised = saving(folder / str(number), job)
        is_within = abs(realised - promised) <= 0.1 * abs(promised)
        within += is_within
        yield (
            f"{job.system_words:>5} words before {job.row_words:>3}, {job.rows:>2} rows as {job.form:<5} at "
            f"{'/'.join(job.prices)}: promised {promised:6.1%}, realised {realised:6.1%}"
            + ("" if is_within else "  !")
        )
    yield f"{within} of {min(jobs, len(JOBS))} savings are within 10 % of what was promised"


def saving(folder: Path, job: SavingJob, rows: int = 200) -> tuple[float, float]:
    """The share that `estimate` promises, and the one that two runs come to."""
    chance = random.Random(str(job))
    table = pl.DataFrame(
        {"id": [f"r{n}" for n in range(rows)], "text": [text_of(chance, job.row_words) for _ in range(rows)]}
    )
    read, written, least = job.prices
    price = {"currency": "credits", "input_per_mtok": read, "output_per_mtok": written}
    price["minimum_per_request"] = least
    model = Model(
        input_per_mtok=Decimal(read),
        output_per_mtok=Decimal(written),
        minimum_per_request=Decimal(least),
        max_output_tokens=16_384,
    )
    system = f"{' '.join(chance.choices(WORDS, k=job.system_words))}. {LABELS}"
    keys = {
        "prompt": {"system": system, "user": "{{ text }}"},
        "prices": {"models": {MODEL: price}},
        "pack": None,
    }
    gateway = {"models": {MODEL: model}, "tokenizer": "auto"}
    alone = PackStage(PackScene(keys=keys, gateway=gateway), folder / "alone")
    alone.session(table=table, pilot=40)
    [ways] = alone.estimate(table)["ways"]
    name = f"{job.rows} rows in one request as {job.form}"
    [promised] = [way["saves"]["expected"] for way in ways["ways"] if way["way"] == name]
    alone.session(table=table)
    pack = {"rows": job.rows, "format": job.form}
    packed = PackStage(PackScene(keys={**keys, "pack": pack}, gateway=gateway), folder / "packed")
    packed.session(table=table)
    bills = [stage.world.gateway.ledger.charged_pico for stage in (packed, alone)]
    return float(promised), 1 - bills[0] / bills[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["coverage", "drawn", "savings", "whole"])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--pilot", type=int, default=150)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rate", type=float, action="append")
    parser.add_argument("--table", choices=list(TABLES), default="labels")
    parser.add_argument("--jobs", type=int, default=len(JOBS))
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if told.what == "savings":
            lines = savings(Path(folder), told.jobs)
        elif told.what == "whole":
            lines = whole(Path(folder))
        elif told.what == "drawn":
            lines = drawn_coverage(told.runs, told.pilot)
        else:
            seeds = range(told.first, told.first + told.runs)
            lines = coverage(Path(folder), told.table, seeds, told.pilot, told.rate or RATES)
        for line in lines:
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
