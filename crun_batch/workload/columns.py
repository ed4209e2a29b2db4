"""The columns of a run's results: which input columns are carried, and that no name is taken twice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
from msgspec import structs

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.job import Job
from crun_batch.load.job.output_schema import Column, column_of, merged
from crun_batch.load.table.table import Table
from crun_batch.store.schema import LAST, SEQUENCE, attempts_schema, parts_schema, quoted, results_schema
from crun_batch.workload.request import Variant
from crun_batch.workload.workload import Workload

_NO_NAME = re.compile(r"|\*|\^.*\$", re.DOTALL)
"""What readers of results take for no name: nothing at all in SQL; all columns, and a pattern, in Polars."""


def carried_columns(job: Job, table: Table, variants: Sequence[Variant]) -> dict[str, str]:
    """New name in the results -> input column, the id left out."""
    names = table.schema.names
    chosen = job.output.columns
    if chosen is None:
        prompts = [(variant.job.prompt, variant.renderer) for variant in variants]
        rendered = [made for prompt, made in prompts if not (prompt.body_column or prompt.messages_column)]
        columns = {name: name for name in names if any(name in made.columns for made in rendered)}
    elif chosen == "all":
        columns = {name: name for name in names}
    else:
        columns = dict(chosen)
    return {name: column for name, column in columns.items() if name != table.id_name and column in names}


def refuse_missing(job: Job, table: Table) -> None:
    """Raises InputError where a column that is to be carried is not in the table."""
    names = table.schema.names
    chosen = job.output.columns
    carried = chosen.values() if isinstance(chosen, Mapping) else ()
    missing = [column for column in carried if column not in names and column != table.id_name]
    if missing:
        raise InputError(
            [
                job.document.mistake(
                    ("output", "columns"), f"there is no column {column!r}; the table has {', '.join(names)}"
                )
                for column in missing
            ]
        )


def check_names(workload: Workload) -> None:
    """No column that the user names may have a name of ours, in whatever case: SQL tells no case apart."""
    schema = workload.run_schema()
    ours = structs.replace(schema, id_name=SEQUENCE, carried=pa.schema([]))
    taken = {name.lower() for name in (*parts_schema(ours).names, *results_schema(ours).names, LAST)}
    mistakes = []
    if schema.id_name.lower() in taken | {name.lower() for name in attempts_schema(ours).names}:
        query = f"select *, {quoted(schema.id_name)} as my_id from 'table.csv'"
        mistakes.append(
            Mistake(
                f"results or attempts have a column {schema.id_name!r} of their own, whatever the case of its "
                f"letters; rename it in the table, or with input.query: {query}",
                workload.job.source,
                key="input.id",
            )
        )
    if _NO_NAME.fullmatch(schema.id_name):
        mistakes.append(_no_name(schema.id_name, workload.job, "input.id", "rename it in the table"))
    taken.add(schema.id_name.lower())
    for name in schema.carried.names:
        if _NO_NAME.fullmatch(name):
            way = f"give it another one: output.columns: {{my_name: {name!r}}}"
            if not name:
                way = "list the others in output.columns, or write the table without its index"
            mistakes.append(_no_name(name, workload.job, "output.columns", way))
        if name.lower() in taken:
            mistakes.append(
                Mistake(
                    f"the results have a column {name!r} already, whatever the case of its letters; rename the "
                    f"input's: output.columns: {{input_{name}: {workload.carried[name]}}}",
                    workload.job.source,
                    key="output.columns",
                )
            )
        taken.add(name.lower())
    if mistakes:
        raise InputError([workload.job.document.placed(mistake) for mistake in mistakes])


def _no_name(name: str, job: Job, key: str, way: str) -> Mistake:
    what = f"called {name!r}" if name else "without a name, such as pandas' index,"
    return Mistake(f"a column {what} cannot be read from the results again; {way}", job.source, key=key)


def output_column(variants: Sequence[Variant]) -> Column | None:
    """The column of the answers under an output schema, the same for all variants; None without one."""
    schemas = [variant.job.output_schema for variant in variants]
    columns = [column_of(schema) for schema in schemas if schema is not None]
    return merged(columns) if columns else None
