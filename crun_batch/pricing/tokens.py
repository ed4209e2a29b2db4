"""How many tokens a prompt has: exact with a bundled vocabulary, a stated approximation elsewhere.

Owns: which model reads with which vocabulary, what a chat message adds to its text, what bounds a request that
nobody counted. Must not know: prices, files, gateways. The vocabulary (bpe-openai, optional) is loaded at the
first counter that needs it (0.1 s, 70 MB), never at import; it holds the GIL, 18 us per 640 characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

import orjson
from msgspec import Struct

O200K, CL100K = "o200k_base", "cl100k_base"
VOCABULARIES = {
    "gpt-5": O200K,
    "gpt-4o": O200K,
    "gpt-4.1": O200K,
    "gpt-4.5": O200K,
    "chatgpt-4o": O200K,
    "gpt-oss": O200K,
    "o1": O200K,
    "o3": O200K,
    "o4": O200K,
    "gpt-4": CL100K,
    "gpt-3.5": CL100K,
    "gpt-35": CL100K,
}
"""Model family -> vocabulary, as in tiktoken's model table. A family ends where its name does, or at a mark."""

BYTES_PER_TOKEN = 4
"""The approximation: UTF-8 bytes / 4. Against o200k it gives 1.03 of the tokens of English prose and code, 0.6 to
0.75 of those of JSON and digits, 0.8 to 1.2 for Chinese, Japanese, Korean, German, French, and 1.7 to 2.2 for
Cyrillic, Arabic, Devanagari, where cl100k needs that many."""

TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_PER_ROLE = 1
TOKENS_PRIMING_THE_REPLY = 3
"""OpenAI's count: each message is <|start|>role<|message|>content<|end|>, the reply starts with
<|start|>assistant<|message|> (OpenAI cookbook, "How to count tokens with tiktoken")."""

_TEXT_KEYS = ("system", "instructions", "prompt")
_MESSAGE_KEYS = ("messages", "input")
_JSON_KEYS = ("tools", "functions", "response_format")
_STORED_KEYS = ("previous_response_id", "conversation")
"""What a gateway keeps under an id is billed as input, and nobody here can count it. A stored `prompt` too."""
_COUNTED_KEYS = frozenset((*_TEXT_KEYS, *_MESSAGE_KEYS, *_JSON_KEYS, *_STORED_KEYS))


class Counter(Struct, frozen=True):
    """Counts the tokens of a text; `exact` says whether the model reads it just so, `name` with what."""

    count: Callable[[str], int]
    exact: bool
    name: str


class PromptCount(Struct, frozen=True):
    """The input tokens of one request, without its `uncounted_parts`: images, files and stored inputs."""

    tokens: int
    uncounted_parts: int = 0


def token_counter(model: str) -> Counter:
    """The counter for a model: exact for OpenAI's where bpe-openai is installed, else UTF-8 bytes / 4."""
    name = vocabulary_of(model)
    count = None if name is None else _vocabulary(name)
    if name is None or count is None:
        return Counter(approximate_tokens, exact=False, name="UTF-8 bytes / 4")
    return Counter(count, exact=True, name=name)


def vocabulary_of(model: str) -> str | None:
    """The vocabulary that a model reads with, by its family; None for another maker's."""
    name = model.lower().removeprefix("openai/").removeprefix("ft:")
    for family, vocabulary in VOCABULARIES.items():
        if name.startswith(family) and name[len(family) : len(family) + 1] in ("", "-", ".", ":", "@"):
            return vocabulary
    return None


def approximate_tokens(text: str) -> int:
    """Tokens of a text in an unknown vocabulary, about: a quarter of its UTF-8 bytes, rounded up."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return -(-size // BYTES_PER_TOKEN)


def remembering(counter: Counter) -> Counter:
    """The counter, counting what many prompts share (a system prompt) once."""
    return Counter(lru_cache(maxsize=256)(counter.count), counter.exact, counter.name)


def count_messages(messages: Sequence[Mapping[str, Any]], counter: Counter) -> PromptCount:
    """Tokens of OpenAI-style messages (content a text or a list of parts), each with its overhead."""
    tokens = uncounted = 0
    for message in messages:
        if not isinstance(message, dict):
            continue
        tokens += TOKENS_PER_MESSAGE + TOKENS_PER_ROLE
        content = message.get("content")
        if isinstance(content, str):
            tokens += counter.count(content)
        elif content is not None:
            parts = _count_parts(content, counter)
            tokens += parts.tokens
            uncounted += parts.uncounted_parts
        if len(message) <= len(("role", "content")):
            continue
        name = message.get("name")
        if name:
            tokens += counter.count(name) + TOKENS_PER_NAME
        calls = message.get("tool_calls")
        if calls:
            tokens += counter.count(orjson.dumps(calls).decode())
    return PromptCount(tokens, uncounted)


def count_bodies(bodies: Iterable[bytes], counter: Counter) -> list[PromptCount]:
    """`count_body` of each."""
    return [count_body(body, counter) for body in bodies]


def count_body(body: bytes, counter: Counter) -> PromptCount:
    """Input tokens of a whole request body, whichever its protocol: texts and messages as such, tools as JSON.

    Raises ValueError where the body is no JSON object.
    """
    fields = orjson.loads(body)
    if not isinstance(fields, dict):
        raise ValueError("a request body is a JSON object")
    tokens, uncounted = TOKENS_PRIMING_THE_REPLY, 0
    for key, value in fields.items():
        if not value or key not in _COUNTED_KEYS:
            continue
        if key in _STORED_KEYS or (key == "prompt" and isinstance(value, dict)):
            uncounted += 1
        elif isinstance(value, str):
            tokens += counter.count(value)
        elif key in _JSON_KEYS:
            tokens += counter.count(orjson.dumps(value).decode())
        elif isinstance(value, list):
            counted = count_messages(value, counter) if key in _MESSAGE_KEYS else _count_parts(value, counter)
            tokens, uncounted = tokens + counted.tokens, uncounted + counted.uncounted_parts
    return PromptCount(tokens, uncounted)


def _count_parts(parts: Sequence[Any], counter: Counter) -> PromptCount:
    tokens = uncounted = 0
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            tokens += counter.count(text)
        else:
            uncounted += 1
    return PromptCount(tokens, uncounted)


@cache
def _vocabulary(name: str) -> Callable[[str], int] | None:
    """The vocabulary's count call; None where bpe-openai is not installed (it has no wheel for every platform)."""
    bindings = _bindings()
    if bindings is None:
        return None
    count: Callable[[str], int] = bindings.tokenizer_for_encoding(name).count

    def count_any(text: str) -> int:
        try:
            return count(text)
        except UnicodeEncodeError:  # a lone surrogate; such a text is sent with its replacement
            return count(text.encode("utf-8", "replace").decode())

    return count_any


def _bindings() -> ModuleType | None:
    """The compiled module of bpe-openai without its package, which takes 1.2 s to make more tables in Python."""
    package = find_spec("bpe_openai")
    if package is None:
        return None
    spec = PathFinder.find_spec("bpe_openai._bindings", package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise ImportError("bpe_openai has no _bindings; crun-batch knows its versions 0.1.4 and up, below 0.2")
    bindings = module_from_spec(spec)
    spec.loader.exec_module(bindings)
    return bindings
