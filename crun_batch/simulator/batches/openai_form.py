"""`/files` and `/batches`, as OpenAI documents them and Azure, Groq and LiteLLM repeat them."""

from __future__ import annotations

from typing import Any

from crun_batch.simulator.asks import Invalid
from crun_batch.simulator.batches.batch import Batch, BatchTerms
from crun_batch.simulator.batches.calls import Call, Lost, not_found
from crun_batch.simulator.batches.desk import BatchDesk
from crun_batch.simulator.batches.faults import hits
from crun_batch.simulator.batches.files import StoredFile, read_upload
from crun_batch.simulator.batches.lines import BatchLine, WrongLine, endpoint_at, read_file
from crun_batch.simulator.generation import Rejected
from crun_batch.simulator.refusals import refusal

WINDOW_SECONDS = 24 * 3600


def upload(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """POST /files."""
    form = read_upload(call.headers.get("content-type", ""), call.body)
    file = desk.keep_file(call.key_name, form.name, form.purpose, form.content)
    if hits(call.settings, "upload_lost", file.id):
        raise Lost("upload_lost")
    return file.to_object()


def files(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """GET /files."""
    mine = [file for file in reversed(desk.files.values()) if file.key_name == call.key_name]
    return {"object": "list", **call.page([(file.id, file.to_object()) for file in mine], "after")}


def _file(desk: BatchDesk, call: Call) -> StoredFile:
    file = desk.files.get(call.name)
    if file is None or file.key_name != call.key_name:
        raise Rejected(not_found(f"No such File object: {call.name}"))
    return file


def file(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """GET /files/{id}."""
    return _file(desk, call).to_object()


def delete_file(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """DELETE /files/{id}."""
    del desk.files[_file(desk, call).id]
    return {"id": call.name, "object": "file", "deleted": True}


def content(desk: BatchDesk, call: Call) -> bytes:
    """GET /files/{id}/content."""
    found = _file(desk, call)
    is_output, name = found.purpose == "batch_output", found.name.partition(".")[0]
    if is_output and desk.is_gone(call, name, found.created_at):
        raise Rejected(not_found(f"No such File object: {call.name}"))
    return found.content()


def create(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """POST /batches."""
    asked = call.json()
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(asked.get(name), str):
            raise Invalid(f"Missing required parameter: '{name}'.", name)
    url = asked["endpoint"]
    if endpoint_at(url) is None:
        raise Invalid(f"Invalid value for 'endpoint': '{url}'.", "endpoint")
    if asked["completion_window"] != "24h":
        raise Invalid("Invalid value for 'completion_window': only '24h' is supported.", "completion_window")
    stored = desk.files.get(asked["input_file_id"])
    if stored is None or stored.key_name != call.key_name:
        raise Invalid(f"Invalid file id: {asked['input_file_id']}", "input_file_id")
    wrong: WrongLine | None = None
    lines: list[BatchLine] = []
    try:
        lines = read_file(stored.content(), url, call.settings.batch_most_requests)
        wrong = desk.lines_wrong(lines)
    except WrongLine as error:
        wrong = error
    identity, now = desk.new_id("batch_"), desk.clock()
    terms = BatchTerms(identity, call.key_name, now, "openai", asked.get("metadata"), stored.id, url)
    return _object(desk.made(terms, lines, wrong, call.settings))


def batches(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """GET /batches."""
    listed = desk.listed(call, "openai")
    return {"object": "list", **call.page([(one.terms.id, _object(one)) for one in listed], "after")}


def batch(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """GET /batches/{id}."""
    return _object(desk.asked(call, "openai"))


def cancel(desk: BatchDesk, call: Call) -> dict[str, Any]:
    """POST /batches/{id}/cancel."""
    found = desk.asked(call, "openai")
    if found.has_ended:
        message = f"Cannot cancel a batch with status '{found.status}'."
        raise Rejected(refusal(409, message))
    found.cancel(desk.clock())
    desk.advance(call.settings)
    return _object(found)


def _object(batch: Batch) -> dict[str, Any]:
    terms, created = batch.terms, int(batch.terms.created_at)
    ended = None if batch.ended_at is None else int(batch.ended_at)
    errors = None
    if batch.status == "failed" and batch.wrong is not None:
        line = {"code": batch.wrong.code, "line": batch.wrong.line, "message": str(batch.wrong), "param": None}
        errors = {"object": "list", "data": [line]}
    return {
        "id": terms.id,
        "object": "batch",
        "endpoint": terms.url,
        "errors": errors,
        "input_file_id": terms.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.left_files.get("output"),
        "error_file_id": batch.left_files.get("error"),
        "created_at": created,
        "in_progress_at": created if batch.status not in ("validating", "failed") else None,
        "expires_at": created + WINDOW_SECONDS,
        **{f"{name}_at": ended if batch.status == name else None for name in ("completed", "failed", "expired")},
        "cancelling_at": None if batch.cancelled_at is None else int(batch.cancelled_at),
        "cancelled_at": ended if batch.status == "cancelled" else None,
        "request_counts": {
            "total": 0 if batch.status in ("validating", "failed") else len(batch.lines),
            "completed": batch.count("succeeded"),
            "failed": batch.count("errored"),
        },
        "metadata": terms.metadata,
    }
