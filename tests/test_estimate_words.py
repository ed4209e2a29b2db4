"""What an estimate's words promise: a bound is one only where tokens are counted exactly."""

from __future__ import annotations

import re
from contextlib import ExitStack
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crun_batch
from crun_batch.console.amounts import usd
from crun_batch.console.estimates import estimate_text
from crun_batch.options import RunOptions
from crun_batch.preflight import assessment
from crun_batch.pricing.costs import hold
from crun_batch.pricing.prices import price_from_job
from crun_batch.simulator import SimulatorProcess
from crun_batch.workload.loading import load

PRICE = {"currency": "usd", "input_per_mtok": 1000, "output_per_mtok": 1000}


@pytest.mark.parametrize(("model", "is_exact"), [("gpt-5.4", True), ("a-model-of-unknown-tokens", False)])
def test_a_high_end_that_is_only_about_so_high_is_not_called_at_most(
    shared: SimulatorProcess, model: str, is_exact: bool, tmp_path: Path
) -> None:
    """There the words "at most" stand before what is reserved."""
    document = crun_batch.estimate(a_job(shared, tmp_path, model), table=pl.DataFrame({"text": ["a", "b"]}))
    cost = cost_line(document)

    assert is_exact == ("about" not in cost)
    high, bound = Decimal(document["cost_usd"]["high"]), Decimal(document["cost_usd"]["at_most"])
    assert is_exact == (high == bound)
    assert cost.endswith(f"at most {usd(bound)}")


@pytest.mark.parametrize(
    ("model", "told"), [("gpt-5.4", ", "), ("a-model-of-unknown-tokens", ", about $0.001 to ")]
)
def test_what_is_expected_is_never_below_what_is_told_as_the_least(
    shared: SimulatorProcess, model: str, told: str, tmp_path: Path
) -> None:
    """Finished rows may have cost less than any open one should, as where their input was cached."""
    document = crun_batch.estimate(a_job(shared, tmp_path, model), table=pl.DataFrame({"text": ["a", "b"]}))
    document["cost_usd"]["expected"] = "0.001"
    cost = cost_line(document)

    assert f"  cost      expected $0.001{told}" in cost
    assert "at least" not in cost
    document["cost_usd"]["expected"] = document["cost_usd"]["high"]
    assert ("at least" in cost_line(document)) == (told == ", ")


def a_job(
    shared: SimulatorProcess,
    folder: Path,
    model: str = "a-model-of-unknown-tokens",
    endpoint: dict[str, Any] | None = None,
    **keys: Any,
) -> crun_batch.Job:
    tree: dict[str, Any] = {
        "model": model,
        "endpoint": {"base_url": shared.base_url, "auth": "none", **(endpoint or {})},
        "prompt": {"user": "{{ text }}"},
        "params": {"max_output_tokens": 9},
        "prices": {"models": {model: PRICE}},
        "budget": {"credits": "off"},
        "output": {"dir": str(folder / "run")},
    }
    return crun_batch.Job(**{**tree, **keys})


def cost_line(document: Any) -> str:
    return next(line for line in estimate_text(document).splitlines() if line.strip().startswith("cost"))


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=8),
    repeats=st.integers(1, 3),
    share=st.booleans(),
    answers=st.integers(1, 3),
    model=st.sampled_from(["gpt-5.4", "a-model-of-unknown-tokens"]),
)
def test_what_is_at_most_is_what_is_reserved_and_never_less(
    shared: SimulatorProcess,
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    repeats: int,
    share: bool,
    answers: int,
    model: str,
) -> None:
    """Of approximate counts: the sum of all reservations. Of exact ones: the high end, which is below it."""
    params = {"max_output_tokens": 9, **({"n": answers} if answers > 1 else {})}
    job = a_job(
        shared, tmp_path_factory.getbasetemp(), model, repeats=repeats, share_identical=share, params=params
    )
    table = pl.DataFrame({"text": texts})
    with ExitStack() as stack:
        workload = load(job, table, RunOptions(), stack)
        [variant] = workload.variants
        requests = [variant.request(row) for batch in workload.table.rows(workload.columns) for row in batch]
        if share:
            requests = list({request.unit_hash: request for request in requests}.values())
        price = price_from_job(job.prices.models[model])
        held = sum(hold(price, one.input_bound_tokens, one.output_bound_tokens).usd_pico or 0 for one in requests)
    assert {9 * answers} == {request.output_bound_tokens for request in requests}
    cost = crun_batch.estimate(job, table=table)["cost_usd"]
    expected = Decimal(held * repeats) / 10**12
    if model == "gpt-5.4":
        assert Decimal(cost["high"]) == Decimal(cost["at_most"]) <= expected
    else:
        assert Decimal(cost["high"]) <= Decimal(cost["at_most"]) == expected


@settings(deadline=None, max_examples=8)
@given(texts=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=8), repeats=st.integers(1, 3))
def test_what_is_at_most_in_batches_is_what_is_reserved(
    shared: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory, texts: list[str], repeats: int
) -> None:
    """All are reserved before the first reply comes: the words say that sum, however tokens are counted."""
    for model in ("gpt-5.4", "a-model-of-unknown-tokens"):
        prices = {"models": {model: PRICE}, "batch_share": 0.5}
        job = a_job(shared, tmp_path_factory.getbasetemp(), model, repeats=repeats, lane="batch", prices=prices)
        table = pl.DataFrame({"text": texts})
        with ExitStack() as stack:
            workload = load(job, table, RunOptions(), stack)
            [variant] = workload.variants
            requests = [variant.request(row) for batch in workload.table.rows(workload.columns) for row in batch]
            half = price_from_job({**PRICE, "input_per_mtok": 500, "output_per_mtok": 500})
            holds = [hold(half, one.input_bound_tokens, one.output_bound_tokens) for one in requests]
        held = sum(one.usd_pico or 0 for one in holds)
        document = crun_batch.estimate(job, table=table)
        reserved = Decimal(held * repeats) / 10**12
        assert Decimal(document["cost_usd"]["high"]) <= Decimal(document["cost_usd"]["at_most"]) == reserved
        assert cost_line(document).endswith(f"at most {usd(reserved, ROUND_CEILING)}")
        is_told = document["cost_usd"]["high"] != document["cost_usd"]["at_most"] and model == "gpt-5.4"
        counted = (
            f"at most {usd(Decimal(document['cost_usd']['high']))} by its tokens; reserved until its batches end"
        )
        assert is_told == (counted in cost_line(document))


PICTURE = {"type": "image", "image": "https://x.test/a.png"}
UNBOUNDED: dict[str, dict[str, Any]] = {
    "no output limit": {"params": {}},
    "an image": {"prompt": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, PICTURE]}]}},
    "answers that are not there yet": {"prompt": {"turns": ["{{ text }}", "And?"]}},
    "what the gateway keeps": {
        "endpoint": {"protocol": "responses"},
        "params": {"max_output_tokens": 9, "previous_response_id": "resp_1"},
    },
    "an unknown price": {"prices": {}},
}


@pytest.mark.parametrize("keys", UNBOUNDED.values(), ids=UNBOUNDED)
@pytest.mark.parametrize("is_exact", [False, True])
def test_at_most_is_not_said_where_nothing_bounds(
    shared: SimulatorProcess, keys: dict[str, Any], is_exact: bool, tmp_path: Path
) -> None:
    """No number stands after the words: what is no byte of the request has no bound there."""
    model = "gpt-5.4" if is_exact else "a-model-of-unknown-tokens"
    document = crun_batch.estimate(a_job(shared, tmp_path, model, **keys), table=pl.DataFrame({"text": ["a"]}))
    counted_later = is_exact and "turns" in keys.get("prompt", {})  # of answers the most is max_output_tokens
    assert counted_later or document["cost_usd"]["at_most"] is None
    assert counted_later or not re.search(r"at most \S*\d", cost_line(document))


def test_a_judge_of_answers_to_come_has_no_bound(shared: SimulatorProcess, tmp_path: Path) -> None:
    """How long what it reads will be, nobody knows."""
    judge: dict[str, Any] = {"name": "s", "grader": "judge", "model": "j", "labels": {"good": 1, "bad": 0}}
    judge["params"] = {"max_output_tokens": 5}
    prices = {"models": dict.fromkeys(("j", "a-model-of-unknown-tokens"), PRICE)}
    job = a_job(shared, tmp_path, score=[judge], prices=prices)
    document = crun_batch.estimate(job, table=pl.DataFrame({"text": ["a"]}))
    assert None is document["cost_usd"]["at_most"]
    assert document["cost_usd"]["high"] is not None


def test_rows_that_stand_for_others_bound_nothing(
    shared: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` estimates a large table from some of its rows: about so much, whatever the counter."""
    monkeypatch.setattr(assessment, "SAMPLE_ABOVE_ROWS", 10)
    monkeypatch.setattr(assessment, "SAMPLE_ROWS", 5)
    seen: list[Any] = []
    with pytest.raises(crun_batch.RefusedToStart):
        crun_batch.run(
            a_job(shared, tmp_path, "gpt-5.4", {"base_url": "http://127.0.0.1:9/v1"}),  # a list would not have it
            table=pl.DataFrame({"text": ["a"] * 40}),
            confirm=lambda document: bool(seen.append(document)),
            handle_signals=False,
        )
    assert "about" in cost_line(seen[0]) and "at most" not in cost_line(seen[0])
