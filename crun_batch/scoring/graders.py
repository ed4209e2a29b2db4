"""Graders: a reply and its row to a score from 0 to 1.

Owns what each grader means. A grader is compiled once per run and then called for every reply; it sends nothing
and reads no files: templates are rendered by a function that is passed in, the function of a `python` grader is
passed in too, and a `judge` is asked elsewhere (its messages and its verdict: `judge_prompt`).

None is no score: this row has no expected value. It is never the same as 0. An answer that is missing (null,
empty, blank) is not right: 0 by every grader, and no function or judge is asked about it.
"""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Protocol

import orjson

from crun_batch.records import is_missing
from crun_batch.scoring.extract import ABSENT, NUMBERS, field_of, json_value, last_number

Render = Callable[[str, Mapping[str, Any]], str | None]
"""A template and a row's values to text; None where the row has no such value (null). What it raises passes."""
Grade = Callable[[Mapping[str, Any], str | None, Any], float | None]
"""The row's values, the reply's text, and its `output` where there is an output_schema, to a score."""

WHITESPACE: Mapping[str, Callable[[str], str]] = {
    "keep": lambda text: text,
    "trim": str.strip,
    "collapse": lambda text: " ".join(text.split()),
}
ARGUMENTS = ("text", "row", "output", "expected")
"""What the function of a `python` grader may take, by these names."""


class GradingFailed(Exception):
    """A reply could not be graded: the function of a `python` grader raised or gave no score. Names the grader."""


class Spec(Protocol):
    """What a grader needs of its part of the job."""

    @property
    def name(self) -> str: ...
    @property
    def grader(self) -> str: ...
    @property
    def expected(self) -> Any: ...
    @property
    def tolerance(self) -> float | None: ...
    @property
    def relative_tolerance(self) -> float | None: ...
    @property
    def pattern(self) -> str | None: ...
    @property
    def field(self) -> str | None: ...
    @property
    def ignore_case(self) -> bool: ...
    @property
    def whitespace(self) -> str: ...


def grade(
    spec: Spec,
    values: Mapping[str, Any],
    text: str | None,
    output: Any,
    *,
    render: Render,
    function: Callable[..., Any] | None = None,
) -> float | None:
    """One reply's score, 0 to 1, or None. For many replies, compile the grader once."""
    return compile_grader(spec, render=render, function=function)(values, text, output)


def compile_grader(spec: Spec, *, render: Render, function: Callable[..., Any] | None = None) -> Grade:
    """The grader as a function of a reply. `function` is that of a `python` grader.

    Raises ValueError for a judge, which needs a request of its own, and for a function whose parameters are not
    among `ARGUMENTS`.
    """
    expected = what_is_right(spec.expected, render)
    if function is not None:
        return _python(spec.name, function, expected)
    if spec.grader not in _GRADERS:
        raise ValueError(f"score {spec.name}: the grader {spec.grader} is not computed from a reply alone")
    taken = _taken(spec)
    compare = _GRADERS[spec.grader](spec)

    def grade_reply(values: Mapping[str, Any], text: str | None, output: Any) -> float | None:
        right = expected(values)
        if right is None:
            return None
        if text is None or is_missing(text):
            return 0.0
        found = taken(text, output)
        return 1.0 if found is not ABSENT and compare(found, right) else 0.0

    return grade_reply


# --- what is right -----------------------------------------------------------------------------------------------


def is_template(text: str) -> bool:
    """Whether a text has tags; without them it is its own rendering."""
    return "{{" in text or "{%" in text or "{#" in text


def what_is_right(expected: Any, render: Render) -> Callable[[Mapping[str, Any]], Any]:
    """From a row to what is right there: the rendered text, a constant, a list of them; None: nothing is known.

    Without `expected` it is "", which graders that need none ignore.
    """
    if expected is None:
        return lambda values: ""
    if isinstance(expected, str) and is_template(expected):
        return partial(render, expected)
    if isinstance(expected, list | tuple):
        parts = [what_is_right(part, render) for part in expected]
        return lambda values: _without_unknown([part(values) for part in parts])
    return lambda values: expected


def _without_unknown(parts: Sequence[Any]) -> list[Any] | None:
    known = [part for part in parts if part is not None]
    return known or None


def as_text(value: Any) -> str:
    """A constant of the job file or a field of a reply as it is compared: texts as they are, all else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _several(right: Any) -> Sequence[Any]:
    """Accepted answers: a list, or a text that is a JSON list (`{{ aliases | tojson }}`), or the one."""
    if isinstance(right, str) and right.lstrip().startswith("["):
        listed = json_value(right)
        return listed if isinstance(listed, list) else [right]
    return right if isinstance(right, list) else [right]


# --- what is graded ----------------------------------------------------------------------------------------------


def _taken(spec: Spec) -> Callable[[str, Any], Any]:
    """From a reply to the part of it that is graded: a field, the last match of the pattern, or the whole text."""
    pattern = None if spec.pattern is None or spec.grader == "regex" else re.compile(spec.pattern)
    path = None if spec.field is None else tuple(spec.field.split("."))
    whole_json = spec.grader == "json" and path is None

    def taken(text: str, output: Any) -> Any:
        found: Any = text
        if path is not None or whole_json:
            document = json_value(text) if output is None else output
            found = field_of(document, path or ())
            if found is ABSENT or spec.grader == "json":
                return found
            found = as_text(found)
        return found if pattern is None else _last_match(pattern, found)

    return taken


def _last_match(pattern: re.Pattern[str], text: str) -> Any:
    """Group 1 of the last match, or the whole match without groups; ABSENT without a match."""
    matches = deque(pattern.finditer(text), maxlen=1)
    if not matches:
        return ABSENT
    found = matches[0]
    part = found[1] if pattern.groups else found[0]
    return ABSENT if part is None else part


# --- how it is compared ------------------------------------------------------------------------------------------

Compare = Callable[[Any, Any], bool]


def _plain(spec: Spec) -> Callable[[Any], str]:
    """A value as the text that is compared, by the options of case and whitespace."""
    spaces = WHITESPACE[spec.whitespace]
    if spec.ignore_case:
        return lambda value: spaces(as_text(value)).casefold()
    return lambda value: spaces(as_text(value))


def _exact(spec: Spec) -> Compare:
    plain = _plain(spec)
    return lambda found, right: plain(found) == plain(right)


def _one_of(spec: Spec) -> Compare:
    plain = _plain(spec)
    return lambda found, right: plain(found) in map(plain, _several(right))


def _contains(spec: Spec) -> Compare:
    plain = _plain(spec)
    return lambda found, right: all(plain(part) in plain(found) for part in _several(right))


def _regex(spec: Spec) -> Compare:
    pattern = re.compile(spec.pattern or "", re.IGNORECASE if spec.ignore_case else 0)
    return lambda found, right: pattern.search(found) is not None


def _number(spec: Spec) -> Compare:
    near = _near(spec)

    def compare(found: Any, right: Any) -> bool:
        number, wanted = last_number(found), last_number(as_text(right))
        return number is not None and wanted is not None and near(number, wanted)

    return compare


def _near(spec: Spec) -> Callable[[Decimal, Decimal], bool]:
    """Whether two numbers differ by at most the tolerance, in decimal: 18.01 is within 0.01 of 18."""
    absolute, relative = Decimal(repr(spec.tolerance or 0.0)), Decimal(repr(spec.relative_tolerance or 0.0))

    def near(number: Decimal, wanted: Decimal) -> bool:
        allowed = NUMBERS.max(absolute, NUMBERS.multiply(relative, NUMBERS.abs(wanted)))
        difference = NUMBERS.abs(NUMBERS.subtract(number, wanted))
        return bool(NUMBERS.compare(difference, allowed) <= 0)

    return near


def _json(spec: Spec) -> Compare:
    """Values of JSON: numbers by value and tolerance, texts by the options, lists and objects as a whole."""
    plain, near = _plain(spec), _near(spec)

    def compare(found: Any, right: Any) -> bool:
        if isinstance(found, str):
            return plain(found) == plain(right)
        wanted = json_value(right) if isinstance(right, str) else right
        if _is_number(found) and _is_number(wanted):
            return near(Decimal(repr(found)), Decimal(repr(wanted)))
        return type(found) is type(wanted) and bool(found == wanted)

    return compare


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_GRADERS: Mapping[str, Callable[[Spec], Compare]] = {
    "exact": _exact,
    "one_of": _one_of,
    "contains": _contains,
    "regex": _regex,
    "number": _number,
    "json": _json,
}


# --- a function of the user's ------------------------------------------------------------------------------------


def _python(name: str, function: Callable[..., Any], expected: Callable[[Mapping[str, Any]], Any]) -> Grade:
    """The function, called with those of `ARGUMENTS` that it takes by name."""
    names = accepted_arguments(function)

    def grade_reply(values: Mapping[str, Any], text: str | None, output: Any) -> float | None:
        right = expected(values)
        if right is None:
            return None
        if is_missing(text):
            return 0.0
        given = {"text": text, "row": values, "output": output, "expected": right}
        try:
            found = function(**{key: given[key] for key in names})
        except Exception as error:
            raise GradingFailed(f"score {name}: {type(error).__name__}: {error}") from error
        return _checked(name, found)

    return grade_reply


def accepted_arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    """Those of `ARGUMENTS` that the function takes. Raises ValueError where it needs anything else."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return ARGUMENTS
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    wrong = [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind is not one.VAR_POSITIONAL and one not in named
    ]
    wrong += [one.name for one in named if one.default is one.empty and one.name not in ARGUMENTS]
    names = tuple(one.name for one in named if one.name in ARGUMENTS)
    if wrong or not names:
        asks = f"asks for {wrong[0]}" if wrong else "takes none of them"
        raise ValueError(f"a grader's function takes any of {', '.join(ARGUMENTS)} by name; this one {asks}")
    return names


def _checked(name: str, found: Any) -> float | None:
    if found is None:
        return None
    score = float(found) if isinstance(found, bool | int | float) else None
    if score is None or not 0 <= score <= 1:
        raise GradingFailed(f"score {name}: the function gave {found!r:.80}, not a number from 0 to 1")
    return score
