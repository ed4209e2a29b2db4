"""`/messages/batches`, as Anthropic documents them: requests inline, one stream of results, no tags."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from crun_batch.simulator.asks import Invalid
from crun_batch.simulator.batches.batch import Batch, BatchTerms
from crun_batch.simulator.batches.calls import Call, not_found
from crun_batch.simulator.batches.desk import BatchDesk
from crun_batch.simulator.batches.lines import BatchLine, anthropic_line
from crun_batch.simulator.endpoints import ENDPOINTS
from crun_batch.simulator.generation import Rejected
from crun_batch.simulator.refusals import refusal
from crun_batch.simulator.settings import BASE_PATH

WINDOW_SECONDS = 24 * 3600
_MESSAGES = ENDPOINTS["/messages"]


def create(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """POST /messages/batches."""
    requests = call.json().get("requests")
    if not isinstance(requests, list) or not requests:
        raise Invalid("requests: Field required", "requests")
    if len(requests) > call.settings.batch_most_requests:
        raise Invalid(f"requests: at most {call.settings.batch_most_requests} are allowed", "requests")
    lines = [_line(request, place) for place, request in enumerate(requests)]
    if len({line.custom_id for line in lines}) < len(lines):
        raise Invalid("requests: custom_id must be unique", "requests")
    too_many = desk.too_many_tokens(call.key_name, lines, call.settings)
    if too_many is not None:  # no batch, where others make one that fails
        raise Rejected(refusal(429, str(too_many)))
    terms = BatchTerms(desk.new_id("msgbatch_"), call.key_name, desk.clock(), "anthropic")
    return _object(desk.made(terms, lines, None, call.settings), call)


def _line(request: Any, place: int) -> BatchLine:
    custom_id = request.get("custom_id") if isinstance(request, dict) else None
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= 64:
        raise Invalid(f"requests.{place}.custom_id: a text of 1 to 64 characters", f"requests.{place}.custom_id")
    if not isinstance(request.get("params"), dict):
        raise Invalid(f"requests.{place}.params: Field required", f"requests.{place}.params")
    return BatchLine(custom_id, request["params"], _MESSAGES)


def batches(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """GET /messages/batches."""
    listed = desk.listed(call, "anthropic")
    return call.page([(one.terms.id, _object(one, call)) for one in listed], "after_id")


def batch(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """GET /messages/batches/{id}."""
    return _object(desk.asked(call, "anthropic"), call)


def cancel(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """POST /messages/batches/{id}/cancel."""
    found = desk.asked(call, "anthropic")
    found.cancel(desk.clock())
    desk.advance(call.settings)
    return _object(found, call)


def delete(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """DELETE /messages/batches/{id}."""
    found = desk.asked(call, "anthropic")
    if not found.has_ended:
        raise Invalid("Only batches that have ended can be deleted.")
    del desk.batches[found.terms.id]
    return {"id": found.terms.id, "type": "message_batch_deleted"}


def results(desk: BatchDesk, call: Call) -> bytes:
    """GET /messages/batches/{id}/results."""
    found = desk.asked(call, "anthropic")
    if found.ended_at is None:
        raise Invalid("The batch has not ended: it has no results yet.")
    if desk.is_gone(call, found.terms.id, found.ended_at):
        raise Rejected(not_found("The results of this batch are no longer available."))
    return b"".join(anthropic_line(result) + b"\n" for result in found.delivered(call.settings))


def _object(batch: Batch, call: Call) -> dict[str, Any]:
    terms, ended = batch.terms, batch.has_ended
    counts = {name: batch.count(name) if ended else 0 for name in ("succeeded", "errored", "canceled", "expired")}
    url = f"http://{call.headers.get('host', '')}{BASE_PATH}/messages/batches/{terms.id}/results"
    status = "ended" if ended else "canceling" if batch.cancelled_at is not None else "in_progress"
    return {
        "id": terms.id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": {"processing": 0 if ended else len(batch.lines), **counts},
        "created_at": _moment(terms.created_at),
        "expires_at": _moment(terms.created_at + WINDOW_SECONDS),
        "ended_at": None if batch.ended_at is None else _moment(batch.ended_at),
        "cancel_initiated_at": None if batch.cancelled_at is None else _moment(batch.cancelled_at),
        "archived_at": None,
        "results_url": url if ended else None,
    }


def _moment(epoch_seconds: float) -> str:
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
