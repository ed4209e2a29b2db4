"""`extends`: what several jobs share (a gateway, its prices, limits) stands in a file of its own, a profile.

The rules:
- What a job writes goes before its profile, a later profile of a list before an earlier one, a profile before what
  it extends itself. Mappings are merged key by key, lists and texts replaced; null takes a key away.
- An `endpoint` that writes `base_url`, and a list of endpoints, is one of its own: nothing of the profile's is
  added. So no key of one gateway goes to the address of another.
- The price of a model is replaced whole: two halves of two prices are no price.
- Paths in a profile are relative to the profile, as those of a job are to the job; every mistake in it names it.
- A profile holds what jobs share and nothing of what is asked: its keys are SHARED.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.env_file import with_default_base_url
from crun_batch.load.job.file import FORMATS, copied, format_of, overridden, put, read_text, read_tree
from crun_batch.load.job.places import LITERAL_KEY, Document, KeyPath, Place, dotted, path_from

KEY = "extends"
SHARED = ("endpoint", "limits", "budget", "prices", "env_file", "on_end")
"""The top keys of a profile, beside `extends`."""
MOST_PROFILES = 20
_PATHS = (("env_file",), ("endpoint", "api_key_file"), ("endpoint", "ca_file"))
"""Keys whose texts are paths; below `endpoint` also in each of a list."""
_WHOLE = (("prices", "models"),)
"""Mappings whose values are not merged."""
_NO_PLACE = f"has no place in a profile, which several jobs share; allowed: {', '.join((*SHARED, KEY))}"


class Layer(Struct, frozen=True):
    """Keys with their places: a job's own, or what profiles give."""

    tree: dict[str, Any]
    places: Mapping[KeyPath, Place]
    mistakes: tuple[Mistake, ...] = ()


def with_shared_files(document: Document, overrides: Mapping[str, object], environ: Mapping[str, str]) -> Document:
    """The document over its profiles and under its overrides, with the address that its variables give."""
    extends = {key: value for key, value in overrides.items() if key == KEY}
    document = overridden(with_profiles(overridden(document, extends)), overrides)
    return with_default_base_url(document, environ)


def with_profiles(document: Document) -> Document:
    """The document over what it extends; among its mistakes are those of the profiles."""
    if document.tree.get(KEY) is None:
        return document
    own = Layer(copied(document.tree), document.places, document.mistakes)
    merged = _ProfileReader(document.base_dir).over_its_profiles(own, document.source, document.base_dir, ())
    mistakes = tuple(dict.fromkeys(merged.mistakes))
    return structs.replace(document, tree=merged.tree, places=merged.places, mistakes=mistakes)


class _ProfileReader:
    """Reads the profiles of one job; `base_dir` is the job's folder, from which all its paths start in the end."""

    def __init__(self, base_dir: Path) -> None:
        self._base_dir = base_dir
        self._read = 0

    def over_its_profiles(self, own: Layer, source: str, folder: Path, within: tuple[Path, ...]) -> Layer:
        """A file's keys over those of the profiles that it names; `within` are the files on the way to it."""
        place = own.places.get((KEY,), Place(source))
        below = Layer({}, {})
        try:
            for name in _names(own.tree.get(KEY), place):
                below = _over(self._profile(path_from(folder, name), place, within), below)
        except InputError as error:  # told with all that is wrong in the job
            below = structs.replace(below, mistakes=(*below.mistakes, *error.mistakes))
        return _over(own, below)

    def _profile(self, path: Path, place: Place, within: tuple[Path, ...]) -> Layer:
        if "\0" in str(path):
            raise _mistake("names no usable path", place)
        if LITERAL_KEY.search(str(path)):  # told among the job's mistakes, without its words
            return Layer({}, {})
        real = Path(os.path.realpath(path))
        if real in within:
            circle = " -> ".join(one.name for one in (*within[within.index(real) :], real))
            raise _mistake(f"extends itself: {circle}", place)
        self._read += 1
        if self._read > MOST_PROFILES:
            raise _mistake(f"leads to more than {MOST_PROFILES} profiles", place)
        try:
            reading = read_tree(read_text(path, what="the profile"), source=str(path), format=format_of(path))
        except InputError as error:
            raise InputError([_named(mistake, path, place) for mistake in error.mistakes]) from None
        places = reading.places or {at: Place(str(path)) for at in _paths(reading.tree, ())}
        tree = {key: value for key, value in reading.tree.items() if key in (*SHARED, KEY)}
        wrong = [
            Mistake(_NO_PLACE, file=str(path), line=places.get((key,), Place("")).line, key=dotted((key,)))
            for key in reading.tree
            if key not in tree
        ]
        tree = {key: self._moved(value, (key,), path.parent) for key, value in tree.items()}
        own = Layer(tree, places, (*reading.mistakes, *wrong))
        merged = self.over_its_profiles(own, str(path), path.parent, (*within, real))
        return structs.replace(merged, tree={key: value for key, value in merged.tree.items() if key != KEY})

    def _moved(self, value: Any, path: KeyPath, folder: Path) -> Any:
        """The value, its relative paths written as they are from the job's folder."""
        if path in _PATHS and isinstance(value, str) and value and not value.startswith("~"):
            if Path(value).is_absolute():
                return value
            return os.path.relpath(os.path.realpath(folder) / Path(value), os.path.realpath(self._base_dir))
        if isinstance(value, Mapping):
            return {key: self._moved(child, (*path, key), folder) for key, child in value.items()}
        if isinstance(value, list) and path == ("endpoint",):
            return [self._moved(child, path, folder) for child in value]
        return value


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Every key: formats that tell no lines have no places, and a mistake still names its file."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from _paths(child, (*path, key))


def _names(written: Any, place: Place) -> Sequence[str]:
    names = list(written) if isinstance(written, list | tuple) else [] if written is None else [written]
    if not all(isinstance(name, str | Path) and str(name) for name in names):
        raise _mistake(f"must be the path of a profile ({', '.join(FORMATS)}), or a list of them", place)
    return [str(name) for name in names]


def _over(above: Layer, below: Layer) -> Layer:
    """One layer over another."""
    places = dict(above.places)
    tree = _merged(above.tree, below, below.tree, (), places)
    return Layer(tree, places, (*above.mistakes, *below.mistakes))


def _merged(
    above: Mapping[str, Any], below: Layer, part: Mapping[str, Any], path: KeyPath, places: dict[KeyPath, Place]
) -> dict[str, Any]:
    """The keys at `path` over `part`, which stands there in the layer below; its places are added to `places`."""
    tree = dict(above)
    for key, value in part.items():
        here = (*path, key)
        written: Any = above.get(key)
        if key not in above:
            tree[key] = copied(value)
            places |= {at: place for at, place in below.places.items() if at[: len(here)] == here}
        elif here == ("endpoint",) and isinstance(value, list) and _says_more_of(written):
            tree[key] = _laid_over_each(written, value)
            places |= {at: place for at, place in below.places.items() if at[:1] == here and len(at) > 1}
        elif _are_merged(written, value, here):
            tree[key] = _merged(written, below, value, here, places)
    return tree


def _are_merged(written: Any, value: Any, here: KeyPath) -> bool:
    if not isinstance(written, Mapping) or not isinstance(value, Mapping) or here[:-1] in _WHOLE:
        return False
    return here != ("endpoint",) or _says_more_of(written)


def _says_more_of(endpoint: Any) -> bool:
    """Whether it is keys for the profile's endpoints, and no endpoint of its own."""
    return isinstance(endpoint, Mapping) and endpoint.get("base_url") is None


def _laid_over_each(keys: Mapping[str, Any], endpoints: Sequence[Any]) -> list[Any]:
    tree: dict[str, Any] = {"endpoint": copied(endpoints)}
    for key, value in keys.items():
        put(tree, ("endpoint", key), value)
    return list(tree["endpoint"])


def _named(mistake: Mistake, path: Path, place: Place) -> Mistake:
    """What is wrong with the profile as a whole is told where it is named; what is wrong in a line, there."""
    if mistake.line is not None:
        return mistake
    return Mistake(f"{path}: {mistake.message}", file=place.file, line=place.line, key=KEY)


def _mistake(says: str, place: Place) -> InputError:
    return InputError(Mistake(says, file=place.file, line=place.line, key=KEY))
