"""Job files as text: YAML, TOML and JSON become one plain tree of keys, and every key remembers its place.

Owns formats, overrides by dotted key, `{file: path}` texts, and what values a tree may hold at all. Knows
nothing of what the keys mean. Numbers with a point stay `Decimal`, by their literal text, until `plain_tree`
makes them floats everywhere but where amounts of money stand: 0.1 is exactly 0.1. A file is never trusted: its
size, depth, aliases and numbers have limits.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from msgspec import structs

from crun_batch.errors import InputError, Mistake
from crun_batch.load.folders import ADVICE, Folders
from crun_batch.load.job.places import (
    KEYWORDS_SOURCE,
    MAX_DEPTH,
    Argument,
    Document,
    KeyPath,
    Place,
    Reading,
    masked,
    split_dotted,
    syntax_error,
)
from crun_batch.load.job.yaml_reader import override_value, read_yaml

MAX_FILE_CHARACTERS = 2**20

Format = Literal["yaml", "toml", "json"]
FORMATS: Mapping[str, Format] = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}


def read_text(path: Path, *, what: str) -> str:
    """The UTF-8 text of a file. Raises InputError that names the file and what it was for."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(Mistake(f"{what} is not UTF-8 text (byte {error.start})", file=str(path))) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no usable path"
        raise InputError(Mistake(f"{what} cannot be read: {reason}", file=str(path))) from None


def format_of(path: Path) -> Format:
    """The format that a file's suffix names. Raises InputError for any other suffix."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        allowed = ", ".join(FORMATS)
        raise InputError(Mistake(f"unknown suffix '{path.suffix}'; allowed: {allowed}", file=str(path))) from None


def read_tree(text: str, *, source: str, format: Format) -> Reading:
    """Parse one file, a mapping at its top. Raises InputError where it cannot be parsed at all."""
    if len(text) > MAX_FILE_CHARACTERS:
        advice = "put long texts into files of their own"
        raise InputError(Mistake(f"longer than {MAX_FILE_CHARACTERS:,} characters; {advice}", file=source))
    reading = _READERS[format](text, source)
    if not isinstance(reading.tree, dict):
        raise InputError(Mistake("must be a mapping of keys to values at its top", file=source))
    if _depth(reading.tree) > MAX_DEPTH:
        raise InputError(Mistake(f"nested more than {MAX_DEPTH} levels deep", file=source))
    return reading


def _depth(tree: Any) -> int:
    """Levels of a tree without recursion, counted no further than it matters."""
    level, depth = [tree], 0
    while level and depth <= MAX_DEPTH:
        children = (
            child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent)
        )
        level = [child for child in children if isinstance(child, dict | list)]
        depth += 1
    return depth


def _read_json(text: str, source: str) -> Reading:
    duplicates: dict[str, None] = {}

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key, value in pairs:
            if key in tree:
                duplicates[key] = None
            tree[key] = value
        return tree

    try:
        tree = json.loads(text, parse_float=Decimal, parse_constant=Decimal, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise syntax_error(source, error.msg, error.lineno) from None
    except (ValueError, RecursionError):
        raise syntax_error(source, "nested too deeply, or a number is too long", None) from None
    wrong = [Mistake("written twice; keep one", file=source, key=masked(key)) for key in duplicates]
    return Reading(tree, mistakes=tuple(wrong))


def _read_toml(text: str, source: str) -> Reading:
    try:
        return Reading(tomllib.loads(text, parse_float=Decimal))
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        problem = str(error)[: place.start()] if place else str(error)
        raise syntax_error(source, problem, int(place[1]) if place else None) from None
    except (ValueError, RecursionError):
        raise syntax_error(source, "nested too deeply, or a number or date is out of range", None) from None


_READERS: Mapping[Format, Callable[[str, str], Reading]] = {
    "yaml": read_yaml,
    "toml": _read_toml,
    "json": _read_json,
}


def overridden(document: Document, overrides: Mapping[str, object], *, source: str = "--set") -> Document:
    """The document with `overrides` (dotted key -> text, Python value or argument) laid over its tree."""
    tree = copied(document.tree)
    places = dict(document.places)
    mistakes = list(document.mistakes)
    for key, given in overrides.items():
        path = split_dotted(key)
        place = given.place if isinstance(given, Argument) else Place(source)
        try:
            value = override_value(given) if isinstance(given, str) else given
            value = given.value if isinstance(given, Argument) else value
        except InputError:
            mistakes.append(Mistake("not readable as YAML; put the text in quotes", file=source, key=masked(key)))
            continue
        if not path or not put(tree, path, value):
            problem = "no key of a job: a part of it is empty, or holds no keys"
            mistakes.append(Mistake(problem, file=place.file, key=masked(key)))
        written = {place: at for place, at in places.items() if place[: len(path)] != path}
        places = written | dict.fromkeys([*_absent_above(path, document.tree), path], place)
    return structs.replace(document, tree=tree, places=places, mistakes=tuple(mistakes))


def _absent_above(path: tuple[str, ...], tree: Any) -> Iterator[tuple[str, ...]]:
    """The mappings on the way to a key that the tree does not have: they come with it."""
    for length, part in enumerate(path[:-1], 1):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
        if tree is None:
            yield path[:length]


class ForEachEndpoint(tuple[Any, ...]):
    """A value for each endpoint of a list, in its order, from the front again where there are more."""


def put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> bool:
    """Set the key at `path`, with the mappings on the way to it; whether there is room for them.

    A key below `endpoint` is set in every endpoint of a list.
    """
    endpoints = tree.get("endpoint")
    if path[0] == "endpoint" and len(path) > 1 and isinstance(endpoints, list):
        values = value if isinstance(value, ForEachEndpoint) else (value,)
        are_put = [
            isinstance(one, dict) and put(one, path[1:], copied(values[index % len(values)]))
            for index, one in enumerate(endpoints)
        ]
        return all(are_put)
    if isinstance(value, ForEachEndpoint):
        value = value[0]
    for part in path[:-1]:
        if tree.get(part) is None:
            tree[part] = {}
        tree = tree[part]
        if not isinstance(tree, dict):
            return False
    tree[path[-1]] = value
    return True


def copied(value: Any) -> Any:
    """The tree's mappings and lists anew, free to be changed."""
    if isinstance(value, Mapping):
        return {key: copied(child) for key, child in value.items()}
    return [copied(child) for child in value] if isinstance(value, list | tuple) else value


def plain_tree(document: Document, *, is_exact: Callable[[KeyPath], bool]) -> tuple[dict[str, Any], list[Mistake]]:
    """The tree as plain JSON values; `Decimal` stays where it `is_exact` and is a float elsewhere.

    Refused: what JSON cannot hold (dates, NaN, integers over 64 bits, half characters, Python objects).
    """
    mistakes: list[Mistake] = []

    def plain(value: Any, path: KeyPath) -> Any:
        if isinstance(value, Path):
            return str(value)
        problem = _not_plain(value) if len(path) <= MAX_DEPTH else f"nested more than {MAX_DEPTH} levels deep"
        if problem:
            mistakes.append(document.mistake(path, problem))
            return None
        if isinstance(value, Mapping):
            return {str(key): plain(child, (*path, str(key))) for key, child in value.items()}
        if isinstance(value, list | tuple):
            return [plain(child, (*path, index)) for index, child in enumerate(value)]
        return float(value) if isinstance(value, Decimal) and not is_exact(path) else value

    return plain(document.tree, ()), mistakes


def _not_plain(value: Any) -> str | None:
    if isinstance(value, str):
        halves = not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)
        return "holds half a character (a lone surrogate), which no UTF-8 text can" if halves else None
    if isinstance(value, bool | None):
        return None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**64 else "is a whole number of more than 64 bits; write it as text"
    if isinstance(value, float | Decimal):
        finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
        return None if finite and math.isfinite(float(value)) else "must be a finite number"
    if isinstance(value, Mapping | list | tuple):
        return None
    return f"a {type(value).__name__} has no place in a job; write it as text"


def with_files(value: Any, path: KeyPath, document: Document, mistakes: list[Mistake]) -> Any:
    """The value with every `{file: path}` in it replaced by that file's text; adds to `mistakes` what fails."""
    if isinstance(value, dict):
        if set(value) == {"file"} and isinstance(value["file"], str):
            return file_text(value["file"], path, document, mistakes)
        return {key: with_files(child, (*path, key), document, mistakes) for key, child in value.items()}
    if isinstance(value, list):
        return [with_files(child, (*path, index), document, mistakes) for index, child in enumerate(value)]
    return value


def file_text(name: str, path: KeyPath, document: Document, mistakes: list[Mistake]) -> str:
    """The text of the file that the value at `path` names, relative to the job file; "" where that fails.

    It is sent: of a job file, which may be somebody else's, it has to lie in the job's folders.
    """
    file = document.base_dir / Path(name).expanduser()
    try:
        if _is_outside(file, document):
            raise InputError(f"the file is outside the job's folder ({ADVICE})")
        return read_text(file, what="the file")
    except InputError as error:
        mistakes.append(document.mistake(path, f"{error.mistakes[0].message}: {file}"))
        return ""


def _is_outside(file: Path, document: Document) -> bool:
    if document.source == KEYWORDS_SOURCE:
        return False
    try:
        return Folders(document.base_dir, document.allowed).resolved(file) is None
    except ValueError:  # no path at all: reading it says so
        return False
