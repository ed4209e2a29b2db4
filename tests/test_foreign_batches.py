"""The batch lane through somebody else's server: a LiteLLM proxy, which passes batches on to its provider.

The provider is the simulator, whose books are held against the run's. Needs the program `litellm` of
`pip install 'litellm[proxy]'`, on the path or named by the variable LITELLM; `make long` runs it where it is.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import batch_kit
import httpx
import polars as pl
import pytest
from run_kit import results, spent_credits, texts
from test_batch_lane import Meanwhile

import crun_batch
from crun_batch.load.job.job import Job
from crun_batch.simulator import SimulatorProcess
from tests.chaos.batch_job import batch_job

LITELLM = os.environ.get("LITELLM") or shutil.which("litellm")
PROXY_KEY = "sk-proxy-test"
ENVIRON = {"PROXY_KEY": PROXY_KEY}
START_SECONDS = 180.0
ROWS = 12

pytestmark = [pytest.mark.long, pytest.mark.skipif(LITELLM is None, reason="no litellm here")]


@contextmanager
def litellm_before(provider: SimulatorProcess, folder: Path) -> Iterator[str]:
    """A proxy on loopback before the provider; its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    there = {"api_base": provider.base_url, "api_key": "ak_sim_proxy"}
    config = {
        "model_list": [{"model_name": "gpt-5.4", "litellm_params": {"model": "openai/gpt-5.4", **there}}],
        "files_settings": [{"custom_llm_provider": "openai", **there}],
        "general_settings": {"master_key": PROXY_KEY},
    }
    (folder / "litellm.json").write_text(json.dumps(config))
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DATABASE_URL")}
    environ |= {"OPENAI_BASE_URL": provider.base_url, "OPENAI_API_BASE": provider.base_url}
    environ |= {"OPENAI_API_KEY": "ak_sim_proxy", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    assert LITELLM is not None
    command = [LITELLM, "--config", str(folder / "litellm.json"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "litellm.log").open("w") as log:
        proxy = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=folder)
        try:
            await_health(f"http://127.0.0.1:{port}/health/liveliness", proxy, folder / "litellm.log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            proxy.terminate()
            proxy.wait()


def await_health(url: str, proxy: subprocess.Popen[bytes], log: Path) -> None:
    """Until the proxy answers."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and proxy.poll() is None:
        try:
            if httpx.get(url, trust_env=False, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise AssertionError(f"no proxy: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def provider() -> Iterator[SimulatorProcess]:
    with batch_kit.simulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def proxy(provider: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with litellm_before(provider, tmp_path_factory.mktemp("litellm")) as base_url:
        yield base_url


@pytest.fixture
def plain(provider: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """The provider; what a test turns on is turned off behind it."""
    yield provider
    provider.change(batch_faults={}, batch_seconds=0.05)


def job(base_url: str, folder: Path, **keys: Any) -> Job:
    keys["batch"] = {"look_every_seconds": 0.2, "max_requests": 5, **keys.get("batch", {})}
    return Job(**batch_job(base_url, "PROXY_KEY", str(folder / "run"), **keys))


def run(job: Job, table: pl.DataFrame, **options: Any) -> crun_batch.Run:
    return batch_kit.run(job, table, environ=ENVIRON, **options)


def named(what: str) -> pl.DataFrame:
    return texts(ROWS).with_columns(pl.col("text") + f" {what}")


def test_batches_go_through_the_proxy(proxy: str, plain: SimulatorProcess, tmp_path: Path) -> None:
    """Every row is answered, each request is in the provider's books once, and the cost is theirs."""
    before, spent = batch_kit.times_asked(plain), batch_kit.charged_credits(plain)
    done = run(job(proxy, tmp_path), named("plain"))
    assert (0, {"ok": ROWS}) == (done.exit_code, Counter(results(done)["status"])), done.stop_reason
    assert {1} == set((batch_kit.times_asked(plain) - before).values())
    assert batch_kit.charged_credits(plain) - spent == spent_credits(done)


def test_what_expires_there_goes_live_through_the_proxy(
    proxy: str, plain: SimulatorProcess, tmp_path: Path
) -> None:
    """Both lanes have the same address; the rest of each batch is asked one by one."""
    plain.change(batch_faults={"expired": 0.5, "line_errors": 0.2, "shuffled": 1})
    before, spent = batch_kit.times_asked(plain), batch_kit.charged_credits(plain)
    done = run(job(proxy, tmp_path, lane="batch-then-live"), named("live"))
    lanes = Counter(done.attempts().filter(pl.col("outcome") == "done").collect()["endpoint"])
    assert (0, {"ok": ROWS}) == (done.exit_code, Counter(results(done)["status"])), done.stop_reason
    assert lanes["batch"] > 0 and lanes[None] > 0
    assert {1} == set((batch_kit.times_asked(plain) - before).values())
    assert batch_kit.charged_credits(plain) - spent == spent_credits(done)


def test_a_create_that_the_proxy_repeats_is_paid_once(proxy: str, plain: SimulatorProcess, tmp_path: Path) -> None:
    """The provider's replies get lost: the proxy's own client asks three times, and two of three are cancelled."""
    plain.change(batch_faults={"create_lost": 1.0}, batch_seconds=3600.0)
    before = batch_kit.times_asked(plain)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "is to be cancelled" in line and 2 == sum("is to be cancelled" in one for one in said):
            threading.Thread(target=lambda: plain.change(batch_seconds=0.05)).start()

    done = run(job(proxy, tmp_path, batch={"max_requests": 50}), named("lost"), say=say)
    assert (0, {"ok": ROWS}) == (done.exit_code, Counter(results(done)["status"])), said
    assert 2 == sum("is to be cancelled: cancel" in line for line in said), said
    assert {1} == set((batch_kit.times_asked(plain) - before).values())


def test_a_stopped_run_is_collected_and_a_cancel_reaches_the_provider(
    proxy: str, plain: SimulatorProcess, tmp_path: Path
) -> None:
    """Stop, status, cancel, collect: as with a provider itself."""
    plain.change(batch_seconds=3600.0)
    stop = Meanwhile(lambda: crun_batch.stop(tmp_path / "run"))
    stopped = run(job(proxy, tmp_path), named("cancel"), say=stop)
    assert 143 == stopped.exit_code, stop.said
    told = crun_batch.cancel(tmp_path / "run", environ=ENVIRON)
    assert told["fault"] is None and told["batches"]
    plain.change(batch_seconds=0.05)
    done = run(job(proxy, tmp_path), named("cancel"))
    assert (0, {"ok": ROWS}) == (done.exit_code, Counter(results(done)["status"])), done.stop_reason
