"""`/messages/batches` in Anthropic's form: requests inline, one stream of results, nothing to know a batch by.

Facts from Anthropic's pages (platform.claude.com, "Batch processing" and the reference of Message Batches): up to
100,000 requests or 256 MB, done within 24 hours, results for 29 days; a batch is in_progress, canceling or ended,
and each of its requests ends as succeeded, errored, canceled or expired; the counts are filled in at the end; only
what succeeded is billed; the list is newest first and shows neither model nor tag. What an error's type means as
an HTTP status is from their page of errors.
"""

from __future__ import annotations

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

STATES: Mapping[str, BatchState] = {"in_progress": "running", "canceling": "ending", "ended": "ended"}
DONE = ("succeeded", "errored")
ENDINGS = (*DONE, "canceled", "expired")
STATUS_OF_ERROR: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
OTHER_ERROR_STATUS = 500
"""Of a type that is not known: tried again, as the gateway's own trouble."""
_JSON = {"content-type": "application/json"}
_PATH = "/messages/batches"


class _Result(Struct):
    type: str
    message: Raw = Raw(b"null")
    error: Raw = Raw(b"null")


class _Line(Struct):
    custom_id: str
    result: _Result


class _Problem(Struct, frozen=True):
    type: str = ""


class _Error(Struct, frozen=True):
    error: _Problem = _Problem()


_line_decoder = msgspec.json.Decoder(_Line)
_error_decoder = msgspec.json.Decoder(_Error)


def result_lines(content: bytes) -> Iterator[BatchLineRead | None]:
    """What the stream of results says, line by line; None: a line that is none."""
    for line in content.split(b"\n"):
        if line.strip():
            yield _result(line)


def _result(line: bytes) -> BatchLineRead | None:
    try:
        read = _line_decoder.decode(line)
        return BatchLineRead(read.custom_id, _arrival(read.result))
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _arrival(result: _Result) -> Response | Fault:
    if result.type == "succeeded":
        return Response(200, _JSON, bytes(result.message))
    if result.type == "errored":
        kind = _error_decoder.decode(result.error).error.type
        return Response(STATUS_OF_ERROR.get(kind, OTHER_ERROR_STATUS), _JSON, bytes(result.error))
    known = {"expired": EXPIRED, "canceled": CANCELLED}.get(result.type)
    return known or Fault("unknown", "bad_reply", f"the batch says of it only '{result.type}'")


class AnthropicBatches:
    """See `form.InlineForm`; the calls are below the gateway's base URL."""

    list_path = _PATH

    def __init__(
        self,
        wire: ControlWire,
        address: BatchAddress,
        protocol: Protocol,
        *,
        epoch_seconds: Callable[[], float],
    ) -> None:
        self._calls = BatchCalls(wire, address, protocol, epoch_seconds)

    def content(self, requests: Iterable[tuple[str, bytes]]) -> bytes:
        """See the form."""
        items = b",".join(b'{"custom_id":%b,"params":%b}' % (orjson.dumps(name), body) for name, body in requests)
        return b'{"requests":[%b]}' % items

    def lines(self, content: bytes) -> Iterator[BatchLineRead | None]:
        """See the form."""
        return result_lines(content)

    async def probe(self) -> CallTrouble | None:
        """See the form."""
        return await self._calls.probe(_PATH)

    async def submit(self, content: bytes) -> BatchTold | CallTrouble:
        """See the form."""
        return _told(await self._calls.post(_PATH, content, deadline_seconds=FILE_SECONDS))

    async def listed(self, since_seconds: float) -> Sequence[BatchTold] | CallTrouble:
        """See the form."""
        return await self._calls.listed(_PATH, "after_id", _told, since_seconds)

    async def look(self, batch_id: str) -> BatchTold | CallTrouble:
        """See the form."""
        return _told(await self._calls.get(below(_PATH, batch_id)))

    async def read(self, name: str) -> bytes | CallTrouble:
        """See the form. The address that a batch tells for its results is not followed: the key would go there."""
        return await self._calls.read(f"{below(_PATH, name)}/results")

    async def cancel(self, batch_id: str) -> BatchTold | CallTrouble:
        """See the form."""
        return _told(await self._calls.post(f"{below(_PATH, batch_id)}/cancel", b"{}"))

    async def close(self) -> None:
        """See the form."""
        await self._calls.close()


def _told(answer: dict[str, Any] | CallTrouble) -> BatchTold | CallTrouble:
    if isinstance(answer, CallTrouble):
        return answer
    status, identity = answer.get("processing_status"), answer.get("id")
    if not isinstance(identity, str) or not isinstance(status, str):
        return unreadable("a batch without id or status")
    state = STATES.get(status, "running")
    counts = part_of(answer, "request_counts")
    total = count_of(counts, "processing", *ENDINGS)
    has_ended = state == "ended"
    return BatchTold(
        id=identity,
        state=state,
        status=_ending(answer, counts) if has_ended else status,
        requests=total or None,
        created_at=epoch_seconds(answer.get("created_at")),
        done=count_of(counts, *DONE) if has_ended and total else None,
        files=(("results", identity),) if has_ended else (),
    )


def _ending(answer: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    """How a batch has ended, of which the gateway says no more than that: by what became of its requests."""
    if answer.get("cancel_initiated_at") and count_of(counts, "canceled"):
        return "canceled"
    return "expired" if count_of(counts, "expired") else "ended"
