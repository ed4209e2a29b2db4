"""How a run spreads: over time, over sizes, over labels; and a few of its rows. DuckDB counts, reads only.

What comes back is bounded: at most BINS moments, EDGES edges, LABELS values, ROWS_SHOWN rows, cut texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.types as is_type
from msgspec import Struct, structs

from crun_batch.reporting.data import (
    Bin,
    Distribution,
    Histogram,
    Labels,
    Quantiles,
    ShownAnswer,
    ShownSample,
    Timeline,
)
from crun_batch.reporting.sums import read_structs
from crun_batch.store.requests import REQUESTS
from crun_batch.store.schema import RunSchema, quoted

BINS = 96
FEWEST_BINS = 12
PAUSES_SHOWN = 12
LEAST_PAUSE_SECONDS = 120
SECOND = 1_000_000
LABELS = 40
LABEL_CHARACTERS = 80
LABEL_COLUMNS = 12
ROWS_SHOWN = 12
FEWEST_ROWS = 4
ANSWERS_SHOWN = 30
ANSWERS_PER_ROW = 12
TEXT_CHARACTERS = 1_500
INPUT_CHARACTERS = 800
INPUTS_SHOWN = 24
_BIN_SECONDS = (
    *(scale * unit for unit in (0.001, 0.01, 0.1, 1) for scale in (1, 2, 5)),
    *(10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400),
)
_QUANTILES = "min({0}), quantile_cont({0}, [0.5, 0.9, 0.95, 0.99]), max({0}), avg({0})"


def timeline(connection: duckdb.DuckDBPyConnection) -> Timeline | None:
    """Everything that ended, by moment; None where nothing has."""
    minutes = connection.execute(f"""
        select min(epoch_us(finished_at)), max(epoch_us(finished_at)), count(*) from {REQUESTS}
        where finished_at is not null group by epoch_us(finished_at) // {60 * SECOND} order by 1
    """).fetchall()
    if not minutes:
        return None
    periods = _periods([(first, last) for first, last, _ in minutes])
    most_bins = max(FEWEST_BINS, min(BINS, sum(requests for *_, requests in minutes) // 4))
    active_seconds = sum(last - first for first, last in periods) / SECOND
    bin_seconds = next((each for each in _BIN_SECONDS if active_seconds / each <= most_bins), None)
    bin_seconds = bin_seconds or 86_400 * math.ceil(active_seconds / 86_400 / most_bins)
    width = round(bin_seconds * SECOND)
    bins = _bins(connection, width)
    return Timeline(
        bin_seconds,
        tuple(
            tuple(bins.get(number, Bin(number * width)) for number in range(first // width, last // width + 1))
            for first, last in periods
        ),
    )


def _periods(minutes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where one long pause ends to where the next begins; short ones stay inside."""
    gaps = [(after[0] - before[1], index) for index, (before, after) in enumerate(pairwise(minutes), 1)]
    idle = sum(gap for gap, _ in gaps if gap > LEAST_PAUSE_SECONDS * SECOND)
    active = minutes[-1][1] - minutes[0][0] - idle
    long = sorted((gap for gap in gaps if gap[0] > max(LEAST_PAUSE_SECONDS * SECOND, active // 10)), reverse=True)
    cuts = [0, *sorted(index for _, index in long[:PAUSES_SHOWN]), len(minutes)]
    return [(minutes[start][0], minutes[end - 1][1]) for start, end in pairwise(cuts)]


def _bins(connection: duckdb.DuckDBPyConnection, width: int) -> dict[int, Bin]:
    rows = connection.execute(f"""
        with answered as (
            select epoch_us(finished_at) // {width} as bin,
                count(*) filter (outcome <> 'done') as unanswered,
                coalesce(sum(output_tokens), 0)::bigint as tokens,
                quantile_cont(latency_seconds, [0.5, 0.95]) filter (outcome = 'done' and judge is null)
                    as latency
            from {REQUESTS} where finished_at is not null group by 1
        ), ended as (
            select epoch_us(finished_at) // {width} as bin,
                count(*) filter (status = 'ok') as ok, count(*) filter (status <> 'ok') as not_ok
            from results where finished_at is not null group by 1
        )
        select bin, coalesce(ok, 0), coalesce(not_ok, 0), coalesce(unanswered, 0), coalesce(tokens, 0), latency
        from answered full join ended using (bin)
    """).fetchall()
    return {number: Bin(number * width, *counts, *(latency or (None, None))) for number, *counts, latency in rows}


def distributions(connection: duckdb.DuckDBPyConnection, schema: RunSchema) -> tuple[Distribution, ...]:
    """Latency and tokens of the answered requests; numeric outputs and scores that are more than yes or no."""
    answered = f"{REQUESTS} where outcome = 'done' and judge is null and"
    wanted = [
        ("latency", "seconds", "latency_seconds", answered),
        ("input tokens", "tokens", "input_tokens", answered),
        ("output tokens", "tokens", "output_tokens", answered),
        *((f"score {name}", "", quoted(f"score_{name}"), "results where") for name in schema.scores),
        *(
            (field.name, "", field.expression, "results where status = 'ok' and")
            for field in _output_fields(schema)
            if is_type.is_floating(field.type) or is_type.is_integer(field.type)
        ),
    ]
    found = (_distribution(connection, each, schema.axes) for each in wanted)
    return tuple(each for each in found if each is not None)


def _distribution(
    connection: duckdb.DuckDBPyConnection, wanted: tuple[str, str, str, str], variants: Iterable[str]
) -> Distribution | None:
    """`wanted`: name, unit, the SQL of the value, and where from. `variants`: in the order to tell them."""
    name, unit, expression, source = wanted
    values = f"(select variant, ({expression})::double as value from {source} ({expression}) is not null)"
    values = f"(from {values} where isfinite(value))"
    rows = connection.execute(f"""
        select variant, count(*), {_QUANTILES.format("value")} from {values}
        group by grouping sets ((variant), ()) order by grouping(variant) desc, variant
    """).fetchall()
    if not rows or not rows[0][1]:
        return None
    (_, total), *each = [(row[0], Quantiles(row[1], row[2], *row[3], *row[4:])) for row in rows]
    if unit == "" and {total.least, total.greatest} <= {0.0, 1.0}:
        return None  # yes or no: its mean says it all
    histogram = _histogram(connection, values, total, whole=unit == "tokens")
    found = dict(each)
    order = dict.fromkeys([*variants, *found])
    return Distribution(name, unit, total, histogram, {one: found[one] for one in order if one in found})


def _histogram(connection: duckdb.DuckDBPyConnection, values: str, total: Quantiles, *, whole: bool) -> Histogram:
    scale = _scale(total, whole=whole)
    position = f"floor(log10(greatest(value, {scale.least!r})) * {scale.step!r})"
    if not scale.logarithmic:
        last = math.floor(total.greatest / scale.step)
        if not whole and last * scale.step == total.greatest > total.least:
            last -= 1  # the greatest value closes the last bar instead of opening one of its own
        position = f"least(floor(value / {scale.step!r}), {last})"
    rows = connection.execute(f"select {position}::bigint, count(*) from {values} group by 1").fetchall()
    counts = dict(rows)
    numbers = range(min(counts), max(counts) + 1)
    edges = [
        10 ** (number / scale.step) if scale.logarithmic else number * scale.step
        for number in (*numbers, numbers[-1] + 1)
    ]
    return Histogram(tuple(edges), tuple(counts.get(number, 0) for number in numbers), scale.logarithmic)


class _Scale(Struct, frozen=True):
    """Edges at whole multiples of `step`; logarithmic: `step` edges per factor of 10, from `least` on."""

    logarithmic: bool
    step: float
    least: float = 0.0


def _scale(total: Quantiles, *, whole: bool) -> _Scale:
    """Logarithmic where the greatest value dwarfs the middle one; up to 45 bars, fewer of few values."""
    if total.least >= 0 and total.p50 > 0 and total.greatest > 8 * total.p50:
        least = max(total.least, total.p50 / 1_000)
        decades = math.log10(total.greatest / least)
        steps = (6,) if whole else (24, 12, 6)  # finer bars would hold 2 or 3 whole numbers by turns
        return _Scale(True, float(next((step for step in steps if step * decades <= 45), 3)), least)
    rough = (total.greatest - total.least or 1.0) / min(40, max(10, 2 * math.sqrt(total.count)))
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * scale for scale in (1, 2, 5, 10) if power * scale >= rough)
    return _Scale(False, max(1.0, step) if whole else step)


class _Field(Struct, frozen=True):
    """A value inside the column `output`: its name, the SQL that reads it, its type, whether lists of it."""

    name: str
    expression: str
    type: pa.DataType
    lists: bool = False

    @property
    def value(self) -> str:
        """SQL: the value as text, one for each of a list."""
        return f"unnest({self.expression})::varchar" if self.lists else f"({self.expression})::varchar"


def _output_fields(schema: RunSchema) -> list[_Field]:
    return list(_leaves("output", "output", schema.output)) if schema.output is not None else []


def _leaves(name: str, expression: str, data_type: pa.DataType) -> Iterator[_Field]:
    if is_type.is_struct(data_type):
        for field in data_type:
            literal = field.name.replace("'", "''")
            inner = field.name if name == "output" else f"{name}.{field.name}"
            yield from _leaves(inner, f"struct_extract({expression}, '{literal}')", field.type)
    elif is_type.is_list(data_type) or is_type.is_large_list(data_type):
        if not is_type.is_nested(data_type.value_type):
            yield _Field(name, expression, data_type.value_type, lists=True)
    elif not is_type.is_nested(data_type):
        yield _Field(name, expression, data_type)


def labels(connection: duckdb.DuckDBPyConnection, schema: RunSchema) -> tuple[Labels, ...]:
    """The columns of few values: the fields of a typed output, else the text of the answers."""
    fields = _output_fields(schema)
    if schema.output is None:
        fields = [_Field("output_text", "trim(output_text)", pa.string())]
    fields = [field for field in fields if not is_type.is_floating(field.type)]
    few = [*_of_few_values(connection, [field for field in fields if not field.lists])]
    for field in fields:
        if field.lists:
            few += _of_few_values(connection, [field])
    return tuple(_labels(connection, field) for field in few[:LABEL_COLUMNS])


def _of_few_values(connection: duckdb.DuckDBPyConnection, fields: list[_Field]) -> list[_Field]:
    """Those whose values are not too many, not too long, and not nearly all different. Lists come alone."""
    if not fields:
        return []
    values = ", ".join(f"{field.value} as v{n}" for n, field in enumerate(fields))
    wanted = ", ".join(
        f"count(v{n}), approx_count_distinct(v{n}), coalesce(max(length(v{n})), 0)" for n in range(len(fields))
    )
    [found] = connection.execute(
        f"select {wanted} from (select {values} from results where status = 'ok')"
    ).fetchall()
    figures = [found[first : first + 3] for first in range(0, len(found), 3)]
    return [
        field
        for field, (count, distinct, longest) in zip(fields, figures, strict=True)
        if count
        and distinct <= 1.5 * LABELS
        and longest <= LABEL_CHARACTERS
        and (2 * distinct <= count or is_type.is_boolean(field.type))
    ]


def _labels(connection: duckdb.DuckDBPyConnection, field: _Field) -> Labels:
    rows = connection.execute(f"""
        select coalesce(label, ''), variant, count(*) from (
            select variant, {field.value} as label from results where status = 'ok'
        ) group by 1, 2 order by 1, 2
    """).fetchall()
    counts: dict[str, dict[str, int]] = {}
    for label, variant, number in rows:
        counts.setdefault(label, {})[variant] = number
    ordered = sorted(counts.items(), key=lambda item: -sum(item[1].values()))
    others = sum(sum(by.values()) for _, by in ordered[LABELS:])
    return Labels(field.name, dict(ordered[:LABELS]), others, field.lists)


def samples(connection: duckdb.DuckDBPyConnection, schema: RunSchema) -> tuple[ShownSample, ...]:
    """A third that is not ok, a third on which answers differ, random ones; always the same, with all answers."""
    answers = max(1, min(ANSWERS_PER_ROW, len(schema.axes)))
    rows_shown = max(FEWEST_ROWS, min(ROWS_SHOWN, ANSWERS_SHOWN // answers))
    ids = _sampled_ids(connection, quoted(schema.id_name), rows_shown)
    if not ids:
        return ()
    answers_by_id: dict[object, list[_Found]] = {row_id: [] for row_id in ids}
    for found in read_structs(connection, _Found, _samples_query(schema, len(ids)), ids):
        answers_by_id[found.row_id].append(found)
    return tuple(_sample(schema, found) for found in answers_by_id.values() if found)


def _sampled_ids(connection: duckdb.DuckDBPyConnection, name: str, rows_shown: int) -> list[Any]:
    """Of each kind the rows whose hash is lowest; where there are fewer of one, more of the next."""
    each = -(-rows_shown // 3)
    kinds = [
        f"select distinct {name} as id from results where status <> 'ok'",
        f"select {name} as id from results where output_text is not null group by {name} "
        "having min(hash(output_text)) <> max(hash(output_text))",
        f"select distinct {name} as id from results",
    ]
    ids: dict[Any, None] = {}
    for number, kind in enumerate(kinds, 1):
        query = f"select id from ({kind}) order by hash(id) limit {rows_shown}"
        found = (row_id for (row_id,) in connection.execute(query).fetchall() if row_id not in ids)
        most = rows_shown if number == len(kinds) else min(rows_shown, each * number)
        ids |= dict.fromkeys(islice(found, most - len(ids)))
    return list(ids)


class _Found(Struct, frozen=True):
    """A row of `results`, cut."""

    row_id: int | str
    inputs: list[str | None]
    scores: list[float | None]
    answer: ShownAnswer


def _samples_query(schema: RunSchema, rows: int) -> str:
    name = quoted(schema.id_name)
    inputs = ", ".join(
        f"left({quoted(column)}::varchar, {INPUT_CHARACTERS})" for column in schema.carried.names[:INPUTS_SHOWN]
    )
    scores = ", ".join(quoted(f"score_{score}") for score in schema.scores)
    text = "coalesce(nullif(array_to_string(outputs, chr(10) || chr(10)), ''), output_text, tool_calls, '')"
    return f"""
        select {name} as row_id, [{inputs}]::varchar[] as inputs, [{scores}]::double[] as scores, struct_pack(
            variant := variant, repeat := repeat, status := status, text := left({text}, {TEXT_CHARACTERS}),
            characters := length({text}), message := left(coalesce(error_message, ''), {TEXT_CHARACTERS}),
            cost := struct_pack(usd := cost_usd, credits := cost_credits), latency_seconds := latency_seconds
        ) as answer
        from results where {name} in ({", ".join("?" * rows)})
        order by variant, repeat
    """


def _sample(schema: RunSchema, found: list[_Found]) -> ShownSample:
    order = {variant: place for place, variant in enumerate(schema.axes)}
    found = sorted(found, key=lambda one: (order.get(one.answer.variant, len(order)), one.answer.repeat))
    inputs = zip(schema.carried.names[:INPUTS_SHOWN], found[0].inputs, strict=True)
    return ShownSample(
        str(found[0].row_id),
        {name: value or "" for name, value in inputs},
        tuple(_scored(schema, one) for one in found[:ANSWERS_PER_ROW]),
    )


def _scored(schema: RunSchema, found: _Found) -> ShownAnswer:
    scores = zip(schema.scores, found.scores, strict=True)
    return structs.replace(found.answer, scores={name: score for name, score in scores if score is not None})
