"""How many tokens a prompt has, by whoever counts those of its texts; a stated approximation.

Owns: which model reads with which vocabulary, what of a request is counted, what a chat message adds to its text.
Must not know: prices, files, gateways, and where a vocabulary is (`crun_batch.vocabulary`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
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
    """Counts the tokens of texts; `exact` says whether the model reads them just so, `name` with what."""

    count_all: Callable[[Sequence[str]], list[int]]
    """The tokens of each. To ask for many at once costs less: the counting may be another process's."""
    exact: bool
    name: str

    def count(self, text: str) -> int:
        """The tokens of one text."""
        return self.count_all([text])[0]


class PromptCount(Struct, frozen=True):
    """The input tokens of one request, without its `uncounted_parts`: images, files and stored inputs."""

    tokens: int
    uncounted_parts: int = 0


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


APPROXIMATE = Counter(
    lambda texts: [approximate_tokens(text) for text in texts],
    exact=False,
    name=f"UTF-8 bytes / {BYTES_PER_TOKEN}",
)


def remembering(counter: Counter) -> Counter:
    """The counter, counting what many prompts share (a system prompt) once."""
    return Counter(_Remembering(counter.count_all).count_all, counter.exact, counter.name)


class _Remembering:
    """Remembers the texts that were counted last, and no more: the next prompts share theirs with these."""

    def __init__(self, count_all: Callable[[Sequence[str]], list[int]]) -> None:
        self._count_all = count_all
        self._known: dict[str, int] = {}

    def count_all(self, texts: Sequence[str]) -> list[int]:
        known = self._known
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known = known | dict(zip(new, self._count_all(new), strict=True))
            self._known = {text: known[text] for text in texts}
        return [known[text] for text in texts]


class _Pieces(Struct):
    """What of one request is counted: its texts, and tokens and parts that need no counter."""

    texts: list[str]
    tokens: int = TOKENS_PRIMING_THE_REPLY
    uncounted_parts: int = 0

    def add_messages(self, messages: Sequence[Any]) -> None:
        """OpenAI-style messages (content a text or a list of parts), each with its overhead."""
        for message in messages:
            if not isinstance(message, dict):
                continue
            self.tokens += TOKENS_PER_MESSAGE + TOKENS_PER_ROLE
            content = message.get("content")
            if isinstance(content, str):
                self.texts.append(content)
            elif content is not None:
                self.add_parts(content)
            if len(message) <= len(("role", "content")):
                continue
            name = message.get("name")
            if name and isinstance(name, str):
                self.texts.append(name)
                self.tokens += TOKENS_PER_NAME
            calls = message.get("tool_calls")
            if calls:
                self.add_json(calls)

    def add_parts(self, parts: Iterable[Any]) -> None:
        """Texts count; what is no text is not guessed at."""
        for part in parts:
            text = part.get("text") if isinstance(part, Mapping) else part
            if isinstance(text, str):
                self.texts.append(text)
            else:
                self.uncounted_parts += 1

    def add_json(self, value: Any) -> None:
        """A value that is read as JSON text."""
        self.texts.append(orjson.dumps(value).decode())


def count_body(body: bytes, counter: Counter) -> PromptCount:
    """Input tokens of a whole request body, whichever its protocol: texts and messages as such, tools as JSON.

    Raises ValueError where the body is no JSON object.
    """
    return count_bodies([body], counter)[0]


def count_bodies(bodies: Iterable[bytes], counter: Counter) -> list[PromptCount]:
    """`count_body` of each; the counter is asked once."""
    requests = [_pieces_of(body) for body in bodies]
    counts = iter(counter.count_all([text for one in requests for text in one.texts]))
    return [PromptCount(one.tokens + sum(islice(counts, len(one.texts))), one.uncounted_parts) for one in requests]


def _pieces_of(body: bytes) -> _Pieces:
    fields = orjson.loads(body)
    if not isinstance(fields, dict):
        raise ValueError("a request body is a JSON object")
    pieces = _Pieces([])
    for key, value in fields.items():
        if not value or key not in _COUNTED_KEYS:
            continue
        if key in _STORED_KEYS or (key == "prompt" and isinstance(value, dict)):
            pieces.uncounted_parts += 1
        elif isinstance(value, str):
            pieces.texts.append(value)
        elif key in _JSON_KEYS:
            pieces.add_json(value)
        elif isinstance(value, list):
            add = pieces.add_messages if key in _MESSAGE_KEYS else pieces.add_parts
            add(value)
    return pieces
