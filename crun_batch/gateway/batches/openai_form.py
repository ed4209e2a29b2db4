"""`/files` and `/batches` in OpenAI's form, which Azure, Groq, Together and the LiteLLM proxy repeat.

Facts from OpenAI's API reference: a file of purpose `batch` with a line for each request; a batch names it as
`input_file_id` and keeps up to 16 tags; the list of batches shows both; expired and cancelled batches keep what
was done in their output file; a request that was refused, or that came too late, stands in the error file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import orjson
from msgspec import Raw, Struct, structs

from crun_batch.gateway.batches.form import EXPIRED, BatchLineRead, BatchState, BatchTold, CallTrouble, ControlWire
from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.protocols.protocol import Protocol
from crun_batch.records import Failure, Fault, Headers, Response

CALL_SECONDS = 60.0
FILE_SECONDS = 1800.0
PAGE = 100
MOST_PAGES = 50
NO_SUCH = frozenset({404, 405, 501})
STATES: Mapping[str, BatchState] = {
    "validating": "accepted",
    "in_progress": "running",
    "finalizing": "ending",
    "cancelling": "ending",
    "completed": "ended",
    "expired": "ended",
    "cancelled": "ended",
    "failed": "refused",
}


class _OutputResponse(Struct):
    status_code: int
    body: Raw
    request_id: str | None = None


class _OutputError(Struct):
    code: str | None = None
    message: str | None = None


class _OutputLine(Struct):
    custom_id: str
    response: _OutputResponse | None = None
    error: _OutputError | None = None


_line_decoder = msgspec.json.Decoder(_OutputLine)


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
            yield _result(line)


def _result(line: bytes) -> BatchLineRead | None:
    try:
        read = _line_decoder.decode(line)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    if read.response is not None:
        headers = {"content-type": "application/json"}
        if read.response.request_id:
            headers["x-request-id"] = read.response.request_id
        return BatchLineRead(
            read.custom_id, Response(read.response.status_code, headers, bytes(read.response.body))
        )
    if read.error is not None and read.error.code == "batch_expired":
        return BatchLineRead(read.custom_id, EXPIRED)
    words = "without a word" if read.error is None else f"{read.error.code}: {read.error.message}"
    return BatchLineRead(read.custom_id, Fault("unknown", "bad_reply", f"the batch gave no reply for it, {words}"))


class BatchAddress(Struct, frozen=True):
    """Where a gateway is and how it is asked."""

    base_url: str
    query: str
    headers: Mapping[str, str]
    """Hold the key."""
    redact: Callable[[bytes], bytes]
    """Takes the secrets out of what a gateway repeats, before anything is made of it."""

    def __repr__(self) -> str:
        return "BatchAddress(...)"


class OpenAIBatches:
    """See `form.BatchForm`; the calls are below the gateway's base URL."""

    def __init__(
        self,
        wire: ControlWire,
        address: BatchAddress,
        protocol: Protocol,
        *,
        window: str,
        epoch_seconds: Callable[[], float],
    ) -> None:
        self._wire = wire
        self._address = address
        self._headers = address.headers
        self._redact = address.redact
        self._protocol = protocol
        self._window = window
        self._epoch_seconds = epoch_seconds

    def content(self, requests: Iterable[tuple[str, bytes]]) -> bytes:
        """See the form."""
        return request_lines(self._protocol.path, requests)

    def lines(self, content: bytes) -> Iterator[BatchLineRead | None]:
        """See the form."""
        return result_lines(content)

    async def probe(self) -> CallTrouble | None:
        """See the form."""
        listed = await self._get("/batches", {"limit": "1"})
        return listed if isinstance(listed, CallTrouble) else None

    async def upload(self, name: str, content: bytes) -> str | CallTrouble:
        """See the form."""
        boundary = hashlib.sha256(content).hexdigest()
        parts = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        )
        body = b"%b%b\r\n--%b--\r\n" % (parts.encode(), content, boundary.encode())
        headers = Headers({**self._headers, "content-type": f"multipart/form-data; boundary={boundary}"})
        answer = self._json(await self._wire.post(self._url("/files"), headers, body, FILE_SECONDS))
        if isinstance(answer, CallTrouble):
            return answer
        return answer["id"] if isinstance(answer.get("id"), str) else _unreadable("a file without an id")

    async def create(self, file_id: str, tags: Mapping[str, str]) -> BatchTold | CallTrouble:
        """See the form."""
        asked = {
            "input_file_id": file_id,
            "endpoint": f"/v1{self._protocol.path}",
            "completion_window": self._window,
            "metadata": tags,
        }
        return self._told(await self._post("/batches", asked))

    async def find(self, file_id: str, since_seconds: float) -> Sequence[BatchTold] | CallTrouble:
        """See the form."""
        found: list[BatchTold] = []
        after: str | None = None
        for _ in range(MOST_PAGES):
            page = await self._get("/batches", {"limit": str(PAGE), **({"after": after} if after else {})})
            if isinstance(page, CallTrouble):
                return page
            told = [self._told(item) for item in page.get("data") or ()]
            batches = [one for one in told if isinstance(one, BatchTold)]
            found += [one for one in batches if one.file_id == file_id]
            if page.get("has_more") is not True or not batches or batches[-1].created_at < since_seconds:
                break
            after = batches[-1].id
        return found

    async def look(self, batch_id: str) -> BatchTold | CallTrouble:
        """See the form."""
        return self._told(await self._get(f"/batches/{quote(batch_id, safe='')}", {}))

    async def read(self, name: str) -> bytes | CallTrouble:
        """See the form."""
        url = self._url(f"/files/{quote(name, safe='')}/content")
        reply = await self._wire.get(url, self._headers, FILE_SECONDS)
        if isinstance(reply, Response) and reply.status == 200:
            return b"\n".join(map(self._redact, reply.body.split(b"\n")))
        return self._trouble(self._clean(reply))

    async def cancel(self, batch_id: str) -> BatchTold | CallTrouble:
        """See the form."""
        return self._told(await self._post(f"/batches/{quote(batch_id, safe='')}/cancel", {}))

    async def close(self) -> None:
        """See the form."""
        await self._wire.close()

    def _url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        asked = urlencode(query or {})
        joined = "&".join(part for part in (self._address.query.removeprefix("?"), asked) if part)
        return f"{self._address.base_url}{path}{'?' if joined else ''}{joined}"

    async def _get(self, path: str, query: Mapping[str, str]) -> dict[str, Any] | CallTrouble:
        return self._json(await self._wire.get(self._url(path, query), self._headers, CALL_SECONDS))

    async def _post(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any] | CallTrouble:
        return self._json(await self._wire.post(self._url(path), self._headers, orjson.dumps(asked), CALL_SECONDS))

    def _json(self, reply: Response | Fault) -> dict[str, Any] | CallTrouble:
        reply = self._clean(reply)
        if isinstance(reply, Fault) or not 200 <= reply.status < 300:
            return self._trouble(reply)
        try:
            answer = orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            return _unreadable("a reply that is no JSON")
        return answer if isinstance(answer, dict) else _unreadable("a reply that is no object")

    def _clean(self, reply: Response | Fault) -> Response | Fault:
        body = self._redact(reply.body)
        if isinstance(reply, Response):
            return structs.replace(reply, body=body)
        message = self._redact(reply.message.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
        return structs.replace(reply, body=body, message=message)

    def _trouble(self, reply: Response | Fault) -> CallTrouble:
        if isinstance(reply, Fault):
            return CallTrouble("not_done" if reply.stage == "not_sent" else "unclear", check_fault(reply))
        failure = check(self._protocol, reply, stream=False, now_epoch_seconds=self._epoch_seconds())
        if not isinstance(failure, Failure):
            return _unreadable(f"HTTP {reply.status}")
        if reply.status in NO_SUCH:
            return CallTrouble("not_there", failure)
        return CallTrouble("unclear" if reply.status >= 500 or reply.status == 408 else "not_done", failure)

    def _told(self, answer: dict[str, Any] | CallTrouble) -> BatchTold | CallTrouble:
        if isinstance(answer, CallTrouble):
            return answer
        status, identity = answer.get("status"), answer.get("id")
        if not isinstance(identity, str) or not isinstance(status, str):
            return _unreadable("a batch without id or status")
        counts = answer.get("request_counts") or {}
        named = (("output", answer.get("output_file_id")), ("error", answer.get("error_file_id")))
        errors = [one for one in ((answer.get("errors") or {}).get("data") or ()) if isinstance(one, dict)]
        return BatchTold(
            id=identity,
            state=STATES.get(status, "running"),
            status=status,
            file_id=answer.get("input_file_id"),
            created_at=float(answer.get("created_at") or 0),
            done=_done(status, counts),
            files=tuple((kind, name) for kind, name in named if isinstance(name, str) and name),
            code=errors[0].get("code") if errors else None,
            why="; ".join(_words(one) for one in errors[:3]) or None,
        )


def _done(status: str, counts: Mapping[str, Any]) -> int | None:
    """None where nobody has filled the counts in: gateways before other providers leave them out, or at zero."""
    if not counts or (status == "completed" and not counts.get("total")):
        return None
    return int(counts.get("completed") or 0) + int(counts.get("failed") or 0)


def _words(error: Mapping[str, Any]) -> str:
    line = error.get("line")
    return f"{'' if line is None else f'line {line}: '}{error.get('message')} ({error.get('code')})"


def _unreadable(what: str) -> CallTrouble:
    """A 2xx that says nothing of use: what was asked may well be done."""
    return CallTrouble("unclear", Failure("unknown", "bad_reply", "retry", f"the gateway answered with {what}"))
