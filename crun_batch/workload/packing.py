"""Several rows in one request: what stands around them, and what the answers look like that come back.

Owns the two forms: `json` (an array of exactly so many answers, by a schema) and `lines` (a terse line for each
row). Items are named by short numbers, which cost a token, and not by the rows' ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

PackFormat = Literal["json", "lines"]
FORMATS: tuple[PackFormat, ...] = ("json", "lines")
ANY_TEXT: Mapping[str, Any] = {"type": "string"}
DEFINITIONS = ("$defs", "definitions")
"""What references within an answer's schema start from: the root, which is then another one."""
_MANY = "Below are {rows} items, numbered [1] to [{rows}]. Treat each as if it were the only one. "
_HOW: Mapping[PackFormat, str] = {
    "json": "Give the answer to each beside its number n.",
    "lines": "Answer with one line for each: its number, a space, the answer.",
}


def instruction(rows: int, form: PackFormat) -> str:
    """What follows the system prompt."""
    return _MANY.format(rows=rows) + _HOW[form]


def packed_text(texts: Sequence[str]) -> str:
    """The user's message that holds these rows' texts."""
    return "\n\n".join(f"[{number}] {text}" for number, text in enumerate(texts, 1))


def packed_schema(rows: int, of_each: Mapping[str, Any] = ANY_TEXT) -> dict[str, Any]:
    """The JSON Schema of the answers to so many rows; `of_each`: that of one answer."""
    answer: dict[str, Any] = {"type": "object"}
    answer |= {"properties": {"n": {"type": "integer"}, "answer": dict(of_each)}}
    answer |= {"required": ["n", "answer"], "additionalProperties": False}
    answers = {"type": "array", "items": answer, "minItems": rows, "maxItems": rows}
    schema: dict[str, Any] = {"type": "object", "properties": {"answers": answers}, "required": ["answers"]}
    schema = {**schema, "additionalProperties": False}
    return schema | {name: of_each[name] for name in DEFINITIONS if name in of_each}


def packed_reply(answers: Sequence[Any], form: PackFormat) -> str:
    """The reply that holds these answers, as a model writes it: texts, or values of a schema of their own."""
    if form == "lines":
        return "\n".join(f"{number} {answer}" for number, answer in enumerate(answers, 1))
    listed = [{"n": number, "answer": answer} for number, answer in enumerate(answers, 1)]
    return json.dumps({"answers": listed}, ensure_ascii=False, separators=(",", ":"))


def shortest_reply(rows: int, form: PackFormat, *, is_typed: bool) -> str:
    """What answers so many rows with a token each; `is_typed`: a schema of its own says what an answer is."""
    return packed_reply([0 if is_typed else "x"] * rows, form)
