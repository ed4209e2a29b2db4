r"""Variables from a file of lines `NAME=value`, as `.env` files are written: keys stand beside a job, not in it.

The rules:
- `export` may stand before a name, `#` begins a comment. A value stands bare, in '...' (as it is) or in "..."
  (where \n, \r, \t, \", \\ and \$ are what they are elsewhere), and ends on its line.
- Nothing is replaced: `${OTHER}` is refused outside of '...', since some tools would fill it in, some not.
- A file is read where it is asked for, by a key or an option, and never because it is there.
- What is wrong is told by line and name. No value is ever shown: each may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import structs

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.endpoint_lists import BASE_URL_VARIABLE
from crun_batch.load.job.places import Document, path_from

MOST_BYTES = 1 << 20
_NAME = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
_SINGLE = re.compile(r"'([^']*)'\s*(?:#.*)?")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_BARE = re.compile(r"(.*?)(?:(?:^|\s+)#.*|\s*)")
_ESCAPE = re.compile(r"\\([nrt\"\\$])")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


class Variables(dict[str, str]):
    """Variables by name. Each value may be a secret: the repr, which tracebacks print, shows none."""

    def __repr__(self) -> str:
        return f"Variables({len(self)})"


def read_env_file(path: Path) -> Variables:
    """The variables of a file. Raises InputError with every line that is wrong, or where it cannot be read."""
    found = Variables()
    lines: dict[str, int] = {}
    mistakes: list[Mistake] = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            name, value = _assignment(stripped)
            if name in lines:
                raise ValueError(f"{name} stands in line {lines[name]} too; keep one")
            lines[name], found[name] = number, value
        except ValueError as error:
            mistakes.append(Mistake(str(error), file=str(path), line=number))
    if mistakes:
        raise InputError(mistakes)
    return found


def layered(variables: Mapping[str, str], environ: Mapping[str, str]) -> Variables:
    """The process's own variables over those of a file, as every tool that reads such files lays them."""
    return Variables({**variables, **environ})


def variables_of(env_file: object, base_dir: Path, environ: Mapping[str, str]) -> Mapping[str, str]:
    """What a job's keys and headers are read from: the process's variables, over those of its `env_file`.

    Raises InputError where that file cannot be read, or is wrong.
    """
    if not isinstance(env_file, str) or not env_file:
        return environ
    return layered(read_env_file(path_from(base_dir, env_file)), environ)


def with_default_base_url(document: Document, environ: Mapping[str, str]) -> Document:
    """The document with the address that its variables give to an endpoint without one.

    A file of variables that cannot be read is a mistake where secrets are needed, not here: the status of a run
    must be told on a machine without its keys.
    """
    try:
        variables = variables_of(document.tree.get("env_file"), document.base_dir, environ)
    except InputError:
        variables = environ
    return structs.replace(document, default_base_url=variables.get(BASE_URL_VARIABLE) or None)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no usable path"
        raise InputError(Mistake(f"the file of variables cannot be read: {reason}", file=str(path))) from None
    if len(data) > MOST_BYTES:
        raise InputError(Mistake(f"is longer than {MOST_BYTES >> 20} MB: no file of variables", str(path)))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(Mistake("the file of variables is not UTF-8 text", file=str(path))) from None
    if "\0" in text:
        raise InputError(Mistake("holds a zero byte: write one NAME=value a line", file=str(path)))
    return text


def _assignment(line: str) -> tuple[str, str]:
    """Name and value. Raises ValueError in words that show no value."""
    written = _NAME.fullmatch(line)
    if written is None:
        raise ValueError("is no NAME=value: a name has letters, digits and '_'")
    name, rest = written[1], written[2]
    if rest.startswith("'"):
        return name, _matched(_SINGLE, name, rest)
    if rest.startswith('"'):
        value = _matched(_DOUBLE, name, rest)
        _refuse_replacing(name, _ESCAPE.sub("", value))
        return name, _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), value)
    value = _matched(_BARE, name, rest)
    _refuse_replacing(name, value)
    return name, value


def _matched(form: re.Pattern[str], name: str, rest: str) -> str:
    match = form.fullmatch(rest)
    if match is None:
        raise ValueError(f"the value of {name} has no closing quote in its line, or something stands after it")
    return match[1]


def _refuse_replacing(name: str, value: str) -> None:
    if "${" in value:
        raise ValueError(
            f"the value of {name} holds '${{', and no variable is filled in here: write the value itself, or put "
            "it in single quotes"
        )
