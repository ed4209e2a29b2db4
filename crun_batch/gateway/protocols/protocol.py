"""What a protocol is: the five functions that know one endpoint's request and reply.

Owns the shape that chat, responses, messages and completions share, and JSON in and out of bytes. Pure: no
network, no clock. Must not know how an error is judged (that is `failures`) nor what anything costs.
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson
from msgspec import Struct

from crun_batch.records import Failure, ProtocolName, Reply, Usage

JsonObject = dict[str, Any]


class Assembled(Struct, frozen=True):
    """A streamed reply put together."""

    payload: JsonObject | None
    """The body it would have had unstreamed; what there is of it where the stream was cut; None: nothing came."""
    complete: bool
    """Whether the stream saw its end. Without it the reply may be cut and billed all the same."""
    error: JsonObject | None = None
    """The event that said that the request failed."""


class BuildBody(typing.Protocol):
    """Builds the bytes of a request.

    `prompt_messages` are the neutral messages of `records.Prompt`. `params` go through untouched, sorted by
    name, and win over what is built here; a param that names an output limit of the protocol's own replaces
    `max_output_tokens` (a number of tokens, None: no limit). `output_schema` is a JSON Schema. The same
    arguments give the same bytes. Raises ValueError, in a sentence for the row, for what the protocol cannot say.
    """

    def __call__(
        self,
        model: str,
        prompt_messages: Sequence[Mapping[str, Any]],
        params: Mapping[str, Any],
        max_output_tokens: int | None,
        stream: bool,
        output_schema: Mapping[str, Any] | None = None,
    ) -> bytes: ...


class Protocol(Struct, frozen=True):
    """One endpoint: where its requests go, how they are written, how its replies are read."""

    name: ProtocolName
    path: str
    """Appended to the base URL."""
    output_limit_names: tuple[str, ...]
    """What the protocol calls an output limit, the name that we write first; params may hold any of them."""
    body: BuildBody
    read: Callable[[JsonObject], Reply | Failure]
    """A 2xx JSON object that holds no error -> what it says. Raises ValueError only for a tool's input that is
    nested too deeply to be written as text; whatever else the values are, nothing."""
    assemble: Callable[[bytes], Assembled]
    """A whole SSE body -> the payload that `read` takes. Never raises."""
    usage: Callable[[JsonObject], Usage | None]
    """The tokens that a payload reports; None: none, or none that can be believed."""
    read_plain: Callable[[bytes], Reply | None] | None = None
    """What `read` would make of the body of a 2xx, for bodies of the usual form; None for any other."""


def encode(value: object) -> bytes:
    """JSON bytes. Lone surrogates and integers beyond 64 bits, which orjson refuses, are written as ASCII JSON.

    Raises ValueError for a value that is not JSON.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        pass
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the request holds a value that JSON cannot express: {error}") from error


def decode(text: bytes) -> Any:
    """The JSON value of `text`. Raises ValueError for what neither orjson nor json reads, depth included.

    json reads what orjson refuses: lone surrogates, a byte order mark, NaN and numbers too large for a float,
    which become null.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        pass
    try:
        return json.loads(text, parse_constant=_nothing, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _nothing(_: str) -> None:
    """What stands for NaN and Infinity, which are no JSON."""


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def limited(
    request: JsonObject, params: Mapping[str, Any], names: tuple[str, ...], max_output_tokens: int | None
) -> None:
    """Write the output limit under its first name, unless the params state one under any of its names."""
    if max_output_tokens is not None and params.keys().isdisjoint(names):
        request[names[0]] = max_output_tokens


def finished(request: JsonObject, params: Mapping[str, Any]) -> JsonObject:
    """Add the params, sorted by name: their order in the job file is no part of the request."""
    for name in sorted(params):
        request[name] = params[name]
    return request


def request_hash(path: str, body: bytes) -> str:
    """128 bits of BLAKE2b over the protocol's path and the body's bytes, as 32 hex digits."""
    return blake2b(body, digest_size=16, person=path.encode()[-16:]).hexdigest()
