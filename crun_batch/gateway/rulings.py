"""What gateways call their errors, and what each means: the tables that docs/errors.md is made from.

Owns the rulings, `STATUSES` and `NAMED_STATUSES`; adding a case is adding a line. What errors say in words is in
`wordings`. Pure, and knows no shape of a body: that is `failures`.

Sources: the public API references of OpenAI, Azure, Anthropic, Google, Amazon Bedrock, Mistral, xAI, DeepSeek,
Moonshot, Z.AI, MiniMax, DashScope, Volcengine, SiliconFlow, OpenRouter, LiteLLM, one-api, Groq, Together,
Fireworks, Novita, NVIDIA, Scaleway, Cloudflare, watsonx, Databricks, Portkey, CRUN, and what their users quote
in issues; wordings of overflows and of unknown models as vLLM, SGLang, TGI, llama.cpp, Ollama and LM Studio send
them.
"""

from __future__ import annotations

from msgspec import Struct

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


OUT_OF_MONEY = Ruling("out of credits, quota or budget", "bad_request", "stop_credits")
TOO_LONG = Ruling("the prompt, or prompt and output limit, exceed what the model takes", "too_long", "fail_row")
NO_SUCH_PLACE = Ruling(
    "nothing answers at this path: look at endpoint.base_url", "not_found", "stop_model", is_told=True
)
UNKNOWN_MODEL = Ruling("the gateway does not know the model", "not_found", "stop_model")
OTHER_ENDPOINT = Ruling(
    "the model does not answer on this endpoint: look at endpoint.protocol",
    "not_found",
    "stop_model",
    is_told=True,
)
OTHER_VERSION = Ruling(
    "it has no such version of the API: look at endpoint.query", "not_found", "stop_model", is_told=True
)
KEY_REFUSED = Ruling("the key is refused", "bad_request", "stop_key")
RATE_LIMITED = Ruling("rate limited", "rate_limited", "cool_down")
OVERLOADED = Ruling("overloaded", "server", "cool_down")
FILTERED = Ruling("a content filter refused the prompt or the answer", "content_filter", "fail_row")


_BAD_REQUEST = Ruling("the request is wrong", "bad_request", "fail_row")
_NOT_FOUND = Ruling("nothing there", "not_found", "fail_row")
_SERVER = Ruling("the server failed", "server", "retry")

STATUSES: dict[int, Ruling] = {
    400: _BAD_REQUEST,
    401: KEY_REFUSED,
    402: OUT_OF_MONEY,
    403: Ruling("the key may not use this model", "bad_request", "stop_model"),
    404: _NOT_FOUND,
    407: Ruling("a proxy does not accept the user and the password", "connection", "stop_unreached", is_told=True),
    408: Ruling("the gateway waited too long", "timeout", "retry"),
    409: Ruling("conflict", "server", "retry"),
    413: TOO_LONG,
    422: _BAD_REQUEST,
    424: Ruling("what the gateway relies on failed", "server", "retry"),
    425: Ruling("too early", "server", "retry"),
    429: RATE_LIMITED,
    446: FILTERED,
    455: Ruling("maintenance", "server", "cool_down", pause_seconds=300.0),
    499: Ruling("the request was cancelled on its way", "server", "retry"),
    500: _SERVER,
    501: Ruling("the generation failed for good", "server", "fail_row"),
    502: _SERVER,
    503: OVERLOADED,
    504: Ruling("the gateway gave up on its model", "timeout", "retry"),
    505: Ruling("the feature is disabled", "bad_request", "stop_refused"),
    529: OVERLOADED,
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
    "authentication": 401,
    "payment_required": 402,
    "invalid_api_key": 401,
    "permission_error": 403,
    "permission_denied": 403,
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
    "provider_unavailable": 502,
    "provider_overloaded": 503,
    "timeout": 504,
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
