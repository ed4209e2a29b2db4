"""Requests of several rows that fail as a whole: what is said, what is asked again and how, what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crun_batch.records import Reply, Usage
from crun_batch.session.packing.pack import answers_of
from tests.simulation.packs import PackScene, PackStage, broken_laws, pico

POISONED = "r6"
"""Which stands among eight."""
REFUSED = "a request of 8 rows was refused ({}): each is asked alone"


def poisoned(folder: Path, fault: str, *, texts: tuple[bytes, ...] = (b"text 6 ",), **keys: Any) -> PackStage:
    """A job at a gateway that fails in this way at every request that holds one of these texts."""
    stage = PackStage(PackScene(keys=keys), folder)
    set_fault(stage, lambda body: fault if any(text in body for text in texts) else None)
    return stage


def set_fault(stage: PackStage, fault_of: Callable[[bytes], str | None]) -> None:
    stage.world.gateway._fault = lambda body, digest: fault_of(body)  # type: ignore[method-assign]


def attempts_of(stage: PackStage, row_id: str) -> pl.DataFrame:
    return stage.attempts().filter(pl.col("id") == row_id)


def cost_is_the_bill(stage: PackStage) -> bool:
    return stage.world.gateway.ledger.charged_pico == pico(stage.attempts()["cost_credits"].sum())


@pytest.mark.parametrize(
    ("fault", "status", "kind", "packed_attempts"),
    [
        ("content_filter", "refused", "content_filter", 1),
        ("400", "error", "bad_request", 1),
        ("500", "error", "server", 4),
    ],
)
def test_a_row_that_has_its_request_refused_fails_alone(
    fault: str, status: str, kind: str, packed_attempts: int, tmp_path: Path
) -> None:
    """Those beside it are answered, each alone. It is said once, and costs nothing: a refusal is not billed.

    One that the gateway fails at (500) is sent as often as max_attempts says, then its rows have one attempt each.
    """
    stage = poisoned(tmp_path, fault)
    assert 1 == stage.session()
    results = stage.results()
    assert [POISONED] == results.filter(pl.col("status") != "ok")["id"].to_list()
    assert [status] == results.filter(pl.col("id") == POISONED)["status"].to_list()
    attempts = attempts_of(stage, POISONED)
    assert [8] * packed_attempts + [None] == attempts["pack_rows"].to_list()
    assert {kind} == set(attempts["error_kind"])
    assert 0 == pico(attempts["cost_credits"].sum())
    assert 1 == stage.said.count(REFUSED.format(kind))
    beside = stage.attempts().filter(pl.col("pack_rows").is_null(), pl.col("id") != POISONED)
    assert 7 == beside.height
    assert cost_is_the_bill(stage)
    assert [] == list(broken_laws(stage))


@pytest.mark.parametrize("fault", ["malformed", "stall"])
def test_what_may_be_billed_is_sent_again_as_often_as_for_one_row(fault: str, tmp_path: Path) -> None:
    """max_unknown_retries is once: then the rows of that request fail, and none is asked alone at more cost.

    What is in doubt is held for, divided among its rows.
    """
    stage = poisoned(tmp_path, fault)
    assert 1 == stage.session()
    failed = stage.results().filter(pl.col("status") == "error")
    assert 8 == failed.height
    attempts = stage.attempts().filter(pl.col("id").is_in(failed["id"].to_list()))
    assert [8] * 16 == attempts["pack_rows"].to_list()
    known, bill = pico(stage.attempts()["cost_credits"].sum()), stage.world.gateway.ledger.charged_pico
    held = pico(attempts.filter(pl.col("outcome") == "unknown")["held_credits"].sum())
    assert known <= bill <= known + held
    assert held > 0
    assert [] == list(broken_laws(stage))


def test_a_wave_of_refusals_sends_the_same_requests_again(tmp_path: Path) -> None:
    """429: as a whole, never counted, and nothing is asked alone for it."""
    stage = PackStage(PackScene(), tmp_path)
    set_fault(stage, lambda body: "429" if stage.world.gateway.now < 3 else None)
    assert 0 == stage.session()
    attempts = stage.attempts()
    assert {"rate_limited"} == set(attempts.filter(pl.col("outcome") == "rejected")["error_kind"])
    assert {7, 8} == set(attempts["pack_rows"])
    assert cost_is_the_bill(stage)


def test_refusals_now_and_then_do_not_end_the_packing(tmp_path: Path) -> None:
    """They are free, and what packs save is worth more: two of six requests are refused, the others go packed."""
    stage = poisoned(tmp_path, "content_filter", texts=(b"text 6 ", b"text 5 "))
    assert 1 == stage.session()
    alone = stage.attempts().filter(pl.col("pack_rows").is_null())
    assert 8 + 7 == alone.height
    assert not [sentence for sentence in stage.said if "from now on" in sentence]


def test_a_gateway_that_refuses_them_all_is_asked_row_by_row(tmp_path: Path) -> None:
    """After ten of twenty: it is said, and every row is answered."""
    stage = poisoned(tmp_path, "400", texts=(b"Below are ",), pack={"rows": 2}, limits={"concurrency": 1})
    assert 0 == stage.session()
    assert 20 == stage.attempts().filter(pl.col("pack_rows") == 2).height
    told = "10 of the last 10 requests of several rows were refused: rows are asked alone from now on"
    assert 1 == stage.said.count(told)
    assert [] == list(broken_laws(stage))


def test_a_row_that_was_refused_among_others_is_asked_again_alone(tmp_path: Path) -> None:
    """`--retry`: it would have the next ones refused as well."""
    stage = poisoned(tmp_path, "content_filter", texts=(b"text 6 ", b"text 5 "))
    assert 1 == stage.session()
    before = stage.attempts()["serial"].max()
    assert 1 == stage.session(retry=frozenset({"refused"}))
    again = stage.attempts().filter(pl.col("serial") > before)
    assert {POISONED, "r5"} == set(again["id"])
    assert [None, None] == again["pack_rows"].to_list()


def test_a_reply_that_says_it_was_filtered_is_a_refusal() -> None:
    """Whatever stands in it: it is billed, and its rows are asked alone."""
    reply = Reply(text="1 good\n2 bad", finish_reason="content_filter", usage=Usage(10, 0, 0, 4))
    said = answers_of(reply, 2, "lines")
    assert said.is_refused
    assert [None, None] == [one.text for one in said.answers]
    assert {"the gateway refused to answer 2 rows together"} == {one.complaint for one in said.answers}
