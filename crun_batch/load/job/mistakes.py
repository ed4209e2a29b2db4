"""What pydantic found wrong, in our words: each with its key, what was found and what is allowed.

pydantic's own errors hold the whole input, so nothing of them is printed but a type, a limit, and, where it
cannot be a secret, the one value in question, shortened.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from typing_extensions import is_typeddict

from crun_batch.errors import Mistake
from crun_batch.load.job.places import Document, KeyPath, dotted
from crun_batch.load.job.rules import is_misplaced_key, is_secret, key_advice

WORDS: Mapping[str, str] = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "decimal_type": "must be an amount such as 0.01",
    "decimal_parsing": "must be an amount such as 0.01",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be a name of letters, digits, '_' (and for names '-' and '.')",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "literal_error": "must be {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "decimal_max_places": "must have at most {decimal_places} decimal places",
    "missing": "is missing",
    "value_error": "{error}",
}
_WITHOUT_FOUND = ("missing", "string_too_short", "too_short")
_SHOWN_CHARACTERS = 40


def mistakes_of(error: ValidationError, document: Document, job: type[BaseModel]) -> list[Mistake]:
    """Each of pydantic's errors as a mistake with its place."""
    mistakes = []
    for found in error.errors(include_url=False):
        path: KeyPath = tuple(found["loc"])
        if found["type"] == "extra_forbidden":
            message = _unknown_key(path, job)
        else:
            words = WORDS.get(found["type"], "is not allowed here")
            message = words.format_map(found.get("ctx", {}))
            if found["type"] not in _WITHOUT_FOUND:
                message += f"; found {_shown(found['input'], path)}"
        mistakes.append(document.mistake(path, message))
    return mistakes


def _shown(value: Any, path: KeyPath) -> str:
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if is_secret(path) or (isinstance(value, str) and "@" in value):
        return f"a {'text' if isinstance(value, str) else 'value'} that is not shown here"
    if isinstance(value, bool):
        return str(value).lower()
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _unknown_key(path: KeyPath, job: type[BaseModel]) -> str:
    if is_misplaced_key(path):
        return key_advice()
    name = str(path[-1])
    allowed = _fields(_section_at(path[:-1], job))
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    elsewhere = [dotted(known) for known in known_keys(job) if known[-1] == name]
    if not near and elsewhere:
        return f"unknown key; did you mean {elsewhere[0]}?"
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; allowed: {', '.join(allowed)}"


def known_keys(section: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key of a section and of the sections in it; `*` stands for a name that users choose."""
    for name, annotation in _fields(section).items():
        yield (*path, name)
        inner, names = _inner(annotation)
        if inner is not None:
            yield from known_keys(inner, (*path, name, *["*"] * names))


def _fields(section: Any) -> dict[str, Any]:
    if isinstance(section, type) and issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items()}
    return dict(section.__annotations__)


def _inner(annotation: Any) -> tuple[Any, int]:
    """The section within an annotation, and how many names or positions of users' own stand before it."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_typeddict(annotation)):
        return annotation, 0
    own = 1 if get_origin(annotation) in (dict, list, tuple) else 0
    for argument in get_args(annotation):
        inner, names = _inner(argument)
        if inner is not None:
            return inner, names + own
    return None, 0


def _section_at(path: KeyPath, job: type[BaseModel]) -> Any:
    section: Any = job
    parts = iter(path)
    for part in parts:
        section, names = _inner(_fields(section)[str(part)])
        for _ in range(names):
            next(parts)
    return section
