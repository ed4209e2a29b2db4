"""Laws of check: every reply and fault has a class, a kind and an action, and none of them raises."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.failures import LONGEST_MESSAGE
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.rate_headers import used_up_seconds
from crun_batch.gateway.rulings import (
    NAMED_STATUSES,
    NO_SUCH_PLACE,
    STATUSES,
    UNKNOWN_3XX,
    UNKNOWN_4XX,
    UNKNOWN_5XX,
    UNKNOWN_OTHER,
    Ruling,
)
from crun_batch.gateway.wordings import WORDS
from crun_batch.records import Failure, Fault, Reply, Response, Usage

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
NAMES = sorted(PROTOCOLS)
NOW = 1_790_000_000.0
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "input_tokens": 5, "output_tokens": 7}


def checked(
    body: object,
    status: int = 200,
    headers: dict[str, str] | None = None,
    name: str = "chat",
    stream: bool = False,
) -> Reply | Failure:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    response = Response(status, headers or {}, raw)
    return check(PROTOCOLS[name], response, stream=stream, now_epoch_seconds=NOW)  # type: ignore[index]


def failed(*args: Any, **kwargs: Any) -> Failure:
    result = checked(*args, **kwargs)
    assert isinstance(result, Failure), result
    return result


def verdict(*args: Any, **kwargs: Any) -> tuple[str, str, str]:
    failure = failed(*args, **kwargs)
    return failure.outcome, failure.kind, failure.action


def openai_error(message: str = "", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": None, "param": None, "code": None, **fields}}


def anthropic_error(kind: str, message: str = "", **fields: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message, **fields}, "request_id": "req_1"}


# the gateway's table of errors

STOP_CREDITS = ("rejected", "bad_request", "stop_credits")
STOP_REFUSED = ("rejected", "bad_request", "stop_refused")
STOP_KEY = ("rejected", "bad_request", "stop_key")
STOP_MODEL = ("rejected", "not_found", "stop_model")
BAD_REQUEST = ("rejected", "bad_request", "fail_row")
TOO_LONG = ("rejected", "too_long", "fail_row")
FILTERED = ("rejected", "content_filter", "fail_row")
SERVER = ("rejected", "server", "retry")
OVERLOADED = ("rejected", "server", "cool_down")
LIMITED = ("rejected", "rate_limited", "cool_down")

BY_STATUS = {
    400: BAD_REQUEST,
    401: STOP_KEY,
    402: STOP_CREDITS,
    403: ("rejected", "bad_request", "stop_model"),
    404: ("rejected", "not_found", "fail_row"),
    408: ("rejected", "timeout", "retry"),
    409: SERVER,
    413: TOO_LONG,
    418: BAD_REQUEST,
    422: BAD_REQUEST,
    424: SERVER,
    425: SERVER,
    429: LIMITED,
    446: FILTERED,
    455: OVERLOADED,
    499: SERVER,
    500: SERVER,
    501: ("rejected", "server", "fail_row"),
    502: SERVER,
    503: OVERLOADED,
    504: ("rejected", "timeout", "retry"),
    505: STOP_REFUSED,
    520: SERVER,
    529: OVERLOADED,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("status", BY_STATUS)
def test_a_status_decides_where_the_body_says_nothing(status: int, name: str) -> None:
    """Empty body, HTML page, or an error without a known word: the status has the word, on every endpoint."""
    for body in (b"", b"<html><body>Oops</body></html>", openai_error("Oops"))[2 * (status == 404) :]:
        assert BY_STATUS[status] == verdict(body, status, name=name)


NO_SUCH_PLACE_BODIES = (
    b"",
    b"404 page not found\n",
    b"<html><head><title>Oops</title></head></html>",
    b"<!DOCTYPE html>\n<html lang=en><title>Error</title><pre>Cannot POST /chat/completions</pre></html>",
    {"detail": "Not Found"},
    {"detail": "Method Not Allowed"},
    {"message": "no Route matched with those values"},
    {"error": {"code": "404", "message": "Resource not found"}},
    {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}},
    {"error": {"message": "Invalid URL (POST /v1/v1/x)", "type": "invalid_request_error", "code": None}},
    {"type": "error", "error": {"type": "not_found_error", "message": "Not Found"}},
)
"""nginx, Go, Express, FastAPI, Kong, Azure, llama.cpp, OpenAI, Anthropic: a path that they do not have."""


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize("body", NO_SUCH_PLACE_BODIES, ids=str)
def test_a_wrong_path_is_no_row_s_fault(body: Any, status: int) -> None:
    """Before the first success the run stops and its rows stay open; the words name the key to look at."""
    for name in NAMES:
        failure = failed(body if isinstance(body, bytes) else orjson.dumps(body), status, name=name)
        assert ("rejected", "not_found", "stop_model") == (failure.outcome, failure.kind, failure.action)
        assert "nothing answers at this path: look at endpoint.base_url" in failure.message


@pytest.mark.parametrize(
    "message", ["No such File object: file-1", "Previous response with id 'r' not found.", "Item not found: x"]
)
def test_a_missing_thing_that_a_row_names_is_that_row_s_fault(message: str) -> None:
    assert ("rejected", "not_found", "fail_row") == verdict(openai_error(message), 404)


@pytest.mark.parametrize(
    "page",
    [
        b"<!doctype html><html><head><title>Sign in</title></head></html>",
        b"\xef\xbb\xbf\n<!-- app --><HTML><body>Sign in",
        b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C"><html><title>Sign in</title>',
    ],
)
def test_a_web_page_in_place_of_a_reply_is_a_wrong_address(page: bytes) -> None:
    """A login page or a user interface with status 200: before the gateway's first answer no row is given up."""
    for name in NAMES:
        failure = failed(page, 200, name=name)
        assert ("unknown", "bad_reply", "stop_unreached") == (failure.outcome, failure.kind, failure.action)
        assert "a web page came, not an API's reply (look at endpoint.base_url): Sign in" in failure.message


@pytest.mark.parametrize("piece", [b"<!-- -->", b"<!--", b"<?xml ?>", b"<?xml ", b"<!-- a -->\n"])
def test_what_might_become_a_page_is_told_in_no_time(piece: bytes) -> None:
    """Each of forty comments could end at the end of any later one: that had 2^40 ways."""
    for times in (40, 2_000):
        assert "its body is no JSON" in failed(piece * times + b"no page", 200).message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", [401, 402, 422, 429, 455, 500, 501, 505])
def test_a_code_in_a_200_counts_like_the_status(code: int, name: str) -> None:
    """CRUN's outer shape and OpenRouter's number codes inside a 200, as numbers and as text."""
    for body in (
        {"code": code, "message": "no", "data": None},
        {"code": str(code), "msg": "no", "data": None},
        openai_error("no", code=code),
        openai_error("no", code=str(code)),
    ):
        assert BY_STATUS[code] == verdict(body, name=name)


@pytest.mark.parametrize("kind", sorted(NAMED_STATUSES))
def test_an_error_s_name_in_a_200_counts_like_the_status(kind: str) -> None:
    """Types and codes stand for a status where the status itself says success."""
    expected = BY_STATUS[NAMED_STATUSES[kind]]
    assert expected == verdict(anthropic_error(kind), name="messages")
    assert expected == verdict(openai_error(code=kind))


@pytest.mark.parametrize(
    ("expected", "status", "body"),
    [
        (STOP_CREDITS, 429, openai_error("You exceeded your current quota", code="insufficient_quota")),
        (STOP_CREDITS, 403, openai_error("no", type="insufficient_credits")),
        (STOP_CREDITS, 400, openai_error("no", code="billing_hard_limit_reached")),
        (STOP_CREDITS, 400, openai_error("Budget has been exceeded! Current cost: 2, Max budget: 1", code="400")),
        (STOP_CREDITS, 429, openai_error("over", type="budget_exceeded", code="429")),
        (STOP_CREDITS, 402, anthropic_error("billing_error")),
        (STOP_CREDITS, 400, anthropic_error("invalid_request_error", "Your credit balance is too low to access")),
        (
            STOP_CREDITS,
            429,
            anthropic_error("rate_limit_error", details={"error_code": "contract_spend_limit_reached"}),
        ),
        (
            STOP_CREDITS,
            429,
            anthropic_error("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}),
        ),
        (STOP_CREDITS, 403, openai_error("no", code=403, metadata={"limit_source": "openrouter_key_limit"})),
        (STOP_CREDITS, 500, {"code": 402, "message": "insufficient"}),
        (LIMITED, 402, openai_error("wait", code=402, metadata={"limit_source": "openrouter_in_flight_budget"})),
        (LIMITED, 402, openai_error("wait", code="in_flight_budget_exhausted")),
        (LIMITED, 429, anthropic_error("rate_limit_error", details={"error_code": "ramp_limit_exceeded"})),
        (LIMITED, 429, [openai_error("Quota exceeded", code=429, status="RESOURCE_EXHAUSTED")]),
        (TOO_LONG, 429, openai_error("Request too large for gpt-4 on tokens per min", code="rate_limit_exceeded")),
        (TOO_LONG, 400, openai_error("no", code="context_length_exceeded")),
        (
            TOO_LONG,
            400,
            anthropic_error("invalid_request_error", "prompt is too long: 205371 tokens > 200000 maximum"),
        ),
        (TOO_LONG, 400, openai_error("However, the model's context length is only 1024 tokens", code=400)),
        (
            TOO_LONG,
            400,
            {"error": {"message": "Provider error", "code": 400, "metadata": {"raw": "prompt too long"}}},
        ),
        (LIMITED, 429, openai_error("Too many tokens in the context window this minute")),
        (FILTERED, 400, openai_error("filtered", code="content_filter")),
        (FILTERED, 403, openai_error("flagged", code=403, metadata={"flagged_input": "x", "reasons": ["y"]})),
        (STOP_MODEL, 404, openai_error("no", code="model_not_found")),
        (STOP_MODEL, 400, openai_error("no", code="model_not_found")),
        (STOP_MODEL, 404, anthropic_error("not_found_error", "model: claude-foo")),
        (STOP_MODEL, 404, openai_error("The model `x` does not exist.", type="NotFoundError", code=404)),
        (STOP_MODEL, 400, openai_error("x is not a valid model ID", code=400)),
        (("rejected", "not_found", "fail_row"), 404, anthropic_error("not_found_error", "file_1")),
        (BAD_REQUEST, 422, {"detail": [{"loc": ["body"], "msg": "field required", "type": "missing"}]}),
        (SERVER, 200, {"error": "the model failed to generate a response"}),
    ],
)
def test_words_decide_before_the_status(expected: tuple[str, str, str], status: int, body: object) -> None:
    """Being out of money, an overlong prompt, a filter and an unknown model are told by words, everywhere."""
    for name in NAMES:
        assert expected == verdict(body, status, name=name)


FOREIGN_ERRORS: tuple[tuple[tuple[str, str, str], int, object], ...] = (
    # xAI
    (STOP_CREDITS, 403, {"code": "No permission", "error": "Your team doesn't have any credits or licenses yet."}),
    (STOP_CREDITS, 429, {"code": "x", "error": "Your team has either used all available credits or reached its"}),
    (STOP_KEY, 400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: ab"}),
    (TOO_LONG, 400, {"code": "x", "error": "This model's maximum prompt length is 131072 but the request has 5"}),
    # SiliconFlow, Moonshot, Z.AI, DashScope, Volcengine, Novita, one-api
    (STOP_CREDITS, 403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
    (STOP_CREDITS, 429, openai_error("Your account is suspended", type="exceeded_current_quota_error")),
    (LIMITED, 429, openai_error("The engine is currently overloaded", type="engine_overloaded_error")),
    (STOP_CREDITS, 429, {"error": {"code": "1113", "message": "余额不足或无可用资源包"}}),
    (FILTERED, 400, {"error": {"code": "1301", "message": "potentially unsafe or sensitive content in input"}}),
    (STOP_CREDITS, 400, openai_error("Access denied", code="Arrearage", type="Arrearage")),
    (STOP_CREDITS, 403, openai_error("exhausted", code="AllocationQuota.FreeTierOnly")),
    (TOO_LONG, 400, openai_error("<400> InvalidParameter: Range of input length should be [1, 30720]")),
    (STOP_CREDITS, 403, openai_error("Your account has an overdue balance", code="AccountOverdueError")),
    (STOP_CREDITS, 403, {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "no", "metadata": {}}),
    (STOP_CREDITS, 403, openai_error("令牌额度不足", code="pre_consume_token_quota_failed")),
    # Anthropic's monthly limit comes as a bad request; MiniMax's empty balance as a server's failure
    (
        STOP_CREDITS,
        400,
        anthropic_error("invalid_request_error", "You have reached your specified API usage limits."),
    ),
    (STOP_KEY, 400, anthropic_error("invalid_request_error", "This organization has been disabled.")),
    (STOP_CREDITS, 500, anthropic_error("api_error", "insufficient balance (1008)")),
    (STOP_CREDITS, 200, {"choices": None, "usage": {"total_tokens": 0}, "base_resp": {"status_code": 1008}}),
    (STOP_KEY, 200, {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}),
    (LIMITED, 200, {"id": "", "choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}),
    (FILTERED, 200, {"choices": None, "base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}),
    (SERVER, 200, {"choices": None, "base_resp": {"status_code": 1013, "status_msg": "unknown error"}}),
    # Google
    (STOP_KEY, 400, [{"error": {"code": 400, "message": "no", "details": [{"reason": "API_KEY_INVALID"}]}}]),
    (STOP_CREDITS, 429, [openai_error("Your prepayment credits are depleted.", code=429)]),
    (STOP_CREDITS, 429, [openai_error("Your project has exceeded its monthly spending cap.", code=429)]),
    (STOP_CREDITS, 403, [{"error": {"code": 403, "message": "no", "details": [{"reason": "BILLING_DISABLED"}]}}]),
    (TOO_LONG, 400, [openai_error("The input token count (1100000) exceeds the maximum number", code=400)]),
    (SERVER, 499, [openai_error("The operation was cancelled.", code=499, status="CANCELLED")]),
    # OpenRouter, Groq, Fireworks, Together, Hugging Face
    (STOP_MODEL, 404, openai_error("No endpoints found for foo/bar.", code=404)),
    (STOP_CREDITS, 403, openai_error("Key limit exceeded (monthly limit).", code=403)),
    (OVERLOADED, 498, openai_error("Flex tier capacity exceeded", code="capacity_exceeded")),
    (STOP_CREDITS, 400, openai_error("You have reached your organization's spend limit.", code="x")),
    (
        STOP_CREDITS,
        412,
        openai_error("Account a is suspended, possibly due to reaching the monthly spending limit"),
    ),
    (STOP_MODEL, 404, openai_error("Unable to access model foo", code="model_not_available")),
    (TOO_LONG, 422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 4096", "error_type": "validation"}),
    (
        TOO_LONG,
        422,
        {"error": "`inputs` must have less than 4095 tokens. Given: 5000", "error_type": "validation"},
    ),
    (SERVER, 424, {"error": "Request failed during generation", "error_type": "generation"}),
    (STOP_MODEL, 400, {"error": "The requested model 'x' is not supported by any provider you have enabled."}),
    # OpenAI behind LiteLLM, which passes its words on and not its code; Gemini says the same of a minute's quota
    (
        STOP_CREDITS,
        429,
        openai_error(
            "litellm.RateLimitError: OpenAIException - You exceeded your current quota, please check your plan "
            "and billing details. For more information, read the docs: https://platform.openai.com/docs/x",
            type="throttling_error",
            code="429",
        ),
    ),
    (
        LIMITED,
        429,
        [
            openai_error(
                "You exceeded your current quota, please check your plan and billing details. For more "
                "information, head to: https://ai.google.dev/gemini-api/docs/rate-limits. Please retry in 20.5s.",
                code=429,
                status="RESOURCE_EXHAUSTED",
            )
        ],
    ),
    # Amazon, Azure
    (
        LIMITED,
        400,
        {"__type": "com.amazon.coral.availability#ThrottlingException", "message": "Too many requests"},
    ),
    (STOP_MODEL, 400, {"message": "The provided model identifier is invalid."}),
    (
        STOP_CREDITS,
        403,
        {"statusCode": 403, "message": "Out of call volume quota. Quota will be replenished in 02:13"},
    ),
    # Cloudflare, watsonx: a list of errors
    (STOP_MODEL, 404, {"success": False, "errors": [{"code": 5007, "message": "No such model @cf/x or task"}]}),
    (SERVER, 200, {"success": False, "result": None, "errors": [{"code": 3036, "message": "Upstream"}]}),
    (STOP_MODEL, 404, {"errors": [{"code": "model_not_supported", "message": "x"}], "status_code": 404}),
    (STOP_CREDITS, 403, {"errors": [{"code": "token_quota_reached", "message": "x"}], "status_code": 403}),
    (
        TOO_LONG,
        400,
        {"errors": [{"message": "the number of input tokens 5 cannot exceed the total tokens limit 4"}]},
    ),
    # DeepSeek, Cohere, Ollama, LM Studio
    (STOP_MODEL, 400, openai_error("Model Not Exist", code="invalid_request_error")),
    (FILTERED, 400, openai_error("Content Exists Risk", code="invalid_request_error")),
    (TOO_LONG, 400, {"message": "total number of tokens in the prompt cannot exceed 4081 - received 5000."}),
    (TOO_LONG, 400, openai_error("the input length exceeds the context length")),
    (TOO_LONG, 400, {"error": "However, the model is loaded with context length of only 4096 tokens"}),
)
"""Errors of providers as their pages and public issues quote them."""


@pytest.mark.parametrize(("expected", "status", "body"), FOREIGN_ERRORS, ids=str)
def test_a_foreign_gateway_s_error_means_what_it_means_there(
    expected: tuple[str, str, str], status: int, body: object
) -> None:
    """Funds that run out and a key that is refused stop the run in every provider's words."""
    for name in NAMES:
        assert expected == verdict(body, status, name=name)


@pytest.mark.parametrize(
    "body",
    [
        {"errors": [{"code": 7, "message": "the word"}], "success": False, "result": {}, "messages": []},
        [{"message": "the word"}, {"message": "another"}],
        {"Message": "the word"},
        {"object": "error", "message": {"detail": [{"loc": ["body"], "msg": "the word"}]}, "type": "x"},
        {"error": {"errors": [{"message": "the word"}]}},
        {"base_resp": {"status_code": 1, "status_msg": "the word"}},
    ],
    ids=str,
)
def test_the_gateway_s_own_words_are_found_wherever_they_stand(body: object) -> None:
    """Lists of errors, capitals, FastAPI's details in a message: nobody is told `the request is wrong` alone."""
    for status in (400, 403, 404, 500):
        assert "the word" in failed(body, status).message


def test_an_error_status_whose_body_is_an_event_says_what_the_event_says() -> None:
    """LiteLLM: a stream that never began, with the upstream's status before it."""
    for expected, status, error in (
        (STOP_CREDITS, 429, openai_error("You exceeded your current quota", code="insufficient_quota")),
        (SERVER, 500, openai_error("Error processing stream start", code="500")),
        (STOP_KEY, 401, openai_error("no such key")),
    ):
        body = b"data: " + orjson.dumps(error) + b"\n\ndata: [DONE]\n\n"
        for name in NAMES:
            failure = failed(body, status, name=name, stream=True)
            assert expected == (failure.outcome, failure.kind, failure.action)
            assert failure.message.endswith(error["error"]["message"])


def test_a_model_of_another_endpoint_names_the_key_to_change() -> None:
    """OpenAI: a model that only answers on another path. The run stops before its first answer and says where."""
    for said in ("This is a chat model and not supported in v1/completions", "only supported in v1/responses"):
        failure = failed(openai_error(said), 404)
        assert STOP_MODEL == (failure.outcome, failure.kind, failure.action)
        assert "look at endpoint.protocol" in failure.message


def test_a_code_that_is_no_status_hides_no_words() -> None:
    """A gateway's own numbering in a 200 is a label: what it says is judged as ever."""
    assert STOP_CREDITS == verdict({"code": 30001, "message": "Sorry, your account balance is insufficient"})
    assert SERVER == verdict({"code": 30001, "message": "no"})


WRAPPED = (
    {"code": 200, "message": "success"},
    {"code": 0, "msg": "ok"},
    {"success": True, "errors": [], "messages": []},
)


@pytest.mark.parametrize("key", ["data", "result"])
@pytest.mark.parametrize("outer", WRAPPED, ids=str)
@pytest.mark.parametrize("path", sorted((GOLDEN / "replies").glob("*.json")), ids=lambda path: path.stem)
def test_a_reply_in_an_outer_shape_is_that_reply(path: Path, outer: dict[str, Any], key: str) -> None:
    """It is paid: nobody asks for it again because a gateway wraps it."""
    name = path.stem.split("_")[0]
    payload = orjson.loads(path.read_bytes())
    assert checked(payload, name=name) == checked({**outer, key: payload}, name=name)


def test_an_outer_shape_without_a_reply_in_it_says_its_error() -> None:
    for inner in (None, {}, {"id": "task_1"}, "x"):
        assert STOP_CREDITS == verdict({"code": 402, "message": "no credits", "data": inner})


def test_a_reply_with_a_base_resp_of_0_is_a_reply() -> None:
    """MiniMax sends it beside every answer."""
    choice = {"message": {"content": "4"}, "finish_reason": "stop"}
    reply = checked({"choices": [choice], "usage": USAGE, "base_resp": {"status_code": 0, "status_msg": ""}})
    assert isinstance(reply, Reply) and "4" == reply.text


def test_maintenance_asks_for_a_long_pause() -> None:
    """455 without a Retry-After: five minutes."""
    assert 300.0 == failed({"code": 455, "message": "maintenance"}).retry_after_seconds
    assert 20.0 == failed(b"", 455, {"retry-after": "20"}).retry_after_seconds


@pytest.mark.parametrize(
    ("expected", "status", "said"),
    [
        ("retry", 400, "true"),
        ("retry", 401, "true"),
        ("fail_row", 500, "false"),
        ("fail_row", 429, "false"),
        ("cool_down", 429, "true"),
        ("stop_credits", 402, "true"),
        ("stop_credits", 402, "false"),
        ("retry", 500, "maybe"),
    ],
)
def test_x_should_retry_overrides_all_but_being_out_of_money(expected: str, status: int, said: str) -> None:
    """The server knows better whether its error passes; no header makes credits appear."""
    assert expected == failed(b"", status, {"x-should-retry": said}).action


@pytest.mark.parametrize(
    ("expected", "headers"),
    [
        (None, {}),
        (7.0, {"retry-after": "7"}),
        (0.5, {"retry-after": "0.5"}),
        (0.25, {"retry-after-ms": "250", "retry-after": "7"}),
        (7.0, {"retry-after-ms": "soon", "retry-after": "7"}),
        (None, {"retry-after": "-7"}),
        (None, {"retry-after": "nan"}),
        (None, {"retry-after": "inf"}),
        (None, {"retry-after": "soon"}),
        (31 * 86_400.0, {"retry-after": "1e9"}),
        (30.0, {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        (0.0, {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}),
        (60.0, {"retry-after": "Mon, 21 Sep 2026 14:14:20 GMT"}),
    ],
)
def test_the_wait_is_what_the_reply_asks_for(expected: float | None, headers: dict[str, str]) -> None:
    """Milliseconds before seconds before a date; a date is measured against the reply's own clock first."""
    assert expected == failed(b"", 429, headers).retry_after_seconds


def test_a_redirect_stops_the_run_and_names_the_host_only() -> None:
    """The key must not go elsewhere, and a Location may hold secrets."""
    failure = failed(b"", 307, {"location": "https://elsewhere.example/v1?token=secret"})
    assert STOP_REFUSED == (failure.outcome, failure.kind, failure.action)
    assert "elsewhere.example" in failure.message
    assert "secret" not in failure.message


# messages


def test_an_html_page_becomes_one_line() -> None:
    """The title of an error page, or its text without tags and scripts."""
    page = b"<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head><body><p>nginx</p></body></html>"
    assert "HTTP 502: 502 Bad Gateway" == failed(page, 502).message
    page = b"<html><script>var a = 1;</script><body><p>Try &amp; wait</p></body></html>"
    assert "HTTP 502: Try & wait" == failed(page, 502).message


def test_a_message_is_short_and_printable() -> None:
    """No control, format or bidirectional characters reach a terminal; 500 characters at most."""
    message = failed(openai_error("a\x1b[31mb\u202ec\n" + "x" * 5000), 400).message
    assert LONGEST_MESSAGE == len(message)
    assert message.isprintable()


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from(["authorization", "x-api-key", "x-echo"]), st.just("ak_secret")))
def test_no_header_is_echoed(headers: dict[str, str]) -> None:
    """A gateway may send our key back in a header: it goes into no message."""
    for status in (200, 302, 400, 500):
        assert "ak_secret" not in failed(b"", status, headers).message


# successes


@pytest.mark.parametrize("path", sorted((GOLDEN / "replies").iterdir()), ids=lambda path: path.stem)
def test_a_golden_reply_is_a_reply_whatever_was_asked(path: Path) -> None:
    """JSON is read as JSON although a stream was asked for; only a failed response fails."""
    name = path.stem.split("_")[0]
    plain, streamed = (checked(path.read_bytes(), name=name, stream=stream) for stream in (False, True))
    assert plain == streamed
    assert (path.stem == "responses_failed") == isinstance(plain, Failure)


@pytest.mark.parametrize("path", sorted((GOLDEN / "streams").iterdir()), ids=lambda path: path.stem)
def test_a_golden_stream_is_a_reply_and_keeps_its_assembled_body(path: Path) -> None:
    """The assembled body reads as the reply itself, so that parsing can run again on what is stored."""
    name = path.stem.split("_")[0]
    for stream in (True, False):
        reply = checked(path.read_bytes(), name=name, stream=stream)
        assert isinstance(reply, Reply)
        again = checked(reply.assembled or b"", name=name)
        assert isinstance(again, Reply)
        assert (again.text, again.tool_calls, again.usage) == (reply.text, reply.tool_calls, reply.usage)


@pytest.mark.parametrize("path", sorted((GOLDEN / "streams").iterdir()), ids=lambda path: path.stem)
def test_a_stream_may_begin_with_any_number_of_blank_lines(path: Path) -> None:
    """Gateways send them while a model thinks, so that nobody closes the connection."""
    name, body = path.stem.split("_")[0], path.read_bytes()
    assert checked(body, name=name, stream=True) == checked(b"\n" * 500 + body, name=name, stream=True)


@pytest.mark.parametrize("path", sorted((GOLDEN / "streams").iterdir()), ids=lambda path: path.stem)
def test_a_cut_stream_may_have_been_billed(path: Path) -> None:
    """Half a stream is unknown, kept for a retry on its own account."""
    body = path.read_bytes()
    result = verdict(body[: len(body) // 2], name=path.stem.split("_")[0], stream=True)
    assert ("unknown", "connection", "retry") == result


def test_a_failed_response_tells_its_tokens() -> None:
    """Billed and no answer: done, with its usage, so that its cost is known."""
    failure = failed((GOLDEN / "replies" / "responses_failed.json").read_bytes(), name="responses")
    assert ("done", "server", "retry", Usage(5, 0, 0, 7)) == (
        failure.outcome,
        failure.kind,
        failure.action,
        failure.usage,
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_error_in_a_200_is_done_only_with_usage(name: str) -> None:
    """Without tokens nothing was billed that we could know of; with tokens it was."""
    assert "rejected" == failed(openai_error("no", code=500), name=name).outcome
    assert "done" == failed({**openai_error("no", code=500), "usage": USAGE}, name=name).outcome


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"1",
        b"{}",
        b'"x"',
        b"\xff\xfe",
        b'{"a":',
        b"[" * 100_000,
        b"{}{}",
    ],
    ids=repr,
)
def test_a_200_that_is_no_reply_is_unknown(body: bytes, name: str) -> None:
    """It may have been billed: it keeps its hold and is retried on its own account."""
    assert ("unknown", "bad_reply", "retry") == verdict(body, name=name)
    assert "unknown" == failed(body, name=name, stream=True).outcome


@pytest.mark.parametrize("name", NAMES)
def test_a_200_with_usage_and_no_answer_is_not_bought_again(name: str) -> None:
    """Billed for certain: the row fails and its tokens are known."""
    failure = failed({"usage": USAGE}, name=name)
    assert ("done", "bad_reply", "fail_row", 5) == (
        failure.outcome,
        failure.kind,
        failure.action,
        failure.usage and failure.usage.input_tokens,
    )


def test_an_error_event_before_the_answer_is_a_rejection_and_after_it_unknown() -> None:
    """Where a part of the answer had come, it may be billed."""
    error = b"event: error\ndata: " + orjson.dumps(anthropic_error("overloaded_error", "Overloaded")) + b"\n\n"
    begun = (GOLDEN / "streams" / "messages.sse").read_bytes().partition(b"event: content_block_stop")[0]
    assert OVERLOADED == verdict(error, name="messages", stream=True)
    assert ("unknown", "server", "retry") == verdict(begun + error, name="messages", stream=True)


def test_an_error_inside_a_choice_is_a_failure() -> None:
    """OpenRouter ends a choice with finish_reason error when its provider dies in the middle."""
    choice = {"message": {"content": "par"}, "finish_reason": "error", "error": {"code": 502, "message": "down"}}
    assert ("unknown", "server", "retry") == verdict({"choices": [choice]})
    assert ("done", "server", "retry") == verdict({"choices": [choice], "usage": USAGE})


def test_code_in_a_reply_is_no_error() -> None:
    """A `code` beside a reply, or 200 as CRUN's outer code, says nothing bad."""
    choices = [{"message": {"content": "ok"}, "finish_reason": "stop"}]
    assert isinstance(checked({"choices": choices, "code": 0}), Reply)
    assert isinstance(checked({"choices": choices, "error": None, "code": 200}), Reply)


@pytest.mark.parametrize(
    ("expected", "usage", "header"),
    [
        ("0.00025", {}, "0.00025"),
        ("0.000012", {}, "1.2e-05"),
        ("0.5", {"cost": 0.5}, "0.25"),
        (None, {}, "0.0"),
        (None, {}, "None"),
        (None, {}, "-1"),
    ],
)
def test_litellm_s_cost_header_serves_where_the_body_has_no_cost(
    expected: str | None, usage: dict[str, float], header: str
) -> None:
    """The body's own cost wins; LiteLLM's 0 means that it knows no price, which is not free."""
    body = {"choices": [{"message": {"content": "ok"}}], "usage": {**USAGE, **usage}}
    reply = checked(body, headers={"x-litellm-response-cost": header})
    assert isinstance(reply, Reply)
    assert expected == reply.reported_usd


def test_halves_of_a_surrogate_pair_in_two_chunks_are_joined_and_a_lone_one_fails_the_row() -> None:
    """No character takes the place of a broken one; the row fails and its tokens are known."""
    chunks = [
        b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}',
        b'{"choices":[{"index":0,"delta":{"content":"\\ude00"},"finish_reason":"stop"}]}',
        b"[DONE]",
    ]
    reply = checked(b"".join(b"data: " + chunk + b"\n\n" for chunk in chunks), stream=True)
    assert isinstance(reply, Reply)
    assert "😀" == reply.text
    body = b'{"choices":[{"message":{"content":"\\ud83d"}}],"usage":{"prompt_tokens":5,"completion_tokens":7}}'
    failure = failed(body)
    assert ("done", "bad_reply", "fail_row", Usage(5, 0, 0, 7)) == (
        failure.outcome,
        failure.kind,
        failure.action,
        failure.usage,
    )


def test_tool_input_nested_beyond_writing_fails_the_row() -> None:
    """It parses, so it is done; it cannot be written as text again."""
    depth = 990
    given_input = b'{"a":' * depth + b"1" + b"}" * depth
    body = b'{"content":[{"type":"tool_use","id":"t","name":"f","input":' + given_input + b"}]}"
    result = checked(body, name="messages")
    assert isinstance(result, Reply) or ("done", "fail_row") == (result.outcome, result.action)


# faults


@pytest.mark.parametrize(
    ("expected", "fault"),
    [
        (("not_sent", "connection", "retry"), Fault("not_sent", "connection", "refused")),
        (("unknown", "timeout", "retry"), Fault("unknown", "timeout", "deadline")),
        (("unknown", "connection", "retry"), Fault("unknown", "connection", "reset", status=200)),
        (("unknown", "rate_limited", "retry"), Fault("unknown", "connection", "reset", status=429)),
        (("unknown", "bad_request", "stop_key"), Fault("unknown", "connection", "reset", status=401)),
    ],
)
def test_a_fault_is_unknown_unless_proven_unsent(expected: tuple[str, str, str], fault: Fault) -> None:
    """A status that was read says what to do, but only a whole reply is a rejection."""
    failure = check_fault(fault)
    assert expected == (failure.outcome, failure.kind, failure.action)


# rate limits

OPENAI_HEADERS = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-tokens": "6m0s",
}
ANTHROPIC_HEADERS = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2026-09-21T13:34:00Z",
    "anthropic-ratelimit-input-tokens-limit": "30000",
    "anthropic-ratelimit-input-tokens-remaining": "29000",
    "anthropic-ratelimit-input-tokens-reset": "2026-09-21T14:13:50+00:00",
}
TOKENS_LEFT = "anthropic-ratelimit-input-tokens-remaining"
CEREBRAS_HEADERS = {
    "x-ratelimit-remaining-requests-day": "14000",
    "x-ratelimit-reset-requests-day": "33011.382867",
    "x-ratelimit-remaining-tokens-minute": "59900",
    "x-ratelimit-reset-tokens-minute": "11.382867",
}
DIGITALOCEAN_HEADERS = {
    "x-ratelimit-remaining-tokens-per-minute": "900",
    "x-ratelimit-reset-tokens-per-minute": str(int(NOW) + 7),
}
DRAFT_HEADERS = {"ratelimit-limit": "100", "ratelimit-remaining": "20", "ratelimit-reset": "50"}


@pytest.mark.parametrize(
    ("expected", "headers", "used_up"),
    [
        (1.0, OPENAI_HEADERS, ["x-ratelimit-remaining-requests"]),
        (360.0, OPENAI_HEADERS, ["x-ratelimit-remaining-tokens"]),
        (360.0, OPENAI_HEADERS, ["x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"]),
        (None, ANTHROPIC_HEADERS, ["anthropic-ratelimit-requests-remaining"]),
        (30.0, ANTHROPIC_HEADERS, ["anthropic-ratelimit-requests-remaining", TOKENS_LEFT]),
        (30.0, ANTHROPIC_HEADERS, [TOKENS_LEFT]),
        (11.382867, CEREBRAS_HEADERS, ["x-ratelimit-remaining-tokens-minute"]),
        (33011.382867, CEREBRAS_HEADERS, ["x-ratelimit-remaining-requests-day"]),
        (7.0, DIGITALOCEAN_HEADERS, ["x-ratelimit-remaining-tokens-per-minute"]),
        (50.0, DRAFT_HEADERS, ["ratelimit-remaining"]),
    ],
)
def test_a_limit_that_is_used_up_is_over_at_its_reset(
    expected: float | None, headers: dict[str, str], used_up: list[str]
) -> None:
    """The last of them counts, and none that is past. While some of each remains, none does."""
    assert used_up_seconds(headers, NOW) is None
    assert expected == used_up_seconds(headers | dict.fromkeys(used_up, "0"), NOW)


def test_headers_that_tell_no_reset_of_what_is_used_up_say_nothing() -> None:
    assert used_up_seconds({"content-type": "application/json"}, NOW) is None
    assert used_up_seconds({"x-ratelimit-remaining-requests": "0"}, NOW) is None
    assert used_up_seconds({"x-ratelimit-remaining-tokens": "none", "x-ratelimit-reset-tokens": "6m"}, NOW) is None
    assert used_up_seconds({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "0"}, NOW) is None


def test_what_remains_is_reset_by_the_header_of_the_same_name() -> None:
    """A gateway hands on what its provider says of requests, and says of its own limit that an hour is left."""
    own = {"ratelimit-remaining": "20", "ratelimit-reset": "3600"}
    assert used_up_seconds({"x-ratelimit-remaining-requests": "0"} | own, NOW) is None
    handed_on = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}
    assert used_up_seconds(handed_on | own, NOW) == 2.0


@pytest.mark.parametrize("reset", ["0", "1789999990", "2026-09-21T13:00:00Z"])
def test_a_refusal_whose_reset_is_past_is_paused_as_one_that_tells_none(reset: str) -> None:
    """Our clock may be ahead of the gateway's: to wait 0 s would ask it without end."""
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset}
    failure = check(PROTOCOLS["chat"], Response(429, headers, b"{}"), stream=False, now_epoch_seconds=NOW)
    assert isinstance(failure, Failure)
    assert failure.action == "cool_down"
    assert failure.retry_after_seconds is None


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (0.02, "20ms"),
        (3723.5, "1h2m3.5s"),
        (30.0, "30"),
        (12.0, "1790000012"),
        (12.0, "1790000012000"),
        (9 * 86_400.0, "9d"),
        (31 * 86_400.0, "400d"),
        (None, "6m tomorrow"),
        (None, "soon"),
        (None, ""),
        (None, "-3"),
    ],
)
def test_a_reset_is_read_by_its_form(expected: float | None, said: str) -> None:
    """Durations, small numbers (seconds), large ones (epoch), RFC 3339; anything else says nothing."""
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": said}
    assert expected == used_up_seconds(headers, NOW)


# whatever comes

leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["error", "429", "text"]),
)
known_keys = st.sampled_from(
    [
        *("error", "type", "code", "message", "choices", "output", "content", "usage", "status", "delta", "index"),
        *(
            "text",
            "tool_calls",
            "function",
            "arguments",
            "finish_reason",
            "details",
            "metadata",
            "response",
            "item",
        ),
        *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "input", "name", "id", "refusal"),
    ]
)
trees = st.recursive(
    leaf,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(known_keys, inner, max_size=6)),
    max_leaves=25,
)
kinds = st.sampled_from(
    [
        *("message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop", "error"),
        *("response.completed", "response.failed", "response.output_item.done", "response.output_text.delta"),
    ]
)
events = st.builds(
    lambda tree, kind: {**tree, "type": kind}, st.dictionaries(known_keys, trees, max_size=6), kinds
)
headers = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "date", "x-should-retry", "location", "content-type"]),
    st.one_of(st.text(max_size=12), st.sampled_from(["text/event-stream", "http://[", "true"])),
)
json_bodies = trees.map(lambda tree: json.dumps(tree).encode())
streams = st.lists(st.one_of(events, trees), max_size=6).map(
    lambda items: b"".join(b"data: " + json.dumps(item).encode() + b"\n\n" for item in items) + b"data: [DONE]\n\n"
)


@settings(deadline=None, max_examples=400)
@given(
    st.one_of(st.binary(max_size=200), json_bodies, streams),
    st.sampled_from([200, 200, 200, 201, 302, 400, 429, 500, 599, 0, 999]),
    headers,
    st.sampled_from(NAMES),
    st.booleans(),
)
@example(b'{"choices":[{"message":{"content":"\\ud800"}}]}', 200, {}, "chat", False)
@example(b"[" * 2000 + b"]" * 2000, 200, {}, "chat", True)
@example(b'{"error":' * 1000 + b"1" + b"}" * 1000, 400, {}, "messages", False)
@example(b"data: " + b"[" * 50_000, 200, {}, "responses", True)
@example(b"<" * 100_000, 500, {"retry-after": "9" * 400}, "completions", False)
def test_check_never_raises(
    body: bytes, status: int, given_headers: dict[str, str], name: str, stream: bool
) -> None:
    """Arbitrary bytes and JSON have a class; what is not 2xx is rejected; texts can be stored.

    What may have been billed is never put back uncounted.
    """
    result = checked(body, status, given_headers, name, stream)
    if isinstance(result, Failure):
        assert result.message.isprintable()
        assert 0 < len(result.message) <= LONGEST_MESSAGE
        assert "rejected" == result.outcome or 200 <= status < 300
        assert "rejected" == result.outcome or "cool_down" != result.action
        assert result.retry_after_seconds is None or 0 <= result.retry_after_seconds <= 31 * 86_400
    else:
        assert 200 <= status < 300
        for text in (result.text, result.tool_calls, result.model, result.response_id):
            assert text is None or text.encode().decode() == text
        assert result.tool_calls is None or isinstance(json.loads(result.tool_calls), list)


def test_a_hostile_page_takes_no_time() -> None:
    """Stripping tags stays linear, whatever the page is."""
    started = time.process_time()
    for page in (b"<" * 10**6, b"<script" * 10**5, b"<title>" * 10**5, b"<a " + b"\x00" * 10**6):
        failed(page, 500)
    assert 10 > time.process_time() - started


def test_a_body_in_an_encoding_that_was_not_asked_for_is_named() -> None:
    """It is kept as it came; the words do not blame its JSON."""
    for coding, body in (("br", b"\x0b\x02\x80{}\x03"), ("ZSTD", b"\x28\xb5\x2f\xfd")):
        failure = check(PROTOCOLS["chat"], Response(200, {"content-encoding": coding}, body), stream=False)
        assert isinstance(failure, Failure)
        assert ("unknown", "bad_reply") == (failure.outcome, failure.kind)
        assert f"in the encoding '{coding.lower()}', which was not asked for" in failure.message


# docs/errors.md


def error_page() -> str:
    """The page that documents the tables, made from the tables. `python tests/test_check.py` writes it."""

    def line(when: str, verdict: Ruling) -> str:
        wait = f", after {verdict.pause_seconds:g} s" if verdict.pause_seconds else ""
        return f"| {when} | {verdict.meaning} | `{verdict.kind}` | `{verdict.action}`{wait} |"

    words = []
    for wording in WORDS:
        names = [f"`{name}`" for name in sorted(wording.names)]
        phrases = ['"' + " … ".join(phrase) + '"' for phrase in wording.phrases]
        statuses = ", ".join(str(status) for status in sorted(wording.phrase_statuses))
        whole = [f'"{message}" alone' if message else "nothing at all" for message in sorted(wording.whole)]
        pages = ["a web page"] if wording.verdict is NO_SUCH_PLACE else []
        spoken = [f"on {statuses}: {', '.join(phrases + whole + pages)}"] if phrases else []
        words.append(line("; ".join([", ".join(names)] * bool(names) + spoken), wording.verdict))
    statuses = [line(str(status), verdict) for status, verdict in STATUSES.items()]
    rest = {"3xx": UNKNOWN_3XX, "other 4xx": UNKNOWN_4XX, "other 5xx": UNKNOWN_5XX, "anything else": UNKNOWN_OTHER}
    head = "| when | meaning | error_kind | action |\n|---|---|---|---|"
    names = [f"| `{name}` | {status} |" for name, status in NAMED_STATUSES.items()]
    return "\n".join(
        [
            "# What a gateway's error means",
            "",
            "Made from the tables in `crun_batch/gateway/wordings.py` and `rulings.py` by",
            "`python tests/test_check.py`.",
            "",
            "Actions: `stop_credits` ends the run with exit 4, `stop_refused` with exit 5, and so does",
            "`stop_key`, about the key; `stop_model` ends it with exit 5 before the model's first success",
            "and fails the row after it; `stop_unreached` ends it",
            "with exit 5 before the gateway's first answer and is a `retry` after it; `fail_row` fails the row;",
            "`retry` retries the row on its own account; `cool_down` puts it back, uncounted, under the shared",
            "cooldown, but is a `retry` where the attempt may have been billed (an error in mid-stream).",
            "`x-should-retry` overrides all but `stop_credits`; `retry-after-ms` and `retry-after` set the wait.",
            "",
            "## By words, asked first, from the top",
            "",
            "Names are values of `type`, `code` and the like and fit on every status, also where a gateway",
            "quotes its upstream's error in its own message (`{'code': 'content_filter'}`).",
            "",
            head,
            *words,
            "",
            "## By status, or by the number in the body",
            "",
            "A number in the body counts where the HTTP status is 2xx, 400 or 500.",
            "",
            head,
            *statuses,
            *[line(when, verdict) for when, verdict in rest.items()],
            "",
            "## Names of errors inside a 2xx or a stream",
            "",
            "| name | counts as |",
            "|---|---|",
            *names,
            "",
        ]
    )


def test_the_page_of_errors_is_made_from_the_tables() -> None:
    """docs/errors.md says what the code does: write it again with `python tests/test_check.py`."""
    assert error_page() == (ROOT / "docs" / "errors.md").read_text()


if __name__ == "__main__":
    (ROOT / "docs" / "errors.md").write_text(error_page())
