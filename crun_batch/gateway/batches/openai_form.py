"""`/files` and `/batches` in OpenAI's form, which Azure, Groq and the LiteLLM proxy repeat.

Facts from OpenAI's API reference: a file of purpose `batch` with a line for each request; a batch names it as
`input_file_id` and keeps up to 16 tags; the list of batches shows both; expired and cancelled batches keep what
was done in their output file; a request that was refused, or that came too late, stands in the error file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import orjson
from msgspec import Raw, Struct

from crun_batch.gateway.batches.asking import (
    FILE_SECONDS,
    BatchAddress,
    BatchCalls,
    below,
    count_of,
    epoch_seconds,
    part_of,
    unreadable,
)
from crun_batch.gateway.batches.form import (
    CANCELLED,
    EXPIRED,
    BatchLineRead,
    BatchState,
    BatchTold,
    CallTrouble,
    ControlWire,
)
from crun_batch.gateway.protocols.protocol import Protocol
from crun_batch.records import Fault, Response

_PATH, _FILES = "/batches", "/files"
STATES: Mapping[str, BatchState] = {
    "validating": "accepted",
    "in_progress": "running",
    "finalizing": "ending",
    "cancelling": "ending",
    "canceling": "ending",
    "completed": "ended",
    "expired": "ended",
    "cancelled": "ended",
    "canceled": "ended",
    "failed": "refused",
}

WITHOUT_REPLY: Mapping[str, Fault] = {
    "batch_expired": EXPIRED,
    "batch_cancelled": CANCELLED,
    "request_timeout": Fault("unknown", "timeout", "in its batch the model did not answer in time"),
}
"""The codes that OpenAI documents for a request to which there is no reply."""


_NULL = b"null"


class _OutputResponse(Struct):
    status_code: int
    body: Raw = Raw(_NULL)
    request_id: Any = None


class _OutputLine(Struct):
    custom_id: str
    response: _OutputResponse | None = None
    error: Raw = Raw(_NULL)


_line_decoder = msgspec.json.Decoder(_OutputLine, strict=False)


def request_lines(path: str, requests: Iterable[tuple[str, bytes]]) -> bytes:
    """The file of a batch: (custom id, body) to a line each; a body that has line ends loses them."""
    url = f"/v1{path}"
    return b"".join(
        b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}\n'
        % (orjson.dumps(custom_id), orjson.dumps(url), body.replace(b"\r", b" ").replace(b"\n", b" "))
        for custom_id, body in requests
    )


def result_lines(content: bytes) -> Iterator[BatchLineRead | None]:
    """What the lines of an output or error file say; None: a line that is none."""
    for line in content.split(b"\n"):
        if line.strip():
            yield result_of(line)


def result_of(line: bytes | Raw) -> BatchLineRead | None:
    """What came of one request. Where its reply is a status alone, the error beside it is the body (vLLM)."""
    try:
        read = _line_decoder.decode(line)
        error = msgspec.json.decode(read.error)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    if read.response is not None:
        headers = {"content-type": "application/json"}
        if isinstance(read.response.request_id, str) and read.response.request_id:
            headers["x-request-id"] = read.response.request_id
        body = bytes(read.response.body)
        body = bytes(read.error) if body == _NULL else body
        return BatchLineRead(read.custom_id, Response(read.response.status_code, headers, body))
    code = error.get("code") if isinstance(error, dict) else None
    known = WITHOUT_REPLY.get(code) if isinstance(code, str) else None
    if known is not None:
        return BatchLineRead(read.custom_id, known)
    told = f"{code}: {error.get('message')}" if isinstance(error, dict) else error
    words = "without a word" if not error else told
    return BatchLineRead(read.custom_id, Fault("unknown", "bad_reply", f"the batch gave no reply for it, {words}"))


class OpenAIBatches:
    """See `form.FileForm`; the calls are below the gateway's base URL."""

    list_path = _PATH

    def __init__(
        self,
        wire: ControlWire,
        address: BatchAddress,
        protocol: Protocol,
        *,
        window: str,
        epoch_seconds: Callable[[], float],
    ) -> None:
        self._calls = BatchCalls(wire, address, protocol, epoch_seconds)
        self._path = protocol.path
        self._window = window

    def content(self, requests: Iterable[tuple[str, bytes]]) -> bytes:
        """See the form."""
        return request_lines(self._path, requests)

    def lines(self, content: bytes) -> Iterator[BatchLineRead | None]:
        """See the form."""
        return result_lines(content)

    async def probe(self) -> CallTrouble | None:
        """See the form."""
        return await self._calls.probe(_PATH)

    async def upload(self, name: str, content: bytes) -> str | CallTrouble:
        """See the form."""
        boundary = hashlib.sha256(content).hexdigest()
        parts = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        )
        body = b"%b%b\r\n--%b--\r\n" % (parts.encode(), content, boundary.encode())
        content_type = f"multipart/form-data; boundary={boundary}"
        answer = await self._calls.post(_FILES, body, content_type=content_type, deadline_seconds=FILE_SECONDS)
        if isinstance(answer, CallTrouble):
            return answer
        return answer["id"] if isinstance(answer.get("id"), str) else unreadable("a file without an id")

    async def create(self, file_id: str, tags: Mapping[str, str]) -> BatchTold | CallTrouble:
        """See the form."""
        asked = {
            "input_file_id": file_id,
            "endpoint": f"/v1{self._path}",
            "completion_window": self._window,
            "metadata": tags,
        }
        return told_of(await self._calls.post(_PATH, orjson.dumps(asked)))

    async def listed(self, since_seconds: float) -> Sequence[BatchTold] | CallTrouble:
        """See the form."""
        return await self._calls.listed(_PATH, "after", told_of, since_seconds)

    async def look(self, batch_id: str) -> BatchTold | CallTrouble:
        """See the form."""
        return told_of(await self._calls.get(below(_PATH, batch_id)))

    async def read(self, name: str) -> bytes | CallTrouble:
        """See the form."""
        return await self._calls.read(f"{below(_FILES, name)}/content")

    async def cancel(self, batch_id: str) -> BatchTold | CallTrouble:
        """See the form."""
        return told_of(await self._calls.post(f"{below(_PATH, batch_id)}/cancel", b"{}"))

    async def close(self) -> None:
        """See the form."""
        await self._calls.close()


def told_of(answer: dict[str, Any] | CallTrouble) -> BatchTold | CallTrouble:
    """What a batch's object says."""
    if isinstance(answer, CallTrouble):
        return answer
    status, identity = answer.get("status"), answer.get("id")
    if not isinstance(identity, str) or not isinstance(status, str):
        return unreadable("a batch without id or status")
    counts, status = part_of(answer, "request_counts"), status.lower()
    named = (("output", answer.get("output_file_id")), ("error", answer.get("error_file_id")))
    return BatchTold(
        id=identity,
        state=STATES.get(status, "running"),
        status=status,
        file_id=answer.get("input_file_id"),
        requests=count_of(counts, "total") or None,
        created_at=epoch_seconds(answer.get("created_at")),
        done=done_count(status, counts),
        files=tuple((kind, name) for kind, name in named if isinstance(name, str) and name),
        why=_why(answer.get("errors")),
    )


def done_count(status: str, counts: Mapping[str, Any]) -> int | None:
    """None where nobody has filled the counts in: gateways before other providers leave them out, or at zero."""
    done = count_of(counts, "completed", "failed")
    return None if not counts or (status == "completed" and not done) else done


def _why(errors: Any) -> str | None:
    """What a batch failed with: the first three of a list, which some gateways send as it is, or one text."""
    found = errors.get("data") if isinstance(errors, dict) else errors
    told = found if isinstance(found, list) else [found]
    return "; ".join(_words(one) if isinstance(one, dict) else str(one) for one in told[:3] if one) or None


def _words(error: Mapping[str, Any]) -> str:
    line = error.get("line")
    return f"{'' if line is None else f'line {line}: '}{error.get('message')} ({error.get('code')})"
