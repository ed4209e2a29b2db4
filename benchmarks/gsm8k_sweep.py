"""A sweep on real questions: does the comparison recover what is known of the models?

    python -m benchmarks.gsm8k_sweep [--table ../shared/data/gsm8k_test.parquet] [--limit 300]

Three simulated models of known accuracy x two prompts x two repeats, scored by number. Each variant's 95 %
interval must hold its model's accuracy (six intervals: one may miss), the ranking of the models must be theirs,
and the paired differences must call the weakest model worse than the best. Stops with an error otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

import crun_batch
from crun_batch.simulator import SimulatorProcess, read_settings

TABLE = Path(__file__).parent.parent.parent / "shared" / "data" / "gsm8k_test.parquet"
ACCURACIES = {"large": 0.92, "medium": 0.80, "small": 0.65}
PRICES = {"large": (500, 3000), "medium": (100, 600), "small": (20, 120)}
PROMPTS = {
    "plain": "{{ question }}",
    "steps": "Think step by step. Give the number last.\nQuestion: {{ question }}",
}


def settings(table: Path) -> dict[str, object]:
    """A simulator that knows the right answers, and how often each model gives them."""
    known = pl.read_parquet(table, columns=["question", "gold"])
    gold = {
        hashlib.sha256(question.strip().encode()).hexdigest(): answer for question, answer in known.iter_rows()
    }
    models = {
        name: {"accuracy": accuracy, "input_per_mtok": PRICES[name][0], "output_per_mtok": PRICES[name][1]}
        for name, accuracy in ACCURACIES.items()
    }
    return {"answer_style": "number", "models": models, "gold": gold, "balance_credits": "1000000"}


def job(table: Path, base_url: str, folder: Path) -> crun_batch.Job:
    """The sweep."""
    prices = {
        name: {
            "currency": "credits",
            "input_per_mtok": fresh,
            "output_per_mtok": output,
            "minimum_per_request": 0.01,
        }
        for name, (fresh, output) in PRICES.items()
    }
    return crun_batch.Job(
        name="gsm8k-sweep",
        input={"table": str(table), "id": "question_id"},
        endpoint={"base_url": base_url, "api_key_env": "GSM8K_KEY", "auth": "bearer"},
        model="large",
        prompt={"user": "{{ question }}"},
        params={"max_output_tokens": 400},
        sweep={
            "model": list(ACCURACIES),
            "how": {name: {"prompt": {"user": text}} for name, text in PROMPTS.items()},
        },
        repeats=2,
        score=[{"name": "right", "grader": "number", "expected": "{{ gold }}", "pattern": "#### (.*)"}],
        prices={"credits_per_usd": 200, "models": prices},
        output={"dir": str(folder / "run")},
    )


def checked(folder: Path) -> str:
    """The comparison in words, after it was held against what is known."""
    found = crun_batch.compare(folder, score="right")
    variants = found.comparison.variants
    rates = {one.name: one.score for one in variants}
    missed = [name for name, rate in rates.items() if not rate.low <= ACCURACIES[name.split("/")[0]] <= rate.high]
    ranking = sorted(rates, key=lambda name: -rates[name].value)
    models = list(dict.fromkeys(name.split("/")[0] for name in ranking))
    weakest = [one for one in variants if one.name.startswith("small/")]
    assert len(missed) <= 1, f"outside of their intervals: {missed}"
    assert list(ACCURACIES) == models, ranking
    assert all(one.to_best is not None and one.to_best.is_worse for one in weakest)
    return f"{found.text()}\n\n{len(rates) - len(missed)} of {len(rates)} intervals hold the accuracy"


def main() -> int:
    """Run it in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    if not arguments.table.exists():
        print(f"{arguments.table} is not there: nothing to do")
        return 0
    started = time.monotonic()
    table = arguments.table.resolve()
    simulator = SimulatorProcess(read_settings(settings(table)))
    simulator.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            sweep = job(table, simulator.base_url, Path(folder))
            options = {"limit": arguments.limit, "environ": {"GSM8K_KEY": "ak_sim_benchmark_key"}}
            done = crun_batch.run(sweep, **options)
            assert done.exit_code == 0, done
            print(f"{done.report()}\n\n{checked(done.directory)}")
    finally:
        simulator.stop()
    print(f"all as known, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
