"""Scores of stored answers: computed when a session closes, for the answers that have none yet.

A pass over what is recorded, beside the table. Nothing is sent here: a judge's score is what its recorded verdict
says, and an answer that waits for one is scored again by the next session. What a score is computed from (the
graders, their functions' modules, the table) is named by a fingerprint; where it is another one, everything is
scored anew.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.grader_sections import GraderSpec
from crun_batch.preflight.judge_costs import Docket
from crun_batch.records import Row
from crun_batch.scoring.answers import Answer, by_position, unscored, with_rows
from crun_batch.scoring.functions import load_function
from crun_batch.scoring.graders import Grade, accepted_arguments, compile_grader
from crun_batch.scoring.questions import REFUSED, Said
from crun_batch.state.opening import Standing
from crun_batch.store.schema import RunSchema
from crun_batch.store.scores import complete_scores, scores_schema, write_scores
from crun_batch.workload.workload import Workload

_BATCH_ROWS = 4_096


class Graders(Struct, frozen=True):
    """The computed graders of a job, ready, with the columns that they read and what names their version."""

    grades: Mapping[str, Grade]
    columns: tuple[str, ...]
    fingerprint: str


def graders_of(workload: Workload) -> Graders:
    """Import the graders' functions and compile all but the judges. Raises InputError with every mistake."""
    job, table = workload.job, workload.table
    grades: dict[str, Grade] = {}
    mistakes: list[Mistake] = []
    columns = set(workload.templates.columns)
    digest = hashlib.sha256()
    for index, spec in enumerate(job.score):
        digest.update(orjson.dumps(spec.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS))
        if spec.grader == "judge":
            continue
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


def fingerprint_of(graders: Graders, standing: Standing) -> str:
    """What the scores are computed from."""
    return f"{graders.fingerprint}-{standing.fingerprint['table']}"


def score_answers(
    workload: Workload, graders: Graders, standing: Standing, docket: Docket, say: Callable[[str], None]
) -> int:
    """Score what has no score yet, into the file beside the results; returns how many answers that was.

    Needs the lock. Memory: the scores themselves, the recorded verdicts, and a bounded rest. An answer that a
    grader fails on has no score from it, is told of, and is tried again by the next session. Raises RunDamaged,
    DiskFailed.
    """
    if not workload.job.score:
        return 0
    run, schema = standing.directory, standing.schema
    fingerprint = fingerprint_of(graders, standing)
    known = complete_scores(run, schema, fingerprint)
    questions = docket.questions
    if docket.may_be_late:
        docket.record.forget()
    columns = questions.columns if workload.judges else graders.columns
    rows = workload.table.unselected().rows(tuple(dict.fromkeys([*columns, *graders.columns])))
    new = _Scores(schema, graders, _Verdicts(workload, docket))
    with by_position(workload.table, unscored(run, schema, known)) as answers:
        for answer, row in with_rows(rows, answers):
            new.add(answer, row)
    if new.answers or not run.scores.exists():
        write_scores(run, schema, pa.concat_tables([known, new.table()]), fingerprint)
    for sentence in new.complaints():
        say(sentence)
    return new.answers


class _Verdicts:
    """What the judges say of the answers, and what is wrong with some of it."""

    def __init__(self, workload: Workload, docket: Docket) -> None:
        self.judges = {judge.spec.name: judge for judge in workload.judges}
        self.unreadable: dict[str, tuple[int, str]] = {}
        """Score -> how many verdicts say nothing, and the row of the first."""
        self._questions = docket.questions
        self._record = docket.record
        self._waiting: dict[str, int] = {}

    def grade(self, name: str, answer: Answer, row: Row, output: Any) -> float | None:
        """The score. Raises Unjudged without a verdict, and one of REFUSED."""
        judge, questions = self.judges[name], self._questions
        if answer.text is None or not questions.knows(answer.variant, answer.repeat):
            raise Unjudged(name)
        request = questions.request(judge, Said(answer.variant, answer.repeat, answer.text, output), row)
        if request is None:
            return None
        key = questions.key(request.request_hash, row.row_id, answer.variant, answer.repeat)
        recorded = self._record.verdicts()
        if not recorded.has(key):
            self._waiting[name] = self._waiting.get(name, 0) + 1
            raise Unjudged(name)
        score = recorded.score(judge, key)
        if score is None:
            count, first = self.unreadable.get(name, (0, str(row.row_id)))
            self.unreadable[name] = (count + 1, first)
        return score

    def complaints(self) -> Iterator[str]:
        for name, count in self._waiting.items():
            yield f"score {name}: {count:,} answers wait for the judge's verdict; start again to ask for them"
        for name, (count, first) in self.unreadable.items():
            yield (
                f"score {name}: {count:,} verdicts say nothing that the grader reads, so these answers have no "
                f"score; the first: row {first}"
            )


class Unjudged(Exception):
    """An answer has no verdict yet."""


class _Scores:
    """The scores as they are computed."""

    def __init__(self, schema: RunSchema, graders: Graders, verdicts: _Verdicts) -> None:
        self.answers = 0
        self.failures: dict[str, tuple[int, str]] = {}
        """Score -> how many answers its grader failed on, and how on the first."""
        self.verdicts = verdicts
        self._schema = scores_schema(schema)
        self._names = schema.scores
        self._grades = graders.grades
        self._lines: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, answer: Answer, row: Row) -> None:
        """Grade one answer."""
        output = answer.output()
        failed = False
        scores: list[float | None] = []
        for name in self._names:
            try:
                scores.append(self._score(name, answer, row, output))
            except Unjudged:
                scores.append(None)
                failed = True
            except REFUSED as error:
                count, first = self.failures.get(name, (0, str(error)))
                self.failures[name] = (count + 1, first)
                scores.append(None)
                failed = True
        self._lines.append((answer.sequence, failed, *scores))
        self.answers += 1
        if len(self._lines) >= _BATCH_ROWS:
            self._pack()

    def _score(self, name: str, answer: Answer, row: Row, output: Any) -> float | None:
        grade = self._grades.get(name)
        if grade is None:
            return self.verdicts.grade(name, answer, row, output)
        return grade(row.values, answer.text, output)

    def complaints(self) -> Iterator[str]:
        """What is to be said of answers without a score."""
        for name, (count, first) in self.failures.items():
            yield f"score {name}: {count:,} answers could not be graded and have none; the first: {first}"
        yield from self.verdicts.complaints()

    def table(self) -> pa.Table:
        """All of them, in `scores_schema`."""
        self._pack()
        return pa.Table.from_batches(self._batches, self._schema)

    def _pack(self) -> None:
        columns = zip(*self._lines, strict=True) if self._lines else [()] * len(self._schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._lines = []
