"""Synthetic word problems of the size of GSM8K's: 240 bytes on average, 70 to 850, each one different.

Written as Parquet for us and as JSON lines for the other clients. `--source` takes questions from a Parquet file
with a `question` column instead, repeated with a number in front, so that no two are alike.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = [
    "Ada",
    "Ben",
    "Chloe",
    "Dmitri",
    "Elena",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Leon",
    "Mara",
    "Noor",
    "Oskar",
    "Priya",
]
THINGS = [
    "apples",
    "books",
    "candles",
    "pencils",
    "bottles",
    "tickets",
    "shells",
    "marbles",
    "cookies",
    "stamps",
    "ribbons",
    "bricks",
]
SENTENCES = (
    "{name} buys {a} boxes with {b} {thing} in each of them.",
    "On {day} {name} gives {a} {thing} away and keeps the rest.",
    "Every week {b} more {thing} arrive, and {a} of them are sold for {c} dollars each.",
    "A third of the {thing} are broken, so {name} pays {c} dollars for {b} new ones.",
    "{name} has {c} times as many {thing} as before after {b} days.",
)
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
BATCH_ROWS = 65_536


def synthetic(rows: int) -> Iterator[str]:
    draw = random.Random(7)
    for row in range(rows):
        count = 1 + min(10, int(draw.lognormvariate(0.95, 0.45)))
        told = [
            draw.choice(SENTENCES).format(
                name=draw.choice(NAMES),
                thing=draw.choice(THINGS),
                day=draw.choice(DAYS),
                a=draw.randint(2, 40),
                b=draw.randint(2, 90),
                c=draw.randint(2, 9),
            )
            for _ in range(count)
        ]
        yield f"{' '.join(told)} How many are there after {row} days?"


def repeated(source: Path, rows: int) -> Iterator[str]:
    questions = pq.read_table(source, columns=["question"]).column(0).to_pylist()
    return (f"{row}. {questions[row % len(questions)]}" for row in range(rows))


def write_table(path: Path, rows: int, *, source: Path | None = None, lines: bool = True) -> Path:
    """Write `question_id` and `question`; a table that is there already is kept."""
    if path.exists() and pq.read_metadata(path).num_rows == rows:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("question_id", pa.int64()), ("question", pa.string())])
    questions = synthetic(rows) if source is None else repeated(source, rows)
    with pq.ParquetWriter(path, schema) as writer, path.with_suffix(".jsonl").open("wb") as file:
        for start in range(0, rows, BATCH_ROWS):
            texts = [next(questions) for _ in range(min(BATCH_ROWS, rows - start))]
            writer.write_batch(pa.record_batch([pa.array(range(start, start + len(texts))), texts], schema=schema))
            if lines:
                file.writelines(orjson.dumps({"question": text}) + b"\n" for text in texts)
    return path
