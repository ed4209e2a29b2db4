"""`/batches`, as OpenRouter documents them: requests inline, results in the batch and by pages, no cancel."""

from __future__ import annotations

from typing import Any

from crun_batch.simulator.asks import Invalid
from crun_batch.simulator.batches.batch import Batch, BatchTerms
from crun_batch.simulator.batches.calls import Call, not_found
from crun_batch.simulator.batches.desk import BatchDesk
from crun_batch.simulator.batches.lines import BatchLine, LineResult, endpoint_at, openai_result
from crun_batch.simulator.endpoints.form import ApiEndpoint
from crun_batch.simulator.generation import Rejected
from crun_batch.simulator.refusals import refusal

WINDOW_SECONDS = 24 * 3600
PAGE = 1000


def create(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """POST /batches."""
    asked = call.json()
    names = list(asked)
    for name in ("endpoint", "model", "requests"):
        if name not in asked:
            raise Invalid(f"{name}: Required", name)
    if names.index("requests") < max(names.index("endpoint"), names.index("model")):
        raise Invalid("endpoint and model must come before requests", "requests")
    if asked.get("completion_window", "24h") != "24h":
        raise Invalid("completion_window: only '24h' is supported", "completion_window")
    endpoint, requests = endpoint_at(asked["endpoint"]), asked["requests"]
    if endpoint is None or endpoint.path == "/completions":
        raise Invalid(f"endpoint: '{asked['endpoint']}' is not supported", "endpoint")
    if not isinstance(requests, list) or not requests:
        raise Invalid("requests: a non-empty array", "requests")
    if len(requests) > call.settings.batch_most_requests:
        raise Invalid(f"requests: at most {call.settings.batch_most_requests} are allowed", "requests")
    lines = [_line(request, place, asked["model"], endpoint) for place, request in enumerate(requests)]
    if len({line.custom_id for line in lines}) < len(lines):
        raise Invalid("requests: custom_id must be unique", "requests")
    terms = BatchTerms(desk.new_id("batch_"), call.key_name, desk.clock(), "openrouter", url=asked["endpoint"])
    return _object(desk, desk.made(terms, lines, desk.lines_wrong(lines), call.settings), call)


def _line(request: Any, place: int, model: Any, endpoint: ApiEndpoint) -> BatchLine:
    custom_id = request.get("custom_id") if isinstance(request, dict) else None
    if not isinstance(custom_id, str) or not custom_id:
        raise Invalid(f"requests[{place}].custom_id: Required", "requests")
    body = request.get("body")
    if not isinstance(body, dict) or body.get("model", model) != model:
        raise Invalid(f"requests[{place}].body: an object with the batch's model, or none", "requests")
    return BatchLine(custom_id, {**body, "model": model}, endpoint)


def batches(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """GET /batches: without results."""
    listed = desk.listed(call, "openrouter")
    page = call.page([(one.terms.id, {**_object(desk, one, call), "results": None}) for one in listed], "after")
    return {"object": "list", **page}


def batch(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """GET /batches/{id}."""
    return _object(desk, desk.asked(call, "openrouter"), call)


def results(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """GET /batches/{id}/results: a page of them."""
    told = _results(desk, desk.asked(call, "openrouter"), call)
    if told is None:
        raise Rejected(not_found("The results of this batch are not available."))
    cursor = call.asked("cursor") or "0"
    if not cursor.isdecimal():
        raise Invalid(f"cursor: '{cursor}' is none", "cursor")
    first = int(cursor)
    rest = first + PAGE < len(told)
    return {
        "object": "list",
        "data": told[first : first + PAGE],
        "has_more": rest,
        "next_cursor": str(first + PAGE) if rest else None,
    }


def delete(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """DELETE /batches/{id}: of one that is over; deleting is no cancelling."""
    found = desk.asked(call, "openrouter")
    if not found.has_ended:
        raise Rejected(refusal(409, "The batch is still in progress."))
    del desk.batches[found.terms.id]
    return {"id": found.terms.id, "object": "batch", "deletion": {"openrouter": "deleted"}}


def _results(desk: BatchDesk, batch: Batch, call: Call) -> list[dict[str, Any]] | None:
    """None: there are none, or none any more."""
    if batch.ended_at is None or batch.status == "failed":
        return None
    if desk.is_gone(call, batch.terms.id, batch.ended_at):
        return None
    return [
        openai_result(result, batch.terms.id, number)
        for number, result in enumerate(batch.delivered(call.settings))
    ]


def _object(desk: BatchDesk, batch: Batch, call: Call) -> dict[str, Any]:
    terms, created = batch.terms, int(batch.terms.created_at)
    wrong = batch.wrong if batch.status == "failed" else None
    return {
        "id": terms.id,
        "object": "batch",
        "endpoint": terms.url,
        "model": batch.lines[0].body["model"],
        "provider": None,
        "completion_window": "24h",
        "status": batch.status,
        "created_at": created,
        "expires_at": created + WINDOW_SECONDS,
        "finalized_at": None if batch.ended_at is None else int(batch.ended_at),
        "request_counts": {
            "total": len(batch.lines),
            "completed": batch.count("succeeded"),
            "failed": batch.count("errored"),
        },
        "usage": _usage(batch.results) if batch.status == "completed" else None,
        "results": _results(desk, batch, call),
        "error": None if wrong is None else {"message": str(wrong)},
    }


def _usage(told: list[LineResult]) -> dict[str, int]:
    """The sums of what the replies say, in either protocol's names."""
    usages = [(one.body or {}).get("usage") or {} for one in told]
    inputs = sum(use.get("prompt_tokens", use.get("input_tokens", 0)) for use in usages)
    outputs = sum(use.get("completion_tokens", use.get("output_tokens", 0)) for use in usages)
    return {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}
