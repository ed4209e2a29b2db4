"""Stored tokens priced anew: the costs of all sealed attempts, and of the finals that sum them.

File by file, each replaced at once and marked with the fingerprint of the prices it was priced with: a crash
leaves some files priced the old way, and doing it again finishes. What a reply itself said that it costs stays.
Must not know: how a price is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import SEQUENCE, TOKENS, RunSchema, money_column
from crun_batch.store.seal import put_in_place, write_parquet
from crun_batch.store.views import parquet_source, quoted, snapshot

Charge = Callable[[str, tuple[int | None, ...], str | None], tuple[int | None, int | None, str | None]]
"""(variant, the counts of schema.TOKENS, the cost that the reply stated) -> (pico USD, pico credits, source)."""

_PRICES = b"crun_batch.prices"
_COSTS = ("cost_usd", "cost_credits", "cost_source")
_PRICED = (pa.decimal128(38, 0), pa.decimal128(38, 0), pa.string())
_BASIS = ("reported_usd", "cost_source")


def reprice(run: RunDirectory, schema: RunSchema, charge: Charge, fingerprint: str) -> int:
    """Price every sealed file anew; returns how many files changed. Publish afterwards.

    Needs the lock, and every recorded attempt sealed: a live segment may hold no more than its head and starts
    (ValueError). `fingerprint` names the prices: files that have it are left alone. Raises DiskFailed.
    """
    now = snapshot(run, schema)
    if now.attempts.num_rows or now.finals.num_rows:
        raise ValueError("the live segment must be sealed before its costs can be computed anew")
    changed = 0
    for number in now.sealed:
        path = run.attempt_file(number)
        if not _is_priced(path, fingerprint):
            _replace(run, path, _priced_attempts(pq.read_table(path), charge), fingerprint)
            changed += 1
    with duckdb.connect(":memory:") as connection:
        _sum_units_of_many_attempts(connection, [run.attempt_file(number) for number in now.sealed], schema)
        for number in now.sealed:
            path = run.part(number)
            if not _is_priced(path, fingerprint):
                sums = _unit_sums(connection, path, run.attempt_file(number), schema)
                _replace(run, path, _with_costs(pq.read_table(path), sums), fingerprint)
                changed += 1
    return changed


def _is_priced(path: Path, fingerprint: str) -> bool:
    return (pq.read_schema(path).metadata or {}).get(_PRICES) == fingerprint.encode()


def _replace(run: RunDirectory, path: Path, table: pa.Table, fingerprint: str) -> None:
    entry = write_parquet(run, path, table.schema, [table], {_PRICES: fingerprint.encode()})
    put_in_place(run, [path], [entry])


def _priced_attempts(table: pa.Table, charge: Charge) -> pa.Table:
    """The costs of each attempt that has token counts and no cost of the reply's own; others keep theirs."""
    counts = zip(*(table.column(name).to_pylist() for name in TOKENS), strict=True)
    rows = zip(
        table.column("variant").to_pylist(),
        counts,
        *(table.column(name).to_pylist() for name in _BASIS),
        strict=True,
    )
    costs = [
        None
        if source == "reply" or all(count is None for count in tokens)
        else charge(variant, tokens, reported_usd)
        for variant, tokens, reported_usd, source in rows
    ]
    kept = pa.array([cost is None for cost in costs], pa.bool_())
    usd, credit, source = (
        pa.array([cost and cost[index] for cost in costs], _PRICED[index]) for index in range(3)
    )
    columns = zip(_COSTS, (money_column(usd), money_column(credit), source), strict=True)
    return _with_costs(
        table, pa.table({name: pc.if_else(kept, table.column(name), column) for name, column in columns})
    )


def _with_costs(table: pa.Table, costs: pa.Table) -> pa.Table:
    for name in _COSTS:
        index = table.schema.get_field_index(name)
        table = table.set_column(
            index, table.schema.field(index), costs.column(name).cast(table.schema.types[index])
        )
    return table


def _sum_units_of_many_attempts(
    connection: duckdb.DuckDBPyConnection, files: list[Path], schema: RunSchema
) -> None:
    """Few units need more than one attempt, but theirs may lie in several files."""
    keys = ", ".join(map(quoted, schema.unit_columns))
    source = parquet_source(files) if files else f"(select {_empty(schema)} limit 0)"
    connection.execute(
        f"create table many as select {keys}, {_SUMS} from {source} group by {keys} having count(*) > 1"
    )


def _unit_sums(connection: duckdb.DuckDBPyConnection, part: Path, attempts: Path, schema: RunSchema) -> pa.Table:
    """Costs for each final of a part, in its order; a unit without attempts keeps what it has."""
    keys = ", ".join(map(quoted, schema.unit_columns))
    chosen = ", ".join(f"case when sums.known then sums.{name} else final.{name} end as {name}" for name in _COSTS)
    same_unit = " and ".join(f"sums.{quoted(key)} = final.{quoted(key)}" for key in schema.unit_columns)
    return connection.sql(
        f"with here as (select {keys}, {_SUMS} from {parquet_source([attempts])} group by {keys}), "
        f"sums as (select *, true as known from many union all "
        f"select *, true as known from here where ({keys}) not in (select ({keys}) from many)) "
        f"select {chosen} from {parquet_source([part])} final left join sums on {same_unit} "
        f"order by final.{SEQUENCE}"
    ).to_arrow_table()


def _empty(schema: RunSchema) -> str:
    names = [*map(quoted, schema.unit_columns), *_COSTS, "serial"]
    return ", ".join(f"null as {name}" for name in names)


_SUMS = (
    "sum(cost_usd) as cost_usd, sum(cost_credits) as cost_credits, "
    "arg_max(cost_source, serial) filter (cost_source is not null) as cost_source"
)
