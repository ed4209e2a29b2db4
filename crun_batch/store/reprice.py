"""Stored tokens priced anew: the costs of all sealed attempts, and of the finals that sum them.

File by file, each replaced at once and marked with the fingerprint of the prices it was priced with: a crash
leaves some files priced the old way, and doing it again finishes. Must not know: how a price is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct, structs

from crun_batch.records import Cost, Hold, Usage, known_pico
from crun_batch.store.directory import RunDirectory
from crun_batch.store.packs import stretches
from crun_batch.store.recorded_usage import USAGE_COLUMNS, USAGE_COUNTS, recorded_usage
from crun_batch.store.schema import SEQUENCE, RunSchema, money_column, quoted
from crun_batch.store.seal import put_in_place, write_parquet
from crun_batch.store.views import parquet_source, snapshot

if TYPE_CHECKING:
    import duckdb


class Stored(Struct, frozen=True):
    """A recorded attempt, as far as its price goes."""

    variant: str
    model: str | None
    """As the reply names it."""
    outcome: str
    usage: Usage | None
    reported_usd: str | None
    cost: Cost
    hold: Hold
    judge: str | None = None
    """Of a judge's request; its variant is that of the answer."""
    endpoint: str | None = None
    """Where it went, of several by name."""
    service_tier: str | None = None
    """At which it was served, else which it asked for."""
    started_at: int = 0
    """When it was sent, in microseconds since 1970, UTC."""


Charge = Callable[[Stored], tuple[Cost, Hold]]
"""What the attempt costs and may cost at most under today's prices."""


class UnitCost(Struct, frozen=True):
    """What the attempts of one unit cost together; None: unknown for all of them."""

    key: tuple[str, str, int]
    cost: Cost


Of = Literal["variant", "judge", "endpoint", "packed"]


class AttemptCosts(Struct, frozen=True):
    """Sums over attempts of a variant, judge, endpoint, or packed variant, named as in `account.Sums`; in pico."""

    of: Of
    name: str
    unpriced: int
    priced_usd: int
    priced_credits: int
    cost_usd: int
    cost_credits: int
    unbounded_usd: int
    unbounded_credits: int
    held_usd: int
    held_credits: int


_PRICES = b"crun_batch.prices"
_PRICED_BY = ("variant", "judge", "endpoint", "pack_place", "outcome")
_COSTS = ("cost_usd", "cost_credits", "cost_source")
_HOLDS = ("held_usd", "held_credits")
_DIGITS = pa.decimal128(38, 0)


def reprice_files(run: RunDirectory, schema: RunSchema, charge: Charge, fingerprint: str) -> int:
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
            _replace(run, path, _priced_attempts(_read(path), charge), fingerprint)
            changed += 1
    with _database() as connection:
        _sum_units_of_many_attempts(connection, [run.attempt_file(number) for number in now.sealed], schema)
        for number in now.sealed:
            path = run.part(number)
            if not _is_priced(path, fingerprint):
                sums = _unit_sums(connection, path, run.attempt_file(number), schema)
                _replace(run, path, _with_columns(_read(path), sums), fingerprint)
                changed += 1
    return changed


def _is_priced(path: Path, fingerprint: str) -> bool:
    return (pq.read_schema(path).metadata or {}).get(_PRICES) == fingerprint.encode()


def _replace(run: RunDirectory, path: Path, table: pa.Table, fingerprint: str) -> None:
    entry = write_parquet(run, path, table.schema, [table], {_PRICES: fingerprint.encode()})
    put_in_place(run, [path], [entry])


_ATTEMPTS_OF: Mapping[Of, tuple[str, str, str]] = {
    "variant": ("variant", "judge", "is null"),
    "judge": ("judge", "judge", "is not null"),
    "endpoint": ("endpoint", "endpoint", "is not null"),
    "packed": ("variant", "pack_place", "is not null"),
}
"""By what an account sums attempts, and which of them: those of a judge are of no variant."""


def attempt_costs(run: RunDirectory, schema: RunSchema) -> list[AttemptCosts]:
    """The sums over the sealed attempts, as an account keeps them."""
    with _database() as connection:
        return _attempt_costs(connection, _attempts_source(run, schema))


def costs_to_be(run: RunDirectory, schema: RunSchema, charge: Charge, fingerprint: str) -> list[AttemptCosts]:
    """`attempt_costs` as they will be once all recorded attempts are priced anew; nothing is written.

    In memory is one file at a time.
    """
    now = snapshot(run, schema)
    sums: dict[tuple[Of, str], AttemptCosts] = {}
    with _database() as connection:
        for attempts in _priced_tables(run, now.sealed, now.attempts, charge, fingerprint):
            known = [name for name in _PRICED_BY if name in attempts.column_names]
            connection.register("priced", attempts.select([*known, *_COSTS, *_HOLDS]))
            for costs in _attempt_costs(connection, "priced"):
                key = costs.of, costs.name
                sums[key] = _added(sums[key], costs) if key in sums else costs
            connection.unregister("priced")
    return list(sums.values())


def _priced_tables(
    run: RunDirectory, sealed: Iterable[int], live: pa.Table, charge: Charge, fingerprint: str
) -> Iterator[pa.Table]:
    for number in sealed:
        path = run.attempt_file(number)
        table = _read(path)
        yield table if _is_priced(path, fingerprint) else _priced_attempts(table, charge)
    if live.num_rows:
        yield _priced_attempts(live, charge)


def _added(first: AttemptCosts, second: AttemptCosts) -> AttemptCosts:
    names = AttemptCosts.__struct_fields__[2:]
    sums = (getattr(first, name) + getattr(second, name) for name in names)
    return AttemptCosts(first.of, first.name, *sums)


def _attempt_costs(connection: duckdb.DuckDBPyConnection, source: str) -> list[AttemptCosts]:
    columns = {name for name, *_ in connection.execute(f"describe select * from {source}").fetchall()}
    return [
        costs
        for of, (_, column, _) in _ATTEMPTS_OF.items()
        if column in columns  # files of an earlier version know no endpoint and no packs
        for costs in _costs_of(connection, source, of)
    ]


def _costs_of(connection: duckdb.DuckDBPyConnection, source: str, of: Of) -> list[AttemptCosts]:
    may_cost = "outcome in ('done', 'unknown')"
    name, column, is_met = _ATTEMPTS_OF[of]
    rows = connection.execute(f"""
            select {name}, count(*) filter (outcome = 'done' and cost_usd is null and cost_credits is null),
                count(cost_usd), count(cost_credits),
                coalesce(sum(cost_usd), 0), coalesce(sum(cost_credits), 0),
                count(*) filter ({may_cost} and cost_usd is null and held_usd is null),
                count(*) filter ({may_cost} and cost_credits is null and held_credits is null),
                coalesce(sum(held_usd) filter ({may_cost} and cost_usd is null), 0),
                coalesce(sum(held_credits) filter ({may_cost} and cost_credits is null), 0)
            from {source} where {column} {is_met} group by 1
        """).fetchall()
    return [
        AttemptCosts(of, who, unpriced, *row[:2], *map(known_pico, row[2:4]), *row[4:6], *map(known_pico, row[6:]))
        for who, unpriced, *row in rows
    ]


def unit_costs(run: RunDirectory, schema: RunSchema, keys: Iterable[tuple[str, str, int]]) -> list[UnitCost]:
    """What the sealed attempts of these units (id as text, variant, repeat) cost together."""
    wanted = list(keys)
    if not wanted:
        return []
    columns = zip(("id", "variant", "repeat"), zip(*wanted, strict=True), strict=True)
    with _database() as connection:
        connection.register("wanted", pa.table({name: list(values) for name, values in columns}))
        rows = connection.execute(f"""
            select wanted.id, wanted.variant, wanted.repeat, {_SUMS}
            from {_attempts_source(run, schema)} attempt join wanted
            on attempt.{quoted(schema.id_name)}::varchar = wanted.id
            and attempt.variant = wanted.variant and attempt.repeat = wanted.repeat
            where attempt.judge is null group by all
        """).fetchall()
    return [UnitCost(tuple(row[:3]), Cost(known_pico(row[3]), known_pico(row[4]), row[5])) for row in rows]


def _priced_attempts(table: pa.Table, charge: Charge) -> pa.Table:
    anew = _charged(table, charge)
    costs = [cost for cost, _ in anew]
    holds = [hold for _, hold in anew]
    columns = {
        "cost_usd": _money([cost.usd_pico for cost in costs]),
        "cost_credits": _money([cost.credits_pico for cost in costs]),
        "cost_source": pa.array([cost.source for cost in costs], pa.string()),
        "held_usd": _money([hold.usd_pico for hold in holds]),
        "held_credits": _money([hold.credits_pico for hold in holds]),
    }
    return _with_columns(table, pa.table(columns))


def _charged(table: pa.Table, charge: Charge) -> list[tuple[Cost, Hold]]:
    """Cost and hold of each attempt; those of rows that went in one request are priced as that one."""
    stored = list(_stored(table))
    places = _later_column(table, "pack_place")
    if not any(places):
        return [charge(one) for one in stored]
    requests: dict[int, list[int]] = {}
    for index, (serial, place) in enumerate(zip(table.column("serial").to_pylist(), places, strict=True)):
        requests.setdefault(serial - (place or 1) + 1, []).append(index)
    charged: dict[int, tuple[Cost, Hold]] = {}
    for indices in requests.values():
        ordered = sorted(indices, key=lambda index: places[index] or 0)
        charged |= zip(ordered, _charged_together([stored[index] for index in ordered], charge), strict=True)
    return [charged[index] for index in range(len(stored))]


def _charged_together(rows: Sequence[Stored], charge: Charge) -> list[tuple[Cost, Hold]]:
    """The request that all of these went in, priced once, and divided among them as it was."""
    if len(rows) == 1:
        return [charge(rows[0])]
    usages = [one.usage for one in rows if one.usage is not None]
    counts = {name: sum(_count(one, name) for one in usages) for name in USAGE_COUNTS}
    first = usages[0] if usages else Usage()
    told = structs.replace(first, **counts, service_tier=rows[0].service_tier)
    whole = structs.replace(
        rows[0],
        usage=told if len(usages) == len(rows) else None,
        cost=Cost(
            _sum([one.cost.usd_pico for one in rows]),
            _sum([one.cost.credits_pico for one in rows]),
            rows[0].cost.source,
        ),
        hold=Hold(_sum([one.hold.usd_pico for one in rows]), _sum([one.hold.credits_pico for one in rows])),
    )
    cost, hold = charge(whole)
    tokens = [0 if one.usage is None else one.usage.total_tokens or 0 for one in rows]
    held = [one.hold.usd_pico or one.hold.credits_pico or 0 for one in rows]
    return [
        (
            Cost(by_tokens.of_known(cost.usd_pico), by_tokens.of_known(cost.credits_pico), cost.source),
            Hold(by_hold.of_known(hold.usd_pico), by_hold.of_known(hold.credits_pico)),
        )
        for by_tokens, by_hold in zip(stretches(tokens), stretches(held), strict=True)
    ]


def _count(usage: Usage, name: str) -> int:
    return getattr(usage, name) or 0


def _sum(amounts: Sequence[int | None]) -> int | None:
    """None where one is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def _stored(table: pa.Table) -> Iterable[Stored]:
    names = ("variant", "judge", "model", "outcome", "reported_usd", *_COSTS, *_HOLDS)
    moments = table.column("started_at").cast(pa.int64()).to_pylist()
    columns = (table.column(name).to_pylist() for name in names)
    endpoints, *usages = (_later_column(table, name) for name in ("endpoint", *USAGE_COLUMNS))
    told = zip(moments, endpoints, zip(*usages, strict=True), *columns, strict=True)
    for started_at, endpoint, usage, variant, judge, model, outcome, reported_usd, *amounts in told:
        usd, credit, source, held_usd, held_credits = amounts
        yield Stored(
            variant=variant,
            judge=judge,
            endpoint=endpoint,
            service_tier=usage[USAGE_COLUMNS.index("service_tier")],
            model=model,
            outcome=outcome,
            usage=recorded_usage(usage),
            reported_usd=reported_usd,
            cost=Cost(known_pico(usd), known_pico(credit), source),
            hold=Hold(known_pico(held_usd), known_pico(held_credits)),
            started_at=started_at or 0,
        )


def _later_column(table: pa.Table, name: str) -> list[Any]:
    """A column that files of an earlier version have not."""
    known = name in table.column_names
    return table.column(name).to_pylist() if known else [None] * table.num_rows


def _money(pico: list[int | None]) -> pa.Array:
    return money_column(pa.array(pico, _DIGITS))


def _with_columns(table: pa.Table, columns: pa.Table) -> pa.Table:
    for name in columns.column_names:
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        table = table.set_column(index, field, columns.column(name).cast(field.type))
    return table


def _database() -> duckdb.DuckDBPyConnection:
    import duckdb  # only where prices have changed

    return duckdb.connect(":memory:")


def _sum_units_of_many_attempts(
    connection: duckdb.DuckDBPyConnection, files: list[Path], schema: RunSchema
) -> None:
    """Few units need more than one attempt, but theirs may lie in several files."""
    source = parquet_source(files) if files else _nothing(schema)
    connection.execute(f"create table many as {_sums_by_unit(schema, source)} having count(*) > 1")


def _sums_by_unit(schema: RunSchema, source: str) -> str:
    """What names a unit stands as text: where texts joined numbers in a table, there are files of both types."""
    keys = ", ".join(f"{quoted(key)}::varchar as {quoted(key)}" for key in schema.unit_columns)
    return f"select {keys}, {_SUMS} from {source} where judge is null group by 1, 2, 3"


def _unit_sums(connection: duckdb.DuckDBPyConnection, part: Path, attempts: Path, schema: RunSchema) -> pa.Table:
    """Costs for each final of a part, in its order; a unit without attempts keeps what it has."""
    keys = ", ".join(map(quoted, schema.unit_columns))
    chosen = ", ".join(f"case when sums.known then sums.{name} else final.{name} end as {name}" for name in _COSTS)
    same_unit = " and ".join(f"sums.{quoted(key)} = final.{quoted(key)}::varchar" for key in schema.unit_columns)
    return connection.sql(
        f"with here as ({_sums_by_unit(schema, parquet_source([attempts]))}), "
        f"sums as (select *, true as known from many union all "
        f"select *, true as known from here where ({keys}) not in (select ({keys}) from many)) "
        f"select {chosen} from {parquet_source([part])} final left join sums on {same_unit} "
        f"order by final.{SEQUENCE}"
    ).to_arrow_table()


def _attempts_source(run: RunDirectory, schema: RunSchema) -> str:
    files = [run.attempt_file(number) for number in run.sealed_files()]
    return parquet_source(files) if files else _nothing(schema)


def _nothing(schema: RunSchema) -> str:
    names = [*map(quoted, schema.unit_columns), "judge", "endpoint", "outcome", *_COSTS, *_HOLDS, "serial"]
    return f"(select {', '.join(f'null as {name}' for name in names)} limit 0)"


_SUMS = (
    "sum(cost_usd) as cost_usd, sum(cost_credits) as cost_credits, "
    "arg_max(cost_source, serial) filter (cost_source is not null) as cost_source"
)


def _read(path: Path) -> pa.Table:
    """The whole file. `pq.read_table` would load Arrow's datasets for it, and they pandas."""
    with pq.ParquetFile(path) as file:
        return file.read()
