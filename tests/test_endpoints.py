"""`endpoint` as a list, over real HTTP: work is spread, sick endpoints left out, each bill its gateway's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_kit as kit
from bill_kit import QUICK

import crun_batch
from crun_batch.load.job.job import Job
from crun_batch.simulator.process import SimulatorProcess

KEYS = {"KEY_A": "ak_sim_of_a_0123456789", "KEY_B": "ak_sim_of_b_0123456789", "KEY_C": "ak_sim_of_c_0123456789"}
PRICES = {"gpt-5.4": {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000}}
PRICES["gpt-5.4"] |= {"cached_input_per_mtok": 50, "minimum_per_request": "0.01"}
DEAR = {"gpt-5.4": {"currency": "credits", "input_per_mtok": 5000, "output_per_mtok": 30000}}
DEAR["gpt-5.4"] |= {"cached_input_per_mtok": 500, "minimum_per_request": "0.1"}
DEAR_MODELS = {
    "gpt-5.4": {
        "input_per_mtok": 5000,
        "cached_input_per_mtok": 500,
        "output_per_mtok": 30000,
        "minimum_per_request": 0.1,
    }
}


@contextmanager
def gateways(*settings: dict[str, Any]) -> Iterator[list[SimulatorProcess]]:
    """One simulator for each of the settings."""
    with ExitStack() as stack:
        yield [stack.enter_context(kit.simulator(seed=5, **each)) for each in settings]


def listed(at: list[SimulatorProcess], folder: Path, *extra: dict[str, Any], **keys: Any) -> Job:
    """A job with an endpoint for each simulator: a, b, c; `extra` adds keys to each in turn."""
    endpoints = [
        {"name": "abc"[index], "base_url": one.base_url, "api_key_env": f"KEY_{'ABC'[index]}"}
        for index, one in enumerate(at)
    ]
    endpoints = [one | more for one, more in zip(endpoints, [*extra, *[{}] * len(endpoints)], strict=False)]
    return Job(endpoint=endpoints, **kit.tree(folder, PRICES, **{"limits": {"concurrency": 16}, **keys}))


def run(job: Job, rows: int, **options: Any) -> tuple[crun_batch.Run, list[str]]:
    told: list[str] = []
    done = crun_batch.run(
        job, table=kit.texts(rows), environ=KEYS, handle_signals=False, say=told.append, **options
    )
    return done, told


def by_endpoint(done: crun_batch.Run) -> dict[str, tuple[int, Decimal]]:
    """Endpoint -> the requests that it answered, and their cost in credits."""
    answered = done.attempts().filter(pl.col("outcome") == "done").collect()
    sums = answered.group_by("endpoint").agg(pl.len(), pl.col("cost_credits").sum())
    return {name: (count, cost) for name, count, cost in sums.iter_rows()}


def assert_every_bill_is_right(done: crun_batch.Run, at: list[SimulatorProcess]) -> None:
    """What the run says each endpoint has cost is what that gateway has charged, in count and in credits."""
    sums = by_endpoint(done)
    told = done.summary["endpoints"]
    for name, one in zip("abc", at, strict=False):
        ledger = one.ledger()
        count, cost = sums.get(name, (0, Decimal(0)))
        assert (ledger["count"], Decimal(ledger["charge_credits"])) == (count, cost)
        if name in told:
            assert (count, Decimal(told[name]["cost_credits"] or 0)) == (told[name]["answered"], cost)
    assert sum(cost for _, cost in sums.values()) == done.cost_credits
    assert [] == [finding for finding in done.verify(data=True) if finding.severity == "error"]


def test_work_is_spread_and_every_bill_is_its_gateways_own(tmp_path):
    """Two keys, equal gateways: each gets its part, each row is sent once, both bills are exact."""
    with gateways({"latency_seconds": 0.02}, {"latency_seconds": 0.02}) as at:
        done, _ = run(listed(at, tmp_path), 200)
        assert (0, 200) == (done.exit_code, done.summary["attempts"])
        assert all(count >= 60 for count, _ in by_endpoint(done).values())
        assert_every_bill_is_right(done, at)


def test_weights_say_who_gets_how_much(tmp_path):
    with gateways({"latency_seconds": 0.02}, {"latency_seconds": 0.02}) as at:
        done, _ = run(listed(at, tmp_path, {"weight": 4}, {"weight": 1}), 400)
        counts = {name: count for name, (count, _) in by_endpoint(done).items()}
        assert counts["a"] >= 2 * counts["b"] > 0


def test_an_endpoint_with_its_own_prices_is_estimated_held_and_billed_at_them(tmp_path):
    """The estimate goes from the cheap one's low end to the dear one's high end; each attempt costs its own."""
    with gateways({}, {"models": DEAR_MODELS}) as at:
        job = listed(at, tmp_path, {}, {"prices": DEAR}, budget={"max_cost_credits": 10_000})
        cheap, dear = (
            crun_batch.estimate(
                listed(at[index : index + 1], tmp_path, prices={"models": prices}),
                table=kit.texts(60),
                environ=KEYS,
            )["cost_credits"]
            for index, prices in enumerate((PRICES, DEAR))
        )
        both = crun_batch.estimate(job, table=kit.texts(60), environ=KEYS)
        assert (cheap["low"], dear["high"]) == (both["cost_credits"]["low"], both["cost_credits"]["high"])
        assert "charge differently" in f"{both['variants'][0]['notes']}"
        done, _ = run(job, 60)
        assert 0 == done.exit_code
        assert {"a", "b"} == set(by_endpoint(done))
        assert_every_bill_is_right(done, at)


def test_an_endpoint_whose_key_is_refused_at_the_start_is_left_out_and_named(tmp_path):
    """It gets no request; the other does all the work; the run is as good as with one."""
    with gateways({}, {"keys": {"theirs": "ak_other"}}) as at:
        estimate = crun_batch.estimate(listed(at, tmp_path), table=kit.texts(40), environ=KEYS)
        assert estimate["may_start"]
        assert estimate["checks"][0].startswith(
            "endpoint b would be left out: the gateway does not accept the key"
        )
        done, told = run(listed(at, tmp_path), 40)
        assert (0, {"a"}) == (done.exit_code, set(by_endpoint(done)))
        assert 1 == sum(sentence.startswith("endpoint b is left out, the others go on:") for sentence in told)
        assert done.summary["endpoints"]["b"]["left_out"].startswith("the gateway does not accept the key")
        assert_every_bill_is_right(done, at)


@contextmanager
def changed_after(at: SimulatorProcess, requests: int, **settings: Any) -> Iterator[None]:
    """Change a simulator once it has answered so many requests."""
    import threading

    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            if at.ledger()["count"] >= requests:
                at.change(**settings)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"keys": {"theirs": "ak_other"}}, "401"), ({"balance_credits": "0"}, "no credit left")],
    ids=["401", "402"],
)
def test_an_endpoint_that_refuses_in_the_middle_is_left_out_and_its_rows_go_elsewhere(tmp_path, settings, words):
    """Uncounted, at once: not one row fails, though each may be tried but once."""
    with (
        gateways({"latency_seconds": 0.01}, {"latency_seconds": 0.01}) as at,
        changed_after(at[1], 20, **settings),
    ):
        job = listed(at, tmp_path, limits={"concurrency": 16, "max_attempts": 1})
        done, told = run(job, 400)
        assert (0, 400) == (done.exit_code, done.summary["rows"]["ok"])
        assert 1 == sum("endpoint b is left out" in sentence for sentence in told)
        assert words in done.summary["endpoints"]["b"]["left_out"]
        assert_every_bill_is_right(done, at)


def test_where_all_are_left_out_the_run_stops_with_every_reason(tmp_path):
    """Out of money where one of them is: exit 4; the rows stay open, and a later start finishes them."""
    with gateways({}, {}) as at, changed_after(at[0], 20, balance_credits="0"):
        with changed_after(at[1], 20, keys={"theirs": "ak_other"}):
            done, _ = run(listed(at, tmp_path), 2000)
        assert 4 == done.exit_code
        assert "no endpoint is left: a: the gateway has no credit left" in done.stop_reason
        assert (
            "; b: the gateway refuses this job: it does not accept the key in the variable KEY_B"
            in done.stop_reason
        )
        at[0].change(balance_credits="1000000")
        again, _ = run(listed(at, tmp_path), 2000)
        assert (0, 2000) == (again.exit_code, again.summary["rows"]["ok"])
        assert_every_bill_is_right(again, at)


def test_where_all_keys_are_refused_nothing_is_sent(tmp_path):
    refusing = {"keys": {"theirs": "ak_other"}}
    with gateways(refusing, refusing) as at:
        done, _ = run(listed(at, tmp_path), 5)
        assert (5, 0) == (done.exit_code, done.summary["attempts"])
        assert "endpoint a: " in done.stop_reason and "endpoint b: " in done.stop_reason
        assert [] == list(tmp_path.iterdir())


def test_a_row_that_fails_is_sent_to_another_endpoint(tmp_path):
    """One fails half of its requests: each row fails there at most once before another answers it."""
    with gateways({"faults": {"500": 0.5}, "latency_seconds": 0.02}, {"latency_seconds": 0.02}) as at:
        done, _ = run(listed(at, tmp_path, limits={"concurrency": 8, "max_attempts": 3}), 500)
        assert (0, 500) == (done.exit_code, done.summary["rows"]["ok"])
        attempts = done.attempts().sort("id", "attempt").collect()
        failed = attempts.filter(pl.col("outcome") != "done")
        assert failed.height >= 3
        again = attempts.filter(pl.col("attempt") > 1)
        assert {"b"} == set(again["endpoint"])
        assert_every_bill_is_right(done, at)


def test_an_endpoint_that_cannot_be_reached_costs_no_row(tmp_path):
    """Nobody listens there, from the start on: it is named, the rest is answered elsewhere."""
    with gateways({}) as at:
        gone = at[0].base_url.replace(str(at[0].base_url.split(":")[2].split("/")[0]), "9")
        endpoints = [
            {"name": "gone", "base_url": gone, "api_key_env": "KEY_B"},
            {"name": "a", "base_url": at[0].base_url, "api_key_env": "KEY_A"},
        ]
        job = listed(at, tmp_path, limits={"concurrency": 8, "max_attempts": 2})
        done, told = run(job.with_overrides({"endpoint": endpoints}), 60)
        assert (0, 60) == (done.exit_code, done.summary["rows"]["ok"])
        assert any("endpoint gone is left out" in sentence for sentence in told)


def test_a_slow_endpoint_gets_what_it_bears(tmp_path):
    """One takes twenty times as long: most of the work goes to the other."""
    with gateways({"latency_seconds": 0.02}, {"latency_seconds": 0.4}) as at:
        done, _ = run(listed(at, tmp_path, limits={"concurrency": 8}), 400)
        counts = {name: count for name, (count, _) in by_endpoint(done).items()}
        assert counts["a"] >= 20 * counts.get("b", 0)
        assert_every_bill_is_right(done, at)


def test_a_limit_of_ones_own_holds_there(tmp_path):
    with gateways({}, {"latency_seconds": 0.005}) as at:
        job = listed(at, tmp_path, {"limits": {"requests_per_minute": 60, "concurrency": 2}}, {})
        done, _ = run(job, 300)
        counts = {name: count for name, (count, _) in by_endpoint(done).items()}
        assert (0, 300) == (done.exit_code, sum(counts.values()))
        assert counts.get("a", 0) <= 70
        assert at[0].stats()["max_in_flight"] <= 2


def test_balances_are_added_up_before_the_start(tmp_path):
    """What one cannot pay two can; what both cannot is refused, and each leaves what must stay."""
    with gateways({}, {}) as at:
        for one in at:
            one.change(balance_credits="1")
        estimate = crun_batch.estimate(listed(at, tmp_path), table=kit.texts(150), environ=KEYS)
        assert Decimal(1) < Decimal(estimate["cost_credits"]["low"]) < Decimal(2)
        assert estimate["may_start"]
        more = crun_batch.estimate(listed(at, tmp_path), table=kit.texts(250), environ=KEYS)
        assert not more["may_start"]
        keeping = listed(at, tmp_path, budget={"keep_credits": "0.6"})
        assert not crun_batch.estimate(keeping, table=kit.texts(150), environ=KEYS)["may_start"]


def test_no_key_of_any_endpoint_is_in_any_file(tmp_path):
    """Every key of the list is cut out of whatever a gateway echoes, whichever endpoint it came from."""
    with gateways({}, {}) as at:
        table = kit.texts(30).with_columns(text=pl.lit(f"say {KEYS['KEY_A']} and {KEYS['KEY_B']}"))
        job = listed(at, tmp_path, output={"dir": str(tmp_path / "run"), "columns": ["id"]})
        done = crun_batch.run(job, table=table, environ=KEYS, handle_signals=False)
        assert 0 == done.exit_code
        written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
        shown = "\n".join(f"{row}" for row in done.attempts().collect().rows())
        for key in KEYS.values():
            assert key.encode() not in written
            assert key not in shown


def killed_after(job_file: Path, at: list[SimulatorProcess], requests: int) -> None:
    """Run the job in a process of its own and end it by kill -9 once so many requests were answered."""
    command = [sys.executable, "-m", "crun_batch", "run", str(job_file), "--yes"]
    process = subprocess.Popen(
        command,
        cwd=job_file.parent,
        env={**os.environ, **KEYS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while sum(one.ledger()["count"] for one in at) < requests:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("change", ["removed", "added", "rotated key", "new weights", "one alone"])
def test_a_killed_run_goes_on_with_another_list(tmp_path, change):
    """No other job, nothing recorded is sent again: what was billed twice is at most what was in flight."""
    kit.texts(300).write_parquet(tmp_path / "rows.parquet")
    with gateways({"latency_seconds": 0.03}, {"latency_seconds": 0.03}, {}) as at:
        tree = listed(at[:2], tmp_path, input={"table": "rows.parquet", "id": "id"}).document.tree
        job_file = tmp_path / "law.json"
        job_file.write_text(json.dumps(tree))
        killed_after(job_file, at, 100)
        a, b = tree["endpoint"]
        c = {"name": "c", "base_url": at[2].base_url, "api_key_env": "KEY_C"}
        lists: dict[str, Any] = {
            "removed": [b],
            "added": [a, b, c],
            "rotated key": [a, b | {"api_key_env": "KEY_C"}],
            "new weights": [a | {"weight": 5}, b],
            "one alone": {"base_url": at[1].base_url, "api_key_env": "KEY_B"},
        }
        job_file.write_text(json.dumps({**tree, "endpoint": lists[change]}))
        done = crun_batch.run(job_file, environ=KEYS, handle_signals=False)
        assert (0, 300) == (done.exit_code, done.summary["rows"]["ok"])
        attempts = done.attempts().collect()
        answered = attempts.filter(pl.col("outcome") == "done")
        assert 300 == answered.height == answered["id"].n_unique()
        billed = sum(one.ledger()["count"] for one in at)
        lost = attempts.filter(pl.col("outcome") == "unknown").height
        assert 300 <= billed <= 300 + lost <= 300 + 16
        for name, one in zip("ab", at, strict=False):
            known = answered.filter(pl.col("endpoint") == name)["cost_credits"].sum() or Decimal(0)
            assert known <= Decimal(one.ledger()["charge_credits"])
        assert [] == [finding for finding in done.verify(data=True) if finding.severity == "error"]


def test_a_price_of_an_endpoint_is_corrected_for_what_went_there_alone(tmp_path):
    """--correct-prices: the attempts of that endpoint are priced anew, its gateway's bill is met, others stay."""
    with gateways({}, {"models": DEAR_MODELS}) as at:
        wrong, _ = run(listed(at, tmp_path), 40)
        before = by_endpoint(wrong)
        assert before["b"][1] < Decimal(at[1].ledger()["charge_credits"])
        right, _ = run(listed(at, tmp_path, {}, {"prices": DEAR}), 40, correct_prices=True)
        assert before["a"] == by_endpoint(right)["a"]
        assert_every_bill_is_right(right, at)


def test_credits_and_models_ask_every_endpoint(tmp_path):
    """Each by its name; what one cannot say does not hide what the other does."""
    from crun_batch.console.listings import credit_text, models_text

    with gateways({}, {"keys": {"theirs": "ak_other"}}) as at:
        at[0].change(balance_credits="12")
        job = listed(at, tmp_path)
        credit = crun_batch.credits(job, environ=KEYS)
        assert ["a", "b"] == [one["name"] for one in credit["endpoints"]]
        assert credit["fault"] is None
        first, second = credit_text(credit).splitlines()
        assert first.startswith("a: 12 credits")
        assert second.startswith("b: ") and "401" in second
        assert {"a", "b"} == {one["name"] for one in crun_batch.models(job, environ=KEYS)["endpoints"]}
        assert "gpt-5.4" in models_text(crun_batch.models(job, environ=KEYS))


@pytest.mark.parametrize("status", ["400", "413"])
def test_a_request_that_one_gateway_refuses_is_asked_at_the_other(tmp_path, status):
    """A param it does not know, a context too small: no row fails, and no attempt counts."""
    with gateways({"faults": {status: 1.0}}, {}) as at:
        done, _ = run(listed(at, tmp_path, limits={"concurrency": 8, "max_attempts": 1}), 60)
        assert (0, 60) == (done.exit_code, done.summary["rows"]["ok"])
        assert {"b"} == set(by_endpoint(done))
        assert_every_bill_is_right(done, at)


def test_an_endpoint_whose_balance_runs_low_is_left_out_before_it_is_used_up(tmp_path):
    """budget.keep_credits holds at each: the first reading that is too low ends it there, the other finishes."""
    with gateways({"latency_seconds": 0.05}, {"latency_seconds": 0.05}) as at:
        at[1].change(balance_credits="7")
        job = listed(at, tmp_path, budget={"keep_credits": "6", "credits": "require"}, limits={"concurrency": 4})
        done, told = run(job, 200, platform=QUICK)
        assert (0, 200) == (done.exit_code, done.summary["rows"]["ok"])
        assert 1 == sum("endpoint b is left out" in sentence for sentence in told)
        assert "budget.keep_credits" in done.summary["endpoints"]["b"]["left_out"]
        assert Decimal(at[1].ledger()["balance_credits"]) > Decimal(3)
        assert_every_bill_is_right(done, at)


def test_judges_are_asked_at_the_same_list_and_stand_in_its_bills(tmp_path):
    """Answers and verdicts of each endpoint together are what its gateway has charged."""
    with gateways({"latency_seconds": 0.01}, {"latency_seconds": 0.01}) as at:
        judge = {"name": "good", "grader": "judge", "model": "gpt-5.4", "params": {"max_output_tokens": 200}}
        done, _ = run(listed(at, tmp_path, score=[judge]), 40)
        assert (0, 80) == (done.exit_code, done.summary["attempts"])
        judged = done.attempts().filter(pl.col("judge").is_not_null()).collect()
        assert {"a", "b"} == set(judged["endpoint"])
        assert_every_bill_is_right(done, at)


def test_time_under_the_limits_is_that_of_all_endpoints_together(tmp_path):
    with gateways({}, {}) as at:
        limits = [{"limits": {"requests_per_minute": 60}}, {"limits": {"requests_per_minute": 240}}]
        estimate = crun_batch.estimate(listed(at, tmp_path, *limits), table=kit.texts(300), environ=KEYS)
        assert 60 == pytest.approx(estimate["time"]["low"]["seconds"], abs=2)


def test_simulated_each_endpoint_is_a_gateway_of_its_own_at_its_own_prices(tmp_path):
    """No key is needed; what the run says each costs is what its own price makes."""
    with gateways({}, {}) as at:
        job = listed(at, tmp_path, {}, {"prices": DEAR})
    done = crun_batch.run(job, table=kit.texts(60), environ={}, handle_signals=False, simulate=True)
    assert (0, 60) == (done.exit_code, done.summary["rows"]["ok"])
    costs = by_endpoint(done)
    assert {"a", "b"} == set(costs)
    assert costs["b"][1] / costs["b"][0] >= 5 * costs["a"][1] / costs["a"][0]
