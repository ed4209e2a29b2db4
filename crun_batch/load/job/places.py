"""A job as written: its tree of plain keys and values, and the place of every key.

Owns dotted keys, the way from a key to its file and line, and that no message shows what looks like an API key.
Knows neither formats nor what keys mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct, structs

from crun_batch.errors import ARGUMENT, InputError, Mistake

KeyPath = tuple[str | int, ...]
MAX_DEPTH = 100
"""Levels of a tree: deeper ones are refused, in every format."""

LITERAL_KEY = re.compile(r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{16,}|ak_[A-Za-z0-9]{16,})")
"""What API keys look like at CRUN (`ak_`) and at OpenAI, Anthropic, OpenRouter (`sk-`)."""

_DOTTED = re.compile(r'"([^"]*)"|([^."]+)')
"""A part of a dotted key as people write it, which leads to no place of a list."""
_SHOWN = re.compile(r'"([^"]*)"|\[(\d+)\]|([^."\[\]]+)')
"""A part of one as `dotted` shows it."""


class Place(NamedTuple):
    """Where a key was written. `line` counts from 1; None where the format does not tell."""

    file: str
    line: int | None = None


class Argument(Struct, frozen=True):
    """What Python code gives for a key: taken as it is, where a text of `--set` is read."""

    name: str
    """The argument that it came by: what mistakes call its place."""
    value: Any

    @property
    def place(self) -> Place:
        """Where it was written."""
        return Place(f"{ARGUMENT}{self.name}")


KEYWORDS_SOURCE = "Job(...)"
"""What stands for the file of a job that Python code made."""


class Reading(NamedTuple):
    """One file, parsed: its value, the places of its keys, and mistakes that did not stop the parser."""

    tree: Any
    places: Mapping[KeyPath, Place] = {}
    mistakes: tuple[Mistake, ...] = ()


class Document(Struct, frozen=True):
    """A job as written: its tree of plain values, where each key stands, what relative paths start from."""

    source: str
    base_dir: Path
    tree: Mapping[str, Any]
    places: Mapping[KeyPath, Place] = {}
    mistakes: tuple[Mistake, ...] = ()
    """What was already found wrong when the text was read."""
    default_base_url: str | None = None
    """`endpoint.base_url` where the tree does not say one; None: the gateway's own."""
    allowed: tuple[Path, ...] = ()
    """Folders besides `base_dir` whose files rows and SQL may read."""
    needs_table: bool = True
    """False: `input.table` may be absent, because a frame comes from Python."""
    endpoint_key: str | None = None
    """Of a job at one of its endpoints, which has that one alone: what it is called in the job file."""

    def mistake(self, path: KeyPath, message: str) -> Mistake:
        """A mistake at `path`, with the place of its nearest key that was written."""
        places = (self.places.get(path[:length]) for length in range(len(path), 0, -1))
        place = next((place for place in places if place), Place(self.source))
        return Mistake(masked(message), file=place.file, line=place.line, key=dotted(path) or None)

    def placed(self, mistake: Mistake) -> Mistake:
        """The mistake; where it names a key of this job and no line, with the place where that key is written."""
        if mistake.key is None or mistake.line is not None or mistake.file not in (None, self.source):
            return mistake
        place = self.mistake(_path_of(mistake.key), mistake.message)
        return structs.replace(mistake, file=place.file, line=place.line)

    def order(self, mistake: Mistake) -> tuple[bool, str, int]:
        """Sorts mistakes: those without a line, the job's own by their lines, then those of each other file."""
        is_elsewhere = mistake.line is not None and mistake.file != self.source
        return is_elsewhere, (mistake.file or "") if is_elsewhere else "", mistake.line or 0


def written(document: object) -> Document:
    """What stands first in `Job(...)`, which is ours to give. Raises InputError for what somebody else gave."""
    if isinstance(document, Document):
        return document
    problem = f"takes sections by name, as in Job(**sections); found a {type(document).__name__}"
    raise InputError(Mistake(problem, file=KEYWORDS_SOURCE))


def path_from(folder: Path, name: str) -> Path:
    """The path that a key names, relative to a folder; `~` is the home of who runs it, where there is one."""
    try:
        return folder / Path(name).expanduser()
    except RuntimeError:  # ~somebody who is unknown here: reading it says that there is no such file
        return folder / name


def masked(text: str) -> str:
    """The text with everything that looks like an API key taken out."""
    return LITERAL_KEY.sub("***", text)


def dotted(path: KeyPath) -> str:
    """`("prices", "models", "gpt-5.4", "tiers", 0)` as it is shown: `prices.models."gpt-5.4".tiers[0]`."""
    shown = ""
    for part in path:
        name = f'"{part}"' if isinstance(part, str) and "." in part else part
        shown += f"[{name}]" if isinstance(part, int) else f".{name}"
    return masked(shown.removeprefix("."))


def _path_of(shown: str) -> KeyPath:
    """The path that `dotted` shows so."""
    return tuple(int(index) if index else quoted or bare for quoted, index, bare in _SHOWN.findall(shown))


def split_dotted(key: str) -> tuple[str, ...]:
    """The keys that `a.b."c.d"` leads through, a part that holds a dot in quotes; () where it is no dotted key."""
    parts: list[str] = []
    position = 0
    while match := _DOTTED.match(key, position):
        parts.append(match[1] if match[1] is not None else match[2])
        position = match.end()
        if position == len(key):
            return tuple(parts)
        if key[position] != ".":
            return ()
        position += 1
    return ()


def syntax_error(source: str, problem: str, line: int | None) -> InputError:
    """The error for a file that the parser of its format refuses."""
    return InputError(Mistake(f"not readable: {masked(problem)}", file=source, line=line))
