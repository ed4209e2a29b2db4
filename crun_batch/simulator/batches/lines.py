"""The lines of a batch: read from a file or from a message batch, answered one by one, written as results."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import orjson
from msgspec import Struct

from crun_batch.simulator.endpoints import ENDPOINTS
from crun_batch.simulator.endpoints.form import ApiEndpoint
from crun_batch.simulator.generation import Generation, Rejected
from crun_batch.simulator.refusals import error_body, refusal

Ending = Literal["succeeded", "errored", "expired", "canceled"]


class BatchLine(Struct, frozen=True):
    """One request of a batch."""

    custom_id: str
    body: dict[str, Any]
    endpoint: ApiEndpoint


class LineResult(Struct, frozen=True):
    """What became of a line; without a status and a body where it was never done."""

    custom_id: str
    ending: Ending
    status: int | None = None
    body: dict[str, Any] | None = None


class WrongLine(Exception):
    """The batch fails before any of its lines is done: a code, a sentence, the line (from 1)."""

    def __init__(self, code: str, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.line = line


def endpoint_at(url: object) -> ApiEndpoint | None:
    """The endpoint that a line or a batch names, as `/v1/chat/completions`."""
    return ENDPOINTS.get(url.removeprefix("/v1")) if isinstance(url, str) else None


def read_file(content: bytes, url: str, most_lines: int) -> list[BatchLine]:
    """The lines of an uploaded file. Raises WrongLine, with the code that OpenAI's validation gives."""
    lines: list[BatchLine] = []
    for number, text in enumerate(content.splitlines(), 1):
        if text.strip():
            lines.append(_read_line(text, url, number))
    if not lines:
        raise WrongLine("empty_file", "The batch input file is empty.")
    if len(lines) > most_lines:
        raise WrongLine("too_many_tasks", f"The file has {len(lines)} requests; {most_lines} are allowed.")
    _check_alike(lines)
    return lines


def _read_line(text: bytes, url: str, number: int) -> BatchLine:
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise WrongLine("invalid_json_line", "This line is not parseable as valid JSON.", number) from None
    custom_id = line.get("custom_id") if isinstance(line, dict) else None
    if not isinstance(custom_id, str) or not custom_id:
        raise WrongLine("missing_required_parameter", "Missing required parameter: 'custom_id'.", number)
    if line.get("method") != "POST":
        raise WrongLine("invalid_method", "Invalid value for 'method': only 'POST' is allowed.", number)
    if line.get("url") != url:
        raise WrongLine("mismatched_url", f"The URL of this line is not the batch's, {url}.", number)
    endpoint = endpoint_at(url)
    if endpoint is None or not isinstance(line.get("body"), dict):
        raise WrongLine("missing_required_parameter", "Missing required parameter: 'body'.", number)
    return BatchLine(custom_id, line["body"], endpoint)


def _check_alike(lines: list[BatchLine]) -> None:
    """One model in a file, and no custom id twice."""
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if line.custom_id in seen:
            raise WrongLine("duplicate_custom_id", f"The custom_id '{line.custom_id}' is there twice.", number)
        if line.body.get("model") != lines[0].body.get("model"):
            raise WrongLine("mismatched_model", "A batch input file can only have one model.", number)
        seen.add(line.custom_id)


def tokens_of(line: BatchLine, generation: Generation) -> int:
    """What the line counts against the limit of enqueued tokens. Raises WrongLine for an unknown model."""
    try:
        return generation.input_tokens(generation.read(line.endpoint, orjson.dumps(line.body)))
    except Rejected as refused:
        if refused.problem.code == "model_not_found":
            raise WrongLine("model_not_found", str(refused)) from None
        return 0


def answer_line(
    line: BatchLine, generation: Generation, key_name: str, batch: str, *, outcome: str = "answered"
) -> LineResult:
    """Do one line and charge it; what is refused is told in the words of its endpoint and not charged."""
    body = orjson.dumps(line.body)
    try:
        ask = generation.read(line.endpoint, body)
        answered = generation.charge_batched(
            generation.answer(ask),
            ask,
            {
                "key_name": key_name,
                "endpoint": line.endpoint.path,
                "request_sha256": hashlib.sha256(body).hexdigest(),
                "outcome": outcome,
                "batch": batch,
                "custom_id": line.custom_id,
            },
        )
    except Rejected as refused:
        problem = error_body(refused.problem, line.endpoint.shape, f"req_{line.custom_id}")
        return LineResult(line.custom_id, "errored", refused.problem.status, problem)
    return LineResult(line.custom_id, "succeeded", 200, line.endpoint.reply(ask, answered))


def failed_line(line: BatchLine) -> LineResult:
    """A line that the gateway could not do: 500, not charged."""
    problem = error_body(refusal(500), line.endpoint.shape, f"req_{line.custom_id}")
    return LineResult(line.custom_id, "errored", 500, problem)


def openai_line(result: LineResult, batch: str, number: int) -> bytes:
    """The result as a line of an output or error file."""
    return orjson.dumps(openai_result(result, batch, number))


def openai_result(result: LineResult, batch: str, number: int) -> dict[str, Any]:
    """The result of a request in OpenAI's form."""
    response: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    if result.status is None:
        message = "This request could not be executed before the completion window expired."
        error = {"code": "batch_expired", "message": message}
    else:
        request_id = f"req_{batch}_{number}"
        response = {"status_code": result.status, "request_id": request_id, "body": result.body}
    return {
        "id": f"batch_req_{batch}_{number}",
        "custom_id": result.custom_id,
        "response": response,
        "error": error,
    }


def anthropic_line(result: LineResult) -> bytes:
    """The result as a line of a message batch's results."""
    said: dict[str, Any] = {"type": result.ending}
    if result.ending == "succeeded":
        said["message"] = result.body
    elif result.ending == "errored":
        said["error"] = result.body
    return orjson.dumps({"custom_id": result.custom_id, "result": said})
