r"""Columns whose names are no names in a template: what a template means by them, and what to write instead.

`{{ label-coarse }}` subtracts, `{{ Tweet text }}` is no expression, `{{ 2024 }}` is a number and `{{ true }}` a
word of the language: where the table has a column of just that name, the template means the column. Such a
column is read from `row`, which holds the whole row: `{{ row["label-coarse"] }}`.

Names are also compared as they look: hyphens, blanks and quotes have many forms, a letter with an accent has
two, and some characters are not seen at all. Pure: knows texts, no engine.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence

ROW = "row"
"""What holds the whole row in a template, unless the table has a column of that name."""

_TAG = re.compile(r"""\{[{%](?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?![}%]\}).)*[}%]\}""", re.DOTALL)
STRING = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'""", re.DOTALL)
_COMMENT_OR_RAW = re.compile(r"\{#.*?#\}|\{%-?\s*raw\s*-?%\}.*?\{%-?\s*endraw\s*-?%\}", re.DOTALL)
_VALUES = frozenset({"true", "false", "none", "True", "False", "None", "self"})
"""What the engine reads as a value of its own where a name could stand."""
_OPERATORS = frozenset({"not", "and", "or", "in", "is", "if", "else", "for", "set", "with"})
_SIGNS = {"-": "a difference", "+": "a sum", "*": "a product", "/": "a quotient", "%": "a rest", ".": "a part"}
"""What stands in names and is an operation between two of them."""
_OF_ROW = re.compile(
    r"""(?<![\w.])row\b(?:\s*\[\s*(?P<key>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')\s*\]"""
    r"""|\s*\.\s*(?P<name>[^\W\d]\w*)(?!\s*\())?"""
)
_ESCAPE = re.compile(r"\\(?:u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_BINDS_ROW = re.compile(r"\b(?:for|set|with|macro|call)\b[^%]*(?<![\w.\"'])row\b(?!\s*[\[.])")
_LOOK_ALIKES = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2018\u2019\u201b\u2032", "'"),
    **dict.fromkeys("\u201c\u201d\u201f\u2033", '"'),
}
_FOLDING = str.maketrans(_LOOK_ALIKES)


def tags(source: str) -> Iterator[tuple[int, str]]:
    """The code of a template: line number and text of every {{ }} and {% %}, outside comments and raw blocks."""
    blanked = _COMMENT_OR_RAW.sub(lambda match: "\n" * match[0].count("\n"), source)
    for match in _TAG.finditer(blanked):
        yield blanked.count("\n", 0, match.start()) + 1, match[0]


def in_template(column: str) -> str:
    """How a template prints a column, whatever its name."""
    if _is_taken(column):
        return f"{{{{ {column} }}}}"
    return f"{{{{ {ROW}[{json.dumps(column, ensure_ascii=False)}] }}}}"


def misread_columns(source: str, columns: Sequence[str]) -> list[str]:
    """What is wrong wherever the template spells a column's name that the engine reads as something else.

    Not of a name that looks like one that the engine takes: that is unknown to it, and told there.
    """
    odd = [name for name in columns if _folded(name) and not _is_taken(_folded(name))]
    patterns = {name: _pattern(_folded(name)) for name in sorted(odd, key=len, reverse=True)}
    found = []
    for line, tag in tags(source) if odd else ():
        code = _folded(STRING.sub("''", tag))
        for name, pattern in patterns.items():
            code, times = pattern.subn(" ", code)
            if times:
                found.append(f"line {line} of the template: {_misread(name, tag, columns)}")
    return list(dict.fromkeys(found))


def _is_taken(name: str) -> bool:
    """Whether the engine reads it as the name of a value."""
    return name.isidentifier() and name not in _VALUES and name != "not"


def _pattern(name: str) -> re.Pattern[str]:
    """Where code spells the name: of what may well be meant as code, only where it is all that is printed."""
    may_be_code = name.split()[0] in _VALUES | _OPERATORS or not any(map(str.isalpha, name))
    if may_be_code:
        return re.compile(rf"(?<=\{{\{{)[-+]?\s*{re.escape(name)}\s*(?=[-+]?\}}\}}|\|)")
    before = r"(?<![\w.])" if re.match(r"\w", name) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", name) else ""
    return re.compile(before + re.escape(name) + after)


def _misread(name: str, tag: str, columns: Collection[str]) -> str:
    is_spelled = name in tag
    operator = next((sign for sign in _SIGNS if sign in name), "")
    parts = name.split(operator) if operator else []
    reading = ""
    if name in _VALUES or not any(map(str.isalpha, name)):
        reading = ", but here it is a value of the template language"
    elif is_spelled and operator and all(map(str.isidentifier, parts)):
        reading = f", but in a template it is {_SIGNS[operator]}"
    advice = f"write {in_template(name)}, or give it another name in input.query"
    if reading and parts and all(part in columns for part in parts[:1]):
        other = f'{parts[0]}["{parts[1]}"]' if operator == "." else f" {operator} ".join(parts)
        advice += f"; if {_SIGNS[operator]} is meant, write {{{{ {other} }}}}"
    seen = f"'{name}' is a column" if is_spelled else f"the column is {described(name)}"
    return f"{seen}{reading}; {advice}"


def described(name: str) -> str:
    """The name in quotes, with what cannot be told from how it looks."""
    hidden = [
        f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip()
        for character in dict.fromkeys(name)
        if character != " " and (character in _LOOK_ALIKES or _is_unclear(character))
    ]
    places = {"start": name[:1], "end": name[-1:]}
    blanks = [f"a blank at its {place}" for place, character in places.items() if character == " "]
    said = [*blanks, *hidden]
    return f"'{name}'" + (f" (with {', '.join(said)})" if said else "")


def _is_unclear(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cf", "Cc", "Mn", "Zl", "Zp")


def _folded(text: str) -> str:
    """As it looks: one form of hyphens, blanks and quotes, accents on their letters, nothing that is not seen."""
    seen = "".join(
        " " if character.isspace() else character
        for character in unicodedata.normalize("NFKC", text).translate(_FOLDING)
        if unicodedata.category(character) != "Cf"
        and (character.isspace() or unicodedata.category(character) != "Cc")
    )
    return seen.strip()


def looks_like(name: str, columns: Collection[str]) -> str | None:
    """The column whose name looks like this one and is another."""
    return next((column for column in columns if column != name and _folded(column) == _folded(name)), None)


def did_you_mean(name: str, allowed: Collection[str]) -> str:
    """The near misses of a name, or what there is."""
    twin = looks_like(name, allowed)
    if twin is not None:
        return f"the column is {described(twin)}; write {in_template(twin)}"
    near = difflib.get_close_matches(name, list(allowed), n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(repr(other) for other in near)}?"
    shown = ", ".join(list(allowed)[:20]) + (", ..." if len(allowed) > 20 else "")
    return f"the columns are: {shown}"


def columns_of_row(source: str, columns: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The columns that a template reads from `row`, and what is wrong with their names.

    All of them where it uses `row` in any other way than `row["name"]` and `row.name`.
    """
    used: list[str] = []
    wrong: list[str] = []
    is_whole = False
    for line, tag in tags(source):
        is_whole = is_whole or _BINDS_ROW.search(tag) is not None
        for match in _outside_strings(tag):
            name = match["name"] if match["key"] is None else _text_of(match["key"])
            if name is None:
                is_whole = True
            elif name in columns:
                used.append(name)
            else:
                wrong.append(
                    f"line {line} of the template: there is no column '{name}'; {did_you_mean(name, columns)}"
                )
    if is_whole:
        return tuple(columns), []
    return tuple(name for name in columns if name in used), wrong


def _outside_strings(tag: str) -> Iterator[re.Match[str]]:
    texts = [match.span() for match in STRING.finditer(tag)]
    for match in _OF_ROW.finditer(tag):
        if not any(start < match.start() < end for start, end in texts):
            yield match


def _text_of(literal: str) -> str:
    """The text that a literal of the template language stands for."""

    def plain(match: re.Match[str]) -> str:
        escape = match[0]
        return chr(int(escape[2:], 16)) if len(escape) > 2 else _ESCAPES.get(escape[1], escape[1])

    return _ESCAPE.sub(plain, literal[1:-1])
