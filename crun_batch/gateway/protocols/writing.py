"""Many requests written at one go: bytes and hashes of all rows that are asked the same way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from crun_batch.gateway.protocols.protocol import BuildBody, request_hash


class WrittenRequest(Struct, frozen=True, gc=False):
    """A request's bytes and their hash."""

    body: bytes
    request_hash: str


class RequestForm(Struct, frozen=True):
    """What requests have in common: all but their messages. The fields are those of `BuildBody`."""

    path: str
    write: BuildBody
    model: str
    params: Mapping[str, Any]
    max_output_tokens: int | None
    stream: bool
    output_schema: Mapping[str, Any] | None


def write_all(
    form: RequestForm, prompts: Iterable[Sequence[Mapping[str, Any]]]
) -> list[WrittenRequest | ValueError]:
    """The request of each prompt's messages, or why the protocol cannot say them."""
    return [_write(form, messages) for messages in prompts]


def _write(form: RequestForm, messages: Sequence[Mapping[str, Any]]) -> WrittenRequest | ValueError:
    try:
        body = form.write(
            form.model, messages, form.params, form.max_output_tokens, form.stream, form.output_schema
        )
    except ValueError as error:
        return error
    return WrittenRequest(body, request_hash(form.path, body))
