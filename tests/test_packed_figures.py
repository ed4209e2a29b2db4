"""What is told of runs that pack: requests are counted as requests, and what is to come at what packs cost."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import crun_batch
from crun_batch.console.estimates import estimate_text
from crun_batch.console.listings import check_text
from crun_batch.console.row_words import row_text
from crun_batch.console.words import summary_text
from crun_batch.gateway.classify import check
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.page.rows import RunRows
from crun_batch.records import Reply, Response
from crun_batch.reporting.data import ReportData
from crun_batch.reporting.read import read_report
from crun_batch.state.recovery import account_now
from crun_batch.state.status import SUSPECTS_SHOWN, status_of
from crun_batch.store.directory import RunDirectory
from tests.simulation.gateway import BASE_URL, MODEL
from tests.simulation.packs import FAILING, GARBLED, TABLE, PackScene, PackStage, job_of, pico
from tests.simulation.play import PRICES

MANY = pl.DataFrame({"id": [f"r{row}" for row in range(200)], "text": [f"text {row}" for row in range(200)]})
PILOT = 80
ANY_AGREEMENT = {"rows": 8, "format": "lines", "min_agreement": 0}


def finished(folder: Path, scene: PackScene) -> PackStage:
    stage = PackStage(scene, folder)
    assert stage.session() in (0, 1)
    return stage


def summary(stage: PackStage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage.folder / "summary.json").read_bytes())
    return found


def test_a_request_of_several_rows_is_one_request(tmp_path: Path) -> None:
    """In the summary, its words, the report, by purpose and by outcome, whatever fails."""
    stage = finished(tmp_path, PackScene(faults=FAILING, pack_faults=GARBLED, seed=2))
    told, data = summary(stage), read_report(tmp_path)
    assert stage.world.posts == told["requests"] == data.requests < told["attempts"]
    assert f", {stage.world.posts} requests" in summary_text(told)
    assert stage.world.posts == status_of(tmp_path)["requests"]
    attempts = stage.attempts().filter(pl.col("pack_place").fill_null(1) == 1)
    by_outcome = dict(attempts.group_by("outcome").len().rows())
    assert by_outcome == _summed(data)
    assert by_outcome["rejected"] + by_outcome["unknown"] == sum(line.requests for line in data.retried)
    assert pico(stage.attempts()["cost_credits"].sum()) == pico(data.cost.credits)


def _summed(data: ReportData) -> dict[str, int]:
    return {
        outcome: sum(line.requests for line in data.bill if line.outcome == outcome)
        for outcome in {line.outcome for line in data.bill}
    }


def test_the_tokens_of_a_request_are_those_of_all_its_rows(tmp_path: Path) -> None:
    """The report's figures of answered requests: six of them, not 47 parts."""
    stage = finished(tmp_path, PackScene())
    spreads = {spread.name: spread for spread in read_report(tmp_path).distributions}
    assert {6} == {spreads[name].total.count for name in ("latency", "input tokens", "output tokens")}
    attempts = stage.attempts()
    by_request = attempts.group_by(pl.col("serial") - pl.col("pack_place")).agg(pl.col("input_tokens").sum())
    assert by_request["input_tokens"].max() == spreads["input tokens"].total.greatest


def test_the_page_counts_failed_requests_as_requests(tmp_path: Path) -> None:
    stage = finished(tmp_path, PackScene(faults={"500": 0.4}, seed=5))
    failed = stage.attempts().filter(pl.col("outcome") != "done", pl.col("pack_place").fill_null(1) == 1)
    rows = RunRows(tmp_path)
    try:
        assert failed.height == rows.failures()["requests_count"] > 0
    finally:
        rows.close()


def test_a_kill_leaves_requests_in_flight_not_rows(tmp_path: Path) -> None:
    """Three requests of eight; the suspects are their rows, each of which may have been billed its part."""
    stage = PackStage(PackScene(faults={"reset_after": 1.0}), tmp_path)
    assert stage.session(29, "after") is None
    told = status_of(tmp_path)
    assert (3, SUSPECTS_SHOWN) == (told["in_flight"], len(told["suspects"]))
    assert (3, 24) == (told["requests"], told["attempts"])
    report = read_report(tmp_path)
    assert (3, 3, Decimal(told["held_credits"])) == (report.requests, report.unknown, report.held.credits)
    [unanswered] = report.retried
    assert (3, report.held.credits, "unknown_outcome") == (
        unanswered.requests,
        unanswered.held.credits,
        unanswered.kind,
    )


@pytest.mark.parametrize("keys", [{}, {"pack": None}], ids=["packs", "rows"])
def test_a_kill_at_any_moment_is_told_with_all_that_was_sent(keys: dict[str, Any], tmp_path: Path) -> None:
    """Before the next session: what the gateway charged lies within the bill, replies that nobody has read too."""
    for at in range(26, 60, 2):
        stage = PackStage(PackScene(faults=FAILING, pack_faults=GARBLED, seed=2, keys=keys), tmp_path / str(at))
        assert stage.session(at, "after") is None
        told, report = status_of(stage.folder), read_report(stage.folder)
        low, high = (Decimal(told["bill_credits"][end]) for end in ("low", "high"))
        assert low <= Decimal(stage.world.gateway.ledger.charged_pico) / 10**12 <= high
        assert stage.world.posts <= told["requests"] == report.requests
        assert (low, high) == (report.cost.credits or 0, (report.cost.credits or 0) + (report.held.credits or 0))


@pytest.mark.parametrize("at", [17, 29, 41])
def test_what_was_counted_survives_a_kill(at: int, tmp_path: Path) -> None:
    """The journal tells the same sums of packs that a session without a kill kept."""
    stage = PackStage(PackScene(), tmp_path / "killed")
    assert stage.session(at, "before") is None
    assert 0 == stage.session()
    account = account_now(RunDirectory(stage.folder))
    sums, attempts = account.packed["default"], stage.attempts().filter(pl.col("pack_place").is_not_null())
    assert (attempts.height, attempts["input_tokens"].sum()) == (sums.attempts, sums.input_tokens)
    assert pico(attempts["cost_credits"].sum()) == sums.cost_credits
    assert attempts.filter(pl.col("pack_place") > 1).height == account.totals().beside


def test_check_shows_the_requests_that_are_sent(tmp_path: Path) -> None:
    """Six of eight rows, the last of seven; the first three as they would go, and identical rows named as rows."""
    TABLE.write_parquet(tmp_path / "t.parquet")
    keys: dict[str, Any] = {"input": {"table": str(tmp_path / "t.parquet"), "id": "id"}}
    told = crun_batch.check(job_of(PackScene(keys=keys), tmp_path))
    assert ([], 6, 3) == (told["mistakes"], told["requests"], len(told["first_requests"]))
    system, user = told["first_requests"][0]["body"]["messages"]
    assert "Below are 8 items" in system["content"]
    assert "[8] text 7" in user["content"]
    again = pl.concat([TABLE, TABLE.with_columns(pl.format("again {}", "id").alias("id"))])
    again.write_parquet(tmp_path / "t.parquet")
    for shares, requests in ((False, 12), (True, 6)):
        told = crun_batch.check(job_of(PackScene(keys={**keys, "share_identical": shares}), tmp_path))
        assert (requests, 47) == (told["requests"], told["identical"]["requests"])
    assert "47 rows ask what an earlier one asks" in check_text(told)


# --- what the rest costs -----------------------------------------------------------------------------------------


def piloted(folder: Path, **keys: Any) -> PackStage:
    """After a pilot, whose rows were asked both ways."""
    stage = PackStage(PackScene(keys={"pack": ANY_AGREEMENT, **keys}), folder)
    assert 0 == stage.session(table=MANY, pilot=PILOT)
    return stage


def cost(stage: PackStage) -> Decimal:
    total: Decimal = stage.attempts()["cost_credits"].sum()
    return total


@pytest.mark.parametrize("pack", [ANY_AGREEMENT, None])
def test_after_a_pilot_the_rest_is_expected_at_what_its_way_costs(
    pack: dict[str, Any] | None, tmp_path: Path
) -> None:
    """Packed where the job packs, alone where pack is taken out: the pilot has asked both."""
    stage = piloted(tmp_path)
    before = cost(stage)
    stage.scene = PackScene(keys={"pack": pack})
    expected = Decimal(stage.estimate(MANY)["cost_credits"]["expected"])
    assert 0 == stage.session(table=MANY)
    assert float(cost(stage) - before) == pytest.approx(float(expected), rel=0.03)
    if pack is not None:
        assert float(summary(stage)["pilot"]["cost_credits"]["expected"]) == pytest.approx(
            float(cost(stage)), rel=0.03
        )


def test_other_prices_are_expected_once_for_each_request(tmp_path: Path) -> None:
    """What a request of several rows did is priced anew as one request: with its minimum once."""
    stage = piloted(tmp_path)
    before = cost(stage)
    dearer = {**PRICES, "minimum_per_request": "0.5", "valid_from": "1970-01-01T00:00:00Z"}
    stage.scene = PackScene(keys={"pack": ANY_AGREEMENT, "prices": {"models": {MODEL: dearer}}})
    expected = Decimal(stage.estimate(MANY)["cost_credits"]["expected"])
    assert Decimal("0.5") * 15 == expected  # 120 open rows, by eight
    assert before == cost(stage)


def test_the_balance_measures_a_row_as_the_rest_asks_it(tmp_path: Path) -> None:
    """Its fall is for both ways; what was asked to compare is taken off by its tokens, output weighing most."""
    stage = piloted(tmp_path, prices={}, budget={"credits": "warn"})
    measured = summary(stage)["pilot"]["measured"]
    weight = pl.col("input_tokens") - 0.9 * pl.col("cached_input_tokens") + 6 * pl.col("output_tokens")
    attempts = stage.attempts().with_columns(weight=weight)
    share = attempts.filter(pl.col("purpose") != "alone")["weight"].sum() / attempts["weight"].sum()
    assert 0.2 < share < 0.8
    assert float(measured["per_row"]) == pytest.approx(share * float(measured["fall"]) / PILOT, rel=1e-6)


def test_each_size_of_request_has_its_line(tmp_path: Path) -> None:
    """In an estimate: those of eight rows, and the last of seven."""
    told = PackStage(PackScene(), tmp_path).estimate(TABLE)
    assert [(8, 5), (7, 1)] == [(one["rows_together"], one["requests"]) for one in told["variants"]]
    assert "default, 8 rows each" in estimate_text(told)


# --- one row of a request ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "form"), [("chat", "lines"), ("responses", "json"), ("messages", "json")])
def test_an_exported_reply_is_the_rows_own(protocol: str, form: str, tmp_path: Path) -> None:
    """As if it had been answered alone: its text where the protocol has it, its part of the tokens."""
    endpoint = {"base_url": BASE_URL, "api_key_env": "SIMULATED_KEY", "protocol": protocol}
    stage = finished(tmp_path / "run", PackScene(form, keys={"endpoint": endpoint}))
    crun_batch.export(stage.folder, "openai-batch", tmp_path / "replies.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    answers = {line["custom_id"]: line["response"]["body"] for line in lines}
    results = stage.results()
    assert set(results["id"]) == set(answers)
    for row_id, text in results.select("id", "output_text").rows():
        reply = Response(200, {}, json.dumps(answers[row_id]).encode())
        read = check(PROTOCOLS[protocol], reply, stream=False)
        assert isinstance(read, Reply)
        assert (text, "stop") == (read.text, read.finish_reason)
    name = "prompt_tokens" if protocol == "chat" else "input_tokens"
    assert results["input_tokens"].sum() == sum(body["usage"][name] for body in answers.values())


def test_show_tells_a_row_of_a_pack_from_the_pack(tmp_path: Path) -> None:
    """Its own answer and messages, its place, the whole reply; no request that was never sent is shown as sent."""
    stage = piloted(tmp_path / "run")
    for place in (1, 3):
        row_id = stage.attempts().filter(pl.col("pack_place") == place)["id"][0]
        shown = crun_batch.show(stage.folder, row_id, table=MANY, raw=True)
        [unit] = shown["units"]
        packed, alone = unit["attempts"]
        assert unit["output_text"] == packed["answer"] == alone["answer"]
        assert packed["request"] is None
        assert "asked 8 rows together" in packed["not_shown"]
        assert packed["messages"] == alone["messages"] is not None
        assert len(packed["reply"]) > len(alone["reply"])
        assert alone["request"] is not None
        assert f"row {place} of 8 in one request" in " ".join(row_text(shown, 80).split())
