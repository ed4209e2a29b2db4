"""Requests of many rows at one go are those of each row alone; how many go together is bounded by their size."""

from __future__ import annotations

from collections import deque
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crun_batch.load.job.job import Job
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.records import Row
from crun_batch.workload.loading import load_workload
from crun_batch.workload.portions import BYTES_AT_ONCE, ROWS_AT_ONCE, Portions
from crun_batch.workload.request import Asked, Variant

BODY = '{"model":"given","messages":[{"role":"user","content":"x"}],"max_tokens":3}'
TABLE = {
    "text": ["a", "b", None, "d", "a"],
    "messages": ['[{"role":"user","content":"one"}]', "[]", '[{"role":"user","content":"three"}]', "{", None],
    "body": [BODY, "no JSON", BODY, None, "[]"],
}
PROMPTS: dict[str, dict[str, Any]] = {
    "templates": {"system": "Be brief.", "user": "{{ text }}"},
    "hints": {"system": "Be brief.", "user": "{{ text }}", "cache": "auto"},
    "messages_column": {"messages_column": "messages"},
    "body_column": {"body_column": "body"},
    "turns": {"turns": ["{{ text }}", "And then?"]},
    "parts": {
        "messages": [{"role": "user", "content": [{"type": "image", "image": "https://x.test/{{ text }}"}]}]
    },
}


WAYS = [
    (kind, protocol)
    for kind in PROMPTS
    for protocol in ("chat", "responses", "messages", "completions")
    if (kind, protocol) != ("turns", "completions")  # such a job is refused
]


def variants_of(kind: str, protocol: str) -> tuple[tuple[Variant, ...], list[Row]]:
    """Two variants with one prompt (of whole bodies one: they hold the params), and the rows of the table."""
    swept = {"model": "m", "params": {"max_output_tokens": 9}, "sweep": {"params.temperature": [0, 1]}}
    job = Job(
        prompt=PROMPTS[kind],
        endpoint={"base_url": "https://gate.test/v1", "protocol": protocol},
        **({} if kind == "body_column" else swept),
    )
    workload = load_workload(job, pl.DataFrame(TABLE))
    return workload.variants, [row for batch in workload.table.rows(workload.columns) for row in batch]


def alone(variant: Variant, row: Row) -> Asked:
    """The row's request, made for itself."""
    try:
        return variant.request(row)
    except RowRejected as error:
        return error


def said(asked: list[Asked]) -> list[object]:
    """Requests as they are, complaints by their words."""
    return [str(one) if isinstance(one, RowRejected) else one for one in asked]


@pytest.mark.parametrize(("kind", "protocol"), WAYS)
def test_many_rows_at_one_go_ask_what_each_asks_alone(kind: str, protocol: str) -> None:
    """Rows without a prompt, and what the protocol cannot say, are complained of in their places."""
    variants, rows = variants_of(kind, protocol)
    for variant in variants:
        expected = said([alone(variant, row) for row in rows])
        assert expected == said(variant.requests(rows))
        wanted = [[0], [], [1], [0, 1], []]
        chosen = [one for one, is_wanted in zip(expected, wanted, strict=True) if is_wanted]
        assert chosen == said(variant.requests(rows, wanted))


@given(sizes=st.lists(st.integers(0, 2 * BYTES_AT_ONCE), max_size=40))
def test_portions_are_all_rows_in_order_and_bounded_by_those_before(sizes: list[int]) -> None:
    """None is left out or taken twice; what the last portion's size says would not fit is not taken."""
    portions, waiting, taken = Portions(), deque(sizes), list[int]()
    fitting = 1
    while waiting:
        rows = portions.take(waiting)
        assert 1 <= len(rows) <= fitting
        taken += rows
        portions.learn(len(rows), sum(rows))
        mean = sum(rows) / len(rows)
        fitting = ROWS_AT_ONCE if not mean else max(1, min(ROWS_AT_ONCE, int(BYTES_AT_ONCE / mean)))
    assert sizes == taken
