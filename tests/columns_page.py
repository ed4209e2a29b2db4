"""docs/columns.md: every column of `results` and `attempts`, from the schemas and their meanings.

`python tests/columns_page.py` writes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from crun_batch.store.meanings import ATTEMPTS, RESULTS, Meaning
from crun_batch.store.schema import RunSchema, attempts_schema, results_schema

PAGE = Path(__file__).parent.parent / "docs" / "columns.md"
EXAMPLE = RunSchema(
    id_name="review_id",
    id_type=pa.string(),
    carried=pa.schema([pa.field("lang", pa.string())]),
    axes={"default": {"who": "gpt"}},
    scores=("right",),
    output=pa.struct([pa.field("label", pa.string())]),
)
OF_THE_JOB = {
    "review_id": Meaning("", "the row's id, under the name and in the type of `input.id`; `row` without one"),
    "lang": Meaning("", "a column of the table that is carried (`output.columns`), in its own type"),
    "axis_who": Meaning("", "a level of a sweep's axis: one such column for each axis, typed by its levels"),
    "score_right": Meaning(
        "0 to 1", "a grader's score: one such column for each; null where it could not be graded"
    ),
}
TYPES = {
    "decimal128(38, 12)": "decimal(38, 12)",
    "timestamp[us, tz=UTC]": "timestamp",
    "list<item: string>": "list of string",
}
HEAD = """\
# Columns

What `results.parquet` and `attempts/*.parquet` hold, and what `sql`, `Run.results()` and `Run.attempts()` show.
The types are fixed from the first row on. A null says that something is not known or does not apply; it is never
a 0.

Four columns stand for what a job brings along; here they are called `review_id`, `lang`, `axis_who`,
`score_right`. This page is written by `python tests/columns_page.py`.
"""


def described(schema: pa.Schema, meanings: Mapping[str, Meaning]) -> Iterator[tuple[str, str, Meaning]]:
    """Name, type and meaning of each column. Raises KeyError for one that nobody has described."""
    for field in schema:
        kind = TYPES.get(str(field.type), "struct" if pa.types.is_struct(field.type) else str(field.type))
        yield field.name, kind, {**meanings, **OF_THE_JOB}[field.name]


def page() -> str:
    """The whole page."""
    tables = (
        ("results", "one row for each finished unit (row, variant, repeat)", results_schema(EXAMPLE), RESULTS),
        ("attempts", "one row for each request that was sent", attempts_schema(EXAMPLE), ATTEMPTS),
    )
    parts = [HEAD]
    for name, what, schema, meanings in tables:
        lines = [
            f"| `{column}` | {kind} | {one.unit} | {one.says} |"
            for column, kind, one in described(schema, meanings)
        ]
        head = [f"## {name}: {what}", "", "| column | type | unit | says |", "|---|---|---|---|"]
        parts.append("\n".join([*head, *lines]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
