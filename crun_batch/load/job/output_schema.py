"""What answers must look like: a JSON Schema, whether it can be used, and the type of the column `output`.

Owns the way from a schema, a pydantic class included, to column types, and from an answer's JSON value to what
such a column takes. Nothing is fetched: a `$ref` must point into the schema itself. Checking answers against
the schema is somebody else's.

    object with properties     struct of them; what else an answer's object holds stands in output_text only
    array with items           list
    enum or const              the type of its values, where they have one
    string, number, boolean    string, double, bool; format date: date, format date-time: timestamp in UTC
    integer                    int64
    nullable                   the same type: every column may be null
    anything else              the value as JSON text: unions, free-form objects, tuples, recursion
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from importlib import import_module
from typing import Any, Literal

import orjson
import pyarrow as pa
from msgspec import Struct
from pydantic import TypeAdapter

Kind = Literal["struct", "list", "text", "integer", "number", "boolean", "date", "moment", "json"]
Shape = Callable[[Any], Any]
"""From a valid answer's value to what its column takes. Raises ValueError, in words, for what it cannot hold."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()


class Column(Struct, frozen=True):
    """The type of a column in our own words: a struct has `fields`, a list has an `item`."""

    kind: Kind
    fields: tuple[tuple[str, Column], ...] = ()
    item: Column | None = None


JSON_TEXT = Column("json")
_SCALARS: Mapping[str, Kind] = {"integer": "integer", "number": "number", "boolean": "boolean"}
_FORMATS: Mapping[object, Kind] = {"date": "date", "date-time": "moment"}
_KINDS_OF_VALUES: Mapping[type, Kind] = {str: "text", int: "integer", float: "number", bool: "boolean"}
_ARROW: Mapping[Kind, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "moment": pa.timestamp("us", tz="UTC"),
    "json": pa.string(),
}


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Why the schema cannot be used, in words; None where it can."""
    import jsonschema_rs  # 3 MB, for the jobs that have a schema

    try:
        jsonschema_rs.validator_for(dict(schema), validate_formats=True, retriever=refuse)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        return f"is no usable JSON Schema: {_first_line(str(error))}"
    return None


def refuse(uri: str) -> Any:
    """The retriever that retrieves nothing."""
    raise ValueError(f"{uri} is outside of the schema, and nothing is fetched: write it under $defs")


def schema_of_class(named: Any) -> dict[str, Any]:
    """The JSON Schema of a pydantic model (or dataclass, or TypedDict), given as a class or as `module:Class`.

    Raises ValueError, in words, where there is none.
    """
    try:
        found = _imported(named) if isinstance(named, str) else named
        return TypeAdapter(found).json_schema()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot be imported: {error}") from None
    except Exception as error:  # pydantic's own errors have no common class
        raise ValueError(f"is no class with a JSON Schema: {_first_line(str(error))}") from error


def _imported(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "no reason is given"


def column_of(schema: Mapping[str, Any]) -> Column:
    """The column of the answers under a schema that `schema_problem` finds nothing wrong with."""
    return _Reader(schema).column(schema, ())


def merged(columns: Sequence[Column]) -> Column:
    """One column for several variants: structs have the fields of all; where kinds differ it is JSON text."""
    first = columns[0]
    if all(column == first for column in columns):
        return first
    if any(column.kind != first.kind for column in columns):
        return JSON_TEXT
    if first.kind == "list":
        return Column("list", item=merged([column.item or JSON_TEXT for column in columns]))
    names = dict.fromkeys(name for column in columns for name, _ in column.fields)
    found = {name: [field for column in columns for own, field in column.fields if own == name] for name in names}
    return Column("struct", fields=tuple((name, merged(fields)) for name, fields in found.items()))


def arrow_type(column: Column) -> pa.DataType:
    """The column's Arrow type."""
    if column.kind == "struct":
        return pa.struct([pa.field(name, arrow_type(field)) for name, field in column.fields])
    if column.kind == "list":
        return pa.list_(arrow_type(column.item or JSON_TEXT))
    return _ARROW[column.kind]


def shape_of(column: Column) -> Shape | None:
    """How values are made ready for the column; None: they are as they come."""
    if column.kind == "struct":
        inner = {name: shape for name, field in column.fields if (shape := shape_of(field)) is not None}
        return _struct_shape(inner) if inner else None
    if column.kind == "list":
        item = shape_of(column.item or JSON_TEXT)
        return None if item is None else lambda value: None if value is None else [item(part) for part in value]
    shape = _SHAPES.get(column.kind)
    return None if shape is None else lambda value: None if value is None else shape(value)


def _struct_shape(inner: Mapping[str, Shape]) -> Shape:
    def shape(value: Any) -> Any:
        if value is None:
            return None
        shaped = {name: make(value[name]) for name, make in inner.items() if name in value}
        return {**value, **shaped}

    return shape


def _whole(value: Any) -> int:
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{value} is no whole number of 64 bits")
    return number


def _days(value: str) -> int:
    return date.fromisoformat(value).toordinal() - _EPOCH_DAY


def _moment(value: str) -> str:
    moment = datetime.fromisoformat(value.upper())
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except OverflowError:
        raise ValueError(f"{value} is no moment between the years 1 and 9999") from None


def _json_text(value: Any) -> str:
    return orjson.dumps(value).decode()


_SHAPES: Mapping[Kind, Shape] = {"integer": _whole, "date": _days, "moment": _moment, "json": _json_text}


class _Reader:
    """Reads the nodes of one schema, whose local references it follows."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def column(self, node: Any, followed: tuple[str, ...]) -> Column:
        """The column of a node; `followed`: the references on the way to it, so that recursion ends."""
        if not isinstance(node, Mapping):
            return JSON_TEXT
        if "$ref" in node:
            return self._referenced(node["$ref"], followed)
        if "enum" in node or "const" in node:
            return _column_of_values(node.get("enum", [node.get("const")]))
        kind = self._type_of(node)
        if kind == "object" and node.get("properties"):
            fields = ((name, self.column(inner, followed)) for name, inner in node["properties"].items())
            return Column("struct", fields=tuple(fields))
        if kind == "array" and "items" in node and "prefixItems" not in node:
            return Column("list", item=self.column(node["items"], followed))
        if kind == "string":
            return Column(_FORMATS.get(node.get("format"), "text"))
        if kind is None:
            return self._alternatives(node, followed)
        return Column(_SCALARS.get(kind, "json"))

    def _type_of(self, node: Mapping[str, Any]) -> str | None:
        """The one type of a node beside null; "union": several; None: it does not say."""
        kinds = node.get("type")
        if isinstance(kinds, list):
            kinds = [kind for kind in kinds if kind != "null"]
            return kinds[0] if len(kinds) == 1 else "union"
        if kinds is None:
            return "object" if "properties" in node else "array" if "items" in node else None
        return str(kinds)

    def _alternatives(self, node: Mapping[str, Any], followed: tuple[str, ...]) -> Column:
        """AnyOf and oneOf whose branches beside null are of one type; allOf with a single part."""
        branches = node.get("anyOf") or node.get("oneOf") or []
        if not branches and len(node.get("allOf", ())) == 1:
            branches = node["allOf"]
        columns = [self.column(branch, followed) for branch in branches if not _is_null(branch)]
        return columns[0] if columns and all(column == columns[0] for column in columns) else JSON_TEXT

    def _referenced(self, reference: Any, followed: tuple[str, ...]) -> Column:
        if not isinstance(reference, str) or not reference.startswith("#") or reference in followed:
            return JSON_TEXT
        node: Any = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            node = node.get(name) if isinstance(node, Mapping) else None
        return self.column(node, (*followed, reference))


def _is_null(branch: Any) -> bool:
    return isinstance(branch, Mapping) and (branch.get("type") == "null" or branch.get("const", 0) is None)


def _column_of_values(values: Sequence[Any]) -> Column:
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        return Column("number")
    return Column(_KINDS_OF_VALUES.get(types.pop(), "json")) if len(types) == 1 else JSON_TEXT
