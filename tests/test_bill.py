"""The bill: known before, held during, exact after. Real processes, real HTTP, a gateway that keeps a ledger."""

from __future__ import annotations

import json
import signal
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from bill_kit import KEY, MODEL, PRICE, Bench, sums_of_attempts
from msgspec import structs
from run_kit import wait_until

from crun_batch import InputError, Job, RefusedToStart, Run, estimate, open_run
from crun_batch.preflight import assessment as assessing
from crun_batch.preflight.prices import Frozen, Priced, Prices, Repricing
from crun_batch.pricing.bill import Bill
from crun_batch.pricing.prices import price_from_job
from crun_batch.records import Cost, Hold, Usage
from crun_batch.session import repricing as books
from crun_batch.simulator import SimulatorProcess
from crun_batch.simulator.refusals import OUT_OF_CREDIT
from crun_batch.state.recovery import account_now
from crun_batch.state.status import status_of
from crun_batch.store.directory import RunDirectory
from crun_batch.store.reprice import Stored

REFUSALS = {"429": 0.04, "500": 0.04, "503": 0.04, "400": 0.03, "content_filter": 0.03}
LOSSES = {"reset_after": 0.06, "truncated": 0.06, "malformed": 0.04, "close_before": 0.04, "500": 0.04}


def assert_exact(bench: Bench, run: Run) -> None:
    """Summary = sum over attempts = ledger, to the last digit; nothing is unknown."""
    assert 0 == run.summary["unknown_attempts"]
    assert {bench.charged} == {Decimal(run.summary["cost_credits"])} | sums_of_attempts(run)
    assert {"low": run.summary["cost_credits"], "high": run.summary["cost_credits"]} == run.summary["bill_credits"]
    assert [] == run.verify(data=True)


def assert_bounded(bench: Bench, run: Run) -> None:
    """Known cost <= bill <= known cost + held of the unknown, and summary = sum over attempts."""
    bill = run.summary["bill_credits"]
    assert Decimal(bill["low"]) <= bench.charged <= Decimal(bill["high"])
    assert {Decimal(run.summary["cost_credits"])} == sums_of_attempts(run)
    unknown = run.sql("select count(*) as n, sum(held_credits) as held from attempts where outcome = 'unknown'")
    assert run.summary["unknown_attempts"] == unknown["n"][0].as_py()
    assert Decimal(bill["high"]) - Decimal(bill["low"]) == Decimal(unknown["held"][0].as_py() or 0)
    assert [] == run.verify(data=True)


@pytest.mark.parametrize(
    ("protocol", "stream"),
    [("chat", False), ("chat", True), ("responses", True), ("messages", False), ("completions", False)],
)
def test_the_bill_is_the_ledger_in_every_protocol(
    simulator: SimulatorProcess, tmp_path: Path, protocol: str, stream: bool
) -> None:
    """Over refusals, retries, caches and streams; an error inside a 200 counts as the refusal it is."""
    simulator.change(faults=REFUSALS if stream else {**REFUSALS, "error_in_200": 0.05})
    bench = Bench(tmp_path, simulator, endpoint={"protocol": protocol, "stream": stream})
    assert_exact(bench, bench.run())
    assert 0 < bench.answered <= 40


def test_the_bill_is_the_ledger_over_ctrl_c_and_a_second_session(
    simulator: SimulatorProcess, tmp_path: Path
) -> None:
    """What was in flight at the interruption is waited for; the second session adds to the same sums."""
    simulator.change(latency_seconds=0.05, faults={"500": 0.05, "429": 0.05})
    bench = Bench(tmp_path, simulator, rows=120)
    process = bench.start()
    wait_until(lambda: bench.answered > 10)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert 130 == json.loads(text)["exit_code"]
    stopped = open_run(bench.run_folder)
    assert stopped.summary["rows"]["open"] > 0
    assert_exact(bench, stopped)
    assert_exact(bench, bench.run())
    assert 120 == bench.answered


def test_amounts_that_outgrow_64_bits_are_told_alike_everywhere(
    simulator: SimulatorProcess, tmp_path: Path
) -> None:
    """In pico that is nine million credits: of one request, and of all of them."""
    dear = {"currency": "credits", "input_per_mtok": "9e11", "output_per_mtok": "9e11"}
    bench = Bench(tmp_path, simulator, rows=5, prices={"models": {MODEL: dear}}, budget={"credits": "off"})
    run = bench.run()
    assert Decimal(run.summary["cost_credits"]) > 5 * 2**64 / 10**12
    assert {Decimal(run.summary["cost_credits"])} == sums_of_attempts(run)
    assert run.summary["bill_credits"] == status_of(bench.run_folder)["bill_credits"]
    assert [] == run.verify(data=True)


def test_kills_and_lost_connections_are_bounded_and_named(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Attempts that may have been billed keep their hold; they are listed by status and by SQL."""
    simulator.change(latency_seconds=0.05, faults=LOSSES)
    bench = Bench(tmp_path, simulator, rows=100)
    spent = [0.0]
    for _ in range(2):
        already = bench.answered
        process = bench.start()
        wait_until(lambda already=already: bench.answered > already + 12)
        process.kill()
        process.communicate()
        spent.append(account_now(RunDirectory(bench.run_folder)).seconds)
        assert round(spent[-1], 3) <= status_of(bench.run_folder)["seconds"]
    simulator.change(latency_seconds=0.0)
    run = bench.run()
    assert 0 < spent[1] < spent[2] < run.summary["seconds"], "the time of a killed session counts"
    assert 0 == run.summary["rows"]["open"]
    assert run.summary["unknown_attempts"] > 0
    assert_bounded(bench, run)
    status = status_of(bench.run_folder)
    assert min(20, run.summary["unknown_attempts"]) == len(status["suspects"])
    assert all(Decimal(suspect["held_credits"]) > 0 for suspect in status["suspects"])


def test_a_budget_holds_over_all_sessions_and_can_be_raised(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Never over the cap, lost replies included; less than the largest hold stays unused; more money goes on."""
    simulator.change(faults={"reset_after": 0.05})
    bench = Bench(
        tmp_path, simulator, rows=120, budget={"max_cost_credits": "6"}, limits={"max_unknown_retries": 9}
    )
    with pytest.raises(RefusedToStart, match=r"--limit \d+ fits"):
        bench.write(budget={"max_cost_credits": "2"})
        bench.run()
    assert 0 == bench.answered
    first = bench.run(until_budget=True, limit=5)
    assert 4 != first.exit_code
    bench.write(budget={"max_cost_credits": "6"})
    second = bench.run(until_budget=True)
    assert (4, "stopped") == (second.exit_code, second.status)
    assert "budget.max_cost_credits" in str(second.stop_reason)
    assert "raise it" in str(second.stop_reason)
    assert_bounded(bench, second)
    largest = second.sql("select max(held_credits) as most from attempts")["most"][0].as_py()
    assert 6 - largest < Decimal(second.summary["bill_credits"]["high"]) <= 6
    assert bench.charged <= 6
    bench.write(budget={"max_cost_credits": "600"})
    third = bench.run()
    assert (0, 0) == (third.exit_code, third.summary["rows"]["open"])
    assert_bounded(bench, third)


def test_the_limit_that_is_named_fits(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Also where the rows that are finished are not the first ones: those of a pilot."""
    bench = Bench(tmp_path, simulator, rows=120)
    bench.run(pilot=20)
    expected = Decimal(bench.estimate()["cost_credits"]["expected"])
    cap = bench.charged + expected / 3
    bench.write(budget={"max_cost_credits": str(round(cap, 6))})
    with pytest.raises(RefusedToStart) as refused:
        bench.run()
    limit = int(str(refused.value).partition("--limit ")[2].split()[0].replace(",", ""))
    assert 40 < limit < 80
    assert Decimal(bench.estimate(limit=limit)["cost_credits"]["expected"]) <= expected / 3
    bench.run(limit=limit)


@pytest.mark.parametrize("form", [form for form in OUT_OF_CREDIT if form != "in_flight"])
def test_a_gateway_without_credit_stops_the_run_and_burns_nothing(
    simulator: SimulatorProcess, tmp_path: Path, form: str
) -> None:
    """In whatever words: at most what was in flight is refused, no row fails, after a top-up the run goes on."""
    simulator.change(out_of_credit=form, balance_credits=2)
    bench = Bench(tmp_path, simulator, budget={"credits": "off"}, limits={"concurrency": 4, "max_attempts": 1})
    stopped = bench.run()
    assert (4, "stopped") == (stopped.exit_code, stopped.status)
    assert "no credit left" in str(stopped.stop_reason)
    assert "top it up" in str(stopped.stop_reason)
    refused = stopped.attempts().filter(pl.col("outcome") == "rejected").collect()
    assert 1 <= refused.height <= 4
    rows = stopped.summary["rows"]
    assert (0, 40 - bench.answered) == (rows["error"], rows["open"])
    simulator.change(balance_credits=1000)
    finished = bench.run()
    assert (0, 40) == (finished.exit_code, finished.summary["rows"]["ok"])
    assert_exact(bench, finished)


def test_credits_that_are_held_by_requests_in_flight_are_waited_for(
    simulator: SimulatorProcess, tmp_path: Path
) -> None:
    """A 402 that says so is no lack of money."""
    simulator.change(out_of_credit="in_flight", balance_credits="0.1")
    bench = Bench(tmp_path, simulator, rows=12, budget={"credits": "off"})
    top_up = threading.Timer(1.0, simulator.change, kwargs={"balance_credits": 1000})
    top_up.start()
    run = bench.run()
    top_up.join()
    assert (0, 12) == (run.exit_code, run.summary["rows"]["ok"])
    assert_exact(bench, run)


def test_the_credits_to_keep_stay(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """What must stay in the balance is neither sent nor held; all but one hold of the rest is used."""
    simulator.change(balance_credits=10)
    bench = Bench(tmp_path, simulator, rows=200, budget={"keep_credits": "6"})
    with pytest.raises(RefusedToStart, match="must stay"):
        bench.run()
    run = bench.run(until_budget=True)
    assert 4 == run.exit_code
    largest = run.sql("select max(held_credits) as most from attempts")["most"][0].as_py()
    assert 4 - largest < bench.charged <= 4
    assert_exact(bench, run)


def test_what_others_spend_is_seen_while_the_run_goes_on(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """The balance is read again and again: when it falls to what must stay, the run ends in an orderly way."""
    simulator.change(latency_seconds=0.05)
    bench = Bench(tmp_path, simulator, rows=400, budget={"keep_credits": "50"})
    others = threading.Timer(0.7, simulator.change, kwargs={"balance_credits": 49})
    others.start()
    run = bench.run()
    others.join()
    assert 4 == run.exit_code
    assert run.summary["rows"]["open"] > 0
    assert "keep_credits" in str(run.stop_reason)
    assert_exact(bench, run)


@pytest.mark.parametrize(
    ("protocol", "fields", "complaint"),
    [
        ("chat", {}, "no max_completion_tokens or max_tokens"),
        ("chat", {"max_output_tokens": 50}, "no max_completion_tokens or max_tokens"),
        ("chat", {"max_tokens": 50, "n": 2}, "n: 2"),
        ("completions", {"max_tokens": 50, "best_of": 3}, "best_of: 3"),
        ("responses", {"max_output_tokens": 50, "previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_a_body_that_nothing_bounds_is_refused_before_anything_is_sent(
    simulator: SimulatorProcess, tmp_path: Path, protocol: str, fields: dict[str, Any], complaint: str
) -> None:
    """With a budget: the row is named. Without one, the same body is sent as it is."""
    texts: dict[str, Any] = {
        "chat": {"messages": [{"role": "user", "content": "2 + 2?"}]},
        "completions": {"prompt": "2 + 2?"},
        "responses": {"input": "2 + 2?"},
    }
    good = {"max_tokens": 50, "max_output_tokens": 50}
    bodies = [{"model": MODEL, **texts[protocol], **extra} for extra in (good, fields)]
    pl.DataFrame({"body": [json.dumps(body) for body in bodies]}).write_parquet(tmp_path / "bodies.parquet")
    bench = Bench(tmp_path, simulator, endpoint={"protocol": protocol}, params=None, model=None)
    bench.write(prompt=None, input=None)
    bench.write(
        prompt={"body_column": "body"}, input={"table": "bodies.parquet"}, budget={"max_cost_credits": "5"}
    )
    with pytest.raises(InputError, match="row 1") as refused:
        bench.run()
    assert complaint in str(refused.value)
    assert 0 == bench.answered


def test_wrong_prices_are_corrected_by_name(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Attempts, results, summary and budget together, in either currency, and back to the same digits."""
    simulator.change(faults={"reset_after": 0.05, "500": 0.05})
    bench = Bench(tmp_path, simulator)
    first = bench.run(limit=20)
    assert_bounded(bench, first)
    dollars = {**PRICE, "currency": "usd", "output_per_mtok": "15", "minimum_per_request": "0"}
    bench.write(prices={"models": {MODEL: dollars}, "credits_per_usd": "200"})
    second = bench.run(limit=20, correct_prices=True)
    assert "stored tokens are priced anew" in " ".join(bench.said)
    assert "output 3000" in " ".join(bench.said)
    assert {second.cost_credits} == sums_of_attempts(second) == {200 * (second.cost_usd or 0)}
    assert second.cost_usd == second.results().select(pl.col("cost_usd").sum()).collect().item()
    assert second.summary["tokens"] == first.summary["tokens"]
    bench.write(prices=None)
    bench.write(prices={"models": {MODEL: PRICE}})
    third = bench.run(correct_prices=True)
    assert third.cost_usd is None
    assert_bounded(bench, third)
    frozen = json.loads((bench.run_folder / "job.json").read_text())["prices"]["models"][MODEL]
    assert ("3000", "job", f"prices.models.{MODEL} of the job file") == (
        frozen["output_per_mtok"],
        frozen["source"],
        frozen["from"],
    )


DOUBLED = {key: str(2 * Decimal(value)) if key != "currency" else value for key, value in PRICE.items()}


def test_what_was_sent_under_an_earlier_price_keeps_it(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Money that is spent stays spent as it was; estimate and run expect of the rest what it costs today."""
    bench = Bench(tmp_path, simulator)
    first = bench.run(limit=20)
    bench.write(prices={"models": {MODEL: DOUBLED}})
    expected = estimate(bench.job_file, environ={"BILL_KEY": KEY})
    asked: list[dict[str, Any]] = []
    second = bench.run(confirm=lambda document: asked.append(document) or True)
    assert expected["cost_credits"] == asked[0]["cost_credits"]
    assert 2 * (first.cost_credits or 0) == Decimal(expected["cost_credits"]["expected"])
    later = second.attempts().sort("serial").select("cost_credits").collect().to_series()
    assert first.cost_credits == later[:20].sum()
    assert first.cost_credits + later[20:].sum() == second.cost_credits
    assert "keeps its price (was it wrong? --correct-prices)" in " ".join(bench.said)
    document = json.loads((bench.run_folder / "job.json").read_text())
    assert PRICE["output_per_mtok"] == document["earlier_prices"][0]["models"][MODEL]["output_per_mtok"]
    third = bench.run(correct_prices=True)
    assert third.cost_credits == first.cost_credits * 2 + later[20:].sum()
    assert [] == third.verify(data=True)


def test_a_price_holds_from_its_moment_on(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """In the past: what was sent since then is priced anew. In the future: the last session's price holds."""
    bench = Bench(tmp_path, simulator)
    first = bench.run(limit=20)
    begun = first.attempts().select("started_at").sort("started_at").collect().to_series()
    middle = begun[10]
    since = (
        first.attempts()
        .filter(pl.col("started_at") >= middle)
        .select(pl.col("cost_credits").sum())
        .collect()
        .item()
    )
    bench.write(prices={"models": {MODEL: {**DOUBLED, "valid_from": "2999-01-01"}}})
    assert first.cost_credits == bench.run(limit=20).cost_credits
    bench.write(prices={"models": {MODEL: {**DOUBLED, "valid_from": middle.isoformat()}}})
    second = bench.run(limit=20)
    assert first.cost_credits + since == second.cost_credits
    assert {second.cost_credits} == sums_of_attempts(second)


def test_before_its_moment_a_price_says_what_holds_until_then() -> None:
    """Of a run without an earlier session nothing is known, and no earlier session is spoken of."""
    spec = {"currency": "usd", "input_per_mtok": 1, "output_per_mtok": 2, "valid_from": "2999-01-01"}
    job = Job(model="m", prompt={"user": "x"}, prices={"models": {"m": spec}})
    former = price_from_job({**PRICES, "currency": "usd"})
    for before, words in (({}, "no price is known"), ({Priced("m"): former}, "the price of the last session")):
        choice = Prices(job, [], datetime(2026, 11, 29, tzinfo=UTC), before).choice("m")
        assert (before.get(Priced("m")), True) == (choice.price, choice.reason.endswith(f"until then {words}"))


def files_of(folder: Path) -> dict[Path, bytes]:
    """All but the lock, which says who had it last."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_prices_are_corrected_only_once_the_start_is_confirmed(
    simulator: SimulatorProcess, tmp_path: Path
) -> None:
    """The answer no, and a budget that the corrected bill has used up, leave every file as it was."""
    bench = Bench(tmp_path, simulator)
    first = bench.run(limit=20)
    bench.write(prices={"models": {MODEL: DOUBLED}})
    before = files_of(bench.run_folder)
    with pytest.raises(RefusedToStart, match="not confirmed"):
        bench.run(correct_prices=True, confirm=lambda _: False)
    cap = str((first.cost_credits or 0) * Decimal("1.5"))
    with pytest.raises(RefusedToStart, match="not one more row fits"):
        bench.run(correct_prices=True, limit=21, max_cost_credits=cap)
    assert before == files_of(bench.run_folder)
    done = bench.run(limit=20, correct_prices=True)
    assert {2 * (first.cost_credits or 0)} == sums_of_attempts(done) | {done.cost_credits}


def test_a_kill_while_stored_tokens_are_priced_anew_is_finished_by_the_next_session(
    simulator: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and account never stay under different prices; back under the old ones no hold is a guess."""
    simulator.change(faults={"reset_after": 0.1})
    bench = Bench(tmp_path, simulator)
    first = bench.run(limit=20)
    doubled = {key: str(2 * Decimal(value)) for key, value in PRICE.items() if key != "currency"}

    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    bench.write(prices={"models": {MODEL: {**PRICE, **doubled}}})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(books, "attempt_costs", killed)
        bench.run(limit=20, correct_prices=True)
    bench.write(prices={"models": {MODEL: PRICE}})
    back = bench.run(limit=20)
    assert first.cost_credits == back.cost_credits
    assert {first.cost_credits} == sums_of_attempts(back)
    assert back.summary["bill_credits"]["high"] is None
    bench.write(prices={"models": {MODEL: {**PRICE, **doubled}}})
    again = bench.run(limit=20, correct_prices=True)
    assert {2 * (first.cost_credits or 0)} == sums_of_attempts(again) | {again.cost_credits}
    assert [] == again.verify(data=True)


def test_a_list_price_of_its_day_stays_where_the_job_file_has_none() -> None:
    """And gives way where it has one; what a reply stated stays in either case, in the other unit anew."""
    usage = Usage(input_tokens=1000)
    listed = Stored(MODEL, MODEL, "done", usage, None, Cost(7 * 10**9, None, "list"), Hold(9 * 10**9))
    stated = structs.replace(listed, reported_usd="0.007", cost=structs.replace(listed.cost, source="reply"))
    for price, kept in ((None, True), (price_from_job({**PRICES, "currency": "usd"}), False)):
        prices = SimpleNamespace(
            price=lambda *_, price=price: price, told=dict, keys=lambda model: [Priced(model)]
        )
        bill = Bill(prices.price, Decimal(200))
        anew = Repricing(Frozen({}, None), prices, bill, {MODEL: MODEL})  # type: ignore[arg-type]
        assert (Cost(7 * 10**9, 1400 * 10**9, "list") if kept else Cost(10**12, 200 * 10**12, "job")) == anew(
            listed
        )[0]
        assert Cost(7 * 10**9, 1400 * 10**9, "reply") == anew(stated)[0]


PRICES = {"currency": "usd", "input_per_mtok": Decimal(1000), "output_per_mtok": Decimal(1)}


def test_a_price_list_that_changes_is_said_and_holds_for_what_is_sent_from_then_on(
    simulator: SimulatorProcess, tmp_path: Path
) -> None:
    """A gateway's own prices: what is recorded keeps the price of its day. Here each reply states its cost."""
    simulator.change(gateway_style="openrouter", cached_share=0.0)
    bench = Bench(tmp_path, simulator, prices=None, budget={"credits": "off"})
    model = {"input_per_mtok": 600, "output_per_mtok": 3000}
    try:
        simulator.change(models={MODEL: model})
        first = bench.run(limit=20)
        simulator.change(models={MODEL: {**model, "output_per_mtok": 6000}})
        second = bench.run()
    finally:
        simulator.change(models={MODEL: SIMULATED})
    assert "what is recorded keeps its price" in " ".join(bench.said)
    assert first.cost_usd is not None
    assert second.cost_usd == second.attempts().select(pl.col("cost_usd").sum()).collect().item()
    assert {"reply"} == set(second.attempts().collect()["cost_source"].to_list())
    assert 200 * (second.cost_usd or 0) == bench.charged


SIMULATED = {key: value for key, value in PRICE.items() if key != "currency"}


def test_a_pilot_tells_the_bill_and_its_rows_are_not_sent_again(
    simulator: SimulatorProcess, tmp_path: Path
) -> None:
    """The interval holds the true bill, tokens and all; the balance agrees with the price; exit 0."""
    bench = Bench(tmp_path, simulator, rows=150)
    piloted = bench.run(pilot=40)
    pilot = piloted.summary["pilot"]
    assert (0, "stopped", 110) == (piloted.exit_code, piloted.status, piloted.summary["rows"]["open"])
    assert "pilot done" in str(piloted.stop_reason)
    assert ("agree", 40, 40) == (pilot["verdict"], pilot["rows_finished"], pilot["measured"]["rows"])
    assert Decimal(pilot["measured"]["fall"]) == bench.charged
    assert "95 % certainty" in piloted.report()
    assert_exact(bench, piloted)
    assert 0 == bench.run(pilot=30).exit_code
    assert 40 == bench.answered
    whole = bench.run()
    assert (0, 150) == (whole.exit_code, bench.answered)
    assert_exact(bench, whole)
    bill = pilot["cost_credits"]
    assert Decimal(bill["low"]) <= bench.charged <= Decimal(bill["high"])
    assert pilot["output_tokens"]["low"] <= whole.summary["tokens"]["output"] <= pilot["output_tokens"]["high"]


def test_a_pilot_counts_what_is_open_of_rows_that_are_half_done(
    simulator: SimulatorProcess, tmp_path: Path
) -> None:
    """Time and bill are of the open units: of five rows with one of two variants done, five requests are left."""
    bench = Bench(tmp_path, simulator, rows=9, sweep={"params.temperature": [0]})
    bench.write(limits={"requests_per_minute": 600})
    assert 0 == bench.run().exit_code
    bench.write(sweep={"params.temperature": [0, 1]})
    piloted = bench.run(pilot=4)
    pilot = piloted.summary["pilot"]
    assert (5, 4) == (piloted.summary["rows"]["open"], pilot["rows_finished"])
    assert (0.5, "requests_per_minute") == (pilot["seconds"]["expected"], pilot["seconds"]["limited_by"])
    both = piloted.sql("select id, sum(cost_credits) as cost from results group by id having count(*) = 2")["cost"]
    expected = bench.charged + sum(both.to_pylist()) / 4 * 5 / 2
    assert float(expected) == pytest.approx(float(pilot["cost_credits"]["expected"]))


def test_a_pilot_that_is_stopped_tells_what_it_knows(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Its halt stays the run's; a pilot that the budget has no room for names the one that fits."""
    bench = Bench(tmp_path, simulator, rows=100, budget={"max_cost_credits": "1"})
    with pytest.raises(RefusedToStart, match=r"--pilot \d+ fits"):
        bench.run(pilot=60)
    stopped = bench.run(pilot=60, until_budget=True)
    pilot = stopped.summary["pilot"]
    assert (4, 100) == (stopped.exit_code, pilot["rows_total"])
    assert 0 < pilot["rows_finished"] == pilot["measured"]["rows"] == bench.answered < 60
    assert Decimal(pilot["measured"]["fall"]) == bench.charged <= 1


def test_a_pilot_finds_a_wrong_price_and_nothing_is_sent_until_it_is_corrected(
    simulator: SimulatorProcess, tmp_path: Path
) -> None:
    """Exit 3 with both figures; the rows that it paid for stay."""
    bench = Bench(tmp_path, simulator, prices={"models": {MODEL: {**PRICE, "minimum_per_request": "2"}}})
    piloted = bench.run(pilot=10)
    assert (3, "stopped") == (piloted.exit_code, piloted.status)
    assert "differ by more than half" in str(piloted.stop_reason)
    assert 10 == bench.answered
    with pytest.raises(RefusedToStart, match="differ by more than half"):
        bench.run()
    assert 10 == bench.answered
    bench.write(prices={"models": {MODEL: PRICE}})
    corrected = bench.run(correct_prices=True)
    assert (0, 40) == (corrected.exit_code, bench.answered)
    assert_exact(bench, corrected)


def test_where_no_price_is_known_a_pilot_measures_it(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """From the fall of the balance, which lags; the estimate says `measured` from then on, a budget cannot."""
    simulator.change(balance_lag_seconds=0.2)
    bench = Bench(tmp_path, simulator, prices=None)
    assert bench.estimate()["cost_credits"]["expected"] is None
    piloted = bench.run(pilot=20)
    per_row = Decimal(piloted.summary["pilot"]["measured"]["per_row"])
    assert (0, "not_measured") == (piloted.exit_code, piloted.summary["pilot"]["verdict"])
    assert bench.charged / 20 == per_row
    told = bench.estimate()
    assert per_row * 20 == Decimal(told["cost_credits"]["expected"])
    assert "measured" in " ".join(told["notes"])
    bench.write(budget={"max_cost_credits": "500"})
    with pytest.raises(RefusedToStart, match="unknown"):
        bench.run()


def test_a_run_estimates_a_large_table_from_random_rows_and_says_so(
    simulator: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`estimate` itself reads every row."""
    monkeypatch.setattr(assessing, "SAMPLE_ABOVE_ROWS", 30)
    monkeypatch.setattr(assessing, "SAMPLE_ROWS", 10)
    bench = Bench(tmp_path, simulator)
    shown: list[dict[str, Any]] = []
    bench.run(confirm=lambda document: bool(shown.append(document)) or True)
    assert any("estimated from 10 random rows of 40" in sentence for sentence in bench.said)
    assert (40, 10) == (shown[0]["open_rows"], shown[0]["variants"][0]["rows_read"])
