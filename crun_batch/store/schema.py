"""What the columns of a run are: the part of the job that the store must know, and the schemas it gives.

Owns: names, order and types of the columns of `results` and `attempts`. Pure.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.types as is_type
from msgspec import Struct, structs

from crun_batch.store.carried import stored_type

MONEY = pa.decimal128(38, 12)
MOMENT = pa.timestamp("us", tz="UTC")

TOKENS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
SEQUENCE = "_sequence"
"""Hidden in parts: segment number x 2**32 + line, the order in which finals were recorded."""
SUPERSEDES = "_supersedes"
"""Hidden in parts: this final replaces the earlier ones of its unit."""
LAST = "_last"
"""Beside a unit's columns, on the way: the sequence of its last superseding final."""


class RunSchema(Struct, frozen=True):
    """What the store must know of the job to give its columns names and types."""

    id_name: str = "row"
    id_type: pa.DataType = pa.int64()
    carried: pa.Schema = pa.schema([])
    """Columns carried into results, by their new names; without the id."""
    axes: Mapping[str, Mapping[str, Any]] = {}
    """Variant name -> axis name -> its value there, JSON-able."""
    scores: tuple[str, ...] = ()
    output: pa.DataType | None = None
    """Type of the column `output`; None: there is none."""

    @property
    def stored_id_type(self) -> pa.DataType:
        """Integers stay what they are; everything else is text."""
        return self.id_type if is_type.is_integer(self.id_type) else pa.string()

    @property
    def axis_fields(self) -> list[pa.Field]:
        """One column per axis: bool, int64, double or string where all its levels are that, else JSON text."""
        names = dict.fromkeys(name for axes in self.axes.values() for name in axes)
        return [pa.field(f"axis_{name}", _axis_type(self._levels(name))) for name in names]

    def axis_values(self, variant: str) -> dict[str, Any]:
        """The values of a variant's axis columns."""
        levels = self.axes.get(variant, {})
        values = ((field, levels.get(field.name.removeprefix("axis_"))) for field in self.axis_fields)
        return {field.name: _axis_value(value, field.type) for field, value in values}

    @property
    def unit_columns(self) -> list[str]:
        """The columns that name a unit."""
        return [self.id_name, "variant", "repeat"]

    def _levels(self, axis: str) -> list[Any]:
        return [axes[axis] for axes in self.axes.values() if axes.get(axis) is not None]


def results_schema(schema: RunSchema) -> pa.Schema:
    """The columns of `results`, in their order."""
    output = [pa.field("output", schema.output)] if schema.output is not None else []
    return pa.schema(
        [
            pa.field(schema.id_name, schema.stored_id_type),
            *(pa.field(field.name, stored_type(field.type)) for field in schema.carried),
            pa.field("variant", pa.string()),
            *schema.axis_fields,
            pa.field("repeat", pa.int32()),
            pa.field("status", pa.string()),
            pa.field("output_text", pa.string()),
            *output,
            pa.field("outputs", pa.list_(pa.string())),
            pa.field("tool_calls", pa.string()),
            pa.field("finish_reason", pa.string()),
            *(pa.field(f"score_{name}", pa.float64()) for name in schema.scores),
            pa.field("error_kind", pa.string()),
            pa.field("error_message", pa.string()),
            pa.field("model", pa.string()),
            pa.field("response_id", pa.string()),
            *(pa.field(name, pa.int64()) for name in TOKENS),
            pa.field("cost_usd", MONEY),
            pa.field("cost_credits", MONEY),
            pa.field("cost_source", pa.string()),
            pa.field("attempt_count", pa.int32()),
            pa.field("unknown_attempts", pa.int32()),
            pa.field("latency_seconds", pa.float64()),
            pa.field("started_at", MOMENT),
            pa.field("finished_at", MOMENT),
            pa.field("request_hash", pa.string()),
            pa.field("reused_from", pa.string()),
        ]
    )


def parts_schema(schema: RunSchema) -> pa.Schema:
    """The columns of the sealed finals: those of `results` without the scores, then the hidden ones."""
    hidden = [pa.field(SEQUENCE, pa.int64()), pa.field(SUPERSEDES, pa.bool_())]
    return pa.schema([*results_schema(structs.replace(schema, scores=())), *hidden])


def score_columns(schema: RunSchema) -> list[str]:
    """The names of the columns of `results` that are kept beside the finals."""
    return [f"score_{name}" for name in schema.scores]


def attempts_schema(schema: RunSchema) -> pa.Schema:
    """The columns of `attempts`, in their order."""
    return pa.schema(
        [
            pa.field("serial", pa.int64()),
            pa.field(schema.id_name, schema.stored_id_type),
            pa.field("variant", pa.string()),
            *schema.axis_fields,
            pa.field("repeat", pa.int32()),
            pa.field("turn", pa.int32()),
            pa.field("purpose", pa.string()),
            pa.field("judge", pa.string()),
            pa.field("endpoint", pa.string()),
            pa.field("service_tier", pa.string()),
            pa.field("attempt", pa.int32()),
            pa.field("pack_rows", pa.int32()),
            pa.field("pack_place", pa.int32()),
            pa.field("outcome", pa.string()),
            pa.field("http_status", pa.int32()),
            pa.field("error_kind", pa.string()),
            pa.field("error_message", pa.string()),
            pa.field("finish_reason", pa.string()),
            pa.field("model", pa.string()),
            pa.field("response_id", pa.string()),
            pa.field("request_id", pa.string()),
            *(pa.field(name, pa.int64()) for name in TOKENS),
            pa.field("cache_write_1h_tokens", pa.int64()),
            pa.field("cost_usd", MONEY),
            pa.field("cost_credits", MONEY),
            pa.field("cost_source", pa.string()),
            pa.field("reported_usd", pa.string()),
            pa.field("other_charges", pa.string()),
            pa.field("held_usd", MONEY),
            pa.field("held_credits", MONEY),
            pa.field("latency_seconds", pa.float64()),
            pa.field("started_at", MOMENT),
            pa.field("finished_at", MOMENT),
            pa.field("request_hash", pa.string()),
            pa.field("reply_body", pa.string()),
            pa.field("reply_base64", pa.string()),
        ]
    )


def money_column(pico: pa.Array) -> pa.Array:
    """Integers of pico as decimals with 12 places: the same digits, another place of the point."""
    digits = pico if pico.type == pa.decimal128(38, 0) else pico.cast(pa.decimal128(38, 0))
    return pa.Array.from_buffers(MONEY, len(digits), digits.buffers(), digits.null_count, digits.offset)


def schema_document(schema: RunSchema) -> dict[str, Any]:
    """The schema as JSON-able values, for the key `run_schema` of job.json."""
    types = pa.schema(
        [pa.field("id", schema.id_type), *([pa.field("output", schema.output)] if schema.output else [])]
    )
    return {
        "id_name": schema.id_name,
        "carried_columns": schema.carried.names,
        "axes": {variant: dict(axes) for variant, axes in schema.axes.items()},
        "scores": list(schema.scores),
        "arrow_types": _encoded(types),
        "arrow_carried": _encoded(schema.carried),
    }


def schema_from_document(document: Mapping[str, Any]) -> RunSchema:
    """The schema that `schema_document` wrote."""
    types = _decoded(document["arrow_types"])
    return RunSchema(
        id_name=document["id_name"],
        id_type=types.field("id").type,
        carried=_decoded(document["arrow_carried"]),
        axes=document["axes"],
        scores=tuple(document["scores"]),
        output=types.field("output").type if "output" in types.names else None,
    )


def _encoded(schema: pa.Schema) -> str:
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


def _decoded(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _axis_type(levels: list[Any]) -> pa.DataType:
    kinds = {type(level) for level in levels}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(-(2**63) <= level < 2**63 for level in levels):
        return pa.int64()
    if kinds <= {int, float} and kinds:
        return pa.float64()
    return pa.string()


def _axis_value(value: Any, data_type: pa.DataType) -> Any:
    if value is None or isinstance(value, str) or not is_type.is_string(data_type):
        return value
    return orjson.dumps(value).decode()


def quoted(name: str) -> str:
    """A column's name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def no_rows(schema: pa.Schema) -> pa.Table:
    """A table of that schema without rows. `Schema.empty_table` would import pandas, which takes half a second."""
    return pa.Table.from_batches([], schema)


@lru_cache(maxsize=64)
def constant(value: str | float, data_type: pa.DataType) -> pa.Scalar:
    """A value for Arrow's functions. They would make one of a Python value too, and import pandas for it."""
    buffers: list[Any]
    if isinstance(value, str):
        encoded = value.encode()
        kind, buffers = pa.string(), [array("i", [0, len(encoded)]), encoded]
    elif isinstance(value, bool):
        kind, buffers = pa.bool_(), [bytes([value])]
    elif isinstance(value, int):
        kind, buffers = pa.int64(), [array("q", [value])]
    else:
        kind, buffers = pa.float64(), [array("d", [value])]
    whole = pa.Array.from_buffers(kind, 1, [None, *map(pa.py_buffer, buffers)])
    return whole[0].cast(data_type)
