"""What the keys of a grader allow beside each other: one table, read for every grader of `score`.

Like `rules`, it looks at the tree as written. Must not know how graders grade.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from crun_batch.load.job.places import KeyPath

_TEXT = ("pattern", "field", "ignore_case", "whitespace")
_NUMBER = ("tolerance", "relative_tolerance")
_JUDGE = ("model", "endpoint", "prompt", "params", "output_schema", "labels", "scale", "field")


class Keys(NamedTuple):
    """The keys of one kind of grader: those it needs, and those it takes as well."""

    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


GRADERS: Mapping[str, Keys] = {
    "exact": Keys(("expected",), _TEXT),
    "one_of": Keys(("expected",), _TEXT),
    "contains": Keys(("expected",), _TEXT),
    "regex": Keys(("pattern",), ("field", "ignore_case")),
    "number": Keys(("expected",), (*_NUMBER, "pattern", "field")),
    "json": Keys(("expected",), ("field", *_NUMBER, "ignore_case", "whitespace")),
    "python": Keys(("function",), ("expected",)),
    "judge": Keys(("model",), ("expected", *_JUDGE)),
}
_SHAPES: Mapping[type, tuple[str, ...]] = {
    list: ("one_of", "contains", "json"),
    dict: ("json",),
}
"""A list or a mapping as `expected` -> the graders that can compare with it; a text or a number goes with all."""


def grader_mistakes(score: Any) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong between the keys of the graders; what is wrong within one key is the model's to say."""
    graders = [
        (index, one) for index, one in enumerate(score if isinstance(score, list) else []) if isinstance(one, dict)
    ]
    names: set[str] = set()
    for index, one in graders:
        if isinstance(one.get("name"), str) and one["name"].casefold() in names:
            yield (
                ("score", index, "name"),
                f"is used twice: '{one['name']}'; upper and lower case count as the same",
            )
        names.add(str(one.get("name")).casefold())
        if isinstance(one.get("grader"), str) and one["grader"] in GRADERS:
            yield from ((("score", index, key), says) for key, says in _key_mistakes(one))


def _key_mistakes(one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind, written = one["grader"], [key for key, value in one.items() if value is not None]
    keys = GRADERS[kind]
    yield from ((key, f"is missing: the grader {kind} needs it") for key in keys.needs if key not in written)
    allowed = (*keys.needs, *keys.takes)
    others = {key for grader in GRADERS.values() for key in (*grader.needs, *grader.takes)} - set(allowed)
    yield from (
        (key, f"does not go with the grader {kind}, which takes {', '.join(allowed)}")
        for key in written
        if key in others
    )
    fitting = _SHAPES.get(type(one.get("expected")))
    if fitting and kind not in fitting and "expected" in allowed:
        yield "expected", f"must be a text or a number for the grader {kind}"
    if one.get("labels") is not None and one.get("scale") is not None:
        yield "scale", "cannot stand beside labels: keep one"
