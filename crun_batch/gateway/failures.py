"""What a gateway's error means: many shapes of a body, read into one, and judged by the tables of `rulings`.

Owns the reading of error shapes. Pure. Must not know protocols, headers (that is `classify`) or the wire.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from msgspec import Struct

from crun_batch.gateway.rulings import (
    BASE_RESP_STATUSES,
    NAMED_STATUSES,
    NO_SUCH_PLACE,
    STATUSES,
    UNKNOWN_3XX,
    UNKNOWN_4XX,
    UNKNOWN_5XX,
    UNKNOWN_OTHER,
    Ruling,
)
from crun_batch.gateway.told_waits import wait_told, with_quotas
from crun_batch.gateway.web_pages import READ_OF_A_PAGE
from crun_batch.gateway.wordings import WORDS
from crun_batch.records import FREE_OUTCOMES, Action, Failure, OutcomeClass, Usage

LONGEST_MESSAGE = 500
"""Characters of a gateway's own words that a failure keeps; the whole body is kept elsewhere."""

_REPLY_KEYS = ("choices", "output", "content")
_NAME_KEYS = ("type", "code", "status", "reason", "error_type", "error_code", "__type")
_DETAIL_NAME_KEYS = ("error_code", "error_type", "limit_source", "code", "reason")
_MESSAGE_KEYS = ("message", "msg", "detail", "error", "errors", "Message", "status_msg")
_MESSAGE_DEPTH = 5
_HTTP_STATUSES = range(100, 600)


class ErrorFacts(Struct, frozen=True):
    """What an error body says, whatever its shape."""

    number: int | None = None
    """A status-like number in the body, text of digits included."""
    names: frozenset[str] = frozenset()
    message: str = ""
    wait_seconds: float | None = None
    """The wait that the body asks for, in a key or in words."""
    is_page: bool = False
    """It is a web page."""


_GENERIC_STATUSES = frozenset({400, 500})


def holds_reply(payload: Mapping[str, Any]) -> bool:
    """Whether a JSON object has the part of a reply in which an answer stands, whatever the protocol."""
    return any(key in payload for key in _REPLY_KEYS)


def holds_error(payload: Mapping[str, Any]) -> bool:
    """Whether a JSON object says that the request failed.

    By `error`, `type: error`, an outer code but 200, `success: false` (Cloudflare), `base_resp` (MiniMax).
    """
    if payload.get("error") or payload.get("type") == "error" or _base_resp(payload):
        return True
    if holds_reply(payload):
        return False
    if payload.get("success") is False or "code" not in payload:
        return payload.get("success") is False
    code = payload["code"]
    # events of streamed code have a `code` that is text, and may be digits
    return _number(code) not in (None, 200) and (type(code) is int or "message" in payload or "msg" in payload)


def facts_of(payload: object) -> ErrorFacts:
    """What a decoded error body says, whatever its shape; a list of one (Gemini) counts as its element."""
    if isinstance(payload, list):
        payload = payload[0] if len(payload) == 1 else {"errors": payload}
    if not isinstance(payload, dict):
        message = payload if isinstance(payload, str) else ""
        return ErrorFacts(message=message, wait_seconds=wait_told((), message))
    # FastAPI puts what a server raises into `detail`
    body: dict[str, Any] = payload["detail"] if isinstance(payload.get("detail"), dict) else payload
    error = body.get("error") or _base_resp(body) or None
    inner = error if isinstance(error, dict) else _first_of(body.get("errors")) or body
    details = _details(inner)
    words = [inner.get(key) for key in _NAME_KEYS]
    words += [detail.get(key) for detail in details for key in _DETAIL_NAME_KEYS]
    words += ["flagged_input" for detail in details if "flagged_input" in detail]
    words.append(body.get("error_type"))  # OpenRouter's, beside the error of a response that failed
    words.append(error if _is_code(error) else None)
    # Amazon writes its namespace before the name: com.amazon.coral#ThrottlingException
    said = (word.rpartition("#")[2].lower() for word in words if isinstance(word, str) and not word.isdigit())
    names = frozenset(filter(None, said))
    numbers = (_number(value) for value in (inner.get("code"), body.get("code"), inner.get("status")))
    number = next((number for number in numbers if number is not None), None)
    message = _message(body, error, details)
    return ErrorFacts(number, names - {"error"}, message, wait_told((*details, inner, body), message))


def verdict_of(status: int, facts: ErrorFacts) -> Ruling:
    """What an error means. `status` is the HTTP status, 200 for an error inside a success.

    A number in the body stands for the status where that is a success or says little (400, 500); without one, a
    success takes the status that the error's name stands for.
    """
    number = facts.number if facts.number in _HTTP_STATUSES else None
    if number is not None and (status < 300 or (status in _GENERIC_STATUSES and number in STATUSES)):
        status = number
    elif status < 300:
        named = [NAMED_STATUSES[name] for name in sorted(facts.names) if name in NAMED_STATUSES]
        status = next((one for one in named if one not in _GENERIC_STATUSES), named[0] if named else status)
    return _worded(status, facts) or STATUSES.get(status) or _HUNDREDS.get(status // 100, UNKNOWN_OTHER)


def failure_of(status: int, facts: ErrorFacts, *, outcome: OutcomeClass, usage: Usage | None = None) -> Failure:
    """The failure that an error is. Its message is one line."""
    verdict = verdict_of(status, facts)
    labels = [f"HTTP {status}"]
    if facts.number not in (None, status):
        labels.append(str(facts.number))
    labels += sorted(facts.names)[:3]
    told = verdict.meaning if verdict.is_told or not facts.message else ""
    message = f"{' '.join(labels)}: {'; '.join(filter(None, (facts.message, told)))}"
    return Failure(
        outcome=outcome,
        kind=verdict.kind,
        action=counted(verdict.action, outcome),
        message=message_line(message),
        retry_after_seconds=verdict.pause_seconds if facts.wait_seconds is None else facts.wait_seconds,
        usage=usage,
    )


def counted(action: Action, outcome: OutcomeClass) -> Action:
    """An attempt that was or may have been billed is never put back uncounted: that would have no end."""
    return "retry" if action == "cool_down" and outcome not in FREE_OUTCOMES else action


def message_line(text: str) -> str:
    """Text without line ends, control, format and lone surrogate characters, at most `LONGEST_MESSAGE` long."""
    printable = "".join(c if c.isprintable() else " " for c in text[:READ_OF_A_PAGE])
    line = " ".join(printable.split())
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"


def _worded(status: int, facts: ErrorFacts) -> Ruling | None:
    message = facts.message.lower()
    names = facts.names | {found[1] for found in _QUOTED_NAME.finditer(message)}
    for wording in WORDS:
        if wording.names & names:
            return wording.verdict
        if status in wording.phrase_statuses and (
            (facts.is_page and wording.verdict is NO_SUCH_PLACE)
            or (message.rstrip(". \n") in wording.whole and (message or not names))
            or any(all(text in message for text in phrase) for phrase in wording.phrases)
        ):
            return wording.verdict
    return None


_QUOTED_NAME = re.compile(r"""["'](?:code|type|status)["']\s*:\s*["']([a-z_.]{1,80})["']""")
"""The upstream's own error, which a gateway puts into its message as JSON or as Python prints it (LiteLLM)."""


_HUNDREDS = {3: UNKNOWN_3XX, 4: UNKNOWN_4XX, 5: UNKNOWN_5XX}


def _is_code(error: object) -> bool:
    """Whether an error is told by a code alone, its words being beside it: `model_not_found`, `Not Found`."""
    if not isinstance(error, str):
        return False
    return error.lower() in _REASON_PHRASES or _CODE.fullmatch(error) is not None


_CODE = re.compile("[A-Za-z]+(_[A-Za-z]+)+")
_REASON_PHRASES = frozenset(status.phrase.lower() for status in HTTPStatus)
"""What NestJS, Spring and Scaleway write as `error`."""


def _number(value: object) -> int | None:
    """A code as a number: an integer, or text of digits."""
    if type(value) is int:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    return None


def _first_of(errors: object) -> dict[str, Any]:
    """The first of a list of errors (Cloudflare, watsonx); empty where there is none."""
    first = errors[0] if isinstance(errors, list) and errors else None
    return first if isinstance(first, dict) else {}


def _base_resp(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What MiniMax says beside its replies, as an error with the code of a status; empty where all is well."""
    said = payload.get("base_resp")
    code = _number(said.get("status_code")) if isinstance(said, dict) else None
    return {**said, "code": BASE_RESP_STATUSES.get(code, 500)} if isinstance(said, dict) and code else {}


def _details(inner: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the finer code stands: details (Anthropic, Google), metadata (OpenRouter), innererror (Azure)."""
    found: list[dict[str, Any]] = []
    for key in ("details", "metadata", "innererror"):
        value = inner.get(key)
        found += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    return found


def _message(payload: Mapping[str, Any], error: object, details: list[dict[str, Any]]) -> str:
    told = None if _is_code(error) else error
    beside = {key: payload.get(key) for key in _MESSAGE_KEYS if key != "error"}
    said = _words(told, _MESSAGE_DEPTH) or _words(beside, _MESSAGE_DEPTH) or _words(payload, _MESSAGE_DEPTH)
    words = with_quotas(said, details)
    raw = next((detail["raw"] for detail in details if isinstance(detail.get("raw"), str)), "")
    return f"{words}: {raw}"[:READ_OF_A_PAGE] if raw else words


def _words(value: object, depth: int) -> str:
    """The words in a message of any form: text, an object with a message, a list of those (FastAPI)."""
    if isinstance(value, str):
        return value[:READ_OF_A_PAGE]
    if depth == 0:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_words(item, depth - 1) for item in value[:3])))
    if isinstance(value, dict):
        found = (_words(value.get(key), depth - 1) for key in _MESSAGE_KEYS)
        return next(filter(None, found), "")
    return ""
