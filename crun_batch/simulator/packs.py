"""Requests that hold several questions, answered one by one, and what goes wrong with that.

Such a request says `Below are 3 items, numbered [1] to [3].` at the end of its system prompt, and its last message
is `[1] ...`, `[2] ...`, `[3] ...` with an empty line between. Each item is answered as it is alone (without the
sentence), and the answers come as a line each, where the prompt says so, or as the JSON array of its schema.
Settings `pack_faults`, drawn by seed, request and item:

    wrong      of the items: another answer than it gets alone
    missing    of the items: no answer
    doubled    of the items: two answers
    renumbered of the items: under a number that no item has
    empty      of the items: its number, and nothing beside it
    broken     of the replies: half of it, as if it were whole
    cut        of the replies: half of it, and the finish reason says so
    fenced     of the replies: in a code fence, with a sentence before it
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson
from msgspec import Struct, structs

from crun_batch.simulator.answers import Draws, alone, answer, input_tokens, wrong
from crun_batch.simulator.asks import Ask, ModelAnswer, ModelUsage
from crun_batch.simulator.settings import Settings
from crun_batch.simulator.tokens import Tokenizer

PACK_FAULTS = frozenset({"wrong", "missing", "doubled", "renumbered", "empty", "broken", "cut", "fenced"})
_MANY = "items, numbered [1] to ["
_SENTENCE = re.compile(r"(?:\A|\n\n?)Below are (\d{1,4}) items, numbered \[1\] to \[\1\]\.[^\n]*\Z")
_BY_LINES = "one line for each"


def without_sentence(system: str) -> str:
    """A system prompt without what says that several questions follow: what requests of all sizes begin with."""
    return _SENTENCE.sub("", system)


class Packed(Struct, frozen=True):
    """What a request of several questions asks."""

    asks: tuple[Ask, ...]
    """Each question as it is alone."""
    by_lines: bool


def answer_any(
    ask: Ask, settings: Settings, tokenizer: Tokenizer, cached_tokens: int = 0, cache_write_tokens: int = 0
) -> ModelAnswer:
    """The answer to a question, or to several in one request."""
    packed = _packed(ask) if any(_MANY in text for role, text in ask.messages if role == "system") else None
    if packed is None:
        return answer(ask, settings, tokenizer, cached_tokens, cache_write_tokens)
    whole = Draws("\x1f".join((str(settings.seed), ask.model, *(text for _, text in ask.messages))))
    text = _reply(packed, settings, whole.id)
    length, finish = tokenizer.count(text), "stop"
    limit = min(ask.max_output_tokens or length, settings.models[ask.model].max_output_tokens)
    if _hits(settings, "cut", whole.id):
        limit = min(limit, max(1, length // 2))
    if length > limit:
        text, length, finish = tokenizer.cut(text, limit), limit, "length"
    usage = ModelUsage(input_tokens(ask, tokenizer), length, cached_tokens, cache_write_tokens)
    return ModelAnswer(whole.id, text, finish, usage, ask.tool.name if ask.tool else None)  # type: ignore[arg-type]


def _packed(ask: Ask) -> Packed | None:
    """None where it is no such request after all."""
    for place, (role, text) in enumerate(ask.messages):
        found = _SENTENCE.search(text) if role == "system" else None
        if found is None:
            continue
        items = _items(ask.messages[-1][1], int(found[1]))
        if items is None:
            return None
        before = text[: found.start()]
        head = [*ask.messages[:place], *([(role, before)] if before else []), *ask.messages[place + 1 : -1]]
        own = _own_schema(ask)
        tool = None if ask.tool is None or own is None else structs.replace(ask.tool, schema=own)
        asks = tuple(
            structs.replace(
                ask,
                messages=(*head, (ask.messages[-1][0], item)),
                schema=None if tool is not None else own,
                tool=tool,
                definitions="" if own is None else orjson.dumps(own).decode(),
            )
            for item in items
        )
        return Packed(asks, _BY_LINES in found[0])
    return None


def _items(text: str, count: int) -> list[str] | None:
    """The items in their order; None where one is not there."""
    starts, position = [], 0
    for number in range(1, count + 1):
        mark = f"[{number}] "
        found = 0 if number == 1 and text.startswith(mark) else text.find(f"\n\n{mark}", position)
        if found < 0:
            return None
        begins = found + len(mark) + (2 if number > 1 else 0)
        starts.append((found, begins))
        position = begins
    ends = [found for found, _ in starts[1:]] + [len(text)]
    return [text[begins:end] for (_, begins), end in zip(starts, ends, strict=True)]


def _own_schema(ask: Ask) -> dict[str, Any] | None:
    """The schema of one answer, where it is more than a text."""
    schema: Any = ask.tool.schema if ask.tool else ask.schema
    for key in ("properties", "answers", "items", "properties", "answer"):
        schema = schema.get(key) if isinstance(schema, dict) else None
    return schema if isinstance(schema, dict) and schema != {"type": "string"} else None


def _reply(packed: Packed, settings: Settings, pack: str) -> str:
    said: list[tuple[int, str]] = []
    for number, ask in enumerate(packed.asks, 1):
        own = f"{pack} {number}"
        text = alone(ask, settings)
        if _hits(settings, "wrong", own):
            text = wrong(ask, settings, text)
        if _hits(settings, "missing", own):
            continue
        if _hits(settings, "empty", own):
            text = ""
        named = len(packed.asks) + number if _hits(settings, "renumbered", own) else number
        said += [(named, text)] * (2 if _hits(settings, "doubled", own) else 1)
    reply = _lines(said) if packed.by_lines else _array(said, packed.asks)
    if _hits(settings, "broken", pack):
        reply = reply[: len(reply) // 2]
    return f"Here are the answers:\n\n```\n{reply}\n```" if _hits(settings, "fenced", pack) else reply


def _lines(said: Sequence[tuple[int, str]]) -> str:
    return "\n".join(f"{number} {' '.join(text.split())}" for number, text in said)


def _array(said: Sequence[tuple[int, str]], asks: Sequence[Ask]) -> str:
    is_text = asks[0].schema is None and asks[0].tool is None
    answers = [
        {"n": number, "answer": text if is_text or not text else orjson.Fragment(text)} for number, text in said
    ]
    return orjson.dumps({"answers": answers}).decode()


def _hits(settings: Settings, kind: str, of: str) -> bool:
    rate = settings.pack_faults.get(kind, 0.0)
    return rate > 0 and Draws(f"{settings.seed}\x1f{kind}\x1f{of}").share() < rate
