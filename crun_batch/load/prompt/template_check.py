"""What is wrong with a template before any row is read, and which way it is to be rendered.

Owns the reading of template source: the engine tells syntax errors and undeclared names; unknown filters and
tests, which it would tell only when a row gets there, are looked up here. Reads no files and renders no rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from minijinja import Environment, TemplateError

from crun_batch.errors import Mistake
from crun_batch.load.prompt.column_names import ROW, STRING, columns_of_row, did_you_mean, misread_columns, tags
from crun_batch.load.prompt.templates import Template, Unrenderable, Way, environment

_FILTER = re.compile(r"\|\s*([A-Za-z_]\w*)")
_TEST = re.compile(r"\bis\s+(?:not\s+)?([A-Za-z_]\w*)")
_OTHER_FILE = re.compile(r"^\{%[-+]?\s*(include|import|from|extends)\b")
_MULTIPLIES = re.compile(
    r"(?<!\*)\*(?!\*)|\b(?:set|with|macro|call|filter|namespace|format|indent|batch|slice)\b"
    r"|\.\s*(?:join|replace|center|ljust|rjust|zfill|expandtabs)\b"
)
_ALIAS = re.compile(r"^\{%[-+]?\s*(?:set|with)\s+\w+\s*=\s*[\w\s.|]*[-+]?%\}$")
"""Gives a value another name and combines nothing: no reason for a child process."""
_MAY_HIDE_A_NULL = re.compile(r"\b(?:for|fromjson|none|None|attr|map)\b|[\[{]")
_PRINTED_NAME = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}", re.ASCII)
_NO_START = re.compile(r"\[\[\s*,")
_NO_END = re.compile(r",\s*(?=,|\]\])")
_LOOP = re.compile(r"\bfor\b")
_MAX_LOOPED_SOURCE_CHARACTERS = 4_000
"""Literal text inside a loop is not counted while it is printed: this times the turns of a loop bounds it."""


def compile_template(
    source: str,
    *,
    key: str,
    columns: Sequence[str],
    nested_columns: Collection[str],
    file: str,
    beside: Sequence[str] = (),
) -> tuple[Template, list[Mistake]]:
    """The template with its way chosen, and every mistake in it that can be told without a row.

    `beside`: what it may name that is no column of the table. `row` is the whole row, where no column has that
    name.
    """
    if not any(opening in source for opening in ("{{", "{%", "{#")):
        return Template(key=key, source=source, columns=(), way="constant"), []
    engine = environment()
    misread = misread_columns(source, columns)
    try:
        engine.add_template(key, source)
    except TemplateError as error:
        reasons = misread or [f"line {error.line} of the template: {error.detail or error.message}"]
        template = Template(key=key, source=source, columns=(), way="constant")
        return template, [Mistake(reason, file=file, key=key) for reason in reasons]
    names = engine.undeclared_variables_in_str(_without_slices(source))
    known = [*columns, *beside]
    is_row = ROW in names and ROW not in known
    of_row, wrong = columns_of_row(source, columns) if is_row else ((), [])
    used = tuple(name for name in known if name in names or name in of_row)
    unknown = sorted(
        name
        for name in names
        if name not in used and not (is_row and name == ROW) and not _knows(engine, f"{name} is defined")
    )
    messages = [
        *misread,
        *wrong,
        *(_unknown_name(source, name, known) for name in unknown if not misread),
        *_unknown_words(engine, source),
        *_other_files(source),
    ]
    way = _way(source, used, nested_columns)
    way = "careful" if of_row and way == "fast" else way
    pieces = _pieces(source, used) if way == "fast" else ()
    template = Template(key=key, source=source, columns=used, way=way, pieces=pieces, row_columns=of_row)
    return template, [Mistake(message, file=file, key=key) for message in messages]


def _without_slices(source: str) -> str:
    """The code of a template with each slice `[a:b]` written as `[[a,b]]`, for the engine's list of names.

    That list passes over whatever a slice is taken of: it has no `text` for `{{ text[:100] }}`.
    """
    return "".join(_sliceless(STRING.sub("''", tag)) for _, tag in tags(source))


def _sliceless(tag: str) -> str:
    pieces: list[str] = []
    open_at: list[int] = []
    slices: list[bool] = []
    for character in tag[2:-2]:
        if character in "([{":
            open_at.append(len(pieces))
            slices.append(False)
        elif character in ")]}" and open_at:
            start = open_at.pop()
            if slices.pop():
                pieces[start], character = "[[", "]]"
        elif character == ":" and open_at and pieces[open_at[-1]] == "[":
            slices[-1] = True
            character = ","
        pieces.append(character)
    code = _NO_START.sub("[[0,", "".join(pieces))
    return tag[:2] + _NO_END.sub(",0", code) + tag[-2:]


def _pieces(source: str, used: Sequence[str]) -> tuple[str, ...]:
    """The texts and columns, in turn, of a template that does nothing but print columns; of any other nothing."""
    pieces = tuple(_PRINTED_NAME.split(source))
    is_plain = all(name in used for name in pieces[1::2]) and not any("{" in text for text in pieces[::2])
    return pieces if is_plain else ()


def _line_of(source: str, name: str) -> int:
    word = re.compile(rf"(?<![\w.]){re.escape(name)}\b")
    return next((line for line, tag in tags(source) if word.search(STRING.sub("''", tag))), 1)


def _knows(engine: Environment, expression: str) -> bool:
    try:
        return bool(engine.eval_expr(expression))
    except TemplateError as error:
        return error.kind not in ("UnknownFilter", "UnknownTest")


def _unknown_name(source: str, name: str, columns: Collection[str]) -> str:
    line = _line_of(source, name)
    return f"line {line} of the template: there is no column '{name}'; {did_you_mean(name, columns)}"


def _unknown_words(engine: Environment, source: str) -> list[str]:
    """Filters and tests that the engine does not have."""
    messages = []
    for line, tag in tags(source):
        code = STRING.sub("''", tag)
        for word, pattern, form in (("filter", _FILTER, "0|{}"), ("test", _TEST, "(0 is {}) or true")):
            messages += [
                f"line {line} of the template: there is no {word} '{name}'"
                for name in dict.fromkeys(pattern.findall(code))
                if not _exists(engine, form.format(name))
            ]
    return messages


def _exists(engine: Environment, expression: str) -> bool:
    try:
        engine.eval_expr(expression)
    except TemplateError as error:
        return error.kind not in ("UnknownFilter", "UnknownTest")
    except (TypeError, ValueError, ArithmeticError, AttributeError, Unrenderable):
        return True  # one of our own filters refused the 0: it exists
    return True


def _other_files(source: str) -> list[str]:
    return [
        f"line {line} of the template: '{match[1]}' is not available; a prompt text is one template, "
        "which may be a file: {file: path}"
        for line, tag in tags(source)
        if (match := _OTHER_FILE.match(tag))
    ]


def _way(source: str, used: Sequence[str], nested_columns: Collection[str]) -> Way:
    codes = [tag for _, tag in tags(source)]
    loops = any(_LOOP.search(code) for code in codes)
    if any(_MULTIPLIES.search(code) and not _ALIAS.match(code) for code in codes):
        return "confined"
    if loops and len(source) > _MAX_LOOPED_SOURCE_CHARACTERS:
        return "confined"
    inner = (code[2:-2] for code in codes)
    if any(name in nested_columns for name in used) or any(_MAY_HIDE_A_NULL.search(code) for code in inner):
        return "careful"
    return "fast"
