"""What judges are still to be asked: stored answers whose question has no recorded verdict.

One pass over answers and rows, for an estimate and for the sending alike. Reads only.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice

import pyarrow as pa
from msgspec import Struct

from crun_batch.records import Row, is_missing
from crun_batch.scoring.answers import Answer, by_position, unscored, with_rows
from crun_batch.scoring.questions import REFUSED, Questions, Said
from crun_batch.scoring.verdicts import Record
from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import RunSchema
from crun_batch.workload.request import Request
from crun_batch.workload.target import Judge
from crun_batch.workload.workload import Workload

_BATCH = 1_024
Answered = tuple[Answer, Row]


class Shelf(Struct, frozen=True):
    """Where the answers are that may wait for a verdict."""

    directory: RunDirectory
    schema: RunSchema
    known: pa.Table
    """The scores that are complete: those answers wait for nothing."""
    wanted: pa.BooleanArray | None = None
    """Has a bit for every row of the source: whose answers are judged now; None: all selected ones."""


class Asker:
    """Finds what is still to be asked: each question once."""

    def __init__(self, workload: Workload, record: Record, questions: Questions) -> None:
        self._judges = workload.judges
        self._shares = workload.job.share_identical
        self._record = record
        self._questions = questions
        self._asked: set[int] = set()

    def open(self, answer: Answer, row: Row) -> Iterator[tuple[Judge, Request]]:
        """The judges whose verdict on this answer is not recorded, with their requests."""
        if (
            answer.text is None
            or is_missing(answer.text)
            or not self._questions.knows(answer.variant, answer.repeat)
        ):
            return
        said = Said(answer.variant, answer.repeat, answer.text, answer.output())
        asked = self._asked if self._shares else set()
        verdicts = self._record.verdicts()
        for judge in self._judges:
            try:
                request = self._questions.request(judge, said, row)
            except REFUSED:  # told of when the answer is scored
                continue
            if request is None:
                continue
            key = self._questions.key(request.request_hash, row.row_id, answer.variant, answer.repeat)
            if key not in asked and not verdicts.has(key):
                asked.add(key)
                yield judge, request


def stored_answers(workload: Workload, questions: Questions, shelf: Shelf) -> Generator[list[Answered]]:
    """The answers that may wait for a verdict, with their rows, in the order of the table, in batches."""
    reader = unscored(shelf.directory, shelf.schema, shelf.known)
    rows = workload.table.rows(questions.columns, wanted=shelf.wanted)
    with by_position(workload.table, reader) as answers:
        pairs = with_rows(rows, answers)
        while batch := list(islice(pairs, _BATCH)):
            yield batch
