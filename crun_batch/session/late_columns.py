"""Columns that output.columns names only after results were finished: filled from the table, where it is the same.

Whether it is, is told by its fingerprint: job.json keeps those of all tables that the run's sessions have read. A
value of another table may be another value, so there the columns stay null, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from crun_batch.session.sealing import Sealer, open_journal
from crun_batch.state.run_state import RunContext
from crun_batch.store.carried import carried_encoder, decode_column
from crun_batch.store.directory import read_json, write_json
from crun_batch.store.recover import recover
from crun_batch.store.results import publish
from crun_batch.store.schema import RunSchema, schema_document
from crun_batch.store.views import snapshot
from crun_batch.workload.workload import Workload


def publish_filled(context: RunContext) -> None:
    """Publish the results, once what earlier sessions finished without is filled. Raises DiskFailed."""
    state = context.state
    if state.late_columns:
        if state.same_table:
            _fill(context)
        document = read_json(state.directory.job)
        document |= {"late_columns": [], "run_schema": schema_document(state.schema)}
        write_json(state.directory, state.directory.job, document)
        state.late_columns = ()
    publish(state.directory, state.schema, context.open_units, state.done.reopened_units)


def _fill(context: RunContext) -> None:
    from crun_batch.store.filling import fill_columns  # loads pandas, by way of pyarrow.dataset

    state, names = context.state, context.state.late_columns
    _seal_all(context)
    tables = _values(context.workload, state.schema, names)
    filled = fill_columns(state.directory, state.schema, names, tables)
    told = f"{', '.join(names)} filled from the table in {filled:,} results of earlier sessions"
    context.options.say(f"output.columns: {told}")


def _seal_all(context: RunContext) -> None:
    """What a kill left in the live segment is sealed, where no session has sent since."""
    state = context.state
    if not snapshot(state.directory, state.schema).finals.num_rows:
        return
    state.recovered = recover(state.directory)
    journal = open_journal(context)
    try:
        Sealer(state, journal, in_place=True).begin_segment()
    finally:
        journal.close()
    state.recovered = recover(state.directory)


def _values(workload: Workload, schema: RunSchema, names: Sequence[str]) -> Iterator[pa.Table]:
    """The id and the columns of every row of the table, by way of the texts that a journal would hold."""
    from crun_batch.store.filling import values_schema

    target = values_schema(schema, names)
    fields = [schema.carried.field(name) for name in names]
    encode = carried_encoder(pa.schema(fields), workload.carried)
    for rows in workload.table.unselected().rows([workload.carried[name] for name in names]):
        texts = [encode(row.values) for row in rows]
        columns = [pa.array([row.row_id for row in rows]).cast(target.types[0])]
        columns += [
            decode_column(pa.array([one[field.name] for one in texts], pa.string()), field.type)
            for field in fields
        ]
        yield pa.Table.from_arrays(columns, schema=target)
