"""Scores of stored answers: computed when a session closes, for the answers that have none yet.

A pass over what is recorded, beside the table. Nothing is sent here: a judge's score is what its recorded verdict
says, and an answer that waits for one is scored again by the next session. What a score is computed from (the
graders, their functions' modules, the table) is named by a fingerprint; where it is another one, everything is
scored anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from crun_batch.load.table.arrays import array_of
from crun_batch.paths import is_there
from crun_batch.records import Row, is_missing
from crun_batch.scoring.answers import Answer, by_position, unscored, with_rows
from crun_batch.scoring.computed import Graders, fingerprint_of
from crun_batch.scoring.docket import Docket
from crun_batch.scoring.questions import REFUSED, Said
from crun_batch.state.run_state import RunContext
from crun_batch.store.schema import RunSchema
from crun_batch.store.scores import complete_scores, scores_schema, write_scores
from crun_batch.workload.workload import Workload

_BATCH_ROWS = 4_096


def score_answers(context: RunContext, graders: Graders, docket: Docket) -> int:
    """Score what has no score yet, into the file beside the results; returns how many answers that was.

    Needs the lock. Memory: the scores themselves, the recorded verdicts, and a bounded rest. An answer that a
    grader fails on has no score from it, is told of, and is tried again by the next session. Raises RunDamaged,
    DiskFailed.
    """
    workload, state = context.workload, context.state
    if not workload.job.score:
        return 0
    run, schema = state.directory, state.schema
    fingerprint = fingerprint_of(graders, state)
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
    if new.answers or not is_there(run.scores):
        write_scores(run, schema, pa.concat_tables([known, new.table()]), fingerprint)
    for sentence in new.complaints():
        context.options.say(sentence)
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
        """The score; of an answer that is missing 0, unasked. Raises Unjudged without a verdict, and REFUSED."""
        judge, questions = self.judges[name], self._questions
        if not questions.knows(answer.variant, answer.repeat):
            raise Unjudged(name)
        said = Said(answer.variant, answer.repeat, answer.text or "", output)
        request = questions.request(judge, said, row)
        if request is None:
            return None
        if is_missing(answer.text):
            return 0.0
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
            waiting, them = _either(count, ("answer waits", "it"), ("answers wait", "them"))
            yield f"score {name}: {count:,} {waiting} for the judge's verdict; start again to ask for {them}"
        for name, (count, first) in self.unreadable.items():
            saying, so = _either(
                count, ("verdict says", "this answer has"), ("verdicts say", "these answers have")
            )
            yield (
                f"score {name}: {count:,} {saying} nothing that the grader reads, so {so} no "
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
            answers, have = _either(count, ("answer", "has"), ("answers", "have"))
            yield f"score {name}: {count:,} {answers} could not be graded and {have} none; the first: {first}"
        yield from self.verdicts.complaints()

    def table(self) -> pa.Table:
        """All of them, in `scores_schema`."""
        self._pack()
        return pa.Table.from_batches(self._batches, self._schema)

    def _pack(self) -> None:
        columns = zip(*self._lines, strict=True) if self._lines else [()] * len(self._schema)
        arrays = [array_of(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._lines = []


def _either(count: int, one: tuple[str, str], several: tuple[str, str]) -> tuple[str, str]:
    return one if count == 1 else several
