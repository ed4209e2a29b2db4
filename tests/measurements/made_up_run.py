"""A made-up run of any size: the files that a real run leaves, without sending a request.

A labelling sweep of six variants, scored, with failures, retries and two pauses: sealed attempts with the replies'
bodies, sealed results, scores, job.json, summary.json, and beside the run the table it was asked from. Every
ASKED_AGAIN-th row has the true hashes of its requests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from crun_batch.store.directory import RunDirectory, open_directory, read_json, write_json
from crun_batch.store.results import publish
from crun_batch.store.schema import RunSchema, attempts_schema, parts_schema, schema_document
from crun_batch.store.scores import scores_schema, write_scores
from crun_batch.store.seal import put_in_place, write_parquet
from crun_batch.workload.loading import load_workload
from crun_batch.workload.recorded_job import recorded_job

MODELS = {"large": (0.94, 30), "middle": (0.91, 8), "small": (0.83, 2)}
"""Model -> how often it is right, its price in micro-dollars per row."""
PROMPTS = {"short": (0.0, 1.0), "long": (0.02, 1.6)}
SAID = {"short": "You label product reviews.", "long": "You label product reviews: think of what the buyer wants."}
LABELS = ("praise", "complaint", "question", "offer", "other")
ROWS_PER_SEGMENT = 50_000
ASKED_AGAIN = 10_000
START_US = 1_790_000_000_000_000
TOPICS = pa.list_(pa.string())
OUTPUT = pa.struct(
    [("label", pa.string()), ("topics", TOPICS), ("confidence", pa.float64()), ("urgent", pa.bool_())]
)


@contextmanager
def asked_run(description: str | None) -> Iterator[Path]:
    """A run of as many rows as the command line says (`--rows`), in its folder (`--keep`) or in one that goes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.keep or Path(folder) / "run"
        if not path.exists():
            begun = time.perf_counter()
            make_run(path, arguments.rows)
            print(f"{arguments.rows:,} rows made in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        yield path


def run_schema() -> RunSchema:
    axes = {f"{model}/{prompt}": {"model": model, "prompt": prompt} for model in MODELS for prompt in PROMPTS}
    return RunSchema(
        id_name="review_id",
        id_type=pa.int64(),
        carried=pa.schema([("text", pa.string()), ("gold", pa.string())]),
        axes=axes,
        scores=("right",),
        output=OUTPUT,
    )


def make_run(path: Path, rows: int, seed: int = 0) -> None:
    """A run directory of `rows` finished units, about 1.03 requests each."""
    schema, random = run_schema(), np.random.default_rng(seed)
    run = open_directory(path, started_at="2026-01-01T00:00:00Z")
    write_documents(run, schema, rows)
    hashes, scores = true_hashes(run, rows), []
    for segment, first in enumerate(range(0, rows, ROWS_PER_SEGMENT), 1):
        finals = finals_frame(schema, random, first, min(ROWS_PER_SEGMENT, rows - first), rows, segment)
        finals = finals.join(hashes, on=["review_id", "variant"], how="left", maintain_order="left")
        finals = finals.with_columns(request_hash=pl.coalesce("_hash", "request_hash"))
        scores.append(finals.filter(pl.col("score_right").is_not_null()).select("_sequence", "score_right"))
        attempts = attempts_frame(finals, random, first)
        tables = [
            (run.part(segment), typed(finals, parts_schema(schema))),
            (run.attempt_file(segment), typed(attempts, attempts_schema(schema))),
        ]
        entries = [write_parquet(run, file, table.schema, [table]) for file, table in tables]
        put_in_place(run, [file for file, _ in tables], entries)
    scored = pl.concat(scores).with_columns(_incomplete=pl.lit(value=False))
    write_scores(run, schema, typed(scored, scores_schema(schema)), "made up")
    publish(run, schema)
    run.close()


def table_of(path: Path) -> Path:
    """The table that the run in a folder was asked from."""
    return path.with_name(f"{path.name}-reviews.parquet")


def true_hashes(run: RunDirectory, rows: int) -> pl.DataFrame:
    """Writes the table; the hashes of the requests of every ASKED_AGAIN-th row of it, in `_hash`."""
    gold = pl.Series(np.array(LABELS)[gold_of(rows)])
    table = pl.DataFrame({"review_id": range(len(gold))}).with_columns(text=text_of("review_id"), gold=gold)
    table.write_parquet(table_of(run.path))
    workload = load_workload(recorded_job(read_json(run.job)))
    columns = {"review_id": pl.Int64, "variant": pl.String, "_hash": pl.String}
    asked = []
    for number in range(0, len(gold), ASKED_AGAIN):
        row = workload.row(number, workload.columns)
        assert row is not None
        asked += [(number, one.name, one.request(row).request_hash) for one in workload.variants]
    workload.close()
    return pl.DataFrame(asked, schema=columns, orient="row")


def text_of(number: str) -> pl.Expr:
    return pl.format(
        "Review {}: the parcel came late & the colour is <b>not</b> as shown, but it works. 好い", number
    )


def gold_of(rows: int) -> np.ndarray:
    """The place of each row's right label."""
    count = -(-rows // len(run_schema().axes))
    return np.random.default_rng(1).choice(5, count, p=[0.4, 0.25, 0.2, 0.1, 0.05])


def finals_frame(
    schema: RunSchema, random: np.random.Generator, first: int, count: int, rows: int, segment: int
) -> pl.DataFrame:
    names = list(schema.axes)
    unit = np.arange(first, first + count)
    row, variant = unit // len(names), unit % len(names)
    accuracy = np.array([MODELS[a["model"]][0] + PROMPTS[a["prompt"]][0] for a in schema.axes.values()])[variant]
    price = np.array([MODELS[a["model"]][1] * PROMPTS[a["prompt"]][1] for a in schema.axes.values()])[variant]
    gold = gold_of(rows)[row]
    right = random.random(count) < accuracy
    label = np.where(right, gold, (gold + random.integers(1, 5, count)) % 5)
    draw = random.random(count)
    status = np.select(
        [draw < 0.004, draw < 0.009, draw < 0.011, draw < 0.018],
        ["truncated", "invalid", "refused", "error"],
        "ok",
    )
    kinds = np.array(["server", "timeout", "rate_limited", "content_filter"])[random.integers(0, 4, count)]
    output_tokens = np.minimum(400, random.lognormal(3.2, 0.5, count)).astype(int) + 1
    latency = random.lognormal(-0.4, 0.55, count) * (1 + 0.8 * (price > 20))
    pause = np.where(unit > rows * 0.7, 14 * 3600, 0) + np.where(unit > rows * 0.25, 1800, 0)
    started = START_US + ((unit / 400 + pause) * 1e6).astype(np.int64)
    labels = np.array(LABELS)
    ok = status == "ok"
    frame = pl.DataFrame(
        {
            "review_id": row,
            "gold": labels[gold],
            "variant": np.array(names)[variant],
            "repeat": np.zeros(count, dtype=np.int32),
            "status": status,
            "_label": labels[label],
            "_confidence": np.round(np.clip(random.beta(6, 2, count), 0, 1), 3),
            "_urgent": random.random(count) < 0.1,
            "_topic": labels[random.integers(0, 5, count)],
            "_ok": ok,
            "finish_reason": np.where(status == "truncated", "length", "stop"),
            "error_kind": pl.Series(np.where(status == "error", kinds, "")).replace("", None),
            "score_right": np.where(ok, (label == gold).astype(float), np.nan),
            "input_tokens": np.where(status == "error", 0, random.lognormal(5, 0.4, count).astype(int) + 40),
            "output_tokens": np.where(status == "error", 0, output_tokens),
            "_cost": (price * 1e6 * (0.5 + output_tokens / 50)).astype(np.int64),
            "latency_seconds": latency,
            "_started": started,
            "_finished": started + (latency * 1e6).astype(np.int64),
            "_sequence": np.arange(count) + segment * 2**32,
        },
        strict=False,
    )
    return dressed(frame)


def dressed(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns that follow from others."""
    told = pl.format('{{"label":"{}","topics":["{}"],"confidence":{}}}', "_label", "_topic", "_confidence")
    moment = pl.Datetime("us", "UTC")
    messages = pl.format("the gateway said: <script>alert({})</script> try again later", "review_id")
    return frame.with_columns(
        text=text_of("review_id"),
        output_text=pl.when(pl.col("status") != "error").then(told),
        output=pl.when("_ok").then(
            pl.struct(label="_label", topics=pl.concat_list("_topic"), confidence="_confidence", urgent="_urgent")
        ),
        error_message=pl.when(~pl.col("_ok")).then(messages),
        score_right=pl.col("score_right").fill_nan(None),
        model=pl.col("variant").str.split("/").list.first(),
        axis_model=pl.col("variant").str.split("/").list.first(),
        axis_prompt=pl.col("variant").str.split("/").list.last(),
        cost_usd=pl.when(pl.col("status") == "error").then(0).otherwise(pl.col("_cost")).cast(pl.Decimal(38, 0)),
        cost_source=pl.lit("job"),
        attempt_count=pl.lit(1),
        unknown_attempts=pl.lit(0),
        started_at=pl.col("_started").cast(moment),
        finished_at=pl.col("_finished").cast(moment),
        request_hash=pl.format("hash{}", "review_id"),
        response_id=pl.format("resp-{}-{}", "review_id", "variant"),
        _supersedes=pl.lit(value=False),
    )


def attempts_frame(finals: pl.DataFrame, random: np.random.Generator, first: int) -> pl.DataFrame:
    """The request of each row, and before some of them one that brought no answer."""
    body = pl.format('{{"id":"{}","choices":[{{"message":{{"content":"{}"}}}}]}}', "response_id", "_label")
    asked = finals.with_columns(
        outcome=pl.when(pl.col("status") == "error").then(pl.lit("rejected")).otherwise(pl.lit("done")),
        http_status=pl.when(pl.col("status") == "error").then(500).otherwise(200),
        purpose=pl.lit("answer"),
        turn=pl.lit(0),
        attempt=pl.lit(1),
        held_usd=(pl.col("_cost") * 3).cast(pl.Decimal(38, 0)),
        reply_body=body,
    )
    failed = asked.filter(pl.Series(random.random(asked.height) < 0.03)).with_columns(
        outcome=pl.when(pl.col("review_id") % 20 == 0).then(pl.lit("unknown")).otherwise(pl.lit("rejected")),
        error_kind=pl.when(pl.col("review_id") % 20 == 0)
        .then(pl.lit("timeout"))
        .otherwise(pl.lit("rate_limited")),
        http_status=pl.when(pl.col("review_id") % 20 == 0).then(None).otherwise(429),
        cost_usd=pl.lit(None, pl.Decimal(38, 0)),
        input_tokens=pl.lit(None, pl.Int64),
        output_tokens=pl.lit(None, pl.Int64),
    )
    both = pl.concat([asked, failed], how="diagonal")
    return both.with_columns(serial=pl.Series(np.arange(both.height) + 2 * first))


def typed(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """The frame in exactly these columns; amounts are integers of pico in it."""
    columns = []
    for field in schema:
        if field.name not in frame.columns:
            columns.append(pa.nulls(frame.height, field.type))
            continue
        array = frame[field.name].to_arrow(compat_level=pl.CompatLevel.oldest())
        if pa.types.is_decimal(field.type):
            digits = array.cast(pa.decimal128(38, 0))
            array = pa.Array.from_buffers(
                field.type, len(digits), digits.buffers(), digits.null_count, digits.offset
            )
        columns.append(array.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def write_documents(run: RunDirectory, schema: RunSchema, rows: int) -> None:
    """job.json and summary.json, as far as a report reads them."""
    job = {
        "name": "label-reviews",
        "input": {"table": str(table_of(run.path)), "id": "review_id"},
        "endpoint": {"base_url": "https://gateway.example/api/v1", "protocol": "chat"},
        "prompt": {"system": "You label product reviews.", "user": "Review: {{ text }}"},
        "params": {"max_output_tokens": 400},
        "repeats": 1,
        "sweep": {
            "model": list(MODELS),
            "prompt": {name: {"prompt": {"system": said}} for name, said in SAID.items()},
        },
        "score": [{"name": "right", "grader": "exact", "expected": "{{ gold }}"}],
        "budget": {"max_cost_usd": "40"},
        "output": {"columns": ["review_id", "text", "gold"]},
    }
    document = {"job": job, "source": "label-reviews.yaml", "base_dir": str(run.path)}
    document |= {"run_schema": schema_document(schema), "versions": {"crun-batch": "0.1.0"}}
    write_json(run, run.job, document)
    per_row = len(schema.axes)
    nothing = dict.fromkeys(("ok", "invalid", "truncated", "refused", "error", "open"), 0)
    summary = {
        "output_dir": str(run.path),
        "name": "label-reviews",
        "status": "finished",
        "stop_reason": None,
        "exit_code": 1,
        "rows": {**nothing, "total": -(-rows // per_row)},
        "units": {**nothing, "total": rows},
        "units_per_row": per_row,
        "rows_per_second": 400 / per_row,
        "units_per_second": 400,
        "cost_usd": None,
        "cost_credits": None,
        "held_usd": None,
        "held_credits": None,
        "attempts": rows,
        "unknown_attempts": 0,
        "seconds": rows / 400,
        "resume_command": None,
    }
    write_json(run, run.summary, summary)
