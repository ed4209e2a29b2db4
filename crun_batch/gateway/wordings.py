"""What gateways' errors say in words, and what each means: asked before the status has its say.

Owns `WORDS`; adding a case is adding a line. Pure, and knows no shape of a body: that is `failures`.
"""

from __future__ import annotations

from msgspec import Struct

from crun_batch.gateway.rulings import (
    FILTERED,
    KEY_REFUSED,
    NO_SUCH_PLACE,
    OTHER_ENDPOINT,
    OTHER_VERSION,
    OUT_OF_MONEY,
    OVERLOADED,
    RATE_LIMITED,
    TOO_LONG,
    UNKNOWN_MODEL,
    Ruling,
)
from crun_batch.gateway.web_pages import NO_SUCH_PATH


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
        RATE_LIMITED,  # Alibaba calls its limit of a minute `insufficient_quota`
        names=frozenset(),
        phrases=(("error-code#token-limit",), ("allocated quota exceeded, please",)),
        phrase_statuses=frozenset({200, 400, 429, 500}),
    ),
    Wording(
        OUT_OF_MONEY,
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
                "credit_balance_exhausted",
                "organization_spend_limit_exceeded",
                "organization_usage_limit_exceeded",
                "project_spend_limit_exceeded",
                "blocked_api_access",
                "setlimitexceeded",
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
            ("daily free allocation",),
            ("inactive subscription or usage limit",),
            ("inference prohibited", "payment"),
            ("余额不足",),
            ("额度不足",),
            ("额度已用尽",),
        ),
        phrase_statuses=frozenset({200, 400, 401, 403, 412, 429, 500}),
        whole=frozenset({"you exceeded your current quota, please check your plan and billing details"}),
    ),
    Wording(
        Ruling("the gateway does not serve where this machine is", "bad_request", "stop_refused"),
        names=frozenset({"unsupported_country_region_territory"}),
        phrases=(("location is not supported",), ("free tier is not available in your country",)),
        phrase_statuses=frozenset({200, 400, 403}),
    ),
    Wording(
        KEY_REFUSED,
        names=frozenset(
            {
                "api_key_invalid",
                "consumer_suspended",
                "invalid_api_key",
                "no_db_connection",
                "organization_restricted",
            }
        ),
        phrases=(
            ("api key not valid",),
            ("api key expired",),
            ("incorrect api key",),
            ("invalid api key",),
            ("invalid authorization header",),
            ("organization has been disabled",),
            ("api key was reported as leaked",),
            ("api key is blocked",),
            ("bearer token has expired",),
            ("security token included in the request is",),
        ),
        phrase_statuses=frozenset({200, 400, 403}),
    ),
    Wording(
        FILTERED,
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
                "refusal",
                "guardrail_blocked",
                "sensitivecontentdetected",
                "inputtextsensitivecontentdetected",
                "inputimagesensitivecontentdetected",
                "outputtextsensitivecontentdetected",
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
            ("violates usage guidelines",),
            ("flagged as potentially violating",),
            ("request blocked:",),
            ("blocked by", "guardrail"),
            ("violated guardrail",),
            ("blocked due to security configurations",),
        ),
        phrase_statuses=frozenset({200, 400, 403, 422, 424, 500}),
    ),
    Wording(
        TOO_LONG,
        names=frozenset(
            {
                "context_length_exceeded",
                "contextwindowexceedederror",
                "exceed_context_size_error",
                "model_max_prompt_tokens_exceeded",
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
            ("longer than the maximum model length",),
            ("exceeded model token limit",),
            ("model max length exceeded",),
            ("max_tokens must be at least 1, got -",),
            ("prompt exceeds max length",),
            ("input length", "exceeds the maximum allowed length"),
            ("expected maxlength",),
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
        UNKNOWN_MODEL,
        names=frozenset(
            {
                "model_not_found",
                "unknown_model",
                "invalid_model",
                "deploymentnotfound",
                "model_not_available",
                "model_not_supported",
                "model_decommissioned",
                "model_terms_required",
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
            ("unknown model",),
            ("no models loaded",),
            ("reached", "end of its life"),
            ("reached", "end of life"),
            ("marked by provider as legacy",),
            ("use case details have not been submitted",),
            ("with on-demand throughput isn",),
            ("not allowed to use publisher model",),
            ("function", "not found for account"),
        ),
        phrase_statuses=frozenset({200, 400, 404, 410, 422}),
    ),
    Wording(
        UNKNOWN_MODEL,
        names=frozenset(),
        phrases=(("model:",),),
        phrase_statuses=frozenset({404}),
    ),
    Wording(
        OTHER_ENDPOINT,
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
        Ruling(
            "it takes no JSON Schema: set params.response_format to {type: json_object}, and say it in the prompt",
            "bad_request",
            "stop_model",
            is_told=True,
        ),
        names=frozenset(),
        phrases=(
            ("response_format", "unavailable now"),
            ("response_format.type", "allowed values"),
            ("does not support response format",),
            ("response_format", "is not supported with this model"),
            ("response_format", "enabled only for api version"),
        ),
        phrase_statuses=frozenset({400, 422}),
    ),
    Wording(
        OTHER_VERSION,
        names=frozenset(),
        phrases=(("api version not supported",), ("enabled only for api-version",)),
        phrase_statuses=frozenset({400, 404}),
    ),
    Wording(
        Ruling("the model wrote what its provider could not read", "bad_reply", "fail_row"),
        names=frozenset({"json_validate_failed", "tool_use_failed"}),
    ),
    Wording(
        Ruling("the server lost its model", "server", "retry"),
        names=frozenset(),
        phrases=(("failed to load model",), ("model unloaded",), ("model has crashed",), ("degraded function",)),
        phrase_statuses=frozenset({200, 400, 404, 500}),
    ),
    Wording(
        OVERLOADED,
        names=frozenset({"capacity_exceeded"}),
    ),
    Wording(
        RATE_LIMITED,
        names=frozenset({"throttlingexception"}),
    ),
    Wording(
        NO_SUCH_PLACE,
        names=frozenset(),
        phrases=(
            ("invalid url",),
            ("request url",),
            ("cannot post",),
            ("no route",),
            ("no handler found",),
            ("no static resource",),
        ),
        phrase_statuses=frozenset({404, 405}),
        whole=NO_SUCH_PATH,
    ),
    Wording(
        Ruling(
            "no such call is answered there: look at endpoint.base_url", "not_found", "stop_model", is_told=True
        ),
        names=frozenset(),
        phrases=(("unexpected endpoint or method",),),
        phrase_statuses=frozenset({200, 400, 404}),
    ),
)
"""Asked from the top; the first that fits decides. Names fit on every status."""
