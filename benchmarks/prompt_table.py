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
import pyarrow.compute as pc
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


def stories(count: int) -> list[str]:
    draw = random.Random(7)
    told = []
    for _ in range(count):
        sentences = [
            draw.choice(SENTENCES).format(
                name=draw.choice(NAMES),
                thing=draw.choice(THINGS),
                day=draw.choice(DAYS),
                a=draw.randint(2, 40),
                b=draw.randint(2, 90),
                c=draw.randint(2, 9),
            )
            for _ in range(1 + min(10, int(draw.lognormvariate(0.95, 0.45))))
        ]
        told.append(" ".join(sentences))
    return told


def synthetic(rows: int) -> Iterator[pa.Array]:
    """The stories, again and again, each time with another question."""
    told = pa.array(stories(min(rows, BATCH_ROWS)))
    for start in range(0, rows, BATCH_ROWS):
        numbers = pa.array(range(start, min(start + BATCH_ROWS, rows))).cast(pa.string())
        question = pc.binary_join_element_wise(" How many are there after ", numbers, " days?", "")
        yield pc.binary_join_element_wise(told[: len(numbers)], question, "")


def repeated(source: Path, rows: int) -> Iterator[pa.Array]:
    questions = pq.read_table(source, columns=["question"]).column(0).to_pylist()
    for start in range(0, rows, BATCH_ROWS):
        numbers = range(start, min(start + BATCH_ROWS, rows))
        yield pa.array([f"{row}. {questions[row % len(questions)]}" for row in numbers])


def write_table(path: Path, rows: int, *, source: Path | None = None, lines: bool = True) -> Path:
    """Write `question_id` and `question`; a table that is there already is kept."""
    if path.exists() and pq.read_metadata(path).num_rows == rows:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("question_id", pa.int64()), ("question", pa.string())])
    start = 0
    with pq.ParquetWriter(path, schema) as writer, path.with_suffix(".jsonl").open("wb") as file:
        for texts in synthetic(rows) if source is None else repeated(source, rows):
            numbers = pa.array(range(start, start + len(texts)))
            writer.write_batch(pa.record_batch([numbers, texts], schema=schema))
            if lines:
                file.writelines(orjson.dumps({"question": text}) + b"\n" for text in texts.to_pylist())
            start += len(texts)
    return path
