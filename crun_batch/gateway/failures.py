"""What a gateway's error means: three shapes, many words, one table.

Owns the tables (`WORDS`, `STATUSES`, `NAMED_STATUSES`) and the reading of error shapes; adding a case is adding a
line, and docs/errors.md is made from them. Pure. Must not know protocols, headers (that is `check`) or the wire.

Sources: the public API references of OpenAI, Anthropic, OpenRouter, LiteLLM, CRUN; wordings of context overflows
and of unknown models as vLLM, SGLang, llama.cpp, Ollama, Bedrock and Azure send them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from crun_batch.gateway.told_waits import wait_told, with_quotas
from crun_batch.gateway.web_pages import NO_SUCH_PATH, READ_OF_A_PAGE
from crun_batch.records import Action, ErrorKind, Failure, OutcomeClass, Usage

LONGEST_MESSAGE = 500
"""Characters of a gateway's own words that a failure keeps; the whole body is kept elsewhere."""

_REPLY_KEYS = ("choices", "output", "content")


class Ruling(Struct, frozen=True):
    """What an error is, and what to do about it."""

    meaning: str
    kind: ErrorKind
    action: Action
    pause_seconds: float | None = None
    """How long to wait where the gateway does not say."""
    is_told: bool = False
    """The meaning stands beside the gateway's own words: they alone do not lead to what to change."""


class Wording(Struct, frozen=True):
    """A verdict reached by words, whatever the status, or by phrases on some statuses.

    `names` are values of type, code and the like, in lower case. A phrase is texts that all stand in the
    lower-case message; `whole` are all of a message, without its last dot.
    """

    verdict: Ruling
    names: frozenset[str]
    phrases: tuple[tuple[str, ...], ...] = ()
    phrase_statuses: frozenset[int] = frozenset()
    whole: frozenset[str] = frozenset()


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


_OUT_OF_MONEY = Ruling("out of credits, quota or budget", "bad_request", "stop_credits")
_TOO_LONG = Ruling("the prompt, or prompt and output limit, exceed what the model takes", "too_long", "fail_row")
NO_SUCH_PLACE = Ruling(
    "nothing answers at this path: look at endpoint.base_url", "not_found", "stop_model", is_told=True
)
_UNKNOWN_MODEL = Ruling("the gateway does not know the model", "not_found", "stop_model")

_BAD_REQUESTS = frozenset({200, 400, 413, 422, 500})

WORDS: tuple[Wording, ...] = (
    Wording(
        Ruling("plain HTTP to a port that speaks TLS: write https://", "connection", "stop_unreached"),
        names=frozenset(),
        phrases=(("plain http request", "https port"), ("http request to an https",), ("http to an ssl-enabled",)),
        phrase_statuses=frozenset({400, 497}),
    ),
    Wording(
        Ruling("paid requests in flight fill the spending budget for now", "rate_limited", "cool_down"),
        names=frozenset({"in_flight_budget_exhausted", "openrouter_in_flight_budget"}),
    ),
    Wording(
        _OUT_OF_MONEY,
        names=frozenset(
            {
                "insufficient_quota",
                "insufficient_user_quota",
                "insufficient_credits",
                "insufficient_balance",
                "billing_hard_limit_reached",
                "billing_not_active",
                "billing_error",
                "budget_exceeded",
                "contract_spend_limit_reached",
                "enforced_spend_limit_reached",
                "linked_organization_spend_limit_reached",
                "openrouter_credits",
                "openrouter_key_limit",
                "openrouter_guardrail_budget",
                "openrouter_workspace_budget",
            }
        ),
        phrases=(
            ("credit balance is too low",),
            ("insufficient balance",),
            ("insufficient credit",),
            ("budget has been exceeded",),
            ("exceededbudget",),
            ("budgetexceedederror",),
            ("exceeded budget for",),
        ),
        phrase_statuses=frozenset({200, 400, 401, 403, 429}),
    ),
    Wording(
        Ruling("a content filter refused the prompt or the answer", "content_filter", "fail_row"),
        names=frozenset(
            {
                "content_filter",
                "content_filter_error",
                "content_policy_violation",
                "contentpolicyviolationerror",
                "responsibleaipolicyviolation",
                "moderation_blocked",
                "flagged_input",
                "data_inspection_failed",
                "image_content_policy_violation",
                "bio_policy",
                "cyber_policy",
                "misalignment_policy_violation",
            }
        ),
        phrases=(
            ("content management policy",),
            ("content filtering policy",),
            ("contentpolicyviolationerror",),
            ("responsibleaipolicyviolation",),
        ),
        phrase_statuses=frozenset({200, 400, 403, 422}),
    ),
    Wording(
        _TOO_LONG,
        names=frozenset(
            {
                "context_length_exceeded",
                "contextwindowexceedederror",
                "exceed_context_size_error",
                "request_too_large",
                "string_above_max_length",
                "string_too_long",
            }
        ),
        phrases=(
            ("contextwindowexceedederror",),
            ("maximum context length",),
            ("model's context length",),
            ("context window",),
            ("exceed", "context size"),
            ("exceed", "context limit"),
            ("prompt is too long",),
            ("prompt too long",),
            ("input is too long",),
        ),
        phrase_statuses=_BAD_REQUESTS,
    ),
    Wording(
        Ruling("one request alone exceeds the rate limit: waiting cannot help it", "too_long", "fail_row"),
        names=frozenset(),
        phrases=(("request too large for",),),
        phrase_statuses=frozenset({429}),
    ),
    Wording(
        _UNKNOWN_MODEL,
        names=frozenset({"model_not_found", "unknown_model", "invalid_model", "deploymentnotfound"}),
        phrases=(
            ("model", "does not exist"),
            ("model", "not found"),
            ("not a valid model",),
            ("invalid model name",),
        ),
        phrase_statuses=frozenset({200, 400, 404}),
    ),
    Wording(
        _UNKNOWN_MODEL,
        names=frozenset(),
        phrases=(("model:",),),
        phrase_statuses=frozenset({404}),
    ),
    Wording(
        NO_SUCH_PLACE,
        names=frozenset(),
        phrases=(("invalid url",), ("request url",), ("cannot post",), ("no route",), ("no handler found",)),
        phrase_statuses=frozenset({404, 405}),
        whole=NO_SUCH_PATH,
    ),
)
"""Asked from the top; the first that fits decides. Names fit on every status."""

_BAD_REQUEST = Ruling("the request is wrong", "bad_request", "fail_row")
_NOT_FOUND = Ruling("nothing there", "not_found", "fail_row")
_RATE_LIMITED = Ruling("rate limited", "rate_limited", "cool_down")
_SERVER = Ruling("the server failed", "server", "retry")
_OVERLOADED = Ruling("overloaded", "server", "cool_down")

STATUSES: dict[int, Ruling] = {
    400: _BAD_REQUEST,
    401: Ruling("the key is refused", "bad_request", "stop_key"),
    402: _OUT_OF_MONEY,
    403: Ruling("the key may not use this model", "bad_request", "stop_model"),
    404: _NOT_FOUND,
    407: Ruling("a proxy does not accept the user and the password", "connection", "stop_unreached"),
    408: Ruling("the gateway waited too long", "timeout", "retry"),
    409: Ruling("conflict", "server", "retry"),
    413: _TOO_LONG,
    422: _BAD_REQUEST,
    425: Ruling("too early", "server", "retry"),
    429: _RATE_LIMITED,
    455: Ruling("maintenance", "server", "cool_down", pause_seconds=300.0),
    500: _SERVER,
    501: Ruling("the generation failed for good", "server", "fail_row"),
    502: _SERVER,
    503: _OVERLOADED,
    504: Ruling("the gateway gave up on its model", "timeout", "retry"),
    505: Ruling("the feature is disabled", "bad_request", "stop_refused"),
    529: _OVERLOADED,
}
"""HTTP statuses, and the same numbers inside a body."""

UNKNOWN_3XX = Ruling("a redirect, which would carry the key elsewhere, is refused", "bad_request", "stop_refused")
UNKNOWN_4XX = Ruling("an unlisted 4xx", "bad_request", "fail_row")
UNKNOWN_5XX = Ruling("an unlisted 5xx", "server", "retry")
UNKNOWN_OTHER = Ruling("no status of an answer, or an error without a known word", "server", "retry")

NAMED_STATUSES: dict[str, int] = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "invalid_prompt": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_timeout": 408,
    "conflict_error": 409,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_error": 500,
    "timeout_error": 504,
    "vector_store_timeout": 504,
    "service_unavailable": 503,
    "overloaded_error": 529,
    "server_overloaded": 529,
}
"""The status that an error inside a 200 or inside a stream would have had, by its type or code."""

_GENERIC_STATUSES = frozenset({400, 500})


def holds_error(payload: Mapping[str, Any]) -> bool:
    """Whether a JSON object says that the request failed: `error`, `type: error`, or an outer code but 200."""
    if payload.get("error") or payload.get("type") == "error":
        return True
    if "code" not in payload or any(key in payload for key in _REPLY_KEYS):
        return False
    code = payload["code"]
    # events of streamed code have a `code` that is text, and may be digits
    return _number(code) not in (None, 200) and (type(code) is int or "message" in payload or "msg" in payload)


def facts_of(payload: object) -> ErrorFacts:
    """What a decoded error body says, in any of the three shapes; a list of one (Gemini) counts as its element."""
    if isinstance(payload, list) and len(payload) == 1:
        payload = payload[0]
    if not isinstance(payload, dict):
        message = payload if isinstance(payload, str) else ""
        return ErrorFacts(message=message, wait_seconds=wait_told((), message))
    error = payload.get("error")
    inner = error if isinstance(error, dict) else payload
    details = _details(inner)
    words = [inner.get(key) for key in ("type", "code", "status")]
    words += [
        detail.get(key) for detail in details for key in ("error_code", "error_type", "limit_source", "code")
    ]
    words += ["flagged_input" for detail in details if "flagged_input" in detail]
    names = frozenset(word.lower() for word in words if isinstance(word, str) and not word.isdigit())
    numbers = (_number(value) for value in (inner.get("code"), payload.get("code"), inner.get("status")))
    number = next((number for number in numbers if number is not None), None)
    message = _message(payload, error, details)
    return ErrorFacts(number, names - {"error"}, message, wait_told((*details, inner, payload), message))


def verdict_of(status: int, facts: ErrorFacts) -> Ruling:
    """What an error means. `status` is the HTTP status, 200 for an error inside a success.

    A number in the body stands for the status where that is a success or says little (400, 500); without one, a
    success takes the status that the error's name stands for.
    """
    if facts.number is not None and (status < 300 or (status in _GENERIC_STATUSES and facts.number in STATUSES)):
        status = facts.number
    elif status < 300:
        named = (NAMED_STATUSES[name] for name in sorted(facts.names) if name in NAMED_STATUSES)
        status = next(named, status)
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
    return "retry" if action == "cool_down" and outcome in ("unknown", "done") else action


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


def _number(value: object) -> int | None:
    """A code as a number: an integer, or text of digits."""
    if type(value) is int:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    return None


def _details(inner: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the finer code stands: details (Anthropic, Google), metadata (OpenRouter), innererror (Azure)."""
    found: list[dict[str, Any]] = []
    for key in ("details", "metadata", "innererror"):
        value = inner.get(key)
        found += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    return found


def _message(payload: Mapping[str, Any], error: object, details: list[dict[str, Any]]) -> str:
    words = with_quotas(_words(error, 3) or _words(payload, 3), details)
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
        found = (_words(value.get(key), depth - 1) for key in ("message", "msg", "detail", "error"))
        return next(filter(None, found), "")
    return ""
