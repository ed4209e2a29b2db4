"""What pydantic found wrong, in our words: each with its key, what was found and what is allowed.

pydantic's own errors hold the whole input, so nothing of them is printed but a type, a limit, and, where it
cannot be a secret, the one value in question, shortened.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from typing_extensions import is_typeddict

from crun_batch.errors import Mistake
from crun_batch.load.job.foreign_names import our_key
from crun_batch.load.job.places import Document, KeyPath, dotted
from crun_batch.load.job.rules import KEY_ADVICE, is_misplaced_key, is_secret

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
TEXT_OF_A_PROMPT = "; a text is its user's part: prompt: {user: ...}"
_WITHOUT_FOUND = ("missing", "string_too_short", "too_short")
_SHOWN_CHARACTERS = 40
SLIP = 0.72
"""How alike a key of the same section must be (difflib's ratio) to be what was meant."""
SURE_SLIP = 0.85
"""How alike one of another section must be."""
_AXES = ("model", "repair_attempts", "endpoint.base_url", "endpoint.protocol", "endpoint.stream")
"""Keys of one value that may differ between variants."""


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
            message += _axis_advice(path, found["input"])
            message += TEXT_OF_A_PROMPT if path[-1:] == ("prompt",) and isinstance(found["input"], str) else ""
        mistakes.append(document.mistake(path, message))
    return mistakes


def _axis_advice(path: KeyPath, value: Any) -> str:
    """What to write where several values stand for one that may differ between variants."""
    key = dotted(path)
    is_several = isinstance(value, list | tuple) and bool(value)
    return f"; several values are an axis: sweep: {{{key}: [...]}}" if is_several and key in _AXES else ""


def _may_hide_a_key(text: str) -> bool:
    """An address may carry one: as user or password before its host, in its query, behind a colon."""
    _, scheme, rest = text.partition("://")
    return "@" in text or bool(scheme and re.search("[?#:[]", rest))


def _shown(value: Any, path: KeyPath) -> str:
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if is_secret(path) or (isinstance(value, str) and _may_hide_a_key(value)):
        return f"a {'text' if isinstance(value, str) else 'value'} that is not shown here"
    if isinstance(value, bool):
        return str(value).lower()
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _unknown_key(path: KeyPath, job: type[BaseModel]) -> str:
    """A slip of a key beside it, what other tools call otherwise, a key that stands elsewhere, or all keys."""
    if is_misplaced_key(path):
        return KEY_ADVICE
    name = str(path[-1])
    allowed = _fields(_section_at(path[:-1], job))
    one_edit = [key for key in allowed if _is_one_edit(name, key)]
    longer = [key for key in allowed if key.startswith(f"{name}_")]
    near = one_edit or difflib.get_close_matches(name, allowed, n=1, cutoff=SLIP)
    if not near and len(longer) == 1:
        near = longer
    if near:
        return f"unknown key; did you mean {near[0]}?"
    ours = our_key(name)
    if ours is not None and ours != dotted(path):
        return f"unknown key; it is {ours} here"
    known = [key for key in known_keys(job) if "*" not in key and key[:1] != ("score",)]
    known.sort(key=len)
    elsewhere = [dotted(key) for key in known if key[-1] == name] or _alike(name, known)
    if elsewhere == [name]:
        return f"unknown key here; {name} stands at the top of the job; allowed: {', '.join(allowed)}"
    if elsewhere:
        return f"unknown key; did you mean {elsewhere[0]}?"
    return f"unknown key; allowed: {', '.join(allowed)}"


def _is_one_edit(name: str, key: str) -> bool:
    """Whether one letter more, less or other makes the key of the name."""
    short, long = sorted((name, key), key=len)
    alike = [one == other for one, other in zip(short, long, strict=False)]
    start = alike.index(False) if False in alike else len(short)
    rest = short[start:] if len(short) < len(long) else short[start + 1 :]
    return len(long) - len(short) <= 1 and rest == long[start + 1 :]


def _alike(name: str, known: Sequence[KeyPath]) -> list[str]:
    near = difflib.get_close_matches(name, [str(key[-1]) for key in known], n=1, cutoff=SURE_SLIP)
    return [dotted(key) for key in known if key[-1] in near]


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
