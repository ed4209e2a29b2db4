"""The state of a run as anybody may read it, at any moment, without a lock.

Sealed files count where their segment is gone; live segments are read up to their last whole line. Another
process may be writing: a segment that vanishes between listing and reading has been sealed, and the listing is
made again. A final that supersedes hides the earlier ones of its unit. Reads only. Most runs have none of those
and ask for no frame: polars and DuckDB are loaded where they are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Struct

from crun_batch.errors import InputError, RunDamaged
from crun_batch.records import PICO
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.store.durations import as_counts, selection
from crun_batch.store.frames import segment_tables
from crun_batch.store.scanning import scan
from crun_batch.store.schema import (
    LAST,
    SEQUENCE,
    SUPERSEDES,
    RunSchema,
    attempts_schema,
    no_rows,
    parts_schema,
    quoted,
    results_schema,
    schema_from_document,
    score_columns,
)
from crun_batch.store.scores import scores_near, scores_table
from crun_batch.store.totals import AttemptTotals

if TYPE_CHECKING:
    import duckdb
    import polars as pl

LISTINGS = 20
WHICH_IS_DAMAGED = "`crun-batch verify --data` says which; restore it from a copy."
_NO_TABLE = re.compile(r"Table with name (\S+) does not exist")
_PATTERN = re.compile(r"[*?\[]")
CODED = pa.dictionary(pa.int32(), pa.string())
"""Text of which there are few different ones."""
FINISHED = pa.schema(
    [
        pa.field("variant", CODED),
        pa.field("repeat", pa.int32()),
        pa.field("status", CODED),
        pa.field("error_kind", CODED),
    ]
)
REQUEST_HASH = pa.field("request_hash", pa.string())
CURRENT = "_current"
"""In DuckDB: the finals that hold, with SEQUENCE, by which one of them is found again."""


class Snapshot(Struct, frozen=True):
    """One moment of a run: which sealed files count, and what the live segments hold."""

    run: RunDirectory
    schema: RunSchema
    sealed: tuple[int, ...]
    attempts: pa.Table
    """Of the live segments, in `attempts_schema`."""
    finals: pa.Table
    """Of the live segments, in `parts_schema`."""


def run_schema(run: RunDirectory) -> RunSchema:
    """The schema in job.json. Raises RunDamaged, and InputError where no run is."""
    try:
        return schema_from_document(read_json(run.job)["run_schema"])
    except FileNotFoundError as error:
        raise InputError(f"{run.path}: there is no run here (no job.json)") from error
    except KeyError as error:
        raise RunDamaged(f"{run.job}: the key {error} is missing") from error


def snapshot(run: RunDirectory, schema: RunSchema) -> Snapshot:
    """The run as it is now. Raises RunDamaged."""
    for _ in range(LISTINGS):
        live = run.segments()
        try:
            tables = [segment_tables(run.segment(number), number, schema, live=True) for number in live]
        except FileNotFoundError:
            continue
        sealed = tuple(number for number in run.sealed_files() if number not in live)
        return Snapshot(
            run,
            schema,
            sealed,
            pa.concat_tables([no_rows(attempts_schema(schema)), *(pair[0] for pair in tables)]),
            pa.concat_tables([no_rows(parts_schema(schema)), *(pair[1] for pair in tables)]),
        )
    raise RunDamaged(f"{run.journal}: segments vanish faster than they can be read")


def results_frame(path: Path) -> pl.LazyFrame:
    """One row per finished unit, the live ones included, in the columns of `results`."""
    import polars as pl

    now = _snapshot_of(path)
    frame = scan([now.run.part(number) for number in now.sealed], now.finals)
    last = superseding(now)
    if last is not None:
        keys = now.schema.unit_columns
        frame = frame.join(last.lazy(), on=keys, how="left", maintain_order="left").filter(
            pl.col(LAST).is_null() | (pl.col(SEQUENCE) >= pl.col(LAST))
        )
    if now.schema.scores:
        scores = pl.DataFrame(pl.from_arrow(scores_table(now.run, now.schema)))
        frame = frame.join(scores.lazy(), on=SEQUENCE, how="left", maintain_order="left")
    return frame.select(results_schema(now.schema).names)


def attempts_frame(path: Path) -> pl.LazyFrame:
    """One row per request that was sent, the live ones included, in the columns of `attempts`."""
    now = _snapshot_of(path)
    return scan([now.run.attempt_file(number) for number in now.sealed], now.attempts)


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views of `make_views`; the live rows are those of this moment.

    Raises RunDamaged where one of the files is no Parquet file any more.
    """
    import duckdb  # a run that goes on asks it nothing

    connection = duckdb.connect(":memory:")
    try:
        make_views(connection, _snapshot_of(path))
    except duckdb.Error as error:
        connection.close()
        words = str(error).partition("\n")[0]
        raise RunDamaged(f"{path}: a file cannot be read: {words}", advice=WHICH_IS_DAMAGED) from error
    return connection


def make_views(connection: duckdb.DuckDBPyConnection, now: Snapshot) -> bool:
    """The views `results` and `attempts`, of this connection alone, whatever others its database has.

    The view CURRENT is `results` with the sequence of each final beside its columns. Returns whether finals
    replace older ones.
    """
    _make_view(connection, "attempts", [now.run.attempt_file(number) for number in now.sealed], now.attempts)
    make_finals_view(connection, "_finals", now, now.sealed)
    if now.schema.scores:
        connection.register("_scores", scores_table(now.run, now.schema))
    last = superseding(now)
    if last is not None:
        connection.register("_superseding", last.to_arrow())
    source = current_of("_finals", now.schema, is_scored=bool(now.schema.scores), has_older=last is not None)
    connection.execute(f"create temp view {CURRENT} as select {_columns(now.schema)}, final.{SEQUENCE} {source}")
    connection.execute(f"create temp view results as select * exclude ({SEQUENCE}) from {CURRENT}")
    return last is not None


def make_finals_view(
    connection: duckdb.DuckDBPyConnection, name: str, now: Snapshot, sealed: Iterable[int]
) -> None:
    """A view of the finals in these sealed files and in the live segments, older ones of a unit included."""
    _make_view(connection, name, [now.run.part(number) for number in sealed], now.finals)


def current_of(source: str, schema: RunSchema, *, is_scored: bool, has_older: bool) -> str:
    """What a query of `final` and, with `is_scored`, `_scores` selects from: those finals of `source` that hold.

    `has_older`: `_superseding` says which do not. Looking each of them up costs several times what reading does.
    """
    found = f"from {source} final"
    if is_scored:
        found += f" left join _scores on _scores.{SEQUENCE} = final.{SEQUENCE}"
    if has_older:
        same_unit = " and ".join(f"last.{quoted(key)} = final.{quoted(key)}" for key in schema.unit_columns)
        older = f"{same_unit} and final.{SEQUENCE} < last.{LAST}"
        found += f" where not exists (select 1 from _superseding last where {older})"
    return found


def query(path: Path, sql: str) -> pa.Table:
    """The answer of one SELECT over `results` and `attempts`; it can read this run's files and nothing else.

    Raises InputError: more than one statement, no SELECT, or DuckDB's own complaint.
    """
    import duckdb

    try:
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise InputError("the query must be one SELECT over `results` and `attempts`")
        with connect(path) as connection:
            confine(connection, path)
            return connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        unknown = _NO_TABLE.search(str(error))
        words = str(error) if unknown is None else f"there is no table {unknown[1]!r}; there are results, attempts"
        raise InputError(f"the query failed: {words}") from error


def confine(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """From now on the connection reads this run's files and nothing else, whatever it is asked."""
    folder = str(path.resolve())
    names = (_text(f"{name}/") for name in (folder, _verbatim(folder)))  # DuckDB asks for both
    connection.execute(f"set allowed_directories = [{', '.join(names)}]")
    connection.execute("set python_enable_replacements = false")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def finished_units(path: Path, *, with_hashes: bool = False) -> pa.RecordBatchReader:
    """Each finished unit once, streaming in bounded memory: its `id` and the columns of FINISHED.

    `with_hashes` adds REQUEST_HASH, as much to read as all the others together.
    """
    now = _snapshot_of(path)
    told = [*FINISHED, *([REQUEST_HASH] if with_hashes else [])]
    schema = pa.schema([pa.field("id", now.schema.stored_id_type), *told])

    def batches() -> Iterator[pa.RecordBatch]:
        columns = [now.schema.id_name, *schema.names[1:]]
        coded = [field.name for field in schema if field.type == CODED]
        for table in current_finals(now, columns, coded):
            yield from pa.Table.from_arrays(table.columns, schema=schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def attempt_totals(path: Path) -> AttemptTotals:
    """The sums over all attempts, sealed and live."""
    with connect(path) as connection:
        [row] = connection.execute(_TOTALS).fetchall()
    return AttemptTotals(*(int(value) for value in row))


def superseding(now: Snapshot) -> pl.DataFrame | None:
    """The units that have a superseding final, with the sequence of the last one in `_last`; None for none."""
    keys = now.schema.unit_columns
    found = [_superseding_rows(now.finals, keys)]
    for number in now.sealed:
        with pq.ParquetFile(now.run.part(number)) as file:
            if pc.any(file.read([SUPERSEDES]).column(0)).as_py():
                rows = _superseding_rows(file.read([*keys, SEQUENCE, SUPERSEDES]), keys)
                found.append(rows.cast(found[0].schema))
    if not any(table.num_rows for table in found):
        return None
    import polars as pl

    rows = pl.concat([pl.DataFrame(pl.from_arrow(table)) for table in found])
    return rows.group_by(keys).agg(pl.col(SEQUENCE).max().alias(LAST))


def current_finals(now: Snapshot, columns: list[str], coded: Sequence[str] = ()) -> Iterator[pa.Table]:
    """The finals that hold, in order, a row group at a time; `columns` in that order, missing ones null.

    Texts in the columns `coded` come in the type CODED.
    """
    last = superseding(now)
    types = pa.unify_schemas([results_schema(now.schema), parts_schema(now.schema)])
    fields = (types.field(name) for name in columns)
    conform = conformer(pa.schema([field.with_type(CODED) if field.name in coded else field for field in fields]))
    scored = [name for name in columns if name in score_columns(now.schema)]
    scores = scores_table(now.run, now.schema).select([SEQUENCE, *scored]) if scored else None
    units = [] if last is None else now.schema.unit_columns
    keys = [*units, *([SEQUENCE] if units or scored else [])]
    needed = [name for name in dict.fromkeys([*columns, *keys]) if name not in scored]
    for table in _finals(now, needed, [name for name in coded if name not in units]):
        kept = table if last is None else table.filter(_holds(table, last, units))
        yield conform(kept if scores is None else _with_scores(kept, scores))


def parquet_source(files: list[Path]) -> str:
    """These files as one table, for DuckDB, which would take brackets and stars in their names for patterns."""
    paths = ", ".join(_text(_verbatim(str(file.resolve()))) for file in files)
    return f"read_parquet([{paths}], union_by_name = true)"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _verbatim(name: str) -> str:
    """The pattern that only this name fits."""
    return _PATTERN.sub(r"[\g<0>]", name)


def _with_scores(table: pa.Table, scores: pa.Table) -> pa.Table:
    sequences = table.column(SEQUENCE)
    near = scores_near(scores, sequences)
    places = pc.index_in(sequences, value_set=near.column(SEQUENCE))
    for name in scores.column_names[1:]:
        table = table.append_column(name, near.column(name).take(places))
    return table


def _columns(schema: RunSchema) -> str:
    """The columns of `results` as DuckDB selects them: scores from beside the finals."""
    scored = score_columns(schema)
    tables = {name: "_scores" if name in scored else "final" for name in results_schema(schema).names}
    return ", ".join(f"{table}.{quoted(name)}" for name, table in tables.items())


def _finals(now: Snapshot, columns: list[str], coded: Sequence[str]) -> Iterator[pa.Table]:
    for number in now.sealed:
        with pq.ParquetFile(now.run.part(number), read_dictionary=list(coded)) as file:
            there = set(file.schema_arrow.names)
            present = [name for name in columns if name in there]
            for group in range(file.num_row_groups):
                yield _with_id(file.read_row_group(group, present), now.schema)
    yield now.finals.select(columns)


def _with_id(table: pa.Table, schema: RunSchema) -> pa.Table:
    """The table with its ids in the type of the run's: a file may be from when all of them were numbers."""
    index = table.schema.get_field_index(schema.id_name)
    if index < 0 or table.schema.types[index] == schema.stored_id_type:
        return table
    field = pa.field(schema.id_name, schema.stored_id_type)
    return table.set_column(index, field, table.column(index).cast(field.type))


def conformer(target: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    """Makes tables of these columns, in this order; those that a table does not have are null."""

    def conform(table: pa.Table) -> pa.Table:
        there = dict(zip(table.column_names, table.columns, strict=True))
        columns = [
            there[field.name].cast(field.type) if field.name in there else pa.nulls(table.num_rows, field.type)
            for field in target
        ]
        return pa.Table.from_arrays(columns, schema=target)

    return conform


def _holds(table: pa.Table, last: pl.DataFrame, keys: list[str]) -> pa.Array:
    import polars as pl

    rows = pl.DataFrame(pl.from_arrow(table.select([*keys, SEQUENCE])))
    joined = rows.join(last, on=keys, how="left", maintain_order="left")
    return joined.select(pl.col(LAST).is_null() | (pl.col(SEQUENCE) >= pl.col(LAST))).to_series().to_arrow()


def _superseding_rows(table: pa.Table, keys: list[str]) -> pa.Table:
    return table.filter(table.column(SUPERSEDES)).select([*keys, SEQUENCE])


def _snapshot_of(path: Path) -> Snapshot:
    run = RunDirectory(path)
    return snapshot(run, run_schema(run))


def _make_view(connection: duckdb.DuckDBPyConnection, name: str, files: list[Path], live: pa.Table) -> None:
    connection.register(f"_live_{name}", as_counts(live))
    source = f"select * from _live_{name}"
    if files:
        source += f" union all by name select * from {parquet_source(files)}"
    connection.execute(f"create temp view {quoted(name)} as select {selection(live.schema)} from ({source})")


def _sum(column: str) -> str:
    return f"coalesce(sum({column}), 0)"


_TOTALS = f"""
    select
        count(*),
        count(*) filter (outcome = 'done'),
        count(*) filter (outcome = 'rejected'),
        count(*) filter (outcome = 'not_sent'),
        count(*) filter (outcome = 'unknown'),
        count(*) filter (outcome = 'done' and cost_usd is null and cost_credits is null),
        {_sum("input_tokens")}, {_sum("cached_input_tokens")}, {_sum("cache_write_tokens")},
        {_sum("output_tokens")}, {_sum("reasoning_tokens")},
        {_sum("cost_usd")} * {PICO}, {_sum("cost_credits")} * {PICO},
        coalesce(sum(held_usd) filter (outcome in ('done', 'unknown') and cost_usd is null), 0) * {PICO},
        coalesce(sum(held_credits) filter (outcome in ('done', 'unknown') and cost_credits is null), 0) * {PICO}
    from attempts
"""
