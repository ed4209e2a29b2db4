"""The requests of one row, rendered again and checked by their recorded hashes: what was sent, or nothing.

A request that follows an answer (a turn, a repair) is made again from the recorded answers, as the session did.
A body counts only where its hash is the recorded one: nothing is shown that was not sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.load.job.job import Job
from crun_batch.load.job.output_schema import shape_of
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.pricing.account import Answered
from crun_batch.records import Reply, Row
from crun_batch.scoring.questions import REFUSED, Questions, Said
from crun_batch.workload.conversation import Conversation, UnitResult
from crun_batch.workload.loading import load_workload
from crun_batch.workload.recorded_job import check_has_table
from crun_batch.workload.request import Request, Variant
from crun_batch.workload.workload import Workload

CHANGED = "the table has changed since"
"""Why a request is not shown: what would be asked today has another hash."""
GONE = "the table has this row no more"


class Attempted(Struct, frozen=True):
    """A recorded attempt, as far as the conversation depends on it."""

    turn: int
    purpose: str
    request_hash: str
    reply: Reply | None
    """None where it was not answered."""


class AskedAgain:
    """The requests of one row, from a workload that is open as long as the stack."""

    def __init__(self, workload: Workload, row_id: int | str, stack: ExitStack) -> None:
        stack.callback(workload.close)
        self._variants = {variant.name: variant for variant in workload.variants}
        self._judges = {judge.spec.name: judge for judge in workload.judges}
        self._shape = None if workload.output is None else shape_of(workload.output)
        self._questions = Questions(workload)
        columns = tuple(dict.fromkeys([*workload.columns, *self._questions.columns]))
        self.row = workload.row(row_id, columns)

    def bodies(self, variant: str, attempts: Sequence[Attempted]) -> list[bytes | None]:
        """Of a unit's attempts in order (judges' left out): the body of each, None where it is another today."""
        known = self._variants.get(variant)
        if known is None or self.row is None:
            return [None] * len(attempts)
        first = self._first(known, self.row)
        conversation = Conversation(known, self._shape)
        expected: Request | UnitResult | None = first
        answers: list[Answered] = []
        bodies: list[bytes | None] = []
        for attempt in attempts:
            if attempt.turn == 0 and attempt.purpose in ("answer", "alone"):  # from the beginning, maybe again
                expected, answers = first, []
            is_same = isinstance(expected, Request) and expected.request_hash == attempt.request_hash
            bodies.append(expected.body if isinstance(expected, Request) and is_same else None)
            if attempt.reply is not None and is_same:
                answered = Answered(attempt.turn, attempt.purpose, attempt.request_hash, attempt.reply)  # type: ignore[arg-type]
                answers = [*answers, answered]
                expected = conversation.following(self.row, answers)
        return bodies

    def unit_body(self, variant: str, unit_hash: str | None) -> bytes | None:
        """The first request of a unit that was given the answer to an identical one."""
        known = self._variants.get(variant)
        request = None if known is None or self.row is None else self._first(known, self.row)
        return request.body if request is not None and request.unit_hash == unit_hash else None

    def question(self, judge: str, said: Said, request_hash: str) -> bytes | None:
        """What a judge was asked about an answer."""
        known = self._judges.get(judge)
        if known is None or self.row is None or not self._questions.knows(said.variant, said.repeat):
            return None
        try:
            request = self._questions.request(known, said, self.row)
        except REFUSED:
            return None
        return request.body if request is not None and request.request_hash == request_hash else None

    def _first(self, variant: Variant, row: Row) -> Request | None:
        try:
            return variant.request(row)
        except RowRejected:
            return None


def open_again(job: Job, frame: object | None, row_id: int | str, stack: ExitStack) -> AskedAgain | str:
    """The row's requests; where the table cannot be read, why not."""
    try:
        check_has_table(job, frame)
        return AskedAgain(load_workload(job, frame), row_id, stack)
    except InputError as error:
        return f"the table cannot be read: {error}"


def said_of(unit: Mapping[str, Any], output: Any) -> Said:
    """A unit's answer as its judges see it."""
    return Said(unit["variant"], unit["repeat"], unit["output_text"] or "", output)
