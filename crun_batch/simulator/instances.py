"""Values that obey a JSON Schema, drawn from a seed: what a model under structured output would say.

Knows the keywords that gateways accept for structured output: type, enum, const, properties, items, anyOf,
oneOf, allOf, local $ref, and the limits of numbers, strings and arrays. Optional properties are left out once
in four times; recursion ends where a schema lets it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
_WORDS = (
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "haven",
    "juniper",
    "kelp",
    "lunar",
    "maple",
)
_FORMATS = {
    "date": "2026-01-17",
    "date-time": "2026-01-17T09:30:00Z",
    "time": "09:30:00Z",
    "email": "reader@example.com",
    "uri": "https://example.com/item",
    "uuid": "3f2b8c1e-5a4d-4e6f-9b7a-1c2d3e4f5a6b",
    "ipv4": "192.0.2.7",
    "hostname": "example.com",
}
_DEEPEST = 12


def instance(schema: Schema | bool, seed: str) -> Any:
    """A JSON value that is valid for the schema; the same for the same seed."""
    return _Maker(schema if isinstance(schema, dict) else {}, seed).make(schema, 0)


class _Maker:
    """One drawing: the root schema for its references, and a counter so that every draw is another one."""

    def __init__(self, root: Schema, seed: str) -> None:
        self._root = root
        self._seed = seed
        self._drawn = 0

    def pick(self, choices: int) -> int:
        """A number in [0, choices)."""
        self._drawn += 1
        return (
            int.from_bytes(hashlib.blake2b(f"{self._drawn}{self._seed}".encode(), digest_size=8).digest())
            % choices
        )

    def make(self, schema: Schema | bool, depth: int) -> Any:
        """A value for one schema node."""
        if not isinstance(schema, dict):
            return None
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][self.pick(len(schema["enum"]))]
        for name in ("anyOf", "oneOf"):
            if schema.get(name):
                return self.make(self._branch(schema[name], depth), depth + 1)
        return _MAKERS[self._type(schema, depth)](self, schema, depth)

    def _resolved(self, schema: Schema) -> Schema:
        for _ in range(_DEEPEST):
            if "$ref" not in schema:
                break
            schema = {
                **self._target(schema["$ref"]),
                **{name: value for name, value in schema.items() if name != "$ref"},
            }
        for part in schema.get("allOf", ()):
            schema = _merged(schema, self._resolved(part))
        return schema

    def _target(self, reference: str) -> Schema:
        node: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            node = node.get(step.replace("~1", "/").replace("~0", "~"), {}) if step else node
        return node if isinstance(node, dict) else {}

    def _branch(self, branches: list[Schema], depth: int) -> Schema:
        if depth < _DEEPEST // 2:
            return branches[self.pick(len(branches))]
        flat = [
            branch for branch in branches if branch.get("type") not in ("object", "array") and "$ref" not in branch
        ]
        return (flat or branches)[0]

    def _type(self, schema: Schema, depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            return "null" if depth > _DEEPEST // 2 and "null" in kind else str(kind[self.pick(len(kind))])
        if isinstance(kind, str) and kind in _MAKERS:
            return kind
        return "object" if "properties" in schema else "array" if "items" in schema else "string"

    def object(self, schema: Schema, depth: int) -> dict[str, Any]:
        """All required properties, and three of four optional ones."""
        required = schema.get("required", ())
        return {
            name: self.make(inner, depth + 1)
            for name, inner in schema.get("properties", {}).items()
            if name in required or (depth < _DEEPEST // 2 and self.pick(4))
        }

    def array(self, schema: Schema, depth: int) -> list[Any]:
        """Between minItems and maxItems values, by default up to 3."""
        least = int(schema.get("minItems", 0 if depth > 3 else 1))
        most = int(schema.get("maxItems", max(least, 3)))
        wanted = least if depth > _DEEPEST // 2 else least + self.pick(min(most - least, 3) + 1)
        values: list[Any] = []
        for _ in range(wanted * 8):
            if len(values) == wanted:
                break
            value = self.make(schema.get("items", {"type": "string"}), depth + 1)
            if not schema.get("uniqueItems") or value not in values:
                values.append(value)
        return values

    def string(self, schema: Schema, depth: int) -> str:
        """Words between minLength and maxLength, or the example of a known format."""
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = " ".join(_WORDS[self.pick(len(_WORDS))] for _ in range(1 + self.pick(4)))
        return text.ljust(int(schema.get("minLength", 0)), "x")[: int(schema.get("maxLength", 10_000))]

    def integer(self, schema: Schema, depth: int) -> int:
        """A whole number within the limits, by default 0 to 100, on multipleOf."""
        step = int(schema.get("multipleOf", 1))
        low, high = _bounds(schema, 1)
        first, last = -(-int(low) // step), int(high) // step
        return (first + self.pick(max(1, last - first + 1))) * step

    def number(self, schema: Schema, depth: int) -> float | int:
        """A number within the limits, by default 0 to 100."""
        if "multipleOf" in schema:
            low, high = _bounds(schema, 0)
            first = -int(-low // schema["multipleOf"])
            return float(
                (first + self.pick(max(1, int((high - low) // schema["multipleOf"])))) * schema["multipleOf"]
            )
        low, high = _bounds(schema, 0)
        return round(low + (high - low) * (1 + self.pick(998)) / 1000, 6)

    def boolean(self, schema: Schema, depth: int) -> bool:
        """True or false."""
        return bool(self.pick(2))

    def null(self, schema: Schema, depth: int) -> None:
        """Nothing."""


_MAKERS: dict[str, Callable[[_Maker, Schema, int], Any]] = {
    "object": _Maker.object,
    "array": _Maker.array,
    "string": _Maker.string,
    "integer": _Maker.integer,
    "number": _Maker.number,
    "boolean": _Maker.boolean,
    "null": _Maker.null,
}


def _merged(first: Schema, second: Schema) -> Schema:
    merged = {**first, **second}
    if "properties" in first and "properties" in second:
        merged["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        merged["required"] = [*first["required"], *second["required"]]
    return merged


def _bounds(schema: Schema, step: float) -> tuple[float, float]:
    low = schema.get("minimum", schema["exclusiveMinimum"] + step if "exclusiveMinimum" in schema else None)
    high = schema.get("maximum", schema["exclusiveMaximum"] - step if "exclusiveMaximum" in schema else None)
    if low is None:
        low = 0 if high is None or high >= 0 else high - 100
    return low, high if high is not None else low + 100
