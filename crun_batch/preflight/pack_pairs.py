"""Rows that a pilot has asked both ways: the answer from a pack beside the one alone, read from the attempts.

Two answers are the same where all graders of the job but judges score them alike; without such graders, where the
texts are the same, white space aside, or under an output schema the values. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from crun_batch.gateway.classify import check
from crun_batch.records import Reply, Response, Row
from crun_batch.scoring.computed import Graders, graders_of
from crun_batch.scoring.extract import json_value
from crun_batch.scoring.graders import GradingFailed
from crun_batch.state.run_state import RunContext
from crun_batch.stats.packs import AnswerPair
from crun_batch.store.events import recorded_bytes
from crun_batch.store.schema import quoted
from crun_batch.store.views import connect
from crun_batch.workload.packed_reply import read_packed
from crun_batch.workload.request import Variant

_PAIRS = """
    select alone.{id}::varchar, alone.variant, packed.serial - packed.pack_place + 1, packed.pack_place,
        packed.pack_rows, first.reply_body, first.reply_base64, alone.reply_body, alone.reply_base64
    from attempts alone
    join attempts packed on packed.{id} = alone.{id} and packed.variant = alone.variant
        and packed.repeat = alone.repeat and packed.pack_place is not null
        and packed.outcome = 'done' and packed.error_kind is null
    join attempts first on first.serial = packed.serial - packed.pack_place + 1
    where alone.purpose = 'alone' and alone.outcome = 'done' and alone.error_kind is null
    order by alone.serial
"""


class _Both(Struct, frozen=True):
    """What a row was answered in a pack, and alone."""

    row_id: str
    variant: Variant
    request: int
    place: int
    rows: int
    packed: str
    alone: str


def answer_pairs(context: RunContext, variants: Mapping[str, Variant], seed: int) -> dict[str, list[AnswerPair]]:
    """Variant -> its rows that have an answer from a pack and one of their own, as far as attempts hold both."""
    graders = graders_of(context.workload)
    both = list(_both(context, variants))
    rows = _rows_of(context, graders, seed) if both else {}
    return {
        name: [_pair(one, rows, graders) for one in both if one.variant is variant]
        for name, variant in variants.items()
    }


def _both(context: RunContext, variants: Mapping[str, Variant]) -> Iterator[_Both]:
    with connect(context.state.directory.path) as connection:
        found = connection.execute(_PAIRS.format(id=quoted(context.state.schema.id_name))).fetchall()
    for row_id, name, request, place, rows, body, coded, own_body, own_coded in found:
        variant = variants.get(name)
        if variant is None or variant.job.pack is None:
            continue
        whole, alone = _reply(variant, body, coded), _reply(variant, own_body, own_coded)
        if whole is None or alone is None or alone.text is None:
            continue
        said = read_packed(whole.text, rows, variant.job.pack.format, is_cut=whole.finish_reason == "length")
        packed = said.answers[place - 1].text
        if packed is not None:
            yield _Both(row_id, variant, request, place, rows, packed, alone.text)


def _reply(variant: Variant, body: str | None, coded: str | None) -> Reply | None:
    result = check(variant.protocol, Response(200, {}, recorded_bytes(body, coded)), stream=False)
    return result if isinstance(result, Reply) else None


def _rows_of(context: RunContext, graders: Graders, seed: int) -> dict[str, Row]:
    """The pilot's rows by id, with what graders read of them."""
    pilot, table = context.options.pilot, context.workload.table
    if pilot is None or not graders.grades:
        return {}
    return {str(row.row_id): row for row in table.random_rows(pilot, seed, graders.columns)}


def _pair(one: _Both, rows: Mapping[str, Row], graders: Graders) -> AnswerPair:
    row = rows.get(one.row_id)
    differences = {} if row is None else dict(_differences(one, row, graders))
    return AnswerPair(
        request=one.request,
        place=one.place,
        rows=one.rows,
        packed=_plain(one.packed),
        alone=_plain(one.alone),
        is_same=_is_same(one) if not differences else not any(differences.values()),
        score_differences=differences,
    )


def _differences(one: _Both, row: Row, graders: Graders) -> Iterator[tuple[str, float]]:
    has_schema = one.variant.job.output_schema is not None
    for name, grade in graders.grades.items():
        try:
            packed, alone = (
                grade(row.values, text, json_value(text) if has_schema else None)
                for text in (one.packed, one.alone)
            )
        except GradingFailed:
            continue
        if packed is not None and alone is not None:
            yield name, packed - alone


def _is_same(one: _Both) -> bool:
    if one.variant.job.output_schema is not None:
        return bool(json_value(one.packed) == json_value(one.alone))
    return _plain(one.packed) == _plain(one.alone)


def _plain(text: str) -> str:
    return " ".join(text.split())
