"""Answers that must obey a JSON Schema: found in the reply's text, validated, complained of in words.

The rule for finding the JSON value of an answer, in this order:

1. the whole text, without the white space around it;
2. else the last value among these that is valid, or, where none is, the last one that is JSON at all: the
   content of each code fence, and each object or array that begins in the text outside of another one;
3. a comma before a closing bracket is forgiven, and nothing else: no comments, no single quotes, no NaN.

Pure: no network, no clock. Owns that rule and the words of complaints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
from msgspec import Struct

MOST_CANDIDATES = 64
"""Places of a text that are tried as the beginning of its JSON value: a hostile text must not take long."""
COMPLAINTS_SHOWN = 5
_COMPLAINT_CHARACTERS = 300

_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)```", re.DOTALL)
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*+(?:"|\\?\Z))|,(?=\s*[}\]])', re.DOTALL)
"""A string, even one that never ends, is passed over whole: so the time is linear."""
_OPENING = re.compile(r"[{\[]")
_NO_VALUE = object()


class Checked(Struct, frozen=True):
    """What was made of an answer: JSON text for the column `output`, or what is wrong with the answer."""

    output: str | None = None
    complaint: str | None = None


class AnswerCheck:
    """Checks answers against one schema. `shape` readies a valid value for its column, or raises ValueError."""

    def __init__(self, schema: Mapping[str, Any], shape: Callable[[Any], Any] | None) -> None:
        import jsonschema_rs  # 3 MB, for the jobs that have a schema

        self._validator = jsonschema_rs.validator_for(dict(schema), validate_formats=True, retriever=_refuse)
        self._shape = shape

    def __call__(self, text: str | None) -> Checked:
        """The answer in `text`, or the complaint."""
        value = self._value(text or "")
        if value is _NO_VALUE:
            return Checked(complaint="it holds no JSON value" if text and text.strip() else "it is empty")
        if not self._validator.is_valid(value):
            return Checked(complaint=self._words(value))
        try:
            return Checked(orjson.dumps(value if self._shape is None else self._shape(value)).decode())
        except (ValueError, TypeError, OverflowError) as error:
            return Checked(complaint=str(error)[:_COMPLAINT_CHARACTERS])

    def _value(self, text: str) -> Any:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
        found: Any = _NO_VALUE
        valid: Any = _NO_VALUE
        for value in _candidates(text):
            found = value
            valid = value if self._validator.is_valid(value) else valid
        return found if valid is _NO_VALUE else valid

    def _words(self, value: Any) -> str:
        found: list[str] = []
        for error in self._validator.iter_errors(value):
            if len(found) == COMPLAINTS_SHOWN:
                found.append("and more")
                break
            place = ".".join(map(str, error.instance_path))
            message = error.message[:_COMPLAINT_CHARACTERS]
            found.append(f"{place}: {message}" if place else message)
        return "; ".join(found)


def repair_request(complaint: str) -> str:
    """The message that sends an invalid answer back."""
    return (
        f"This answer is not valid: {complaint}.\n"
        "Answer again with one JSON value that is valid against the JSON Schema, and nothing else."
    )


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} is not fetched")


def _candidates(text: str) -> Iterator[Any]:
    """JSON values in the text, in order."""
    whole = _parsed(text.strip())
    if whole is not _NO_VALUE:
        yield whole
        return
    fenced = [value for match in _FENCE.finditer(text) if (value := _parsed(match[1])) is not _NO_VALUE]
    without_commas = _TRAILING_COMMA.sub(lambda match: match[1] or "", text)
    yield from fenced or embedded_values(without_commas, _OPENING, MOST_CANDIDATES)


def _parsed(text: str) -> Any:
    for form in (text, _TRAILING_COMMA.sub(lambda match: match[1] or "", text)):
        try:
            return orjson.loads(form)
        except orjson.JSONDecodeError:
            continue
    return _NO_VALUE


def embedded_values(text: str, opening: re.Pattern[str], most: int) -> Iterator[Any]:
    """The JSON values in a text, none within another, from at most so many places where one may begin."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    position = 0
    for _ in range(most):
        found = opening.search(text, position)
        if found is None:
            return
        try:
            value, position = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            position = found.end()
        else:
            yield value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
