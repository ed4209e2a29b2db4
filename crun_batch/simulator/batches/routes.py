"""Which gateways have which calls about files and batches, and what answers them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson
from msgspec import Struct

from crun_batch.simulator.asks import Invalid
from crun_batch.simulator.batches import anthropic_form, openai_form, openrouter_form
from crun_batch.simulator.batches.calls import Call, Lost
from crun_batch.simulator.batches.desk import BatchDesk
from crun_batch.simulator.connection import Delivery, ReceivedRequest, reply_bytes, whole
from crun_batch.simulator.generation import Generation, Rejected
from crun_batch.simulator.refusals import Refusal, Shape, refusal
from crun_batch.simulator.settings import Settings

Answering = Callable[[BatchDesk, Call], dict[str, Any] | bytes]


class BatchCall(Struct, frozen=True):
    """A call: in whose shape its errors are, and what answers it."""

    shape: Shape
    answer: Answering


_OPENAI: dict[tuple[str, str], Answering] = {
    ("POST", "/files"): openai_form.upload,
    ("GET", "/files"): openai_form.files,
    ("GET", "/files/{id}"): openai_form.file,
    ("DELETE", "/files/{id}"): openai_form.delete_file,
    ("GET", "/files/{id}/content"): openai_form.content,
    ("POST", "/batches"): openai_form.create,
    ("GET", "/batches"): openai_form.batches,
    ("GET", "/batches/{id}"): openai_form.batch,
    ("POST", "/batches/{id}/cancel"): openai_form.cancel,
}
_ANTHROPIC: dict[tuple[str, str], Answering] = {
    ("POST", "/messages/batches"): anthropic_form.create,
    ("GET", "/messages/batches"): anthropic_form.batches,
    ("GET", "/messages/batches/{id}"): anthropic_form.batch,
    ("POST", "/messages/batches/{id}/cancel"): anthropic_form.cancel,
    ("DELETE", "/messages/batches/{id}"): anthropic_form.delete,
    ("GET", "/messages/batches/{id}/results"): anthropic_form.results,
}
_OPENROUTER: dict[tuple[str, str], Answering] = {
    ("POST", "/batches"): openrouter_form.create,
    ("GET", "/batches"): openrouter_form.batches,
    ("GET", "/batches/{id}"): openrouter_form.batch,
    ("DELETE", "/batches/{id}"): openrouter_form.delete,
    ("GET", "/batches/{id}/results"): openrouter_form.results,
}
_FORMS: dict[str, tuple[Shape, dict[tuple[str, str], Answering]]] = {
    "openai": ("openai", _OPENAI),
    "anthropic": ("anthropic", _ANTHROPIC),
    "openrouter": ("openrouter", _OPENROUTER),
}
FORMS_BY_STYLE: dict[str, tuple[str, ...]] = {
    "plain": ("openai", "anthropic"),
    "litellm": ("openai",),
    "openrouter": ("openrouter",),
}
"""Style of gateway -> the forms in which it sells batches; the others, CRUN among them, have none."""
_ID = re.compile(r"^(/files/|/batches/|/messages/batches/)([^/]+)")


def route_of(style: str, method: str, path: str) -> tuple[BatchCall, str] | None:
    """The call at a path, with the id in it; None where this style of gateway has no such call."""
    found = _ID.match(path)
    name = found[2] if found else ""
    pattern = path if found is None else f"{found[1]}{{id}}{path[found.end() :]}"
    for form in FORMS_BY_STYLE.get(style, ()):
        shape, calls = _FORMS[form]
        answer = calls.get((method, pattern))
        if answer is not None:
            return BatchCall(shape, answer), name
    return None


class BatchService:
    """Files and batches as a gateway sees them: which calls there are, and what is sent for one."""

    def __init__(self, generation: Generation, epoch_seconds: Callable[[], float]) -> None:
        self.desk = BatchDesk(generation, epoch_seconds)

    def answer(
        self, call: BatchCall, name: str, key_name: str, request: ReceivedRequest, settings: Settings
    ) -> Delivery | Refusal | str:
        """What is sent for a call whose key is known; a text: the fault that keeps the reply from its client."""
        self.desk.advance(settings)
        asked = Call(key_name, name, request.headers, request.query, request.body, settings)
        try:
            answer = call.answer(self.desk, asked)
        except Rejected as refused:
            return refused.problem
        except Invalid as error:
            return refusal(settings.invalid_status, str(error), param=error.param)
        except Lost as lost:
            return str(lost)
        if isinstance(answer, bytes):
            return whole(request, reply_bytes(200, answer, "application/jsonl"))
        return whole(request, reply_bytes(200, orjson.dumps(answer)))
