"""What the arguments of the public functions must be: a wrong one is an InputError that names it.

Owns one table for all of them, as a name means the same wherever it stands. What a job's own rules say (`limit`,
`budget`), and what takes a look at files and tables, is not here. Must not know: options, jobs, runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from crun_batch.errors import InputError, Mistake

P = ParamSpec("P")
R = TypeVar("R")
SHOWN_CHARACTERS = 60
LAST_PORT = 2**16 - 1
_HAS_VARARGS = 4
"""`inspect.CO_VARARGS`, which takes longer to load than all this."""


class Kind(NamedTuple):
    """What an argument may be."""

    fits: Callable[[Any], bool]
    words: str


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_flag(value: Any) -> bool:
    """0, 1 and None are flags too, and so are numpy's own."""
    is_number = isinstance(value, Integral) and value in (0, 1)
    return is_number or value is None or type(value).__name__ in ("bool", "bool_")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_path(value: Any) -> bool:
    return isinstance(value, PathLike) or (isinstance(value, str) and value != "")


def _is_run(value: Any) -> bool:
    return _is_path(value) or _is_path(getattr(value, "directory", None))


def _is_job(value: Any) -> bool:
    return _is_path(value) or hasattr(value, "with_overrides")


def _is_id(value: Any) -> bool:
    return _is_text(value) or _is_whole(value)


def _are(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """One of a kind, or several of it."""
    return lambda value: (
        fits(value) or (isinstance(value, Collection) and not isinstance(value, str) and all(map(fits, value)))
    )


def _maps_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))


FLAG = Kind(_is_flag, "True or False")
TEXT = Kind(_is_text, "a text")
PATH = Kind(_is_path, "a path")
WHOLE = Kind(_is_whole, "a whole number")
CALL = Kind(callable, "a function")
TEXTS = Kind(lambda value: value is None or _are(_is_text)(value), "a text, or several")
PATHS = Kind(_are(_is_path), "a path, or several")
PORT = Kind(lambda value: _is_whole(value) and 0 <= value <= LAST_PORT, f"a whole number from 0 to {LAST_PORT}")
RUN = Kind(_is_run, "a run directory, its job file, or a Run")

KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("run", "runs", "others"), RUN),
    **dict.fromkeys(("simulate", "until_budget", "redo_changed", "correct_prices", "otel", "progress"), FLAG),
    **dict.fromkeys(("handle_signals", "raw", "data", "unfinished"), FLAG),
    **dict.fromkeys(("shard", "coordinator", "ray", "host", "where", "query", "resume_command"), TEXT),
    **dict.fromkeys(("score", "baseline", "label", "gold", "variant", "verdict", "comment", "annotator"), TEXT),
    **dict.fromkeys(("output_dir", "env_file", "path", "folder"), PATH),
    **dict.fromkeys(("workers", "repeat"), WHOLE),
    **dict.fromkeys(("say", "watch", "confirm", "tick", "wire", "figures"), CALL),
    **dict.fromkeys(("retry", "columns", "status", "simulators_at"), TEXTS),
    **dict.fromkeys(("port", "metrics_port"), PORT),
    "allow_paths": PATHS,
    "format": Kind(_is_path, "the name of a form, such as csv"),
    "job": Kind(_is_job, "a Job, or the path of a job file"),
    "id": Kind(_is_id, "the id of a row, a whole number or a text"),
    "shards": Kind(lambda value: _is_whole(value) and value >= 1, "a whole number, at least 1"),
    "width": Kind(_is_whole, "a whole number of columns"),
    "every_seconds": Kind(lambda value: isinstance(value, int | float) and value >= 0, "a number of seconds"),
    "values": Kind(_maps_texts, "a mapping, such as {'limits.concurrency': 8}"),
    "overrides": Kind(_maps_texts, "a mapping of dotted keys of the job"),
    "simulator": Kind(_maps_texts, "a mapping of the simulator's settings"),
    "environ": Kind(
        lambda value: _maps_texts(value) and all(map(_is_text, value.values())),
        "a mapping of the names of variables to their texts",
    ),
    "target": Kind(lambda value: _is_path(value) or hasattr(value, "write"), "a path, or a binary stream"),
}
"""Name -> what it must be. A name that is not here is looked at by whoever uses it."""
_SECRET = ("environ",)
"""What is not shown, however wrong it is."""


def refuse_wrong(given: Mapping[str, Any]) -> None:
    """Raises InputError with each argument that is not of its kind."""
    mistakes = [
        Mistake(f"must be {KINDS[name].words}{_found(name, value)}", key=name)
        for name, value in given.items()
        if name in KINDS and not KINDS[name].fits(value)
    ]
    if mistakes:
        raise InputError(mistakes)


def said(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing: None."""
    return {name: value for name, value in given.items() if value is not None}


def at_least_one(runs: Collection[R]) -> Collection[R]:
    """The runs that `*runs` are. Raises InputError where none is given."""
    if not runs:
        raise InputError(Mistake("give at least one run", key="runs"))
    return runs


def paths_in(given: Collection[str | PathLike[str]] | str | PathLike[str]) -> tuple[Path, ...]:
    """One path, or several, as several."""
    return (Path(given),) if isinstance(given, str | PathLike) else tuple(map(Path, given))


def arguments_told(function: Callable[P, R]) -> Callable[P, R]:
    """The function, where each wrong argument is an InputError that names it; a default is never wrong."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    several = code.co_varnames[code.co_argcount + code.co_kwonlyargcount] if code.co_flags & _HAS_VARARGS else ""
    optional = names[len(names) - len(function.__defaults__ or ()) :]
    defaults = {**dict(zip(optional, function.__defaults__ or (), strict=True)), **(function.__kwdefaults__ or {})}
    needed = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) - set(defaults)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        refuse_wrong(
            {name: value for name, value in given.items() if name in needed or value is not defaults.get(name)}
        )
        for one in args[len(names) :]:
            refuse_wrong({several: one})
        return function(*args, **kwargs)

    return checked


def _found(name: str, value: Any) -> str:
    if name in _SECRET:
        return ""
    shown = repr(value)
    is_short = isinstance(value, str | bytes | int | float | None) and len(shown) <= SHOWN_CHARACTERS
    return f"; found {shown if is_short else f'a {type(value).__name__}'}"
