"""A refusal before the first request leaves a run as if nobody had started: each refusal x each command."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from run_kit import ENVIRON, job, simulator, texts

import crun_batch
from crun_batch.errors import CrunBatchError
from crun_batch.load.job.job import Job
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.store.directory import open_directory

TABLE = texts(6)
REFUSALS: dict[str, dict[str, Any]] = {
    "wrong key": {"environ": {"SIM_KEY": "ak_wrong"}},
    "no key": {"environ": {}},
    "unlisted model": {"model": "gpt-5.4-nonsense"},
    "budget": {"budget": {"max_cost_credits": "0.01"}},
    "a price in no such unit": {"budget": {"max_cost_usd": 1}},
    "credits": {"budget": {"keep_credits": 10**9}},
    "not confirmed": {"confirm": lambda estimate: False},
    "interrupted while asked": {"confirm": "interrupt"},
    "a row without a prompt": {"prompt": {"user": "{{ text or none }}{{ [][0] }}"}},
    "unknown column": {"prompt": {"user": "{{ txt }}"}},
}
COMMANDS: dict[str, dict[str, Any]] = {
    "run": {},
    "pilot": {"pilot": 6},
    "retry": {"retry": frozenset({"error"})},
    "limit": {"limit": 5},
    "redo": {"redo_changed": True},
}


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with simulator(seed=3) as process:
        yield process


def start(at: SimulatorProcess, folder: Path, command: str, refusal: str | None) -> crun_batch.Run | str:
    """The run, or the name of what it raised."""
    keys = dict(REFUSALS[refusal]) if refusal else {}
    options = {name: keys.pop(name) for name in ("environ", "confirm") if name in keys}
    if options.get("confirm") == "interrupt":
        options["confirm"] = interrupt
    told: dict[str, Any] = {"environ": ENVIRON, "handle_signals": False, **COMMANDS[command], **options}
    try:
        return crun_batch.run(job(at, folder, **keys), table=TABLE, **told)
    except (CrunBatchError, KeyboardInterrupt) as error:
        return type(error).__name__


def interrupt(estimate: Any) -> bool:
    raise KeyboardInterrupt


def content(folder: Path) -> dict[str, str]:
    """Every path below the folder with its bytes; of the lock, who had it last is no content."""
    return {
        str(path.relative_to(folder)): "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_first_start_leaves_nothing_and_the_next_goes_through(
    refusal: str, command: str, gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """Not even an empty folder stays; with the cause mended, the same command does its work."""
    refused = start(gateway, tmp_path / "runs", command, refusal)
    assert isinstance(refused, str) or (5, 0) == (refused.exit_code, refused.summary["attempts"])
    assert [] == list(tmp_path.iterdir())
    done = start(gateway, tmp_path / "runs", command, None)
    assert isinstance(done, crun_batch.Run)
    assert 0 == done.exit_code or "limit" == command
    assert [] == done.verify(data=True)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_later_start_changes_no_byte_of_the_run(
    refusal: str, command: str, gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """A run with results stays what it was: its results, its summary, what it may go on with."""
    begun = crun_batch.run(job(gateway, tmp_path), table=TABLE, limit=3, environ=ENVIRON, handle_signals=False)
    assert 3 == begun.results().collect().height
    before = content(tmp_path)
    refused = start(gateway, tmp_path, command, refusal)
    assert isinstance(refused, str) or 5 == refused.exit_code
    assert before == content(tmp_path)
    done = start(gateway, tmp_path, "run", None)
    assert isinstance(done, crun_batch.Run)
    assert (0, 6) == (done.exit_code, done.results().collect().height)


def test_an_empty_folder_of_ones_own_stays(gateway: SimulatorProcess, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    start(gateway, tmp_path, "run", "wrong key")
    assert ["run"] == [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]


def test_what_an_earlier_version_left_of_a_refused_start_goes_on(
    gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """A published table without rows and no job.json: nothing was sent, so nothing is missing."""
    from crun_batch.store.results import publish
    from crun_batch.workload.loading import load_workload

    made: Job = job(gateway, tmp_path)
    directory = open_directory(tmp_path / "run", started_at="before")
    publish(directory, load_workload(made, TABLE).run_schema())
    directory.close()
    done = start(gateway, tmp_path, "run", None)
    assert isinstance(done, crun_batch.Run) and 0 == done.exit_code
    assert [] == done.verify(data=True)


@pytest.mark.parametrize("refusal", ["wrong key", "no key", "unlisted model", "budget", "unknown column"])
def test_map_goes_on_after_a_refusal(
    refusal: str, gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same cell again, with the cause mended, gets its answers."""
    monkeypatch.chdir(tmp_path)
    right = job(gateway, tmp_path)
    keys: dict[str, Any] = {
        "endpoint": {"base_url": gateway.base_url, "api_key_env": "SIM_KEY"},
        "prices": right.prices.model_dump(mode="json"),
        "params": {"max_output_tokens": 300},
        "input": {"id": "id"},
        "handle_signals": False,
    }
    wrong = dict(REFUSALS[refusal])
    environ = wrong.pop("environ", ENVIRON)
    asked = {"prompt": "{{ text }}", "model": "gpt-5.4", **keys, **wrong, "environ": environ}
    asked["prompt"] = asked["prompt"]["user"] if isinstance(asked["prompt"], dict) else asked["prompt"]
    with pytest.raises(CrunBatchError):
        crun_batch.map(TABLE, **asked)
    assert [] == list(tmp_path.iterdir())
    answered = crun_batch.map(TABLE, prompt="{{ text }}", model="gpt-5.4", environ=ENVIRON, **keys)
    assert 6 == answered.filter(pl.col("status") == "ok").height


@pytest.mark.parametrize("refusal", ["wrong key", "unlisted model"])
def test_an_estimate_says_why_run_would_be_refused(
    refusal: str, gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """In the words of the refusal, beside the figures that are known."""
    keys = dict(REFUSALS[refusal])
    environ = keys.pop("environ", ENVIRON)
    refused = start(gateway, tmp_path, "run", refusal)
    assert isinstance(refused, crun_batch.Run)
    document = crun_batch.estimate(job(gateway, tmp_path, **keys), table=TABLE, environ=environ)
    assert (6, False) == (document["requests"], document["may_start"])
    assert refused.stop_reason == document["checks"][0]
    assert "no balance call" not in f"{document['checks']}"


WITHOUT_KEY: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "the key's variable": ({}, {}, "SIM_KEY is not set"),
    "an empty variable": ({}, {"SIM_KEY": " "}, "SIM_KEY is not set"),
    "a header's variable": ({"headers": {"X-Team": "${TEAM}"}}, ENVIRON, "TEAM is not set"),
    "both": ({"headers": {"X-Team": "${TEAM}"}}, {}, "SIM_KEY, TEAM are not set"),
    "a key's file": (
        {"api_key_env": None, "api_key_file": "/nowhere/key"},
        {},
        "/nowhere/key cannot be read: No such file or directory",
    ),
}


@pytest.mark.parametrize("lacking", WITHOUT_KEY)
@pytest.mark.parametrize("credits", ["require", "warn", "off"])
def test_an_estimate_needs_no_key_and_says_that_run_does(
    lacking: str, credits: str, gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """Where the job knows the price, the figures are those that the estimate with the key has."""
    endpoint, environ, cause = WITHOUT_KEY[lacking]
    asked = job(gateway, tmp_path, endpoint=endpoint, budget={"credits": credits})
    known = crun_batch.estimate(job(gateway, tmp_path, budget={"credits": credits}), table=TABLE, environ=ENVIRON)
    document = crun_batch.estimate(asked, table=TABLE, environ=environ)
    what = "its models" if credits == "off" else "its models and balance"
    assert f"{cause}: the gateway was not asked for {what}; run needs it" in document["checks"]
    assert (True, None) == (document["may_start"], document["balance"])
    assert known["cost_credits"] == document["cost_credits"]
    with pytest.raises(crun_batch.InputError, match=cause.partition(" ")[0].rstrip(",")):
        crun_batch.run(asked, table=TABLE, environ=environ)
    assert [] == list(tmp_path.iterdir())


def test_one_endpoint_of_a_list_without_its_key_is_named_and_the_others_are_asked(
    gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """A balance that is known in part refuses nothing."""
    base = job(gateway, tmp_path).document.tree
    listed = [
        {"name": name, "base_url": gateway.base_url, "api_key_env": variable}
        for name, variable in (("here", "SIM_KEY"), ("there", "OTHER_KEY"))
    ]
    asked = crun_batch.Job(**{**base, "endpoint": listed})
    document = crun_batch.estimate(asked, table=TABLE, environ=ENVIRON)
    note = (
        "endpoint there: OTHER_KEY is not set: the gateway was not asked for its models and balance; run needs it"
    )
    assert (True, [note]) == (document["may_start"], document["checks"])
