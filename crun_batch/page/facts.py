"""What is known of a run before a row of it is read: its columns, variants and scores, from job.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.types as is_type
from msgspec import Struct

from crun_batch.console.amounts import noun_of
from crun_batch.records import STATUSES
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.store.schema import TOKENS, RunSchema, quoted, results_schema, schema_from_document

CARRIED_SHOWN = 2
"""So many carried columns stand in the table where nobody has chosen."""


class RunFacets(Struct, frozen=True):
    """What the rows of a run can be chosen and ordered by."""

    name: str
    id_name: str
    columns: dict[str, pa.DataType]
    """Those of `results`, in their order."""
    carried: tuple[str, ...]
    variants: tuple[str, ...]
    scores: tuple[str, ...]
    judges: tuple[str, ...]
    """Those of the scores that a model gives."""
    repeats: int

    def sql_id(self, text: str) -> str:
        """An id that is written as text, in the type of the run's ids: each row's own need not be cast.

        Null for what is no such id.
        """
        of_type = self.columns[self.id_name]
        if not is_type.is_integer(of_type):
            return text
        return f"try_cast({text} as {'ubigint' if is_type.is_unsigned_integer(of_type) else 'bigint'})"

    @property
    def noun(self) -> str:
        """What a line of the results is: a row; a unit, where a row has several."""
        return noun_of(max(1, len(self.variants)) * self.repeats)

    @property
    def score_columns(self) -> tuple[str, ...]:
        """The columns of the scores, which are kept beside the finals."""
        return tuple(f"score_{name}" for name in self.scores)

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns in which a text may stand: where all are searched."""
        return tuple(name for name, of_type in self.columns.items() if _holds_text(of_type) and name != HASH)

    @property
    def searched(self) -> tuple[str, ...]:
        """Where a text is looked for that may stand anywhere: the id, and all texts."""
        return tuple(dict.fromkeys((self.id_name, *self.texts)))

    @property
    def confidence(self) -> str | None:
        """How sure an answer says it is, as SQL: a number called so in the typed answer, or carried."""
        output = self.columns.get("output")
        if output is not None and is_type.is_struct(output):
            index = output.get_field_index(CONFIDENCE)
            if index >= 0 and _is_number(output.field(index).type):
                return f"{quoted('output')}.{quoted(CONFIDENCE)}"
        column = self.columns.get(CONFIDENCE)
        return quoted(CONFIDENCE) if column is not None and _is_number(column) else None


HASH = "request_hash"
CONFIDENCE = "confidence"


def run_facets(path: Path) -> RunFacets:
    """The facets of the run in a directory. Raises InputError where there is none, RunDamaged."""
    document = read_json(RunDirectory(path).job)
    return facets_of(document["job"], schema_from_document(document["run_schema"]))


def facets_of(job: Mapping[str, Any], schema: RunSchema) -> RunFacets:
    """The facets by the recorded job and the types of its columns."""
    fields = results_schema(schema)
    graders = {one["name"]: one["grader"] for one in job.get("score") or ()}
    return RunFacets(
        name=job["name"],
        id_name=schema.id_name,
        columns={field.name: field.type for field in fields},
        carried=tuple(schema.carried.names),
        variants=tuple(schema.axes),
        scores=schema.scores,
        judges=tuple(name for name in schema.scores if graders.get(name) == "judge"),
        repeats=job.get("repeats") or 1,
    )


def facets_document(facets: RunFacets) -> dict[str, Any]:
    """The same as plain data for the page."""
    return {
        "name": facets.name,
        "id_name": facets.id_name,
        "columns": [
            {"name": name, "type": str(of_type), "kind": _kind(name, of_type, facets)}
            for name, of_type in facets.columns.items()
        ],
        "shown": _shown(facets),
        "variants": list(facets.variants),
        "scores": [{"name": name, "is_judge": name in facets.judges} for name in facets.scores],
        "statuses": list(STATUSES),
        "repeats": facets.repeats,
        "noun": facets.noun,
        "queues": _queues(facets),
    }


def _queues(facets: RunFacets) -> list[str]:
    """The queues that this run can have."""
    has = {
        "disagreements": len(facets.variants) > 1,
        "confidence": facets.confidence is not None,
        "random": True,
        "judge": bool(facets.judges),
    }
    return [name for name, holds in has.items() if holds]


def _kind(name: str, of_type: pa.DataType, facets: RunFacets) -> str:
    """How the page writes a value of this column: text, nested (JSON), number, money, moment."""
    if name.removeprefix("score_") in facets.scores or name in TOKENS:
        return "number"
    if name.startswith("cost_") and is_type.is_decimal(of_type):
        return "money"
    if is_type.is_timestamp(of_type):
        return "moment"
    if is_type.is_nested(of_type):
        return "nested"
    if name != facets.id_name and _is_number(of_type):
        return "number"
    return "text"


def _shown(facets: RunFacets) -> list[str]:
    """The columns that stand in the table where nobody has chosen."""
    answer = "output" if "output" in facets.columns else "output_text"
    is_sweep = len(facets.variants) > 1
    carried = [name for name in facets.carried if _holds_text(facets.columns[name])][:CARRIED_SHOWN]
    return [
        facets.id_name,
        *(["variant"] if is_sweep else []),
        *(["repeat"] if facets.repeats > 1 else []),
        "status",
        *carried,
        answer,
        *(f"score_{name}" for name in facets.scores),
        "error_message",
        "latency_seconds",
    ]


def _is_number(of_type: pa.DataType) -> bool:
    return bool(is_type.is_integer(of_type) or is_type.is_floating(of_type))


def _holds_text(of_type: pa.DataType) -> bool:
    """Text, or what may have text in it."""
    return bool(is_type.is_string(of_type) or is_type.is_large_string(of_type) or is_type.is_nested(of_type))
