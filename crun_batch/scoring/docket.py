"""What waits for judges: the questions about stored answers that no recorded verdict answers. Sends nothing."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Mapping, Sequence

import pyarrow as pa
from msgspec import Struct

from crun_batch.records import Row
from crun_batch.scoring.computed import Graders, fingerprint_of
from crun_batch.scoring.questions import Questions
from crun_batch.scoring.token_measure import TokenMeasure
from crun_batch.scoring.unjudged import Asker, Shelf, stored_answers
from crun_batch.scoring.verdicts import Record
from crun_batch.state.run_state import RunContext
from crun_batch.store.schema import no_rows
from crun_batch.store.scores import complete_scores, scores_schema
from crun_batch.workload.request import Request
from crun_batch.workload.workload import Workload

_ANSWERS_AT_ONCE = 64
"""Whose questions are counted together: all of their bodies are in memory."""


class Backlog(Struct, frozen=True):
    """The questions about stored answers that no recorded verdict answers."""

    lengths: Mapping[str, Counts[tuple[int, int]]] = {}
    """Judge -> input tokens of a question, and the most that they can be -> how many of that length."""

    @property
    def calls(self) -> int:
        return sum(counts.total() for counts in self.lengths.values())


class Docket(Struct, frozen=True):
    """What waits for judges: where the answers are, and how many questions about them are to be asked."""

    shelf: Shelf
    questions: Questions
    record: Record
    waiting: Backlog = Backlog()
    may_be_late: bool = False
    """Replies of a session that was killed were not read yet: what they say is not in the record."""


def open_docket(context: RunContext, graders: Graders, rows: Sequence[Row] | None) -> Docket:
    """What of the run's stored answers waits for judges; `rows`: only the answers to these are judged now.

    Raises RunDamaged.
    """
    workload, state = context.workload, context.state
    directory, schema = state.directory, state.schema
    questions = Questions(workload)
    record = Record(directory, schema, workload.judges, questions)
    if not workload.judges:
        return Docket(Shelf(directory, schema, no_rows(scores_schema(schema))), questions, record)
    known = complete_scores(directory, schema, fingerprint_of(graders, state))
    wanted = None
    if rows is not None:
        chosen = bytearray(workload.table.source_rows)
        for row in rows:
            chosen[row.position] = True
        wanted = pa.Array.from_buffers(pa.uint8(), len(chosen), [None, pa.py_buffer(chosen)]).cast(pa.bool_())
    shelf = Shelf(directory, schema, known, wanted)
    may_be_late = state.recovered is not None and bool(state.recovered.unread)
    return Docket(shelf, questions, record, _backlog(workload, shelf, questions, record), may_be_late)


def waiting_now(context: RunContext) -> Backlog:
    """What waits for judges, read without a lock."""
    workload, directory, schema = context.workload, context.state.directory, context.state.schema
    shelf, questions = Shelf(directory, schema, no_rows(scores_schema(schema))), Questions(workload)
    record = Record(directory, schema, workload.judges, questions)
    return _backlog(workload, shelf, questions, record)


def _backlog(workload: Workload, shelf: Shelf, questions: Questions, record: Record) -> Backlog:
    """Count what is still to be asked. After SAMPLE_ROWS questions tokens follow from bytes."""
    if not workload.judges or not shelf.directory.has_job:
        return Backlog()
    asker = Asker(workload, record, questions)
    measures = {judge.name: TokenMeasure(judge) for judge in workload.judges}
    lengths: dict[str, Counts[tuple[int, int]]] = {}
    for batch in stored_answers(workload, questions, shelf):
        for start in range(0, len(batch), _ANSWERS_AT_ONCE):
            asked: dict[str, list[Request]] = {}
            for answer, row in batch[start : start + _ANSWERS_AT_ONCE]:
                for judge, request in asker.open(answer, row):
                    asked.setdefault(judge.name, []).append(request)
            for name, requests in asked.items():
                tokens = measures[name]([one.body for one in requests])
                bounds = [one.input_bound_tokens for one in requests]
                lengths.setdefault(name, Counts()).update(zip(tokens, bounds, strict=True))
    return Backlog(lengths)
