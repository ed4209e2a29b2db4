"""Why the gateway says no, and in whose words: every error shape that such gateways use.

    openai     {"error": {"message", "type", "param", "code"}}
    anthropic  {"type": "error", "error": {"type", "message"}, "request_id"}
    crun       {"code": N, "message", "data"}
    openrouter {"error": {"code": N, "message"}}

An endpoint has its own shape; a refusal may insist on another one (`model_not_found` is OpenAI's on all of them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

Shape = Literal["openai", "anthropic", "crun", "openrouter"]


class Refusal(Struct, frozen=True):
    """An error reply: HTTP status, sentence, the type and code of OpenAI's shape, extra headers."""

    status: int
    message: str
    kind: str
    code: str | int | None = None
    param: str | None = None
    shape: Shape | None = None
    """None: the shape of the endpoint."""
    details: dict[str, Any] | None = None
    headers: tuple[tuple[str, str], ...] = ()


TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    501: "generation_failed",
    502: "api_error",
    503: "api_error",
    504: "timeout_error",
    505: "feature_disabled",
    529: "overloaded_error",
    455: "maintenance",
}
"""The error type that goes with an HTTP status; other statuses have `api_error`."""

MESSAGES = {
    408: "The request took too long.",
    429: "Too many requests, please slow down.",
    500: "The server had an error while processing your request.",
    501: "Generation failed.",
    502: "Bad gateway.",
    503: "The service is temporarily unavailable.",
    504: "The upstream provider timed out.",
    505: "This feature is disabled.",
    529: "Overloaded.",
    455: "The service is under maintenance.",
}
"""What a simulated fault of this status says."""

OUT_OF_CREDIT = {
    "crun_http": Refusal(402, "Insufficient credits", "billing_error", shape="crun"),
    "crun_body": Refusal(200, "Insufficient credits", "billing_error", code=402, shape="crun"),
    "openai": Refusal(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        code="insufficient_quota",
        shape="openai",
    ),
    "openai_402": Refusal(
        402, "Insufficient credits.", "insufficient_credits", code="insufficient_credits", shape="openai"
    ),
    "anthropic": Refusal(402, "Your credit balance is too low.", "billing_error", shape="anthropic"),
    "anthropic_limit": Refusal(
        429,
        "You have reached your spend limit.",
        "rate_limit_error",
        shape="anthropic",
        details={"error_code": "enforced_spend_limit_reached"},
    ),
    "litellm": Refusal(400, "Budget has been exceeded!", "budget_exceeded", code="400", shape="openai"),
    "openrouter": Refusal(402, "This request requires more credits.", "", code=402, shape="openrouter"),
    "in_flight": Refusal(
        402,
        "The credits left are held by requests in flight.",
        "in_flight_budget_exhausted",
        code="in_flight_budget_exhausted",
        shape="openai",
    ),
}
"""How a request that the balance cannot pay is refused, by the names that the settings use."""


def refusal(status: int, message: str = "", *, code: str | int | None = None, param: str | None = None) -> Refusal:
    """A refusal with the type and, where none is given, the message that are usual for its status."""
    return Refusal(status, message or MESSAGES.get(status, "Error."), TYPES.get(status, "api_error"), code, param)


def error_body(problem: Refusal, endpoint_shape: Shape, request_id: str) -> dict[str, Any]:
    """The JSON body of a refusal."""
    return _SHAPES[problem.shape or endpoint_shape](problem, request_id)


def _openai(problem: Refusal, request_id: str) -> dict[str, Any]:
    return {
        "error": {"message": problem.message, "type": problem.kind, "param": problem.param, "code": problem.code}
    }


def _anthropic(problem: Refusal, request_id: str) -> dict[str, Any]:
    error: dict[str, Any] = {"type": problem.kind, "message": problem.message}
    if problem.details:
        error["details"] = problem.details
    return {"type": "error", "error": error, "request_id": request_id}


def _crun(problem: Refusal, request_id: str) -> dict[str, Any]:
    return {"code": problem.code or problem.status, "message": problem.message, "data": None}


def _openrouter(problem: Refusal, request_id: str) -> dict[str, Any]:
    return {"error": {"code": problem.code or problem.status, "message": problem.message}}


_SHAPES: dict[str, Callable[[Refusal, str], dict[str, Any]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "crun": _crun,
    "openrouter": _openrouter,
}
