"""What follows an answer: the next turn, a repair, or the unit's result. Pure decisions, one variant at a time.

A unit is a dialogue: the first request of its row, then, as long as there are turns or the answer is not valid,
another one that is made of the row and of the answers so far. Nothing else is remembered, so that a dialogue
goes on after a restart exactly where it stopped.

- A turn whose answer is cut off, refused, or has no text ends the dialogue: nothing is built on it.
- The output schema holds for the last turn. An answer that does not fit is sent back with the complaint, at most
  `repair_attempts` times; after that the unit is `invalid`, with its raw text. An answer that was cut off,
  refused, or is a call of a tool is not repaired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from msgspec import Struct

from crun_batch.gateway.protocols.protocol import request_hash
from crun_batch.gateway.structured import AnswerCheck, Checked, repair_request
from crun_batch.load.job.output_schema import Shape
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.pricing.account import Answered
from crun_batch.records import STATUS_OF_FINISH, CacheTtl, ErrorKind, Prompt, Reply, Row, Status, is_missing
from crun_batch.workload.request import Request, Variant


class UnitResult(Struct, frozen=True):
    """A unit's result, as far as its answers tell it."""

    status: Status
    output: str | None = None
    outputs: list[str] | None = None
    error_kind: ErrorKind | None = None
    error_message: str | None = None


class Conversation:
    """The dialogues of one variant. `shape` makes valid answers ready for the column `output`."""

    def __init__(self, variant: Variant, shape: Shape | None) -> None:
        job = variant.job
        self._variant = variant
        self._check = None if job.output_schema is None else AnswerCheck(job.output_schema, shape)
        self._turns = len(job.prompt.turns or ()) or 1
        self._lists_turns = job.prompt.turns is not None
        self.is_one_request = self._check is None and not self._lists_turns
        """Whether every reply is its unit's result."""

    def first(self, row: Row) -> Request:
        """What opens the dialogue. Raises RowRejected."""
        return self._variant.request(row)

    def following(self, row: Row, answers: Sequence[Answered]) -> Request | UnitResult:
        """What follows the last of the answers; there is at least one."""
        last = answers[-1]
        status = STATUS_OF_FINISH[last.reply.finish_reason]
        if last.turn < self._turns - 1:
            return self._after_turn(row, answers, status)
        if self._check is None:
            return self._verdict(answers, last.reply.status)
        checked = self._check(last.reply.text)
        if checked.complaint is None or status != "ok" or _is_call(last.reply):
            return self._verdict(answers, status, checked)
        repairs = sum(answer.purpose == "repair" for answer in answers)
        if repairs >= self._variant.job.repair_attempts:
            return self._verdict(answers, "invalid", checked)
        return self._request(row, answers, last.turn, "repair")

    def cut_short(self, answers: Sequence[Answered], status: Status, kind: ErrorKind, message: str) -> UnitResult:
        """The result of a unit whose last request failed for good, after the answers that it had.

        An answer that could not be repaired is no less there than one that was repaired in vain.
        """
        if answers and answers[-1].turn == self._turns - 1:
            status = "invalid"
        return UnitResult(status, None, self._outputs(answers), kind, message)

    def output_of(self, text: str | None) -> str | None:
        """The value for the column `output` that a recorded answer's text holds."""
        return None if self._check is None else self._check(text).output

    def complaint_of(self, text: str | None) -> str | None:
        """What is wrong with an answer by the output schema; None: nothing, or there is none."""
        return None if self._check is None else self._check(text).complaint

    def unit_hash(self, row: Row, answers: Sequence[Answered]) -> str | None:
        """The hash of the whole dialogue, where it is not that of its last request."""
        if self._turns == 1:
            return answers[0].request_hash if answers else None
        try:
            return self._variant.request(row).unit_hash
        except RowRejected:
            return None

    def still_valid(self, row: Row, first: Request, answers: Sequence[Answered]) -> list[Answered]:
        """Of recorded answers those, from the first on, whose requests would be the same today."""
        expected: Request | UnitResult = first
        kept: list[Answered] = []
        for answer in answers:
            if isinstance(expected, UnitResult) or expected.request_hash != answer.request_hash:
                break
            kept.append(answer)
            expected = self.following(row, kept)
        return kept

    def _after_turn(self, row: Row, answers: Sequence[Answered], status: Status) -> Request | UnitResult:
        last = answers[-1]
        if status != "ok":
            return self._verdict(answers, status)
        if is_missing(last.reply.text):
            return self._broken(answers, "has no text, so the conversation cannot go on")
        if self._variant.job.prompt.stateful and last.reply.response_id is None:
            return self._broken(answers, "has no id that the next turn could refer to")
        return self._request(row, answers, last.turn + 1, "answer")

    def _request(self, row: Row, answers: Sequence[Answered], turn: int, purpose: Any) -> Request | UnitResult:
        variant, job = self._variant, self._variant.job
        schema = job.output_schema if turn == self._turns - 1 else None
        try:
            prompt = variant.renderer.render(row)
            messages = self._messages(prompt, answers, turn, purpose)
            whole = body = variant.body(row, messages, job.params, schema)
            if job.prompt.stateful:
                body = variant.body(row, *_referring(prompt, messages, answers, job.params), schema)
        except RowRejected as error:
            return self.cut_short(answers, "error", "bad_request", str(error))
        path = variant.terms.path
        hashed = request_hash(path, body)
        if not job.prompt.stateful:
            body, _ = variant.hinted(row, messages, body, schema)
        bound = max(len(whole), len(body)) + _reasoning_bound(answers)
        return Request(
            body,
            hashed,
            hashed,
            job.model,
            bound,
            variant.terms.output_limit_tokens,
            turn,
            purpose,
            cache_ttl=max(variant.cache_ttl(whole), variant.cache_ttl(body), key=get_args(CacheTtl).index),
            service_tier=variant.terms.service_tier,
        )

    def _messages(
        self, prompt: Prompt, answers: Sequence[Answered], turn: int, purpose: Any
    ) -> list[Mapping[str, Any]]:
        """The conversation so far, and the user's next word."""
        messages = list(prompt.messages)
        steps = [*((answer.turn, answer.purpose) for answer in answers[1:]), (turn, purpose)]
        for answer, (next_turn, next_purpose) in zip(answers, steps, strict=True):
            text = answer.reply.text
            if text is not None and not is_missing(text):
                messages.append({"role": "assistant", "content": text})
            if next_purpose == "answer":
                messages.append(prompt.later_turns[next_turn - 1])
            else:
                messages.append({"role": "user", "content": repair_request(self._complaint(text))})
        return messages

    def _complaint(self, text: str | None) -> str:
        return self.complaint_of(text) or ""

    def _verdict(self, answers: Sequence[Answered], status: Status, checked: Checked | None = None) -> UnitResult:
        note = answers[-1].reply.note
        if checked is None:
            return UnitResult(status, outputs=self._outputs(answers), error_message=note)
        complaint = f"the answer is not valid: {checked.complaint}" if status == "invalid" else note
        return UnitResult(status, checked.output, self._outputs(answers), None, complaint)

    def _broken(self, answers: Sequence[Answered], why: str) -> UnitResult:
        message = f"the answer to turn {answers[-1].turn + 1} {why}"
        return UnitResult("error", None, self._outputs(answers), "bad_reply", message)

    def _outputs(self, answers: Sequence[Answered]) -> list[str] | None:
        """The last answer to each turn, in order."""
        if not self._lists_turns:
            return None
        texts = {answer.turn: answer.reply.text for answer in answers}
        return [text for text in texts.values() if text is not None]


def _is_call(reply: Reply) -> bool:
    return reply.tool_calls is not None and not reply.text


def _referring(
    prompt: Prompt, messages: Sequence[Mapping[str, Any]], answers: Sequence[Answered], params: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
    """The user's next word alone, and params that refer to the answer before it.

    The system prompt goes with it: `instructions` are not carried over (OpenAI's API, previous_response_id).
    """
    systems = [message for message in prompt.messages if message["role"] == "system"]
    return [*systems, messages[-1]], {**params, "previous_response_id": answers[-1].reply.response_id}


def _reasoning_bound(answers: Sequence[Answered]) -> int:
    """What may be read again beside the texts: where the gateway keeps the conversation, its reasoning too."""
    return sum(answer.reply.usage.reasoning_tokens for answer in answers if answer.reply.usage is not None)
