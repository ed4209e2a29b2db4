"""What travels between the endpoints, the answers and the ledger: one question, one answer, one token count.

The endpoints read their own JSON into an `Ask` and write a `ModelAnswer` back into it, so nothing else in here
knows which protocol a request came by, and the same question gets the same answer through all of them.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class Tool(Struct, frozen=True):
    """A tool that the request forces the model to call, and the JSON Schema of its arguments."""

    name: str
    schema: dict[str, Any]


class Ask(Struct, frozen=True):
    """One question, whatever the protocol."""

    model: str
    messages: tuple[tuple[str, str], ...]
    """(role, text) in order; the system prompt comes first, with the role `system`."""
    max_output_tokens: int | None = None
    stream: bool = False
    images: int = 0
    """Image and file parts, each counted as a fixed number of tokens."""
    schema: dict[str, Any] | None = None
    """JSON Schema that the answer's text must obey."""
    tool: Tool | None = None
    definitions: str = ""
    """Tools and schema as text: they are billed as input."""
    sampling: str = ""
    """Temperature and the like as text: other values, other answers."""
    usage_chunk: bool = False
    """Whether a chat stream asked for OpenAI's extra usage chunk."""
    store: bool = False
    """Whether the reply can be named by a later `previous_response_id`."""
    previous: str | None = None
    """The reply whose conversation this one goes on with (/responses)."""
    service_tier: str | None = None
    """The tier that the request asks for."""
    echo: dict[str, Any] = {}
    """Fields of the request that the reply repeats (/responses)."""


class ModelUsage(Struct, frozen=True):
    """Token counts of one request: cached and written are part of the input, reasoning part of the output."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class ModelAnswer(Struct, frozen=True):
    """What the model said to an Ask. For a tool call, `text` is the JSON of its arguments and `tool` its name."""

    id: str
    """Hexadecimal and the same for the same question; each protocol puts its own prefix before it."""
    text: str
    finish: Literal["stop", "length"]
    usage: ModelUsage
    tool: str | None = None
    service_tier: str | None = None
    """The tier that served it, where the reply says so."""
    cost_usd: str | None = None
    """What the reply says it cost, where this style of gateway says so."""


class Invalid(Exception):
    """The request body is not what the endpoint takes: a sentence, and the field it is about."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
