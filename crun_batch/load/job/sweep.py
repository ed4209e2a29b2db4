"""A sweep: axes of levels, whose product is the variants of a job; each variant is a job of its own, checked anew.

Owns how levels are named and laid over the job, and the words of what is wrong with them. An axis changes how a
row is asked, never the work as a whole: rows, limits, budget, prices, output and graders are the job's.

    params.temperature: [0, 0.7]         axis `temperature`, levels `0` and `0.7`; a value replaces the key's
    who: {gpt: {...}, claude: {...}}     axis `who`; mappings are merged key by key, lists, texts and the output
                                         schema replaced; null removes a key

A variant is named after its levels, in the order of the axes: `0.7/gpt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.file import copied, put
from crun_batch.load.job.job import Job
from crun_batch.load.job.places import KeyPath, dotted, split_dotted

MOST_VARIANTS = 1_000
LONGEST_LEVEL_CHARACTERS = 40
"""A longer text among the levels is called by its number: `user2`."""
ALLOWED = ("endpoint", "model", "prompt", "params", "output_schema", "repair_attempts", "pack")
"""The top keys that an axis may change."""
_REPLACED_WHOLE = (("output_schema",),)


class Variation(Struct, frozen=True):
    """One variant: its name, its job, its level on each axis: a scalar value itself, else the level's name."""

    name: str
    job: Job
    axes: Mapping[str, Any] = {}


class Level(Struct, frozen=True):
    """One level of an axis: the keys it changes, and where in the sweep each of them is written."""

    axis: str
    name: str
    value: Any
    changes: tuple[tuple[tuple[str, ...], Any, KeyPath], ...]


def variations(job: Job, overrides: Mapping[str, object] = {}) -> tuple[Variation, ...]:
    """The job's variants; without a sweep the job itself, named `default`. `overrides` are laid over each.

    Raises InputError with every mistake, its axis and level named.
    """
    if not job.sweep:
        return (Variation("default", job.with_overrides(overrides) if overrides else job),)
    axes = _axes(job)
    made: list[Variation] = []
    wrong: dict[Mistake, list[tuple[Level, ...]]] = {}
    for levels in product(*axes):
        try:
            made.append(_variation(job, levels, overrides))
        except InputError as error:
            for mistake in error.mistakes:
                wrong.setdefault(mistake, []).append(levels)
    if wrong:
        raise InputError([_placed(mistake, levels, axes) for mistake, levels in wrong.items()])
    _refuse_alike(job, made)
    return tuple(made)


def _axes(job: Job) -> list[list[Level]]:
    """The levels of each axis. Raises InputError where an axis is wrong by itself."""
    document = job.document
    mistakes: list[Mistake] = []
    axes = [_levels(axis, levels) for axis, levels in document.tree["sweep"].items()]
    names = [levels[0].axis for levels in axes]
    for written, levels in zip(document.tree["sweep"], axes, strict=True):
        place = ("sweep", written)
        if names.count(levels[0].axis) > 1:
            mistakes.append(document.mistake(place, f"another axis is called '{levels[0].axis}' too"))
        mistakes += [document.mistake(place, says) for says in _level_mistakes(levels)]
    if prod(map(len, axes)) > MOST_VARIANTS:
        says = f"makes {prod(map(len, axes)):,} variants; at most {MOST_VARIANTS:,} are allowed"
        mistakes.append(document.mistake(("sweep",), says))
    if mistakes:
        raise InputError(mistakes)
    return axes


def _levels(axis: str, levels: Any) -> list[Level]:
    if isinstance(levels, Mapping):
        return [
            Level(axis, str(name), str(name), tuple(_leaves(keys, (), ("sweep", axis, str(name)))))
            for name, keys in levels.items()
        ]
    path = split_dotted(axis)
    short = path[-1]
    return [
        Level(short, name, value if _is_scalar(value) else name, ((path, value, ("sweep", axis, index)),))
        for index, value in enumerate(levels)
        for name in [_name_of(value, f"{short}{index + 1}")]
    ]


def _leaves(
    keys: Mapping[str, Any], path: tuple[str, ...], place: KeyPath
) -> Iterator[tuple[tuple[str, ...], Any, KeyPath]]:
    """The keys that a level's tree sets: the leaves of its mappings."""
    for key, value in keys.items():
        here = (*path, str(key))
        if isinstance(value, Mapping) and value and here not in _REPLACED_WHOLE and set(value) != {"file"}:
            yield from _leaves(value, here, (*place, str(key)))
        else:
            yield here, value, (*place, str(key))


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and _is_short(value))


def _is_short(text: str) -> bool:
    return 0 < len(text) <= LONGEST_LEVEL_CHARACTERS and text.isprintable()


def _name_of(value: Any, numbered: str) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if _is_scalar(value):
        return str(value)
    if isinstance(value, Mapping) and isinstance(value.get("file"), str):
        return Path(value["file"]).name
    return numbered


def _level_mistakes(levels: Sequence[Level]) -> Iterator[str]:
    names = [level.name for level in levels]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield f"two levels are called '{name}'"
    heads = dict.fromkeys(path[0] for level in levels for path, _, _ in level.changes)
    for head in heads:
        if head in Job.model_fields and head not in ALLOWED:
            yield f"cannot change {head}, which is the same for all variants; allowed: {', '.join(ALLOWED)}"


def _variation(job: Job, levels: tuple[Level, ...], overrides: Mapping[str, object]) -> Variation:
    document = job.document
    tree = {key: value for key, value in copied(document.tree).items() if key != "sweep"}
    places = dict(document.places)
    for path, value, written in (change for level in levels for change in level.changes):
        if not put(tree, path, copied(value)):
            raise InputError(document.mistake(written, f"{dotted(path[:-1])} holds no keys"))
        if value is None:
            _remove(tree, path)
        below = {at: place for at, place in document.places.items() if at[: len(written)] == written}
        places = {at: place for at, place in places.items() if at[: len(path)] != path}
        places |= {(*path, *at[len(written) :]): place for at, place in below.items()}
    varied = Job(structs.replace(document, tree=tree, places=places))
    name = "/".join(level.name for level in levels)
    axes = {level.axis: level.value for level in levels}
    return Variation(name, varied.with_overrides(overrides) if overrides else varied, axes)


def _remove(tree: Any, path: tuple[str, ...]) -> None:
    if isinstance(tree, list):  # of endpoints
        for one in tree:
            _remove(one, path)
    elif len(path) > 1:
        _remove(tree[path[0]], path[1:])
    else:
        del tree[path[0]]


def _placed(mistake: Mistake, failing: Sequence[tuple[Level, ...]], axes: Sequence[Sequence[Level]]) -> Mistake:
    """The mistake with the axes and levels that it comes from: those whose every variant does not have it."""
    named = []
    for index, levels in enumerate(axes):
        names = list(dict.fromkeys(combination[index].name for combination in failing))
        if len(names) < len(levels) or len(levels) == 1:
            named.append(f"{levels[0].axis}: {' or '.join(names)}")
    where = f"sweep, {', '.join(named)}" if named else "sweep, every variant"
    return structs.replace(mistake, message=f"{mistake.message} ({where})")


def _refuse_alike(job: Job, made: Sequence[Variation]) -> None:
    names = [variation.name for variation in made]
    alike = sorted({name for name in names if names.count(name) > 1})
    if alike:
        says = f"two variants would be called '{alike[0]}': give one of their levels another name"
        raise InputError(job.document.mistake(("sweep",), says))
