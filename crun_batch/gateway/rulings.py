"""What gateways call their errors, and what each means: the tables that docs/errors.md is made from.

Owns `WORDS`, `STATUSES` and `NAMED_STATUSES`; adding a case is adding a line. Pure, and knows no shape of a body:
that is `failures`.

Sources: the public API references of OpenAI, Azure, Anthropic, Google, Amazon Bedrock, Mistral, xAI, DeepSeek,
Moonshot, Z.AI, MiniMax, DashScope, Volcengine, SiliconFlow, OpenRouter, LiteLLM, one-api, Groq, Together,
Fireworks, Novita, Cloudflare, watsonx, CRUN, and what their users quote in issues; wordings of overflows and
of unknown models as vLLM, SGLang, TGI, llama.cpp, Ollama and LM Studio send them.
"""

from __future__ import annotations

from msgspec import Struct

from crun_batch.gateway.web_pages import NO_SUCH_PATH
from crun_batch.records import Action, ErrorKind


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


_OUT_OF_MONEY = Ruling("out of credits, quota or budget", "bad_request", "stop_credits")
_TOO_LONG = Ruling("the prompt, or prompt and output limit, exceed what the model takes", "too_long", "fail_row")
NO_SUCH_PLACE = Ruling(
    "nothing answers at this path: look at endpoint.base_url", "not_found", "stop_model", is_told=True
)
_UNKNOWN_MODEL = Ruling("the gateway does not know the model", "not_found", "stop_model")
_OTHER_ENDPOINT = Ruling(
    "the model does not answer on this endpoint: look at endpoint.protocol",
    "not_found",
    "stop_model",
    is_told=True,
)
_KEY_REFUSED = Ruling("the key is refused", "bad_request", "stop_key")
_RATE_LIMITED = Ruling("rate limited", "rate_limited", "cool_down")
_OVERLOADED = Ruling("overloaded", "server", "cool_down")

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
                "accountoverdueerror",
                "allocationquota.freetieronly",
                "arrearage",
                "billing_disabled",
                "exceeded_current_quota_error",
                "insufficient_balance_error",
                "insufficient_funds",
                "not_enough_balance",
                "pre_consume_token_quota_failed",
                "token_quota_reached",
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
            ("exceeded your current quota", "platform.openai.com"),
            ("balance is insufficient",),
            ("insufficient account balance",),
            ("insufficient funds",),
            ("not enough balance",),
            ("overdue balance",),
            ("credits are depleted",),
            ("doesn't have any credits",),
            ("used all available credits",),
            ("reach", "spending limit"),
            ("reach", "spend limit"),
            ("exceeded", "spending cap"),
            ("reached your specified", "usage limits"),
            ("key limit exceeded",),
            ("out of call volume quota",),
            ("余额不足",),
            ("额度不足",),
            ("额度已用尽",),
        ),
        phrase_statuses=frozenset({200, 400, 401, 403, 412, 429, 500}),
    ),
    Wording(
        _KEY_REFUSED,
        names=frozenset({"api_key_invalid", "invalid_api_key", "organization_restricted"}),
        phrases=(
            ("api key not valid",),
            ("api key expired",),
            ("incorrect api key",),
            ("invalid api key",),
            ("invalid authorization header",),
            ("organization has been disabled",),
        ),
        phrase_statuses=frozenset({200, 400, 403}),
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
                "datainspectionfailed",
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
            ("unsafe or sensitive content",),
            ("content exists risk",),
            ("new_sensitive",),
            ("敏感内容",),
        ),
        phrase_statuses=frozenset({200, 400, 403, 422, 500}),
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
            ("maximum prompt length",),
            ("exceeds the context length",),
            ("loaded with context length",),
            ("input token count", "exceeds"),
            ("range of input length",),
            ("tokens in the prompt cannot exceed",),
            ("input tokens", "total tokens limit"),
            ("inputs` must have less than",),
            ("inputs` tokens + `max_new_tokens` must be",),
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
        names=frozenset(
            {
                "model_not_found",
                "unknown_model",
                "invalid_model",
                "deploymentnotfound",
                "model_not_available",
                "model_not_supported",
            }
        ),
        phrases=(
            ("model", "does not exist"),
            ("model", "not found"),
            ("not a valid model",),
            ("invalid model name",),
            ("model not exist",),
            ("model identifier is invalid",),
            ("no such model",),
            ("not supported by any provider",),
            ("no endpoints found for",),
            ("no endpoints available matching",),
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
        _OTHER_ENDPOINT,
        names=frozenset(),
        phrases=(
            ("this is a chat model",),
            ("not a chat model",),
            ("only supported in v1/",),
            ("operation does not work with the specified model",),
        ),
        phrase_statuses=frozenset({400, 404}),
    ),
    Wording(
        _OVERLOADED,
        names=frozenset({"capacity_exceeded"}),
    ),
    Wording(
        _RATE_LIMITED,
        names=frozenset({"throttlingexception"}),
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
_SERVER = Ruling("the server failed", "server", "retry")

STATUSES: dict[int, Ruling] = {
    400: _BAD_REQUEST,
    401: _KEY_REFUSED,
    402: _OUT_OF_MONEY,
    403: Ruling("the key may not use this model", "bad_request", "stop_model"),
    404: _NOT_FOUND,
    407: Ruling("a proxy does not accept the user and the password", "connection", "stop_unreached"),
    408: Ruling("the gateway waited too long", "timeout", "retry"),
    409: Ruling("conflict", "server", "retry"),
    413: _TOO_LONG,
    422: _BAD_REQUEST,
    424: Ruling("what the gateway relies on failed", "server", "retry"),
    425: Ruling("too early", "server", "retry"),
    429: _RATE_LIMITED,
    455: Ruling("maintenance", "server", "cool_down", pause_seconds=300.0),
    499: Ruling("the request was cancelled on its way", "server", "retry"),
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
    "rate_limited": 429,
    "rate_limit_reached_error": 429,
    "engine_overloaded_error": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_error": 500,
    "timeout_error": 504,
    "vector_store_timeout": 504,
    "service_unavailable": 503,
    "overloaded": 503,
    "overloaded_error": 529,
    "server_overloaded": 529,
}
"""The status that an error inside a 200 or inside a stream would have had, by its type or code."""

BASE_RESP_STATUSES: dict[int, int] = {
    1001: 504,
    1002: 429,
    1004: 401,
    1008: 402,
    1039: 429,
    1041: 429,
    2013: 400,
    2049: 401,
    2056: 402,
}
"""The status that MiniMax's own code, in the `base_resp` of a 200, would have had; any other counts as 500."""
