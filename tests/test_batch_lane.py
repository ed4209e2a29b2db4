"""The batch lane against the simulator: what is paid, what is recorded, and that nothing is submitted twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import batch_kit
import httpx
import polars as pl
import pytest
from msgspec import structs
from run_kit import ENVIRON, results, spent_credits, texts

import crun_batch
from crun_batch.console.progress import Progress
from crun_batch.load.job.job import Job
from crun_batch.simulator import SimulatorProcess
from crun_batch.store.directory import RunDirectory
from tests.chaos.batch_job import FORMS, PRICE, batch_job

ROWS = 20


@pytest.fixture(scope="module")
def simulators() -> Iterator[dict[str, SimulatorProcess]]:
    """By style."""
    with batch_kit.simulator() as plain, batch_kit.simulator(gateway_style="openrouter") as openrouter:
        yield {"plain": plain, "openrouter": openrouter}


PLAIN = {"batch_faults": {}, "batch_seconds": 0.05, "batch_enqueued_tokens": None, "batch_cancel_seconds": 0.0}


@pytest.fixture
def fresh(simulators: dict[str, SimulatorProcess]) -> Iterator[SimulatorProcess]:
    """The simulator without faults; what a test turns on is turned off behind it."""
    yield simulators["plain"]
    simulators["plain"].change(**PLAIN)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """In which form batches go."""
    return str(request.param)


@pytest.fixture
def seller(simulators: dict[str, SimulatorProcess], form: str) -> Iterator[SimulatorProcess]:
    """The simulator that takes batches in that form."""
    simulator = simulators[FORMS[form].gateway_style]
    yield simulator
    simulator.change(**PLAIN)


def lines_of(said: list[str]) -> str:
    return "\n".join(said)


def test_a_batch_brings_what_single_requests_bring_at_half_the_price(
    seller: SimulatorProcess, form: str, tmp_path: Path
) -> None:
    """The same answers as live; the cost is the books' to the last digit, and half of the live one."""
    live = batch_kit.run(batch_kit.job(seller, tmp_path / "live", form=form, lane="live"), texts(ROWS))
    before = batch_kit.charged_credits(seller)
    done = batch_kit.run(batch_kit.job(seller, tmp_path, form=form), texts(ROWS))
    assert (0, {"ok": ROWS}) == (done.exit_code, Counter(results(done)["status"]))
    assert results(live)["output_text"].to_list() == results(done)["output_text"].to_list()
    assert batch_kit.charged_credits(seller) - before == spent_credits(done) == spent_credits(live) / 2
    assert ["batch"] == done.attempts().select(pl.col("endpoint").unique()).collect()["endpoint"].to_list()
    assert [] == crun_batch.verify(done, data=True)
    assert [] == done.summary["batches"]


@pytest.mark.parametrize("limits", [{"max_requests": 3}, {"max_megabytes": 0.0009}])
def test_limits_cut_the_job_into_batches(fresh: SimulatorProcess, tmp_path: Path, limits: dict[str, Any]) -> None:
    """No batch has more requests or bytes than allowed; every row is asked once."""
    before = len(batch_kit.charges(fresh))
    job = batch_kit.job(fresh, tmp_path, batch=limits)
    done = batch_kit.run(job, texts(ROWS))
    sizes = Counter(entry["batch"] for entry in batch_kit.charges(fresh)[before:])
    assert (ROWS, {"ok": ROWS}) == (sum(sizes.values()), Counter(results(done)["status"]))
    assert max(sizes.values()) <= 3 if "max_requests" in limits else 1 < max(sizes.values()) < ROWS


EVERYTHING = {
    "shuffled": 1,
    "doubled": 0.5,
    "expired": 0.3,
    "line_errors": 0.2,
    "create_lost": 0.5,
    "create_failed": 0.2,
    "upload_lost": 0.2,
}


def test_faults_cost_nothing_twice(seller: SimulatorProcess, form: str, tmp_path: Path) -> None:
    """All at once, over real connections: rows end well, each request is in the books once, as is the cost.

    Each fault by itself, and more often, is in `test_batch_faults`, in virtual time.
    """
    seller.change(batch_faults=EVERYTHING)
    before, asked = batch_kit.charged_credits(seller), batch_kit.times_asked(seller)
    table = texts(9).with_columns(pl.col("text") + f" {form}")
    limits = {"max_attempts": 60}  # the draws of faults are new in each run
    job = batch_kit.job(seller, tmp_path, form=form, batch={"max_requests": 5}, limits=limits)
    done = batch_kit.run(job, table)
    assert {"ok": 9} == Counter(results(done)["status"])
    assert {1} == set((batch_kit.times_asked(seller) - asked).values())
    assert batch_kit.charged_credits(seller) - before == spent_credits(done)
    assert [] == crun_batch.verify(done, data=True)


def test_lines_that_no_file_has_are_unknown_and_keep_their_hold(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """The books have more than the run knows, and no more than it holds; what is missing is asked once more."""
    fresh.change(batch_faults={"missing": 0.3})
    before = batch_kit.charged_credits(fresh)
    done = batch_kit.run(batch_kit.job(fresh, tmp_path), texts(ROWS).with_columns(pl.col("text") + " missing"))
    bill, charged = done.summary["bill_credits"], batch_kit.charged_credits(fresh) - before
    unknown = done.summary["unknown_attempts"]
    assert unknown >= 1
    missing = sum(entry["outcome"] == "missing" for entry in batch_kit.charges(fresh))
    assert missing == unknown
    assert type(charged)(bill["low"]) < charged <= type(charged)(bill["high"])


def test_a_batch_too_large_for_the_gateway_is_cut_until_it_fits(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """An enqueued limit that nobody told: found by halves, and nothing is paid for the way."""
    fresh.change(batch_enqueued_tokens=60)
    said: list[str] = []
    table = texts(ROWS).with_columns(pl.col("text") + " limit")
    done = batch_kit.run(batch_kit.job(fresh, tmp_path), table, say=said.append)
    assert {"ok": ROWS} == Counter(results(done)["status"])
    assert "too much at once" in lines_of(said)


def test_what_a_kill_left_of_batches_that_were_read_goes(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """Killed when a batch was said to be over, before its files went: a start that sends nothing drops them."""
    job = batch_kit.job(fresh, tmp_path)
    done = batch_kit.run(job, texts(4))
    folder = RunDirectory(done.directory).batch_files
    names = set(re.findall(r"\d{6}-\w+\.jsonl", RunDirectory(done.directory).batches.read_text()))
    for name in names:
        (folder / name).write_text("{}\n")
    again = batch_kit.run(job, texts(4))
    assert names and (0, []) == (again.exit_code, list(folder.iterdir()))


class Repeating(httpx.AsyncHTTPTransport):
    """A way to the gateway that makes each batch twice, as a proxy does that repeats a call."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and request.url.path.endswith("/batches"):
            await (await super().handle_async_request(request)).aread()
        return await super().handle_async_request(request)


def test_a_batch_that_a_proxy_made_twice_is_paid_once(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """The second one of a file is cancelled before it does anything, and told."""
    fresh.change(batch_seconds=3600.0)
    before = batch_kit.charged_credits(fresh)
    told = Meanwhile(lambda: fresh.change(batch_seconds=0.05), when="is to be cancelled")
    twice = structs.replace(batch_kit.QUICK, transport=Repeating())
    table = texts(6).with_columns(pl.col("text") + " repeated")
    done = batch_kit.run(batch_kit.job(fresh, tmp_path), table, platform=twice, say=told)
    assert (0, {"ok": 6}) == (done.exit_code, Counter(results(done)["status"])), told.said
    assert batch_kit.charged_credits(fresh) - before == spent_credits(done)


class Rewriting(httpx.AsyncHTTPTransport):
    """A way to a gateway whose answers to some of the calls are others."""

    def __init__(self, path: str, rewritten: Callable[[httpx.Response, bytes], httpx.Response | None]) -> None:
        super().__init__()
        self._path, self._rewritten = path, rewritten

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if not request.url.path.endswith(self._path):
            return response
        content = await response.aread()
        return self._rewritten(response, content) or httpx.Response(response.status_code, content=content)


def test_results_that_are_not_there_at_once_are_read_when_they_are(
    fresh: SimulatorProcess, tmp_path: Path
) -> None:
    """A gateway that has a batch's file a moment later is asked again: taken for lost, it would be paid twice."""
    late = [httpx.Response(404, json={"error": {"message": "No such File object"}})]
    way = Rewriting("/content", lambda *_: late.pop() if late else None)
    before = batch_kit.charged_credits(fresh)
    table = texts(4).with_columns(pl.col("text") + " late")
    done = batch_kit.run(
        batch_kit.job(fresh, tmp_path), table, platform=structs.replace(batch_kit.QUICK, transport=way)
    )
    assert (0, 0, []) == (done.exit_code, done.summary["unknown_attempts"], late)
    assert batch_kit.charged_credits(fresh) - before == spent_credits(done)


def test_rows_that_every_batch_refuses_come_to_an_end(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """No lane pauses for a batch: lines that say "not now" count, else batches would be made of them for ever."""
    fresh.change(batch_faults={"failed_lines": 1.0})
    busy = Rewriting("/content", lambda _, content: httpx.Response(200, content=content.replace(b":500", b":503")))
    job = batch_kit.job(fresh, tmp_path, limits={"max_attempts": 3, "stop_at_error_rate": 1})
    done = batch_kit.run(job, texts(4), max_minutes=0.3, platform=structs.replace(batch_kit.QUICK, transport=busy))
    assert ("finished", {"error": 4}) == (done.status, Counter(results(done)["status"]))
    assert 12 == done.attempts().filter(pl.col("http_status") == 503).collect().height


@pytest.mark.parametrize(("path", "what"), [("/files", "no file for a batch"), ("/batches", "no batch")])
def test_what_is_too_large_for_the_gateway_is_told_by_the_keys_that_cut_it(
    fresh: SimulatorProcess, path: str, what: str, tmp_path: Path
) -> None:
    """A refusal for its size says how large it is, and what to set."""
    large = Rewriting(path, lambda response, _: _too_large(response))
    way = structs.replace(batch_kit.QUICK, transport=large)
    done = batch_kit.run(batch_kit.job(fresh, tmp_path), texts(5), platform=way)
    assert 5 == done.exit_code
    assert what in done.summary["stop_reason"] and "batch.max_megabytes" in done.summary["stop_reason"]


def _too_large(response: httpx.Response) -> httpx.Response | None:
    posted = response.status_code == 200 and "data" not in response.json()
    return httpx.Response(413, json={"error": {"message": "too large"}}) if posted else None


def test_a_gateway_without_batches_refuses_before_anything_is_sent(tmp_path: Path) -> None:
    """CRUN has none: the words say so, and what to write instead."""
    with batch_kit.simulator(gateway_style="crun") as crun:
        done = batch_kit.run(batch_kit.job(crun, tmp_path), texts(3))
    assert 5 == done.exit_code
    assert "no batches" in done.summary["stop_reason"] and "lane: live" in done.summary["stop_reason"]
    assert not (tmp_path / "run" / "job.json").exists()


def test_a_failed_batch_stops_the_run_with_the_gateways_words(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """A file that the gateway does not take is not sent again and again."""
    fresh.change(batch_most_requests=2)
    done = batch_kit.run(batch_kit.job(fresh, tmp_path), texts(5))
    fresh.change(batch_most_requests=50_000)
    assert (5, 5) == (done.exit_code, done.summary["rows"]["open"])
    assert "too_many_tasks" in done.summary["stop_reason"]
    again = batch_kit.run(batch_kit.job(fresh, tmp_path), texts(5))
    assert {"ok": 5} == Counter(results(again)["status"])


@pytest.mark.parametrize(
    ("refusing", "mended", "code"),
    [
        ({"balance_credits": "0.12"}, {"balance_credits": "1000"}, 4),
        ({"batch_most_requests": 4}, {"batch_most_requests": 50_000}, 5),
    ],
    ids=["lines without credit", "failed as a whole"],
)
def test_what_batches_were_refused_before_a_session_is_not_held_against_it(
    tmp_path: Path, refusing: dict[str, Any], mended: dict[str, Any], code: int
) -> None:
    """Topped up and started once, it collects all that were refused meanwhile, and sends their rows anew."""
    with batch_kit.simulator(**refusing) as gateway:
        job = batch_kit.job(gateway, tmp_path, batch={"max_requests": 5}, budget={"credits": "off"})
        stopped = batch_kit.run(job, texts(ROWS))
        time.sleep(0.3)  # the gateway goes through the others, and refuses them too
        gateway.change(**mended)
        done = batch_kit.run(job, texts(ROWS))

        assert (code, 3) == (stopped.exit_code, len(stopped.summary["batches"]))
        assert (0, {"ok": ROWS}) == (done.exit_code, Counter(results(done)["status"]))
        assert {1} == set(batch_kit.times_asked(gateway).values())


def test_the_budget_holds_at_the_batch_price(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """A cap that bears half of the live holds bears the batch; one row more does not go."""
    job = batch_kit.job(fresh, tmp_path, budget={"max_cost_credits": 3})
    before = batch_kit.charged_credits(fresh)
    done = batch_kit.run(job, texts(200).with_columns(pl.col("text") + " budget"), until_budget=True)
    spent = batch_kit.charged_credits(fresh) - before
    assert 4 == done.exit_code
    assert 0 < spent <= 3
    assert done.summary["rows"]["ok"] > 0


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"endpoint": {"stream": True}}, "files"),
        ({"endpoint": {"protocol": "messages"}, "batch": {"form": "openai"}}, "chat or responses or completions"),
        ({"batch": {"form": "anthropic"}}, "must be messages"),
        (
            {"endpoint": {"protocol": "completions"}, "batch": {"form": "openrouter"}},
            "chat or responses or messages",
        ),
        ({"prompt": {"body_column": "b"}, "batch": {"form": "openrouter"}}, "needs one for the whole batch"),
    ],
)
def test_what_the_lane_cannot_do_is_said_by_the_job_file(
    fresh: SimulatorProcess, tmp_path: Path, keys: dict[str, Any], says: str
) -> None:
    """Before anything is opened or asked."""
    with pytest.raises(crun_batch.InputError, match=says):
        batch_kit.job(fresh, tmp_path, **keys)


def test_a_price_of_the_service_tier_batch_goes_before_the_share(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """Written or listed as a tier, it is what a batch costs; with neither the cost is unknown, never a guess."""
    dear = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": 0}
    tier = {"input_per_mtok": 250, "output_per_mtok": 1500}
    before = batch_kit.charged_credits(fresh)
    prices: dict[str, Any] = {"models": {"gpt-5.4": {**dear, "service_tiers": {"batch": tier}}}, "batch_share": 1}
    done = batch_kit.run(batch_kit.job(fresh, tmp_path, prices=prices), texts(4))
    assert batch_kit.charged_credits(fresh) - before == spent_credits(done)
    unknown = batch_kit.job(fresh, tmp_path / "unknown", prices={"models": {"gpt-5.4": dear}})
    assert [None] * 3 == batch_kit.run(unknown, texts(3)).attempts().collect()["cost_credits"].to_list()


def test_turns_and_repairs_go_in_the_next_batch(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """A conversation of two turns takes two batches, and each answer belongs to its row."""
    job = batch_kit.job(fresh, tmp_path, prompt={"turns": ["{{ text }}", "And then?"]})
    done = batch_kit.run(job, texts(6))
    frame = results(done)
    assert {"ok": 6} == Counter(frame["status"])
    assert [2] * 6 == [len(outputs) for outputs in frame["outputs"]]


def test_no_request_goes_ahead_to_warm_a_cache(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """Its answer may take a day: all rows that share a prefix and a key go in one batch."""
    prompt = {"system": "Be brief.", "user": "{{ text }} cached", "cache": "team"}
    job = batch_kit.job(fresh, tmp_path, prompt=prompt, limits={"requests_per_minute": 10})
    before = len(batch_kit.charges(fresh))
    assert {"ok": 6} == Counter(results(batch_kit.run(job, texts(6)))["status"])
    assert [6] == [*Counter(entry["batch"] for entry in batch_kit.charges(fresh)[before:]).values()]


def test_variants_have_batches_of_their_own(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """One model per file: a sweep over two models sends two."""
    prices = {"models": {"gpt-5.4": PRICE, "gpt-5.4-mini": PRICE}, "batch_share": 0.5}
    before = len(batch_kit.charges(fresh))
    job = batch_kit.job(fresh, tmp_path, sweep={"model": ["gpt-5.4", "gpt-5.4-mini"]}, prices=prices)
    done = batch_kit.run(job, texts(4))
    assert {"ok": 8} == Counter(results(done)["status"])
    models = {entry["batch"]: entry["model"] for entry in batch_kit.charges(fresh)[before:]}
    assert ["gpt-5.4", "gpt-5.4-mini"] == sorted(models.values())


def interrupted(at: SimulatorProcess, folder: Path) -> tuple[int, str]:
    """`crun-batch run` in a process of its own, stopped by Ctrl-C once a batch is submitted; what it said."""
    tree = batch_job(at.base_url, "SIM_KEY", "run", input={"table": "rows.csv", "id": "id"})
    (folder / "job.yaml").write_text(json.dumps(tree))
    texts(8).write_csv(folder / "rows.csv")
    child = subprocess.Popen(
        [sys.executable, "-m", "crun_batch", "run", "job.yaml", "--yes"],
        cwd=folder,
        env={**os.environ, **ENVIRON, "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    said = ""
    while "submitted" not in said:
        line = child.stderr.readline()
        assert line, said
        said += line
    child.send_signal(signal.SIGINT)
    rest = child.communicate(timeout=100)
    return child.returncode, said + "".join(rest)


class Meanwhile:
    """Takes what a session says, and does something, in a thread, when it says so: that a batch is submitted."""

    def __init__(self, act: Callable[[], object], when: str = "submitted") -> None:
        self.said = ""
        self._when = when
        self._act: Callable[[], object] | None = act

    def __call__(self, line: str) -> None:
        self.said += line + "\n"
        if self._when in line and self._act is not None:
            threading.Thread(target=self._act).start()
            self._act = None


def test_ctrl_c_leaves_batches_and_a_cancel_ends_them(
    fresh: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 130 with the batch named; status lists it; another lane is refused; cancelled, it is collected once."""
    fresh.change(batch_seconds=3600.0)
    before = len(batch_kit.charges(fresh))
    code, said = interrupted(fresh, tmp_path)
    assert (130, True, True) == (code, "stays at the gateway" in said, "crun-batch cancel" in said), said
    monkeypatch.chdir(tmp_path)
    stopped = crun_batch.status("run")
    (batch,) = stopped["batches"]
    assert (8, 0, []) == (batch["requests"], batch["done"], stopped["suspects"])
    assert Decimal(batch["held_credits"]) == Decimal(stopped["bill_credits"]["high"])
    with pytest.raises(crun_batch.RefusedToStart, match="not collected"):
        batch_kit.run("job.yaml", lane="live")
    told = crun_batch.cancel("run", environ=ENVIRON)
    assert (["cancelled"], None) == ([one["status"] for one in told["batches"]], told["fault"])
    fresh.change(batch_seconds=0.05)
    words: list[str] = []
    done = batch_kit.run("job.yaml", say=words.append)
    assert (0, True) == (done.exit_code, "cancelled, 0 of 8 replies" in lines_of(words)), words
    assert {"ok": 8} == Counter(results(done)["status"])
    assert 8 == len(batch_kit.charges(fresh)) - before
    assert [] == crun_batch.verify(done, data=True)


def test_a_batch_that_is_over_is_collected_by_the_next_session(
    seller: SimulatorProcess, form: str, tmp_path: Path
) -> None:
    """Stopped while it works, it is not submitted again: each request is in the books once."""
    seller.change(batch_seconds=1.0)
    before = len(batch_kit.charges(seller))
    job, table = batch_kit.job(seller, tmp_path, form=form), texts(8)
    stopping = Meanwhile(lambda: crun_batch.stop(tmp_path / "run"))
    assert 143 == batch_kit.run(job, table, say=stopping).exit_code
    assert "stays at the gateway" in stopping.said
    done = batch_kit.run(job, table)
    assert (0, 8, 8) == (
        done.exit_code,
        len(batch_kit.charges(seller)) - before,
        done.attempts().collect().height,
    )


@pytest.mark.parametrize("lane", ["batch", "batch-then-live"])
def test_whoever_waits_sees_how_far_batches_are(fresh: SimulatorProcess, lane: str, tmp_path: Path) -> None:
    """By the gateway's counts; what is left is told no time by limits that are those of single requests."""
    fresh.change(batch_seconds=3.0)
    seen: list[Progress] = []
    job, table = batch_kit.job(fresh, tmp_path, lane=lane), texts(8).with_columns(pl.col("text") + f" {lane}")
    done = batch_kit.run(job, table, watch=seen.append)
    said = list(dict.fromkeys(one.waiting_reason for one in seen if one.waiting_reason))
    assert ("in 1 batch", True) == (said[0], any(re.fullmatch("[1-8] done in 1 batch", one) for one in said[1:]))
    assert 8 == done.results().collect().height
    more = texts(20).with_columns(pl.col("text") + f" {lane}")
    assert None is crun_batch.estimate(job, table=more, environ=ENVIRON)["time"]["low"]["seconds"]


def test_a_batch_is_collected_whose_rows_are_not_selected_any_more(
    fresh: SimulatorProcess, tmp_path: Path
) -> None:
    """All rows of today's table are done, and those that are out were paid: they are read, then nothing is out."""
    job, before = batch_kit.job(fresh, tmp_path), batch_kit.charged_credits(fresh)
    few, many = (texts(rows).with_columns(pl.col("text") + " selected") for rows in (3, 8))
    batch_kit.run(job, few)
    fresh.change(batch_seconds=0.5)
    stopping = Meanwhile(lambda: crun_batch.stop(tmp_path / "run"))
    assert 143 == batch_kit.run(job, many, say=stopping).exit_code
    done = batch_kit.run(job, few)
    assert (0, [], 8) == (done.exit_code, done.summary["batches"], done.attempts().collect().height)
    assert batch_kit.charged_credits(fresh) - before == spent_credits(done)
    whole = batch_kit.run(job, many)
    assert ({"ok": 8}, 8) == (Counter(results(whole)["status"]), whole.attempts().collect().height)


def test_another_form_is_refused_while_batches_are_out(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """A batch is collected as it was submitted: the words say how."""
    fresh.change(batch_seconds=3600.0)
    stopping = Meanwhile(lambda: crun_batch.stop(tmp_path / "run"))
    batch_kit.run(batch_kit.job(fresh, tmp_path), texts(3), say=stopping)
    job = batch_kit.job(fresh, tmp_path, batch={"form": "openrouter"})
    with pytest.raises(crun_batch.RefusedToStart, match="a batch in the form openai is not collected yet"):
        batch_kit.run(job, texts(3))


def test_a_simulated_run_goes_on_after_its_simulator_has_ended(tmp_path: Path) -> None:
    """The batch ends with it: what it may have billed is told as unknown, and the next session goes on."""
    job, table = Job(**batch_job("http://127.0.0.1:1", "SIM_KEY", str(tmp_path / "run"))), texts(8)
    stopping = Meanwhile(lambda: crun_batch.stop(tmp_path / "run-simulated"))
    batch_kit.run(job, table, say=stopping, simulate=True, simulator={"batch_seconds": 3600})
    assert "ends with the simulator" in stopping.said
    stopped = crun_batch.status(tmp_path / "run-simulated")
    assert (8, []) == (stopped["unknown_attempts"], stopped["batches"])
    done = batch_kit.run(job, table, simulate=True)
    assert (0, {"ok": 8}) == (done.exit_code, Counter(results(done)["status"]))


def test_a_batch_cancelled_by_others_ends_the_session_that_waits_for_it(
    fresh: SimulatorProcess, tmp_path: Path
) -> None:
    """What was done of it is kept, the rest stays open, and nothing is submitted in its place."""
    fresh.change(batch_seconds=3600.0)
    others = Meanwhile(lambda: crun_batch.cancel(tmp_path / "run", environ=ENVIRON))
    done = batch_kit.run(batch_kit.job(fresh, tmp_path), texts(8), say=others)
    assert (1, True) == (done.exit_code, "was cancelled" in str(done.stop_reason)), others.said
    assert 8 == done.summary["rows"]["open"]


def test_a_key_that_the_gateway_repeats_is_nowhere(fresh: SimulatorProcess, tmp_path: Path) -> None:
    """In an answer, and in the words of a refusal: neither the terminal nor a file of the run has it."""
    key = "ak_sim_0123456789abcdef"
    said: list[str] = []
    table = texts(3).with_columns(pl.lit(f"Repeat: {key}").alias("text"))
    with batch_kit.simulator(answer_style="echo") as echo:
        job = batch_kit.job(echo, tmp_path, output={"dir": str(tmp_path / "run"), "columns": ["id"]})
        done = batch_kit.run(job, table, environ={"SIM_KEY": key}, say=said.append)
    assert 3 == results(done).height
    assert key not in lines_of(said)
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes(), path
