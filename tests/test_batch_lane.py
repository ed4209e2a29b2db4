"""The batch lane against the simulator: what is paid, what is recorded, and that nothing is submitted twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import crun_batch
from tests import batch_kit
from tests.run_kit import ENVIRON, results, spent_credits, texts

ROWS = 20


@pytest.fixture(scope="module")
def at() -> Any:
    with batch_kit.simulator() as simulator:
        yield simulator


@pytest.fixture
def fresh(at: Any) -> Any:
    """The simulator without faults; what a test turns on is turned off behind it."""
    yield at
    at.change(batch_faults={}, batch_seconds=0.05, batch_enqueued_tokens=None, batch_cancel_seconds=0.0)


def lines_of(said: list[str]) -> str:
    return "\n".join(said)


def test_a_batch_brings_what_single_requests_bring_at_half_the_price(fresh: Any, tmp_path: Path) -> None:
    """The same answers as live; the cost is the books' to the last digit, and half of the live one."""
    live = batch_kit.run(batch_kit.job(fresh, tmp_path / "live", lane="live"), texts(ROWS))
    before = batch_kit.charged_credits(fresh)
    done = batch_kit.run(batch_kit.job(fresh, tmp_path), texts(ROWS))
    assert (0, {"ok": ROWS}) == (done.exit_code, Counter(results(done)["status"]))
    assert results(live)["output_text"].to_list() == results(done)["output_text"].to_list()
    assert batch_kit.charged_credits(fresh) - before == spent_credits(done) == spent_credits(live) / 2
    assert ["batch"] == done.attempts().select(pl.col("endpoint").unique()).collect()["endpoint"].to_list()
    assert [] == crun_batch.verify(done, data=True)
    assert [] == done.summary["batches"]


@pytest.mark.parametrize("limits", [{"max_requests": 3}, {"max_megabytes": 0.0009}])
def test_limits_cut_the_job_into_batches(fresh: Any, tmp_path: Path, limits: dict[str, Any]) -> None:
    """No batch has more requests or bytes than allowed; every row is asked once."""
    before = len(batch_kit.charges(fresh))
    job = batch_kit.job(fresh, tmp_path, batch={"look_every_seconds": 0.05, **limits})
    done = batch_kit.run(job, texts(ROWS))
    sizes = Counter(entry["batch"] for entry in batch_kit.charges(fresh)[before:])
    assert (ROWS, {"ok": ROWS}) == (sum(sizes.values()), Counter(results(done)["status"]))
    assert max(sizes.values()) <= 3 if "max_requests" in limits else 1 < max(sizes.values()) < ROWS


@pytest.mark.parametrize(
    ("faults", "statuses"),
    [
        ({"shuffled": 1}, {"ok": ROWS}),
        ({"doubled": 0.5}, {"ok": ROWS}),
        ({"expired": 0.4}, {"ok": ROWS}),
        ({"line_errors": 0.3}, {"ok": ROWS}),
        ({"create_lost": 0.6}, {"ok": ROWS}),
        ({"create_failed": 0.6}, {"ok": ROWS}),
        ({"upload_lost": 0.6}, {"ok": ROWS}),
    ],
)
def test_faults_cost_nothing_twice(
    fresh: Any, tmp_path: Path, faults: dict[str, float], statuses: dict[str, int]
) -> None:
    """Every row ends well, each request is in the books once, and the run's cost is the books'."""
    fresh.change(batch_faults=faults)
    before, asked = batch_kit.charged_credits(fresh), batch_kit.times_asked(fresh)
    folder = tmp_path / next(iter(faults))
    table = texts(ROWS).with_columns(pl.col("text") + f" {faults}")
    limits = {"max_attempts": 30}  # the draws of faults are new in each run
    job = batch_kit.job(fresh, folder, batch={"look_every_seconds": 0.05, "max_requests": 7}, limits=limits)
    done = batch_kit.run(job, table)
    assert statuses == Counter(results(done)["status"])
    assert {1} == set((batch_kit.times_asked(fresh) - asked).values())
    assert batch_kit.charged_credits(fresh) - before == spent_credits(done)
    assert [] == crun_batch.verify(done, data=True)


def test_lines_that_no_file_has_are_unknown_and_keep_their_hold(fresh: Any, tmp_path: Path) -> None:
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


def test_a_batch_too_large_for_the_gateway_is_cut_until_it_fits(fresh: Any, tmp_path: Path) -> None:
    """An enqueued limit that nobody told: found by halves, and nothing is paid for the way."""
    fresh.change(batch_enqueued_tokens=60)
    said: list[str] = []
    table = texts(ROWS).with_columns(pl.col("text") + " limit")
    done = batch_kit.run(batch_kit.job(fresh, tmp_path), table, say=said.append)
    assert {"ok": ROWS} == Counter(results(done)["status"])
    assert "too much at once" in lines_of(said)


def test_a_gateway_without_batches_refuses_before_anything_is_sent(tmp_path: Path) -> None:
    """CRUN has none: the words say so, and what to write instead."""
    with batch_kit.simulator(gateway_style="crun") as crun:
        done = batch_kit.run(batch_kit.job(crun, tmp_path), texts(3))
    assert 5 == done.exit_code
    assert "no batches" in done.summary["stop_reason"] and "lane: live" in done.summary["stop_reason"]
    assert not (tmp_path / "run" / "job.json").exists()


def test_a_failed_batch_stops_the_run_with_the_gateways_words(fresh: Any, tmp_path: Path) -> None:
    """A file that the gateway does not take is not sent again and again."""
    fresh.change(batch_most_requests=2)
    done = batch_kit.run(batch_kit.job(fresh, tmp_path), texts(5))
    fresh.change(batch_most_requests=50_000)
    assert (5, 5) == (done.exit_code, done.summary["rows"]["open"])
    assert "too_many_tasks" in done.summary["stop_reason"]
    again = batch_kit.run(batch_kit.job(fresh, tmp_path), texts(5))
    assert {"ok": 5} == Counter(results(again)["status"])


def test_the_budget_holds_at_the_batch_price(fresh: Any, tmp_path: Path) -> None:
    """A cap that bears half of the live holds bears the batch; one row more does not go."""
    job = batch_kit.job(fresh, tmp_path, budget={"max_cost_credits": 3}, batch={"look_every_seconds": 0.05})
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
        ({"endpoint": {"protocol": "messages"}}, "chat, responses or completions"),
    ],
)
def test_what_the_lane_cannot_do_is_said_by_the_job_file(
    fresh: Any, tmp_path: Path, keys: dict[str, Any], says: str
) -> None:
    """Before anything is opened or asked."""
    with pytest.raises(crun_batch.InputError, match=says):
        batch_kit.job(fresh, tmp_path, **keys)


def test_a_price_of_the_service_tier_batch_goes_before_the_share(fresh: Any, tmp_path: Path) -> None:
    """Written or listed as a tier, it is what a batch costs; with neither the cost is unknown, never a guess."""
    dear = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": 0}
    tier = {"input_per_mtok": 250, "output_per_mtok": 1500}
    before = batch_kit.charged_credits(fresh)
    prices: dict[str, Any] = {"models": {"gpt-5.4": {**dear, "service_tiers": {"batch": tier}}}, "batch_share": 1}
    done = batch_kit.run(batch_kit.job(fresh, tmp_path, prices=prices), texts(4))
    assert batch_kit.charged_credits(fresh) - before == spent_credits(done)
    unknown = batch_kit.job(fresh, tmp_path / "unknown", prices={"models": {"gpt-5.4": dear}})
    assert [None] * 3 == batch_kit.run(unknown, texts(3)).attempts().collect()["cost_credits"].to_list()


def test_turns_and_repairs_go_in_the_next_batch(fresh: Any, tmp_path: Path) -> None:
    """A conversation of two turns takes two batches, and each answer belongs to its row."""
    job = batch_kit.job(fresh, tmp_path, prompt={"turns": ["{{ text }}", "And then?"]})
    done = batch_kit.run(job, texts(6))
    frame = results(done)
    assert {"ok": 6} == Counter(frame["status"])
    assert [2] * 6 == [len(outputs) for outputs in frame["outputs"]]


def test_no_request_goes_ahead_to_warm_a_cache(fresh: Any, tmp_path: Path) -> None:
    """Its answer may take a day: all rows that share a prefix and a key go in one batch."""
    prompt = {"system": "Be brief.", "user": "{{ text }} cached", "cache": "team"}
    job = batch_kit.job(fresh, tmp_path, prompt=prompt, limits={"requests_per_minute": 10})
    before = len(batch_kit.charges(fresh))
    assert {"ok": 6} == Counter(results(batch_kit.run(job, texts(6)))["status"])
    assert [6] == [*Counter(entry["batch"] for entry in batch_kit.charges(fresh)[before:]).values()]


def test_variants_have_batches_of_their_own(fresh: Any, tmp_path: Path) -> None:
    """One model per file: a sweep over two models sends two."""
    price = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": 0}
    prices = {"models": {"gpt-5.4": price, "gpt-5.4-mini": price}, "batch_share": 0.5}
    before = len(batch_kit.charges(fresh))
    job = batch_kit.job(fresh, tmp_path, sweep={"model": ["gpt-5.4", "gpt-5.4-mini"]}, prices=prices)
    done = batch_kit.run(job, texts(4))
    assert {"ok": 8} == Counter(results(done)["status"])
    models = {entry["batch"]: entry["model"] for entry in batch_kit.charges(fresh)[before:]}
    assert ["gpt-5.4", "gpt-5.4-mini"] == sorted(models.values())


JOB = """
name: stopped
lane: batch
batch: {{look_every_seconds: 0.1}}
input: {{table: rows.csv, id: id}}
endpoint: {{base_url: "{base_url}", api_key_env: SIM_KEY}}
model: gpt-5.4
prompt: {{user: "{{{{ text }}}}"}}
params: {{max_output_tokens: 300}}
prices:
  batch_share: 0.5
  models: {{gpt-5.4: {{currency: credits, input_per_mtok: 500, output_per_mtok: 3000, minimum_per_request: 0}}}}
output: {{dir: run}}
"""


class CommandLine:
    """`crun-batch` in a folder, in processes of its own."""

    def __init__(self, at: Any, folder: Path) -> None:
        self.folder = folder
        (folder / "job.yaml").write_text(JOB.format(base_url=at.base_url))
        texts(8).write_csv(folder / "rows.csv")

    def begin(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "crun_batch", *words]
        environ = {**os.environ, **ENVIRON, "COLUMNS": "80"}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=environ, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *words: str) -> tuple[int, str]:
        child = self.begin(*words)
        said = child.communicate(timeout=100)
        return child.returncode, "".join(said)

    def interrupted(self, *words: str) -> tuple[int, str]:
        """Begun, and stopped by Ctrl-C once a batch is submitted."""
        child = self.begin(*words)
        assert child.stderr is not None
        said = ""
        while "submitted" not in said:
            line = child.stderr.readline()
            assert line, said
            said += line
        child.send_signal(signal.SIGINT)
        rest = child.communicate(timeout=100)
        return child.returncode, said + "".join(rest)


def test_ctrl_c_leaves_batches_and_run_collects_them(fresh: Any, tmp_path: Path) -> None:
    """Exit 130 with the batch named; status lists it; another lane is refused; cancelled, it is collected once."""
    fresh.change(batch_seconds=3600.0)
    crun = CommandLine(fresh, tmp_path)
    before = len(batch_kit.charges(fresh))
    code, said = crun.interrupted("run", "job.yaml", "--yes")
    assert (130, True, True) == (code, "stays at the gateway" in said, "crun-batch cancel" in said), said
    code, said = crun("status", "run", "--json")
    (batch,) = json.loads(said)["batches"]
    assert (8, 0, []) == (batch["requests"], batch["done"], json.loads(said)["suspects"])
    assert Decimal(batch["held_credits"]) == Decimal(json.loads(said)["bill_credits"]["high"])
    assert "batch_" in crun("status", "run")[1]
    code, said = crun("run", "job.yaml", "--yes", "--set", "lane=live")
    assert (3, True) == (code, "not collected" in said), said
    code, said = crun("cancel", "run")
    assert (0, True) == (code, "cancelled" in said), said
    fresh.change(batch_seconds=0.05)
    code, said = crun("run", "job.yaml", "--yes")
    assert (0, True) == (code, "cancelled, 0 of 8 replies" in said), said
    done = crun_batch.open_run(tmp_path / "run")
    assert {"ok": 8} == Counter(results(done)["status"])
    assert 8 == len(batch_kit.charges(fresh)) - before
    assert [] == crun_batch.verify(done, data=True)


def test_a_batch_that_is_over_is_collected_by_the_next_session(fresh: Any, tmp_path: Path) -> None:
    """Stopped while it works, it is not submitted again: each request is in the books once."""
    fresh.change(batch_seconds=3.0)
    crun = CommandLine(fresh, tmp_path)
    before = len(batch_kit.charges(fresh))
    assert 130 == crun.interrupted("run", "job.yaml", "--yes")[0]
    code, said = crun("run", "job.yaml", "--yes")
    assert (0, 8) == (code, len(batch_kit.charges(fresh)) - before), said
    assert 8 == crun_batch.open_run(tmp_path / "run").attempts().collect().height


def test_a_simulated_run_goes_on_after_its_simulator_has_ended(fresh: Any, tmp_path: Path) -> None:
    """The batch ends with it: what it may have billed is told as unknown, and the command to go on goes on."""
    crun = CommandLine(fresh, tmp_path)
    simulated = ("run", "job.yaml", "--yes", "--simulate")
    code, said = crun.interrupted(*simulated, "--simulator", "batch_seconds=3600")
    assert (130, True) == (code, "ends with the simulator" in said), said
    stopped = crun_batch.status(tmp_path / "run-simulated")
    assert (8, []) == (stopped["unknown_attempts"], stopped["batches"])
    code, said = crun(*simulated)
    assert 0 == code, said
    assert {"ok": 8} == Counter(results(crun_batch.open_run(tmp_path / "run-simulated"))["status"])


def test_a_batch_cancelled_by_others_ends_the_session_that_waits_for_it(fresh: Any, tmp_path: Path) -> None:
    """What was done of it is kept, the rest stays open, and nothing is submitted in its place."""
    fresh.change(batch_seconds=3600.0)
    crun = CommandLine(fresh, tmp_path)
    child = crun.begin("run", "job.yaml", "--yes")
    assert child.stderr is not None
    while "submitted" not in child.stderr.readline():
        pass
    assert 0 == crun("cancel", "job.yaml")[0]
    said = "".join(child.communicate(timeout=100))
    assert (1, True) == (child.returncode, "was cancelled" in said), said
    assert 8 == crun_batch.status(tmp_path / "run")["rows"]["open"]


def test_a_key_that_the_gateway_repeats_is_nowhere(fresh: Any, tmp_path: Path) -> None:
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
