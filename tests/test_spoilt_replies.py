"""Replies that lie, from the wire to the results: counts that cannot be true are unknown, no odd end is `ok`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_kit
from simulator_kit import BODIES, gateway, send

import crun_batch
from crun_batch.gateway.protocols.finish_reasons import FINISH_WORDS
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.simulator.spoiling import KINDS, LAST_OF_ZEROS

PROTOCOLS = ("chat", "completions", "messages", "responses")
PATHS = dict(zip(("chat", "responses", "messages", "completions"), BODIES, strict=True))


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with run_kit.simulator(stream_style="openai", fault_markers=True) as process:
        yield process


def asked(
    at: SimulatorProcess, folder: Path, kinds: list[str], protocol: str, *, stream: bool
) -> tuple[crun_batch.Run, dict[str, dict[str, Any]]]:
    """A row for each kind of fault, which strikes each attempt; its result by the kind."""
    job = run_kit.job(
        at,
        folder,
        endpoint={"protocol": protocol, "stream": stream},
        limits={"max_attempts": 2, "stop_at_error_rate": 1.0},
    )
    table = pl.DataFrame({"id": kinds, "text": [f"Say it. [[fault:{kind}*always]]" for kind in kinds]})
    done = run_kit.run(job, table)
    return done, {row["id"]: row for row in done.results().collect().to_dicts()}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_counts_that_cannot_be_true_are_unknown(
    at: SimulatorProcess, tmp_path: Path, protocol: str, stream: bool
) -> None:
    """The answer is kept, its tokens and cost are null, its hold stays, and the bill lies within the bounds.

    Zeros at the end of a stream that has told its counts take nothing back.
    """
    before = run_kit.charged_credits(at)
    done, results = asked(at, tmp_path, sorted(KINDS), protocol, stream=stream)
    charged = run_kit.charged_credits(at) - before
    believed = {LAST_OF_ZEROS} if stream else set()
    assert {"ok"} == {row["status"] for row in results.values()}
    assert all(row["output_text"] for row in results.values())
    assert believed == {kind for kind, row in results.items() if row["cost_credits"] is not None}
    assert believed == {kind for kind, row in results.items() if row["input_tokens"] is not None}
    held = done.attempts().filter(pl.col("cost_credits").is_null()).select("held_credits").collect()
    assert 0 == held["held_credits"].null_count()
    bill = done.summary["bill_credits"]
    assert Decimal(bill["low"]) <= charged <= Decimal(bill["high"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", ["chat", "completions", "messages"])
def test_each_word_of_the_table_ends_its_row_as_the_table_says(
    at: SimulatorProcess, tmp_path: Path, protocol: str, stream: bool
) -> None:
    """Also in capitals, as Google's and Cohere's own interfaces write them."""
    meanings = {f"finish_{line.word}": line.meaning for line in FINISH_WORDS}
    spelt = {kind: kind if number % 2 else f"finish_{kind[7:].upper()}" for number, kind in enumerate(meanings)}
    _, results = asked(at, tmp_path, list(spelt.values()), protocol, stream=stream)
    expected = {spelt[kind]: run_kit.STATUS_OF_MEANING[meaning] for kind, meaning in meanings.items()}
    assert expected == {kind: row["status"] for kind, row in results.items()}


@pytest.mark.parametrize("stream", [False, True])
def test_responses_that_end_early_are_no_whole_answers(at: SimulatorProcess, tmp_path: Path, stream: bool) -> None:
    """Incomplete, whatever the word: none is ok but those that a model ends an answer with."""
    kinds = [f"finish_{line.word}" for line in FINISH_WORDS if line.meaning not in ("stop", "tool_calls")]
    _, results = asked(at, tmp_path, [*kinds, "finish_no_such_word"], "responses", stream=stream)
    assert "ok" not in {row["status"] for row in results.values()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [*sorted(KINDS), "finish_SAFETY", "finish_null"])
def test_the_simulator_says_what_the_fault_orders_and_charges_what_is_true(protocol: str, kind: str) -> None:
    """A 200 whose text is the usual one; the ledger holds the true charge."""
    body = json.loads(json.dumps(BODIES[PATHS[protocol]]))
    plain, spoilt = (gateway(fault_markers=True, faults=faults) for faults in ({}, {kind: 1.0}))
    (ok, _, usual), (status, _, reply) = (send(one, PATHS[protocol], body) for one in (plain, spoilt))
    assert (200, 200) == (ok, status)
    assert usual != reply
    assert plain.ledger.charged_pico == spoilt.ledger.charged_pico > 0
    is_finish = kind.startswith("finish_")
    assert is_finish == (usual["usage"] == reply["usage"])
    told = json.dumps(reply, default=str)
    assert ("SAFETY" in told) == (kind == "finish_SAFETY")


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    """The words of usage are named; a finish word may be any."""
    with pytest.raises(crun_batch.InputError, match=r"finish_WORD and .*usage_zero"):
        gateway(faults={"usage_odd": 0.1})
