"""`lane: batch-then-live`: what batches leave undone goes live, at the live price and under the same budget."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import batch_kit
import polars as pl
import pytest
from run_kit import ENVIRON, results, spent_credits, texts
from test_batch_lane import Meanwhile

import crun_batch
from crun_batch.load.job.job import Job
from crun_batch.simulator import SimulatorProcess
from tests.chaos.batch_job import FORMS, batch_job

ROWS = 20
PLAIN = {"batch_faults": {}, "batch_seconds": 0.05, "faults": {}}


@pytest.fixture(scope="module")
def simulators() -> Iterator[dict[str, SimulatorProcess]]:
    """By style."""
    with batch_kit.simulator() as plain, batch_kit.simulator(gateway_style="openrouter") as openrouter:
        yield {"plain": plain, "openrouter": openrouter}


@pytest.fixture
def fresh(simulators: dict[str, SimulatorProcess]) -> Iterator[SimulatorProcess]:
    """The simulator without faults; what a test turns on is turned off behind it."""
    yield simulators["plain"]
    simulators["plain"].change(**PLAIN)


def then_live(at: SimulatorProcess, folder: Path, **keys: Any) -> Job:
    return batch_kit.job(at, folder, lane="batch-then-live", **keys)


def of_both(charges: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the books have from batches, and what from requests one by one."""
    return [one for one in charges if one.get("batch")], [one for one in charges if not one.get("batch")]


def outcomes(run: crun_batch.Run) -> Counter[tuple[str | None, str]]:
    """(Endpoint, outcome) -> attempts."""
    frame = run.attempts().select("endpoint", "outcome").collect()
    return Counter(frame.iter_rows())


LEFT = {
    "expired": ({"expired": 0.5}, "not_sent"),
    "a line with an error": ({"line_errors": 0.5}, "rejected"),
    "no line at all": ({"missing": 0.5}, "unknown"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("faults", "outcome"), LEFT.values(), ids=LEFT)
def test_what_a_batch_leaves_undone_goes_live_in_the_same_session(
    simulators: dict[str, SimulatorProcess], form: str, faults: dict[str, float], outcome: str, tmp_path: Path
) -> None:
    """Every row is answered; one batch, the rest live; each has its own price, and the books agree."""
    seller = simulators[FORMS[form].gateway_style]
    seller.change(batch_faults=faults)
    before = len(batch_kit.charges(seller))
    table = texts(ROWS).with_columns(pl.col("text") + f" {form} {outcome}")
    done = batch_kit.run(then_live(seller, tmp_path, form=form), table)
    seller.change(**PLAIN)
    batched, live = of_both(batch_kit.charges(seller)[before:])
    seen = outcomes(done)
    assert (0, {"ok": ROWS}) == (done.exit_code, Counter(results(done)["status"]))
    assert 0 < seen["batch", outcome] == seen[None, "done"] == len(live) < ROWS
    assert {1} >= {len({one["batch"] for one in batched})}
    charged = Decimal(sum(one["charge_pico"] for one in (*batched, *live))) / 10**12
    lost = Decimal(sum(one["charge_pico"] for one in batched if one["outcome"] == "missing")) / 10**12
    assert charged == spent_credits(done) + lost
    assert Decimal(done.summary["bill_credits"]["low"]) <= charged <= Decimal(done.summary["bill_credits"]["high"])
    assert [] == crun_batch.verify(done, data=True)


def test_a_row_costs_twice_as_much_live_as_in_a_batch(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """Half of the rows expire: the bill is between that of all in batches and that of all live."""
    table = texts(ROWS).with_columns(pl.col("text") + " price")
    cheap = batch_kit.run(batch_kit.job(fresh, tmp_path / "batch"), table)
    fresh.change(batch_faults={"expired": 0.5})
    job = then_live(fresh, tmp_path)
    told = crun_batch.estimate(job, table=table, environ=ENVIRON)["cost_credits"]
    mixed = batch_kit.run(job, table)
    attempts = mixed.attempts().filter(pl.col("outcome") == "done").collect()
    by_lane = dict(attempts.group_by("endpoint").agg(pl.col("cost_credits").sum()).iter_rows())
    assert spent_credits(cheap) < spent_credits(mixed) < 2 * spent_credits(cheap)
    assert 2 * (spent_credits(cheap) - by_lane["batch"]) == by_lane[None]
    assert Decimal(told["low"]) <= spent_credits(mixed) <= Decimal(told["high"])


def test_an_estimate_tells_the_range_of_both_lanes(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """Low is the batch lane's low end, high the live lane's, and it says so."""
    table = texts(ROWS)
    ends = {}
    for lane in ("batch", "live", "batch-then-live"):
        job = batch_kit.job(fresh, tmp_path, lane=lane)
        ends[lane] = crun_batch.estimate(job, table=table, environ=ENVIRON)
    cheap, dear, both = (ends[lane]["cost_credits"] for lane in ("batch", "live", "batch-then-live"))
    assert (cheap["low"], dear["high"]) == (both["low"], both["high"])
    assert Decimal(dear["high"]) == 2 * Decimal(cheap["high"])
    [variant] = ends["batch-then-live"]["variants"]
    assert any("low is all of it in batches" in note for note in variant["notes"])


def test_the_live_price_is_reserved_for_what_goes_live(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """In a batch at half of the price, live at the whole."""
    fresh.change(batch_faults={"expired": 0.5})
    done = batch_kit.run(then_live(fresh, tmp_path), texts(ROWS).with_columns(pl.col("text") + " reserved"))
    holds = done.attempts().collect().sort("id", "attempt")
    left = holds.filter(pl.col("outcome") == "not_sent").select("id", batch="held_credits")
    live = holds.filter(pl.col("endpoint").is_null()).select("id", live="held_credits")
    both = left.join(live, on="id")
    assert 0 < both.height == left.height
    assert both["live"].to_list() == [2 * held for held in both["batch"]]


def test_the_cap_holds_where_batches_expire(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """What cannot be reserved at the live price stays open, whatever the batch would have cost."""
    fresh.change(batch_faults={"expired": 0.7})
    table = texts(60).with_columns(pl.col("text") + " cap")
    before = batch_kit.charged_credits(fresh)
    job = then_live(fresh, tmp_path, budget={"max_cost_credits": 3}, batch={"max_requests": 7})
    done = batch_kit.run(job, table, until_budget=True)
    spent = batch_kit.charged_credits(fresh) - before
    assert (4, True) == (done.exit_code, done.summary["rows"]["open"] > 0)
    assert 0 < spent == spent_credits(done) <= 3
    assert (None, "done") in outcomes(done)


def test_a_cancel_by_others_sends_the_rest_live(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """Who has waited long enough cancels the batch: what is not done of it goes live at once."""
    fresh.change(batch_seconds=3600.0)
    cancel = Meanwhile(lambda: crun_batch.cancel(tmp_path / "run", environ=ENVIRON))
    done = batch_kit.run(then_live(fresh, tmp_path), texts(8).with_columns(pl.col("text") + " cancel"), say=cancel)
    assert (0, {"ok": 8}) == (done.exit_code, Counter(results(done)["status"])), cancel.said
    assert {("batch", "not_sent"): 8, (None, "done"): 8} == outcomes(done)


def test_a_session_is_said_to_run_while_all_of_it_is_in_batches(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """After a kill too: nothing was said of what was out, as nothing went live yet."""
    fresh.change(batch_seconds=0.5)
    summary, said = tmp_path / "run" / "summary.json", []
    look = Meanwhile(lambda: said.append(json.loads(summary.read_bytes())))
    batch_kit.run(then_live(fresh, tmp_path), texts(4).with_columns(pl.col("text") + " said"), say=look)
    assert [("running", 4)] == [(one["status"], one["units"]["open"]) for one in said]


def test_a_stop_leaves_batches_and_the_next_session_goes_on_in_both_lanes(
    fresh: SimulatorProcess, tmp_path: Path
) -> None:
    """Of two batches one has expired and its rows are under way live: both are gone on with, nothing twice."""
    fresh.change(batch_seconds=1.0, batch_faults={"expired": 1.0}, faults={"503": 1.0})
    table = texts(8).with_columns(pl.col("text") + " stop")
    before, job = batch_kit.times_asked(fresh), then_live(fresh, tmp_path, batch={"max_requests": 4})
    stop = Meanwhile(lambda: crun_batch.stop(tmp_path / "run"), when="0 of 4 replies")
    stopped = batch_kit.run(job, table, say=stop)
    assert (143, 8) == (stopped.exit_code, stopped.summary["rows"]["open"]), stop.said
    fresh.change(**PLAIN)
    done = batch_kit.run(job, table)
    assert (0, {"ok": 8}) == (done.exit_code, Counter(results(done)["status"]))
    assert {1} == set((batch_kit.times_asked(fresh) - before).values())
    left = done.attempts().filter(pl.col("endpoint") == "batch", pl.col("outcome") == "not_sent").collect()
    live = done.attempts().filter(pl.col("endpoint").is_null()).collect()
    assert set(left["id"]) == set(live["id"]), "what a batch left undone goes live, after a stop too"


def test_what_was_never_submitted_goes_in_a_batch_again(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """The gateway takes no batch for a while: nothing of that goes live at twice the price."""
    fresh.change(batch_enqueued_tokens=60)
    table = texts(ROWS).with_columns(pl.col("text") + " again")
    done = batch_kit.run(then_live(fresh, tmp_path), table)
    fresh.change(batch_enqueued_tokens=None)
    assert {"ok": ROWS} == Counter(results(done)["status"])
    assert {"batch"} == {endpoint for endpoint, _ in outcomes(done)}


def test_turns_of_a_row_that_went_live_go_live(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """A row that a batch has left undone once is not made to wait for another one."""
    fresh.change(batch_faults={"expired": 0.5})
    job = then_live(fresh, tmp_path, prompt={"turns": ["{{ text }} turns", "And then?"]})
    done = batch_kit.run(job, texts(10))
    frame = done.attempts().collect()
    assert {"ok": 10} == Counter(results(done)["status"])
    left_at_first = set(frame.filter(pl.col("outcome") == "not_sent", pl.col("turn") == 0)["id"])
    second = frame.filter(pl.col("turn") == 1, pl.col("id").is_in(list(left_at_first)))
    assert 0 < len(left_at_first) < 10
    assert [None] == second["endpoint"].unique().to_list()


def test_a_simulated_run_has_one_gateway_for_both_lanes(tmp_path: Path) -> None:
    """`--simulate` shows the lane without a key."""
    job = Job(**batch_job("http://127.0.0.1:1", "SIM_KEY", str(tmp_path / "run"), lane="batch-then-live"))
    done = batch_kit.run(
        job, texts(8), simulate=True, simulator={"batch_faults": {"expired": 0.5}, "batch_seconds": 0}
    )
    assert (0, {"ok": 8}) == (done.exit_code, Counter(results(done)["status"]))
    assert {("batch", "not_sent"), ("batch", "done"), (None, "done")} == set(outcomes(done))
