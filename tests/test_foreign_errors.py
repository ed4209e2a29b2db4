"""Errors of present providers and servers, as their pages, public sources and issues quote them: what each means.

Each was once taken for something else: a limit of a minute for an empty account, a filter for a key that may not
use its model, a model that is gone for a row that is wrong.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from crun_batch.gateway.classify import check
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.records import Failure, Response

CREDITS = ("bad_request", "stop_credits")
KEY = ("bad_request", "stop_key")
REFUSED = ("bad_request", "stop_refused")
MODEL = ("not_found", "stop_model")
NO_SCHEMA = ("bad_request", "stop_model")
FILTERED = ("content_filter", "fail_row")
TOO_LONG = ("too_long", "fail_row")
SPOILT = ("bad_reply", "fail_row")
SERVER = ("server", "retry")
LIMITED = ("rate_limited", "cool_down")


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": None, "param": None, "code": None, **fields}}


def google(status: str, message: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"error": {"message": message, "status": status, **fields}}]


QUOTA = "You exceeded your current quota, please check your plan and billing details"
EXPIRED = "The security token included in the request is expired"
FLAGGED = "Invalid prompt: your prompt was flagged as potentially violating our usage policy."

SAID: dict[str, tuple[tuple[str, str], int, object]] = {
    # a limit that time heals, and money that it does not
    "Alibaba: tokens of a minute": (
        LIMITED,
        429,
        error(
            f"{QUOTA}. For details, see: https://help.aliyun.com/zh/model-studio/error-code#token-limit",
            type="insufficient_quota",
            code="insufficient_quota",
        ),
    ),
    "Alibaba: the same in other words": (
        LIMITED,
        429,
        error("Allocated quota exceeded, please increase your quota limit.", code="insufficient_quota"),
    ),
    "Weights & Biases: no credits": (CREDITS, 429, error(QUOTA, code=429)),
    "OpenAI: no prepaid credits": (CREDITS, 429, error("No credits are left.", code="credit_balance_exhausted")),
    "OpenAI: the limit that OpenAI assigns": (
        CREDITS,
        429,
        error("The usage limit of this organization is reached.", code="organization_usage_limit_exceeded"),
    ),
    "Groq: access ended by a spend alert": (
        CREDITS,
        400,
        error(
            "API access has been blocked because a spend alert threshold was reached", code="blocked_api_access"
        ),
    ),
    "Volcengine: the limit that the user has set": (
        CREDITS,
        429,
        error("Your account has reached the set inference limit", code="SetLimitExceeded", type="TooManyRequests"),
    ),
    "Cloudflare: the free tokens of the day": (
        CREDITS,
        429,
        {"errors": [{"message": "AiError: you have used up your daily free allocation", "code": 4006}]},
    ),
    "Mistral: a spent plan": (CREDITS, 401, {"message": "Inactive subscription or usage limit reached"}),
    "DeepInfra: no means of payment": (
        CREDITS,
        403,
        {"detail": {"error": "inference prohibited, please enter a payment method in https://deepinfra.com/dash"}},
    ),
    # the key, and from where it is used
    "Bedrock: a key of twelve hours is over": (KEY, 403, {"Message": "Bearer Token has expired"}),
    "Bedrock: a session is over": (KEY, 403, {"message": EXPIRED}),
    "Gemini: a leaked key": (KEY, 403, google("PERMISSION_DENIED", "Your API key was reported as leaked.")),
    "Gemini: a suspended project": (
        KEY,
        403,
        google("PERMISSION_DENIED", "Permission denied", details=[{"reason": "CONSUMER_SUSPENDED"}]),
    ),
    "LiteLLM without a database: another key than its own": (
        KEY,
        400,
        error("No connected db.", type="no_db_connection", code="400"),
    ),
    "xAI: a blocked key": (
        KEY,
        403,
        {"code": "The caller does not have permission", "error": "The API key is blocked."},
    ),
    "Gemini: not from this country": (
        REFUSED,
        400,
        google("FAILED_PRECONDITION", "User location is not supported for the API use."),
    ),
    "Gemini: not for free from this country": (
        REFUSED,
        400,
        google("FAILED_PRECONDITION", "Gemini API free tier is not available in your country."),
    ),
    "OpenAI: not from this country": (
        REFUSED,
        403,
        error("Country, region, or territory not supported", code="unsupported_country_region_territory"),
    ),
    # filters, of which one row is told, and of providers that say 403 and 424
    "xAI: a safety check": (
        FILTERED,
        403,
        {
            "code": "The caller does not have permission to execute the specified operation",
            "error": "Content violates usage guidelines. Model: grok-4, Failed check: SAFETY_CHECK_TYPE_BIO",
        },
    ),
    "OpenAI, Azure: a flagged prompt": (FILTERED, 400, error(FLAGGED, code="invalid_prompt")),
    "OpenRouter: a guardrail": (
        FILTERED,
        403,
        error("Request blocked: prompt injection patterns detected", code=403, metadata={"patterns": ["ignore"]}),
    ),
    "OpenRouter: the model declined": (FILTERED, 400, error("no", code=400, metadata={"error_type": "refusal"})),
    "OpenRouter: a failed response that declined": (
        FILTERED,
        200,
        {"status": "failed", "error": {"code": "server_error", "message": "no"}, "error_type": "refusal"},
    ),
    "Cloudflare: a guardrail": (
        FILTERED,
        424,
        {"success": False, "errors": [{"code": 2016, "message": "Prompt blocked due to security configurations"}]},
    ),
    "Databricks: a guardrail": (FILTERED, 400, {"message": "Request blocked by input guardrail 'no_names'"}),
    "Langfuse: a guardrail": (FILTERED, 400, error("blocked", code="guardrail_blocked")),
    "LiteLLM: a guardrail": (
        FILTERED,
        400,
        error("{'error': 'Violated guardrail policy'}", type="None", code="400"),
    ),
    "Portkey, WSO2: a guardrail": (FILTERED, 446, error("The guardrail checks defined in the config failed.")),
    "Volcengine: the input": (FILTERED, 400, error("it may", code="InputTextSensitiveContentDetected")),
    "Volcengine: the output": (FILTERED, 400, error("it may", code="OutputTextSensitiveContentDetected")),
    # a prompt that does not fit
    "vLLM: a prompt beyond the model": (
        TOO_LONG,
        400,
        error("The decoder prompt (length 5000) is longer than the maximum model length of 2048.", code=400),
    ),
    "vLLM: no room for an answer": (TOO_LONG, 400, error("max_tokens must be at least 1, got -186.", code=400)),
    "Moonshot": (
        TOO_LONG,
        400,
        error("Invalid request: Your request exceeded model token limit: 262144", type="invalid_request_error"),
    ),
    "Z.AI: too long": (TOO_LONG, 400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}),
    "SGLang": (
        TOO_LONG,
        400,
        error("Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens). Use a shorter input"),
    ),
    "Bedrock: too long": (
        TOO_LONG,
        400,
        {"message": "Malformed input request: expected maxLength: 100000, actual: 120000, please reformat"},
    ),
    "GitHub Copilot": (TOO_LONG, 400, error("no", code="model_max_prompt_tokens_exceeded")),
    # a model that is gone, or was never there: every row would be told the same
    "Groq: a model of the past": (
        MODEL,
        400,
        error("The model `x` has been decommissioned and is no longer supported.", code="model_decommissioned"),
    ),
    "Groq: terms that nobody has accepted": (
        MODEL,
        400,
        error("The model `x` requires terms acceptance.", code="model_terms_required"),
    ),
    "Bedrock: a model of the past": (
        MODEL,
        404,
        {"message": "This model version has reached the end of its life. Please refer to the AWS documentation"},
    ),
    "Bedrock: a model that only its users have": (
        MODEL,
        404,
        {"message": "Access denied. This Model is marked by provider as Legacy and you have not been"},
    ),
    "Bedrock: a form that nobody has filled in": (
        MODEL,
        404,
        {"message": "Model use case details have not been submitted for this account."},
    ),
    "Bedrock: only by a profile": (
        MODEL,
        400,
        {"message": "Invocation of model ID x with on-demand throughput isn\u2019t supported. Retry your"},
    ),
    "Vertex": (MODEL, 400, google("FAILED_PRECONDITION", "Project `1` is not allowed to use Publisher Model `x`")),
    "NVIDIA: no such function": (
        MODEL,
        404,
        {"status": 404, "title": "Not Found", "detail": "Function 'x': Not found for account 'y'"},
    ),
    "NVIDIA: a model of the past": (
        MODEL,
        410,
        {"status": 410, "title": "Gone", "detail": "The model 'x' has reached its end of life on 2025-09-01"},
    ),
    "Scaleway": (MODEL, 422, {"error": "Unprocessable Entity", "status": 422, "message": "Model not found"}),
    "Z.AI": (MODEL, 400, {"error": {"code": "1211", "message": "Unknown Model, please check the model code."}}),
    "LM Studio: nothing is loaded": (
        MODEL,
        400,
        error("No models loaded. Please load a model in the developer page"),
    ),
    "a server on FastAPI": (
        MODEL,
        404,
        {"detail": {"error": {"message": "nothing of this name", "code": "model_not_found"}}},
    ),
    "a server on NestJS": (MODEL, 400, {"statusCode": 400, "error": "Bad Request", "message": "Unknown model x"}),
    "an error told by its code": (MODEL, 400, {"error": "MODEL_NOT_FOUND", "message": "nothing of this name"}),
    # the address and the version
    "LM Studio: no /v1 in the address": (
        MODEL,
        200,
        {"error": "Unexpected endpoint or method. (POST /chat/completions)"},
    ),
    "Azure: no such version": (MODEL, 404, {"error": {"code": "404", "message": "API version not supported"}}),
    "Azure: a version before responses": (
        MODEL,
        400,
        error("Responses API is enabled only for api-version 2025-03-01-preview and later", code="BadRequest"),
    ),
    # a schema that every row would bring
    "DeepSeek: no schema": (NO_SCHEMA, 400, error("This response_format type is unavailable now")),
    "Groq: no schema": (NO_SCHEMA, 400, error("This model does not support response format `json_schema`.")),
    "Groq: no schema, before": (
        NO_SCHEMA,
        400,
        error("'response_format.type' : value is not one of the allowed values ['text','json_object']"),
    ),
    "OpenAI: no schema": (
        NO_SCHEMA,
        400,
        error("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."),
    ),
    "Azure: no schema": (
        NO_SCHEMA,
        400,
        error(
            "response_format value as json_schema is enabled only for api versions 2024-08-01-preview and later"
        ),
    ),
    # what the model or its server did
    "Groq: an answer that is no JSON": (
        SPOILT,
        400,
        error("Failed to generate JSON.", code="json_validate_failed"),
    ),
    "Groq: a call that is none": (SPOILT, 400, error("Failed to call a function.", code="tool_use_failed")),
    "LM Studio: crashed": (SERVER, 400, {"error": "The model has crashed without additional information."}),
    "NVIDIA: degraded": (
        SERVER,
        400,
        {"status": 400, "title": "Bad Request", "detail": "Function id 'x': DEGRADED function cannot be invoked"},
    ),
    "LM Studio: unloaded": (SERVER, 400, {"error": "Model unloaded."}),
}


OF_ONE_ROW = {
    "a picture whose address is no longer good": error("Error while downloading the image: its token has expired"),
    "a response that was not kept": error(
        "Previous response with id 'resp_1' not found.", code="previous_response_not_found"
    ),
    "an item that was not kept": error(
        "Item with id 'rs_1' not found. Items are not persisted when `store` is false."
    ),
    "a parameter": error("Unknown parameter: 'model_options'.", code="unknown_parameter"),
    "a picture that is none": error("Invalid image data", code=400, metadata={"error_type": "invalid_image"}),
}
"""What sounds like one of those above and is the fault of the row that was told it."""


@pytest.mark.parametrize("what", OF_ONE_ROW)
def test_what_only_sounds_like_it_fails_its_row_alone(what: str) -> None:
    for protocol in PROTOCOLS.values():
        failure = check(protocol, Response(400, {}, orjson.dumps(OF_ONE_ROW[what])), stream=False)
        assert isinstance(failure, Failure)
        assert ("rejected", "bad_request", "fail_row") == (failure.outcome, failure.kind, failure.action)


@pytest.mark.parametrize("who", SAID)
def test_a_provider_s_error_means_what_it_means_there(who: str) -> None:
    """On every endpoint, and none of them is billed: the whole reply is a refusal."""
    expected, status, body = SAID[who]
    for protocol in PROTOCOLS.values():
        failure = check(protocol, Response(status, {}, orjson.dumps(body)), stream=False)
        assert isinstance(failure, Failure)
        assert ("rejected", *expected) == (failure.outcome, failure.kind, failure.action), failure.message
