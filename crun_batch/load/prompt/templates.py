"""Prompt templates: MiniJinja over the columns of one row, with the traps taken out.

Owns the engines and their rules. A template takes one of four ways, chosen once, when it is compiled:

- `constant`: it has no tags, its text is its source.
- `fast`: it prints columns that cannot hide a null. A row with a null goes the careful way.
- `careful`: every printed value passes a check that refuses nulls and counts characters.
- `confined`: it could multiply its memory (`*`, `set`, macros ...), so it renders the careful way in a child
  process with a memory limit: fuel bounds the steps of a template, not its memory, and an allocation that
  fails inside the engine would take the whole process with it.

Must not know rows, ids or files: it takes values and gives text, or says why not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import orjson
from minijinja import Environment, TemplateError
from msgspec import Struct

from crun_batch.load.prompt.column_names import ROW, in_template

MAX_TEXT_CHARACTERS = 10_000_000
"""The longest text that one template may render."""
FUEL = 200_000
"""Engine steps per template and row: a turn of a loop takes 5 and more, so 20,000 turns or so."""

Way = Literal["constant", "fast", "careful", "confined"]
T = TypeVar("T")


class WholeRow(dict[str, Any]):
    """`row` in a template. Its values are those of columns: a null in it is told as that column's."""


class Unrenderable(Exception):
    """Why a text or a part of a prompt cannot be made for one row; `key` is the job key of its template."""

    def __init__(self, reason: str, key: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.key = key


class Template(Struct, frozen=True):
    """One compiled text of the prompt: its job key (`prompt.user`), its source, the columns that it names."""

    key: str
    source: str
    columns: tuple[str, ...]
    way: Way
    pieces: tuple[str, ...] = ()
    """Of a template that only prints columns: text, column, text, ..., text. Where all values are texts, they
    are put together without the engine."""
    row_columns: tuple[str, ...] = ()
    """The columns that it reads from `row`; they are among `columns`."""

    def context(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the engine is given of a row's values, in the form in which templates see them."""
        named = {name: values[name] for name in self.columns}
        if self.row_columns:
            named[ROW] = WholeRow({name: values[name] for name in self.row_columns})
        return named

    def joined(self, values: Mapping[str, Any]) -> str | None:
        """The text of such a template; None where the engine must make it."""
        pieces = list(self.pieces)
        for index in range(1, len(pieces), 2):
            value = values[pieces[index]]
            if type(value) is not str:
                return None
            pieces[index] = value
        return "".join(pieces) if pieces else None


def to_json(value: Any, indent: bool | int = False) -> str:
    """The `tojson` filter: plain JSON text, nothing escaped for HTML, other scripts kept as they are."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2 if indent else None)


def from_json(text: str) -> Any:
    """The `fromjson` filter: the value that a JSON text holds."""
    if not isinstance(text, str):
        raise Unrenderable(f"fromjson takes text, not {_kind(text)}")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Unrenderable(f"fromjson takes JSON, and the text is none: {error.msg}") from None


def join(values: Any, separator: str = "") -> str:
    """The `join` filter, which refuses a null inside and measures its result before it makes it."""
    if not isinstance(values, Sequence):
        raise Unrenderable(f"join takes a list, not {_kind(values)}")
    if any(holds_null(value) for value in values):
        raise Unrenderable("join would print a null as 'None'")
    texts = [value if isinstance(value, str) else str(value) for value in values]
    _refuse_above(sum(map(len, texts)) + len(separator) * max(0, len(texts) - 1))
    return separator.join(texts)


def replace(text: str, old: str, new: str) -> str:
    """The `replace` filter, which measures its result before it makes it."""
    for value in (text, old, new):
        if not isinstance(value, str):
            raise Unrenderable(f"replace takes texts, not {_kind(value)}")
    _refuse_above(len(text) + text.count(old) * (len(new) - len(old)))
    return text.replace(old, new)


FILTERS: dict[str, Callable[..., Any]] = {
    "tojson": to_json,
    "fromjson": from_json,
    "join": join,
    "replace": replace,
}


def _kind(value: object) -> str:
    return "null or undefined" if value is None else type(value).__name__


def _refuse_above(characters: int) -> None:
    if characters > MAX_TEXT_CHARACTERS:
        raise Unrenderable(f"it renders more than {MAX_TEXT_CHARACTERS:,} characters")


def holds_null(value: Any) -> bool:
    """Whether a value is null or has a null somewhere inside."""
    if isinstance(value, Mapping):
        return any(holds_null(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(holds_null(item) for item in value)
    return value is None


def environment(finalizer: Callable[[Any], Any] | None = None) -> Environment:
    """An engine with our rules: undefined is an error, no escaping, texts kept to their last newline."""
    return Environment(
        filters=FILTERS,
        fuel=FUEL,
        debug=True,  # without it the engine's errors do not name what is undefined
        undefined_behavior="strict",
        auto_escape_callback=lambda name: False,
        keep_trailing_newline=True,
        finalizer=finalizer,
    )


_SLICE = re.compile(r"\[[^\]]*:")
"""What may be a slice."""
_READ_FROM = re.compile(r"`(?P<column>\w+)(?P<rest>[.\[][^`]*)` is undefined")
"""The engine's words where a value has no such key."""


class NullStandIn:
    """Stands for a null whose printed form can be told from any text: finds nulls printed by way of a filter."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"\ue000{self.column}\ue001"


def _with_stand_ins(value: Any, column: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_stand_ins(item, column) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_stand_ins(item, column) for item in value]
    return NullStandIn(column) if value is None else value


def _marked(name: str, value: Any, indexes: Mapping[str, int]) -> Any:
    if isinstance(value, WholeRow):
        return {column: _with_stand_ins(cell, str(indexes[column])) for column, cell in value.items()}
    return _with_stand_ins(value, str(indexes[name]))


def printed_null(columns: Sequence[str]) -> str:
    """The sentence about a null that would be printed, with its column, or the columns that it may be of."""
    names = ", ".join(f"'{name}'" for name in columns)
    name = in_template(columns[0])[3:-3] if columns else "x"
    where = {0: "a value", 1: f"column {names}"}.get(len(columns), f"one of the columns {names}")
    return (
        f"{where} is null here or holds a null, and the template prints it; give it a default, such as "
        f"{{{{ {name} or 'none given' }}}}, or test it with {{% if {name} is not none %}}"
    )


def shielded(render: Callable[[], T]) -> T:
    """What `render` returns; every way in which the engine can fail becomes an Unrenderable."""
    try:
        return render()
    except TemplateError as error:
        raise Unrenderable(template_reason(error)) from None
    except (ValueError, TypeError, RecursionError) as error:  # from our own filters: broken JSON, NaN, nesting
        raise Unrenderable(" ".join(str(error).split())[:300]) from None
    except BaseException as error:  # a panic of the engine is a BaseException without a public name
        if type(error).__name__ != "PanicException":
            raise
        raise Unrenderable("the template engine failed on it") from None


def template_reason(error: TemplateError) -> str:
    """One line of the engine's several: what is wrong, and the line of the template."""
    if error.kind == "OutOfFuel":
        return f"it takes more than {FUEL:,} steps; is there a loop over too much data?"
    reason = " ".join((error.detail or error.message or error.kind).split())[:300]
    return f"{reason} (line {error.line} of the template)" if error.line else reason


def reason_in(context: Mapping[str, Any], reason: str) -> str:
    """Why a template cannot be made; where it reads what a text holds as JSON, with how that is read."""
    match = _READ_FROM.match(reason)
    if match is None or not isinstance(context.get(match["column"]), str):
        return reason
    column, rest = match["column"], match["rest"]
    return f"{reason}: '{column}' is a text here; of JSON in it, write {{{{ ({column} | fromjson){rest} }}}}"


class CarefulEngine:
    """Renders with every printed value checked for nulls and counted. Not for several threads at once."""

    def __init__(self, templates: Sequence[Template]) -> None:
        self._printed = _Printed()
        self._engine = environment(self._printed)
        self._stand_in_engine = environment()
        self._stand_in_engine.add_test("none", lambda value: value is None or isinstance(value, NullStandIn))
        self._slicing = {template.key for template in templates if _SLICE.search(template.source)}
        for template in templates:
            self._engine.add_template(template.key, template.source)
            self._stand_in_engine.add_template(template.key, template.source)

    def render(self, key: str, values: Mapping[str, Any]) -> str:
        """The text of the template `key`; Unrenderable where it cannot be made."""
        self._printed.characters = 0
        nulls = [name for name, value in values.items() if not isinstance(value, WholeRow) and holds_null(value)]
        try:
            text = shielded(lambda: self._engine.render_template(key, **values))
        except _NullPrinted:
            raise Unrenderable(printed_null(nulls)) from None
        if nulls and ("none" in text.lower() or key in self._slicing):
            self._refuse_converted_nulls(key, values, nulls)
        return text

    def _refuse_converted_nulls(self, key: str, values: Mapping[str, Any], nulls: Sequence[str]) -> None:
        indexes = {name: index for index, name in enumerate(values)}
        marked = {name: _marked(name, value, indexes) for name, value in values.items()}
        try:
            text = shielded(lambda: self._stand_in_engine.render_template(key, **marked))
        except Unrenderable as error:
            if "cannot be sliced" in str(error):  # a slice of a null is an empty list to the engine, printed as []
                raise Unrenderable(printed_null(nulls)) from None
            return  # the stand-in does not fit this template; what is printed directly is checked already
        printed = [name for name in nulls if f"\ue000{indexes[name]}\ue001" in text]
        if printed:
            raise Unrenderable(printed_null(printed))


class _Printed:
    """Looks at each printed value. Knows no engine: one that held itself through this would never be freed."""

    def __init__(self) -> None:
        self.characters = 0

    def __call__(self, value: Any) -> Any:
        if holds_null(value):
            raise _NullPrinted
        self.characters += len(value) if isinstance(value, str) else len(str(value))
        _refuse_above(self.characters)
        return NotImplemented


class _NullPrinted(Exception):
    """A null reached the output."""
