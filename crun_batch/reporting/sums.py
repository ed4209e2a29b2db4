"""The sums of a report: the bill, how rows ended, what failed, what each variant is worth.

DuckDB adds, and reads only; each table is gone through as few times as can be: a run may have millions of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import duckdb
import msgspec
import orjson

from crun_batch.reporting.data import (
    BillLine,
    FailureKind,
    Quantiles,
    Retried,
    StatusLine,
    VariantLine,
    total,
)
from crun_batch.stats.intervals import Rate, RowSums, rate_of
from crun_batch.store.requests import REQUESTS
from crun_batch.store.schema import RunSchema, quoted

EXAMPLES = 3
KINDS_SHOWN = 40
MESSAGE_CHARACTERS = 600
_COST = "struct_pack(usd := sum(cost_usd), credits := sum(cost_credits))"
_UNCERTAIN = "outcome in ('done', 'unknown') and cost_{0} is null"
_HELD = "struct_pack({})".format(
    ", ".join(f"{unit} := sum(held_{unit}) filter ({_UNCERTAIN.format(unit)})" for unit in ("usd", "credits"))
)
T = TypeVar("T")


def read_structs(
    connection: duckdb.DuckDBPyConnection, kind: type[T], query: str, values: Sequence[object] = ()
) -> tuple[T, ...]:
    """The answer of a query whose columns are named like the fields of `kind`."""
    connection.execute(query, values)
    names = [column[0] for column in connection.description or ()]
    return tuple(msgspec.convert(dict(zip(names, row, strict=True)), kind) for row in connection.fetchall())


def bill_lines(connection: duckdb.DuckDBPyConnection) -> tuple[BillLine, ...]:
    """All requests, summed by variant, outcome, purpose and source of the price."""
    return read_structs(
        connection,
        BillLine,
        f"""
        select variant, outcome, purpose, cost_source as source, count(*) as requests,
            coalesce(sum(input_tokens), 0)::bigint as input_tokens,
            coalesce(sum(cached_input_tokens), 0)::bigint as cached_input_tokens,
            coalesce(sum(output_tokens), 0)::bigint as output_tokens,
            coalesce(sum(reasoning_tokens), 0)::bigint as reasoning_tokens,
            {_COST} as cost, {_HELD} as held,
            count(*) filter (outcome = 'done' and cost_usd is null and cost_credits is null) as unpriced,
            count(*) filter ({_UNCERTAIN.format("usd")} and held_usd is null) as unbounded_usd,
            count(*) filter ({_UNCERTAIN.format("credits")} and held_credits is null) as unbounded_credits
        from {REQUESTS} group by 1, 2, 3, 4 order by 1, 2, 3, 4
        """,
    )


def status_lines(connection: duckdb.DuckDBPyConnection) -> tuple[StatusLine, ...]:
    """Finished rows by variant, status and model."""
    return read_structs(
        connection,
        StatusLine,
        f"""
        select variant, status, model, count(*) as rows,
            count(*) filter (status = 'error' or trim(coalesce(output_text, ''), e' \\t\\r\\n') = '') as missing,
            {_COST} as cost,
            count(*) filter (cost_usd is null and cost_credits is null) as unpriced,
            coalesce(sum(input_tokens), 0)::bigint as input_tokens,
            coalesce(sum(output_tokens), 0)::bigint as output_tokens, max(repeat) as last_repeat
        from results group by 1, 2, 3 order by 1, 2, 3
        """,
    )


def failure_kinds(connection: duckdb.DuckDBPyConnection, schema: RunSchema) -> tuple[FailureKind, ...]:
    """Rows that are not ok by status and kind, the most frequent first; random examples, but always the same."""
    unit = ", ".join(map(quoted, schema.unit_columns))
    return read_structs(
        connection,
        FailureKind,
        f"""
        select status, error_kind as kind, count(*) as rows, {_COST} as cost,
            arg_min(
                struct_pack(
                    row_id := {quoted(schema.id_name)}::varchar, variant := variant, repeat := repeat,
                    message := left(coalesce(error_message, ''), {MESSAGE_CHARACTERS}),
                    text := left(coalesce(output_text, ''), {MESSAGE_CHARACTERS})
                ),
                hash({unit}), {EXAMPLES}
            ) as examples
        from results where status <> 'ok' group by 1, 2 order by 3 desc, 1, 2 limit {KINDS_SHOWN}
        """,
    )


def retried_requests(connection: duckdb.DuckDBPyConnection) -> tuple[Retried, ...]:
    """Requests without an answer by outcome, kind and HTTP status, the most frequent first."""
    return read_structs(
        connection,
        Retried,
        f"""
        select outcome, error_kind as kind, http_status, count(*) as requests, {_HELD} as held
        from {REQUESTS} where outcome <> 'done' group by 1, 2, 3 order by 4 desc, 1, 2, 3 limit {KINDS_SHOWN}
        """,
    )


def variant_lines(
    connection: duckdb.DuckDBPyConnection,
    schema: RunSchema,
    statuses: Sequence[StatusLine],
    latencies: Mapping[str, Quantiles],
) -> tuple[VariantLine, ...]:
    """The variants, in the job's order; those without a finished row too.

    Of a score, a row that ended in error counts 0, and a row that waits for its score does not count.
    """
    expressions = {"": "(status = 'ok')::int"} | {
        name: f"coalesce({quoted(f'score_{name}')}, case when status = 'error' then 0 end)"
        for name in schema.scores
    }
    has_repeats = any(line.last_repeat for line in statuses)
    rates = _rates(connection, list(expressions.values()), schema.id_name if has_repeats else None)
    names = dict.fromkeys([*schema.axes, *(line.variant for line in statuses)])
    return tuple(
        _variant_line(
            name,
            schema.axes.get(name, {}),
            [line for line in statuses if line.variant == name],
            dict(zip(expressions, rates.get(name, [None] * len(expressions)), strict=True)),
            latencies.get(name),
        )
        for name in names
    )


def _variant_line(
    name: str,
    axes: Mapping[str, Any],
    lines: Sequence[StatusLine],
    rates: Mapping[str, Rate | None],
    latency: Quantiles | None,
) -> VariantLine:
    """`rates`: of each score by its name, and under "" of the rows that are ok."""
    return VariantLine(
        name=name,
        axes={axis: _level(value) for axis, value in axes.items()},
        rows=sum(line.rows for line in lines),
        ok=sum(line.rows for line in lines if line.status == "ok"),
        ok_rate=rates[""],
        missing=sum(line.missing for line in lines),
        scores={score: rate for score, rate in rates.items() if score},
        cost=total(line.cost for line in lines),
        unpriced=sum(line.unpriced for line in lines),
        input_tokens=sum(line.input_tokens for line in lines),
        output_tokens=sum(line.output_tokens for line in lines),
        latency_p50=latency.p50 if latency is not None else None,
        latency_p95=latency.p95 if latency is not None else None,
    )


def _level(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _rates(
    connection: duckdb.DuckDBPyConnection, expressions: Sequence[str], cluster: str | None
) -> dict[str, list[Rate | None]]:
    """Variant -> the means of expressions between 0 and 1; `cluster`: one row's repeats are one observation."""
    each = [
        f"({expression})::double as y{n}, (y{n} is not null)::int as x{n}"
        for n, expression in enumerate(expressions)
    ]
    source = f"(select *, {', '.join(each)} from results)"
    if cluster is not None:
        sums = ", ".join(f"sum(y{n}) as y{n}, sum(x{n}) as x{n}" for n in range(len(expressions)))
        source = f"(select variant, {sums} from {source} group by variant, {quoted(cluster)})"
    wanted = ", ".join(
        f"count(*) filter (x{n} > 0), coalesce(sum(y{n}), 0), sum(x{n})::double, "
        f"coalesce(sum(y{n} * y{n}), 0), coalesce(sum(x{n} * y{n}), 0), sum(x{n} * x{n})::double"
        for n in range(len(expressions))
    )
    rows = connection.execute(f"select variant, {wanted} from {source} group by variant").fetchall()
    return {
        variant: [rate_of(RowSums(*sums[first : first + 6])) for first in range(0, len(sums), 6)]
        for variant, *sums in rows
    }
