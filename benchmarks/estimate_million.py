"""A million short prompts estimated: the seconds, the memory, and what the estimate says.

Run: python benchmarks/estimate_million.py [--rows 1000000]
The real `estimate`: a Parquet table of 30 to 60 words a row, a template, exact token counts, the simulated gateway
asked for its models and the balance. Seconds are of the estimate alone, memory is the highest of the process.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import crun_batch

SENTENCE = (
    "the of to and a in is it you that he was for on are with as his they be at one have this from or had by hot "
    "word but what some we can out other were all there when up use your how said an each she which do their time"
)
ROWS_AT_ONCE = 50_000
PRICE = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": "0.01"}


def write_table(path: Path, rows: int) -> None:
    """A million different reviews, a part at a time: the memory told is that of the estimate."""
    rng, words = random.Random(0), SENTENCE.split()
    phrases = [" ".join(rng.choices(words, k=rng.randrange(10, 20))) for _ in range(5_000)]
    schema = pa.schema({"id": pa.int64(), "text": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, ROWS_AT_ONCE):
            ids = range(start, min(rows, start + ROWS_AT_ONCE))
            texts = [f"{number} " + ". ".join(rng.choices(phrases, k=3)) for number in ids]
            writer.write_table(pa.table({"id": list(ids), "text": texts}, schema))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rows", type=int, default=1_000_000)
    rows = arguments.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "reviews.parquet"
        write_table(table, rows)
        job = crun_batch.Job(
            name="million",
            input={"table": str(table), "id": "id"},
            model="gpt-5.4",
            prompt={"system": "Label the review: good or bad.", "user": "Review: {{ text }}"},
            params={"max_output_tokens": 8},
            prices={"models": {"gpt-5.4": PRICE}},
            output={"dir": f"{folder}/run"},
        )
        before_megabytes = megabytes()
        started, used = time.perf_counter(), time.process_time()
        told = crun_batch.estimate(job, simulate=True)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    variant = told["variants"][0]
    print(f"{told['open_rows']:,} rows, {variant['input_tokens']:,} input tokens ({variant['counter']})")
    print(f"cost {told['cost_credits']['low']} to {told['cost_credits']['high']} credits")
    print(f"{seconds:.1f} s, {cpu_seconds:.1f} s of one core, {cpu_seconds / rows * 1e6:.0f} us a row")
    print(f"{megabytes():,.0f} MB at most, {before_megabytes:,.0f} MB of them before the estimate")


def megabytes() -> float:
    """The highest memory of this process so far."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
