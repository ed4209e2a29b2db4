"""A gateway that refuses one variant of several, over real HTTP: the others finish, and a later start goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import refusing_server
import run_kit as kit

import crun_batch
from crun_batch.load.job.job import Job
from crun_batch.simulator.process import SimulatorProcess


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """The base URL of a refusing server for as long as the context lasts."""
    with refusing_server.served("--latency-seconds", "0.01", *arguments) as url:
        yield f"{url}/v1"


def sweep(url: str, folder: Path, **limits: Any) -> Job:
    return Job(
        name="law",
        input={"id": "id"},
        endpoint={"base_url": url, "auth": "none"},
        model="good",
        prompt={"user": "{{ id }}"},
        sweep={"model": ["good", "bad", "fine"]},
        limits={"concurrency": 8, **limits},
        budget={"credits": "off"},
        output={"dir": str(folder / "run")},
    )


TABLE = pl.DataFrame({"id": range(60)})


def done_by_model(run: crun_batch.Run) -> dict[str, int]:
    results = run.results().collect()
    return dict(results.group_by("axis_model").len().iter_rows())


@pytest.mark.parametrize("status", ["404", "401"])
def test_a_variant_that_is_refused_is_set_aside_and_its_rows_stay_open(tmp_path, status):
    """Exit 5 at the end, the variant and the gateway's words named; started again, only its rows are asked."""
    with served("--sick", f"bad={status}") as url:
        run = crun_batch.run(sweep(url, tmp_path), table=TABLE)
        assert 5 == run.exit_code
        assert {"good": 60, "fine": 60} == done_by_model(run)
        assert f"refused with {status}" in run.stop_reason
        assert "bad" in run.stop_reason
    with served() as url:
        again = crun_batch.run(sweep(url, tmp_path), table=TABLE)
        assert 0 == again.exit_code
        assert {"good": 60, "bad": 60, "fine": 60} == done_by_model(again)
        assert 180 == again.attempts().filter(pl.col("outcome") == "done").collect().height


def test_told_to_stop_it_stops_at_the_first_variant_that_is_refused(tmp_path):
    with served("--sick", "bad=404") as url:
        run = crun_batch.run(sweep(url, tmp_path, on_variant_failure="stop"), table=TABLE)
        assert 5 == run.exit_code
        assert sum(done_by_model(run).values()) < 60


def test_a_variant_that_fails_too_often_is_set_aside(tmp_path):
    """Its error rate concerns it alone."""
    with served("--sick", "bad=400") as url:
        run = crun_batch.run(sweep(url, tmp_path), table=TABLE)
        assert 5 == run.exit_code
        done = done_by_model(run)
        assert (60, 60) == (done["good"], done["fine"])
        assert 20 <= done["bad"] < 60


def test_scattered_refusals_cost_waits_and_no_attempt(tmp_path):
    """One in ten refused with Retry-After 0.2: every row answered once, none too early, none counted."""
    with served("--share", "0.1", "--retry-after", "0.2") as url:
        run = crun_batch.run(sweep(url, tmp_path, max_attempts=1), table=TABLE)
        assert 0 == run.exit_code
        assert {"good": 60, "bad": 60, "fine": 60} == done_by_model(run)


def listed_sweep(at: SimulatorProcess, folder: Path, models: dict[str, dict[str, Any]], **keys: Any) -> Job:
    return kit.job(at, folder, sweep={"who": models}, **keys)


UNLISTED = {"good": {"model": "gpt-5.4"}, "typo": {"model": "gpt-5.5"}, "fine": {"model": "gpt-5.4-mini"}}
WRONG_KEY = {"good": {}, "typo": {"endpoint": {"api_key_env": "WRONG_KEY"}}, "fine": {"model": "gpt-5.4-mini"}}
ENVIRON = {**kit.ENVIRON, "WRONG_KEY": "ak_wrong"}


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (UNLISTED, "does not list the model 'gpt-5.5'; did you mean gpt-5.4"),
        (WRONG_KEY, "does not accept the key"),
    ],
    ids=["unlisted model", "refused key"],
)
def test_a_variant_that_is_refused_before_the_start_is_set_aside(tmp_path, models, words):
    """Nothing is sent for it, its cost is in no estimate, the others finish; exit 5, named with its reason."""
    with kit.simulator(seed=2) as at:
        told: list[str] = []
        job = listed_sweep(at, tmp_path, models)
        estimate = crun_batch.estimate(job, table=kit.texts(20), environ=ENVIRON)
        assert (40, True) == (estimate["requests"], estimate["may_start"])
        assert "typo would be set aside" in estimate["checks"][0]
        run = crun_batch.run(job, table=kit.texts(20), environ=ENVIRON, handle_signals=False, say=told.append)
        assert (5, 40, 40) == (run.exit_code, run.summary["attempts"], at.ledger()["count"])
        assert words in run.stop_reason
        assert 1 == sum(sentence.startswith("typo is set aside, the others go on:") for sentence in told)
        assert {"good": 20, "fine": 20} == dict(run.results().collect().group_by("variant").len().iter_rows())


@pytest.mark.parametrize(
    "keys",
    [
        {"models": {"a": {"model": "gpt-5.5"}, "b": {"model": "gpt-5.6"}}},
        {"models": UNLISTED, "limits": {"on_variant_failure": "stop"}},
        {
            "models": {"a": {"model": "gpt-5.4"}, "b": {"model": "gpt-5.4-mini"}},
            "score": [
                {"name": "j", "grader": "judge", "model": "gpt-5.5", "prompt": {"user": "?"}, "scale": [0, 1]}
            ],
        },
    ],
    ids=["all variants", "told to stop", "a judge"],
)
def test_what_cannot_be_set_aside_refuses_the_start(tmp_path, keys):
    """Exit 5 with nothing sent and no folder left: all variants, one that must not be missing, a judge."""
    with kit.simulator(seed=2) as at:
        run = kit.run(listed_sweep(at, tmp_path, **keys), kit.texts(5))
        assert (5, 0) == (run.exit_code, run.summary["attempts"])
        assert "does not list the model 'gpt-5.5'" in run.stop_reason
        assert [] == list(tmp_path.iterdir())
