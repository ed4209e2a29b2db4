"""Scores of stored answers: computed when a session closes, for the answers that have none yet.

A pass over what is recorded, beside the table: answers and rows are both walked in the order of positions, so that
neither is held. Nothing is sent here. What a score is computed from (the graders, their functions' modules, the
table) is named by a fingerprint; where it is another one, everything is scored anew.
"""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from crun_batch.corridor.opening import Standing
from crun_batch.corridor.workload import Workload
from crun_batch.errors import InputError, Mistake
from crun_batch.load.functions import load_function
from crun_batch.load.grader_sections import GraderSpec
from crun_batch.load.templates import Unrenderable
from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import SEQUENCE, RunSchema
from crun_batch.store.scores import complete_scores, scores_schema, write_scores
from crun_batch.store.views import current_finals, snapshot
from crun_batch.tell.extract import json_value
from crun_batch.tell.score import Grade, GradingFailed, accepted_arguments, compile_grader

_BATCH_ROWS = 4_096
_ANSWERS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field(SEQUENCE, pa.int64()),
        pa.field("output_text", pa.string()),
        pa.field("has_output", pa.bool_()),
    ]
)


class Graders(Struct, frozen=True):
    """The computed graders of a job, ready, with the columns that they read and what names their version."""

    grades: Mapping[str, Grade]
    columns: tuple[str, ...]
    fingerprint: str


class Answer(Struct, frozen=True):
    """A stored answer that waits for its scores."""

    position: int
    sequence: int
    text: str | None
    has_output: bool


def graders_of(workload: Workload) -> Graders:
    """Import the graders' functions and compile them all. Raises InputError with every mistake."""
    job, table = workload.job, workload.table
    grades: dict[str, Grade] = {}
    mistakes: list[Mistake] = []
    columns = set(workload.templates.columns)
    digest = hashlib.sha256()
    for index, spec in enumerate(job.score):
        digest.update(orjson.dumps(spec.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS))
        try:
            function = _function(workload, spec, f"score[{index}].function")
            grades[spec.name] = compile_grader(spec, render=workload.templates.render, function=function)
            if function is not None:
                digest.update(_source_of(function))
                columns |= set(table.schema.names) if "row" in accepted_arguments(function) else set()
        except InputError as error:
            mistakes += error.mistakes
        except ValueError as error:
            mistakes.append(Mistake(str(error), job.source, key=f"score[{index}]"))
    if mistakes:
        raise InputError(mistakes)
    ordered = tuple(name for name in table.schema.names if name in columns)
    return Graders(grades, ordered, digest.hexdigest())


def _function(workload: Workload, spec: GraderSpec, key: str) -> Callable[..., Any] | None:
    if spec.function is None:
        return None
    job = workload.job
    return load_function(spec.function, base_dir=job.base_dir, source=job.source, key=key)


def _source_of(function: Callable[..., Any]) -> bytes:
    """The bytes of the function's module, so that an edited one scores anew; nothing where it has no file."""
    file = inspect.getsourcefile(inspect.unwrap(function))
    return Path(file).read_bytes() if file is not None and Path(file).is_file() else b""


def score_answers(workload: Workload, graders: Graders, standing: Standing, say: Callable[[str], None]) -> int:
    """Score what has no score yet, into the file beside the results; returns how many answers that was.

    Needs the lock. Memory: the scores themselves and a bounded rest. An answer that a grader fails on has no
    score from it, is told of, and is tried again by the next session. Raises RunDamaged, DiskFailed.
    """
    if not graders.grades:
        return 0
    run, schema = standing.directory, standing.schema
    fingerprint = f"{graders.fingerprint}-{standing.fingerprint['table']}"
    known = complete_scores(run, schema, fingerprint)
    new = _Scored(schema, graders)
    with _by_position(workload, _unscored(run, schema, known)) as answers:
        for answer, values in _with_rows(workload, graders.columns, answers):
            new.add(answer, values)
    if new.answers or not run.scores.exists():
        write_scores(run, schema, pa.concat_tables([known, new.table()]), fingerprint)
    for name, (count, first) in new.failures.items():
        say(f"score {name}: {count:,} answers could not be graded and have none; the first: {first}")
    return new.answers


class _Scored:
    """The scores as they are computed."""

    def __init__(self, schema: RunSchema, graders: Graders) -> None:
        self.answers = 0
        self.failures: dict[str, tuple[int, str]] = {}
        """Score -> how many answers its grader failed on, and how on the first."""
        self._schema = scores_schema(schema)
        self._grades = graders.grades
        self._lines: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, answer: Answer, values: Mapping[str, Any]) -> None:
        """Grade one answer."""
        output = json_value(answer.text) if answer.has_output and answer.text is not None else None
        failed = False
        scores: list[float | None] = []
        for name, grade in self._grades.items():
            try:
                scores.append(grade(values, answer.text, output))
            except (GradingFailed, Unrenderable) as error:
                count, first = self.failures.get(name, (0, str(error)))
                self.failures[name] = (count + 1, first)
                scores.append(None)
                failed = True
        self._lines.append((answer.sequence, failed, *scores))
        self.answers += 1
        if len(self._lines) >= _BATCH_ROWS:
            self._pack()

    def table(self) -> pa.Table:
        """All of them, in `scores_schema`."""
        self._pack()
        return pa.Table.from_batches(self._batches, self._schema)

    def _pack(self) -> None:
        columns = zip(*self._lines, strict=True) if self._lines else [()] * len(self._schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._lines = []


def _unscored(run: RunDirectory, schema: RunSchema, known: pa.Table) -> pa.RecordBatchReader:
    """The answers that have no line among the known ones."""
    scored = pl.DataFrame(pl.from_arrow(known.select([SEQUENCE])))
    now = snapshot(run, schema)
    output = ["output"] if schema.output is not None else []

    def batches() -> Iterator[pa.RecordBatch]:
        for table in current_finals(now, [schema.id_name, SEQUENCE, "output_text", *output]):
            has_output = pc.is_valid(table.column("output")) if output else pa.nulls(len(table), pa.bool_())
            columns = [table.column(0).cast(pa.string()), table.column(1), table.column(2), has_output]
            keys = pl.DataFrame({SEQUENCE: pl.from_arrow(table.column(1))})
            kept = ~keys[SEQUENCE].is_in(scored[SEQUENCE].implode()) & pl.Series(table.column(2)).is_not_null()
            chosen = pa.Table.from_arrays(columns, schema=_ANSWERS).filter(kept.to_arrow())
            yield from chosen.to_batches()

    return pa.RecordBatchReader.from_batches(_ANSWERS, batches())


@contextmanager
def _by_position(workload: Workload, answers: pa.RecordBatchReader) -> Iterator[Iterator[Answer]]:
    """The answers in the order of their rows' positions, sorted outside of memory where they are many."""
    placed = pa.schema([pa.field("position", pa.int64()), *list(_ANSWERS)[1:]])
    found = (batch.select(placed.names) for batch in workload.table.positions_of(answers))
    with tempfile.TemporaryDirectory(prefix="crun-batch-") as spill:
        config: dict[str, Any] = {"memory_limit": "512MB", "threads": 2, "temp_directory": spill}
        with duckdb.connect(config=config) as connection:
            connection.register("answers", pa.RecordBatchReader.from_batches(placed, found))
            reader = connection.sql("select * from answers order by position").to_arrow_reader(_BATCH_ROWS)
            yield (
                Answer(*line)
                for batch in reader
                for line in zip(*map(pa.Array.to_pylist, batch.columns), strict=True)
            )


def _with_rows(
    workload: Workload, columns: Iterable[str], answers: Iterator[Answer]
) -> Iterator[tuple[Answer, Mapping[str, Any]]]:
    """Each answer with its row's values, whether that row is selected now or not."""
    answer = next(answers, None)
    if answer is None:
        return
    for batch in workload.table.unselected().rows(tuple(columns)):
        for row in batch:
            while answer is not None and answer.position <= row.position:
                if answer.position == row.position:
                    yield answer, row.values
                answer = next(answers, None)
        if answer is None:
            return
