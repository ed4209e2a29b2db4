"""One reply or fault -> what it means: a `Reply`, or a `Failure` with what to do about it.

Owns the classes of attempts: whatever whole reply is not 2xx is `rejected`; a 2xx whose body parses, or whose
stream saw its end, is `done`; a fault before the first byte is `not_sent`; anything else may have been billed and
is `unknown`. An error inside a 2xx is `done` where it tells its tokens or its cost, `unknown` where a part of the
answer had come, and else `rejected`.

Pure, and never raises, whatever the bytes are. Must not know tickets, prices or the key. Failures hold no request
and no header but a redirect's host; the words of the gateway are kept to one line of 500 characters.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson

from crun_batch.gateway.failures import (
    ErrorFacts,
    counted,
    facts_of,
    failure_of,
    holds_error,
    holds_reply,
    message_line,
    verdict_of,
)
from crun_batch.gateway.protocols.charges import reported_usd, stated_cost
from crun_batch.gateway.protocols.protocol import JsonObject, Protocol, decode, encode
from crun_batch.gateway.protocols.sse import read_stream
from crun_batch.gateway.rate_headers import retry_after_seconds, used_up_seconds
from crun_batch.gateway.told_waits import wait_told
from crun_batch.gateway.web_pages import is_web_page, words_of_page
from crun_batch.records import Action, Failure, Fault, OutcomeClass, Reply, Response, Usage

_COST_HEADER = "x-litellm-response-cost"
LONGEST_RESET_SECONDS = 60.0
"""A reset says when a limit is whole again, which is later than when it bears one more request."""

NO_API = "a web page came, not an API's reply (look at endpoint.base_url)"
_READ_CODINGS = ("", "identity", "gzip", "x-gzip")

_SHOULD_RETRY: dict[tuple[str, Action], Action] = {
    ("true", "stop_key"): "retry",
    ("true", "stop_refused"): "retry",
    ("true", "stop_model"): "retry",
    ("true", "fail_row"): "retry",
    ("false", "retry"): "fail_row",
    ("false", "cool_down"): "fail_row",
}
"""What `x-should-retry` makes of an action. Being out of money stays that."""


def check(
    protocol: Protocol, response: Response, *, stream: bool, now_epoch_seconds: float | None = None
) -> Reply | Failure:
    """What a whole reply means. `now_epoch_seconds` serves a Retry-After date where the reply has no Date."""
    succeeded = 200 <= response.status < 300
    result = _success(protocol, response, stream) if succeeded else _rejected(response)
    cost = response.headers.get(_COST_HEADER) if succeeded else None
    is_whole = isinstance(result, Reply) or result.outcome != "unknown"
    if cost is not None and is_whole and result.reported_usd is None:
        result = _with_cost(result, stated_cost(cost.strip()))
    return result if isinstance(result, Reply) else _as_headers_say(result, response.headers, now_epoch_seconds)


def check_fault(fault: Fault) -> Failure:
    """What a request without a whole reply means: its class is the fault's stage, its action mostly a retry.

    Where the status line of an error was read, that status says what to do; the attempt stays unknown, and counts.
    """
    message = message_line(fault.message) or fault.kind
    if fault.stage == "not_sent":
        return Failure("not_sent", fault.kind, "stop_unreached" if fault.is_lasting else "retry", message)
    if fault.is_lasting:  # a whole reply too, though not HTTP's: whoever sent it did not read the request
        return Failure("rejected", "connection", "stop_unreached", message)
    if fault.status is None or fault.status < 300:
        return Failure("unknown", fault.kind, "retry", message)
    verdict = verdict_of(fault.status, ErrorFacts())
    message = f"HTTP {fault.status}, cut: {message}"
    action = counted(verdict.action, "unknown")
    return Failure("unknown", verdict.kind, action, message, verdict.pause_seconds)


def _success(protocol: Protocol, response: Response, stream: bool) -> Reply | Failure:
    """A 2xx. Nearly every body is of the usual form, or orjson reads it; what it refuses goes the long way."""
    body = response.body
    plain = protocol.read_plain(body) if protocol.read_plain is not None else None
    if plain is not None:
        return plain
    try:
        payload = orjson.loads(body)
    except ValueError:
        return _success_of_other_form(protocol, response, stream)
    return _payload(protocol, payload)


def _success_of_other_form(protocol: Protocol, response: Response, stream: bool) -> Reply | Failure:
    """A 2xx that is a stream of events, or JSON that orjson refuses, or nothing of the kind.

    Servers answer with JSON although a stream was asked for, and the other way round: the body decides.
    """
    start = response.body.removeprefix(codecs.BOM_UTF8).lstrip()[:64]  # blank lines keep a connection open
    if not start.startswith((b"{", b"[")):
        named = response.headers.get("content-type", "").startswith("text/event-stream")
        if start and (stream or named or start.startswith((b"data:", b"event:", b":"))):
            return _stream(protocol, response)
    try:
        return _repaired(_payload(protocol, decode(response.body)))
    except ValueError as error:
        if is_web_page(response.body):
            words = f"HTTP {response.status}, but {NO_API}: {words_of_page(response.body)}"
            return Failure("unknown", "bad_reply", "stop_unreached", message_line(words))
        coding = response.headers.get("content-encoding", "").strip().lower()
        what = f"its body is no JSON: {words_of_page(response.body) or error}" if start else "its body is empty"
        if start and coding not in _READ_CODINGS:
            what = f"its body is in the encoding {coding!r}, which was not asked for (it is kept as it came)"
        return Failure("unknown", "bad_reply", "retry", message_line(f"HTTP {response.status}, but {what}"))


def _payload(protocol: Protocol, payload: Any) -> Reply | Failure:
    """A decoded 2xx body. A list of one object is that object: gateways wrap replies and errors so (Gemini)."""
    if type(payload) is list and len(payload) == 1:
        payload = payload[0]
    if type(payload) is dict:
        payload = _unwrapped(payload)
    if type(payload) is not dict:
        facts = facts_of(payload)
        if facts.names or facts.number is not None:
            return failure_of(200, facts, outcome="rejected")
        return Failure("unknown", "bad_reply", "retry", "HTTP 200, but its body is no JSON object")
    result = _read(protocol, payload)
    return result if isinstance(result, Reply) else _with_cost(result, reported_usd(payload))


def _read(protocol: Protocol, payload: JsonObject) -> Reply | Failure:
    """The reply or the error that an object is."""
    if holds_error(payload):
        usage = protocol.usage(payload)
        untold: OutcomeClass = "unknown" if payload.get("output") else "rejected"
        return failure_of(200, facts_of(payload), outcome=untold if usage is None else "done", usage=usage)
    try:
        return protocol.read(payload)
    except ValueError as error:
        return _unwritable(error, protocol.usage(payload))


def _unwrapped(payload: JsonObject) -> JsonObject:
    """The reply that an outer shape holds, as `{"code": 0, "data": {...}}` does: it is paid, and is kept."""
    if holds_reply(payload) or payload.get("error"):
        return payload
    inside = (payload.get(key) for key in ("data", "result"))
    return next((inner for inner in inside if type(inner) is dict and holds_reply(inner)), payload)


def _stream(protocol: Protocol, response: Response) -> Reply | Failure:
    """A 2xx whose body is a stream of events."""
    assembled = protocol.assemble(response.body)
    payload = assembled.payload
    if assembled.error is not None:
        usage = protocol.usage(assembled.error)
        outcome: OutcomeClass = "unknown" if payload is not None else "rejected"
        facts = facts_of(assembled.error)
        failure = failure_of(200, facts, outcome=outcome if usage is None else "done", usage=usage)
        return _with_cost(failure, reported_usd(assembled.error))
    if payload is None or not assembled.complete:
        words = "the stream was cut before its end" if payload else "no event of this protocol came"
        return Failure("unknown", "connection" if payload else "bad_reply", "retry", f"HTTP 200, but {words}")
    result = _repaired(_payload(protocol, payload))
    if isinstance(result, Failure):
        return result
    try:
        return msgspec.structs.replace(result, assembled=encode(payload))
    except ValueError as error:
        return _with_cost(_unwritable(error, result.usage), result.reported_usd)


def _repaired(result: Reply | Failure) -> Reply | Failure:
    """A reply whose texts are Unicode: halves of a surrogate pair that stand together are joined.

    A lone half fails the row: its bytes are kept, and no other character may take its place silently.
    """
    if isinstance(result, Failure):
        return result
    try:
        return msgspec.structs.replace(
            result,
            text=_joined(result.text),
            tool_calls=_joined(result.tool_calls),
            model=_joined(result.model),
            response_id=_joined(result.response_id),
        )
    except UnicodeDecodeError:
        message = "the reply holds half of a surrogate pair, which is no character"
        return Failure(
            "done", "bad_reply", "fail_row", message, usage=result.usage, reported_usd=result.reported_usd
        )


def _joined(text: str | None) -> str | None:
    return text if text is None else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _unwritable(error: ValueError, usage: Usage | None) -> Failure:
    return Failure(
        "done", "bad_reply", "fail_row", message_line(f"the reply cannot be read: {error}"), usage=usage
    )


def _rejected(response: Response) -> Failure:
    """A whole reply that is not 2xx."""
    status = response.status
    if 300 <= status < 400:
        host = _host(response.headers.get("location", ""))
        words = f"the redirect to {host} is refused: set endpoint.base_url to where the gateway answers itself"
        return failure_of(status, ErrorFacts(message=words), outcome="rejected")
    return failure_of(status, _facts_of_body(response.body), outcome="rejected")


def _facts_of_body(body: bytes) -> ErrorFacts:
    """What the body of an error says: JSON, an event of a stream that never began (LiteLLM), a page, or text."""
    try:
        return facts_of(decode(body))
    except ValueError:
        pass
    error = read_stream(body).error
    if error is not None:
        return facts_of(error)
    page = words_of_page(body)
    return ErrorFacts(message=page, wait_seconds=wait_told((), page), is_page=is_web_page(body))


def _host(location: str) -> str:
    """The host that a Location names: its path and query may hold secrets."""
    try:
        return urlsplit(location).hostname or "the same host"
    except ValueError:
        return "another address"


def _as_headers_say(failure: Failure, headers: Mapping[str, str], now_epoch_seconds: float | None) -> Failure:
    """The failure with the retry that its headers ask for, and its wait by the first that tells one.

    1. Retry-After. 2. What the body says. 3. For a refusal: the reset of what the headers say is used up.
    4. What is usual for such an error.
    """
    action = _SHOULD_RETRY.get((headers.get("x-should-retry", "").lower(), failure.action), failure.action)
    wait = retry_after_seconds(headers, now_epoch_seconds)
    if wait is None:
        wait = failure.retry_after_seconds
    if wait is None and action == "cool_down" and now_epoch_seconds is not None:
        reset = used_up_seconds(headers, now_epoch_seconds)
        wait = None if reset is None else min(reset, LONGEST_RESET_SECONDS)
    if wait == failure.retry_after_seconds and action == failure.action:
        return failure
    return msgspec.structs.replace(failure, action=action, retry_after_seconds=wait)


def _with_cost(result: Reply | Failure, cost: str | None) -> Reply | Failure:
    """The result of a 2xx that states this cost: what is no answer and says what it cost was billed."""
    if cost is None or isinstance(result, Reply):
        return result if cost is None else msgspec.structs.replace(result, reported_usd=cost)
    return msgspec.structs.replace(
        result, outcome="done", action=counted(result.action, "done"), reported_usd=cost
    )
