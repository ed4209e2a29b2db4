"""Streamed completions: servers that have them are asked for them; CRUN has none, which is said before a call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_kit

import crun_batch
from crun_batch.load.job.job import Job
from crun_batch.load.job.sweep import variations
from crun_batch.simulator.process import SimulatorProcess

STREAMED = {"protocol": "completions", "stream": True}
CRUN = "https://api.crun.ai/api/v1"
ELSEWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    """A server that streams completions, as OpenAI's, vLLM's and llama.cpp's do."""
    with run_kit.simulator(stream_style="openai") as process:
        yield process


def answers(done: crun_batch.Run) -> list[tuple[Any, ...]]:
    columns = ["id", "status", "output_text", "finish_reason", "input_tokens", "output_tokens", "cost_credits"]
    return done.results().select(columns).sort("id").collect().rows()


def test_a_streamed_completion_is_the_unstreamed_one(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """Same texts, tokens and cost; the server did stream."""
    wire = run_kit.RecordingWire()
    plain = run_kit.job(gateway, tmp_path / "plain", endpoint={"protocol": "completions"})
    streamed = run_kit.job(gateway, tmp_path / "streamed", endpoint=STREAMED)
    whole = answers(run_kit.run(plain, run_kit.texts(6)))
    pieces = run_kit.run(streamed, run_kit.texts(6), wire=wire)
    assert whole == answers(pieces)
    assert [(True, {"include_usage": True})] * 6 == [(one["stream"], one["stream_options"]) for one in wire.sent]
    assert {"ok"} == {status for _, status, *_ in whole}
    assert 0 == pieces.attempts().select(pl.col("cost_credits").is_null().sum()).collect().item()


def job_tree(**keys: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": {"user": "{{ text }}"}, "params": {"max_output_tokens": 300}, **keys}


AT_CRUN: dict[str, dict[str, Any]] = {
    "the default address": {"endpoint": STREAMED},
    "its address": {"endpoint": {**STREAMED, "base_url": CRUN, "api_key_env": "K"}},
    "in capitals": {"endpoint": {**STREAMED, "base_url": "https://API.CRUN.AI/api/v1", "api_key_env": "K"}},
    "one of a list": {
        "endpoint": [{**STREAMED, "base_url": ELSEWHERE}, {**STREAMED, "base_url": CRUN, "api_key_env": "K"}]
    },
    "a level of a sweep": {"sweep": {"how": {"a": {"endpoint": STREAMED}, "b": {}}}},
    "a judge": {
        "endpoint": {"base_url": ELSEWHERE},
        "score": [
            {"name": "s", "grader": "judge", "model": "j", "labels": {"good": 1, "bad": 0}, "endpoint": STREAMED}
        ],
    },
}


@pytest.mark.parametrize("keys", AT_CRUN.values(), ids=AT_CRUN)
def test_at_crun_it_is_refused_before_a_call(keys: dict[str, Any], tmp_path: Path) -> None:
    """Whoever asks: the sentence says that it is this host which does not stream."""
    with pytest.raises(crun_batch.InputError) as refused:
        job = Job(**job_tree(**keys, output={"dir": str(tmp_path / "run")}))
        crun_batch.estimate(
            job, table=pl.DataFrame({"text": ["a"]}), environ={"K": "k" * 20, "CRUN_API_KEY": "k" * 20}
        )
    assert "completions at api.crun.ai, which does not stream it; other servers do" in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("base_url", [ELSEWHERE, "https://api.openai.com/v1", "https://vllm.test/v1"])
def test_other_hosts_may_be_asked(base_url: str) -> None:
    """Nothing is wrong with the job."""
    job = Job(**job_tree(endpoint={**STREAMED, "base_url": base_url, "auth": "none"}))
    assert [True] == [variation.job.endpoint.stream for variation in variations(job)]


def test_such_a_job_can_be_simulated(tmp_path: Path) -> None:
    """The simulator streams completions where the job's server is to."""
    job = Job(**job_tree(endpoint={**STREAMED, "base_url": ELSEWHERE}, output={"dir": str(tmp_path / "run")}))
    done = run_kit.run(job, run_kit.texts(3), simulate=True)
    assert (0, 3) == (done.exit_code, done.summary["rows"]["ok"])
