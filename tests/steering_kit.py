"""A run in a process of its own that others steer while it sends, and the gateway that it asks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import run_kit

from crun_batch.errors import RunDirectoryError
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.store import control

JOB = """
name: steered
input: {table: rows.csv, id: id}
endpoint: {base_url: "BASE_URL", api_key_env: SIM_KEY}
model: gpt-5.4
prompt: {user: "{{ text }}"}
params: {max_output_tokens: 20}
limits: {concurrency: 4, adaptive: false}
prices:
  models:
    gpt-5.4: {currency: credits, input_per_mtok: 500, output_per_mtok: 3000, minimum_per_request: 0.01}
output: {dir: run}
"""
WAIT_SECONDS = 60.0


def written(folder: Path, gateway: SimulatorProcess, rows: int = 4000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text("id,text\n" + "".join(f"{n},question {n}\n" for n in range(rows)))
    (folder / "job.yaml").write_text(JOB.replace("BASE_URL", gateway.base_url))
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of another terminal."""
    return subprocess.run(
        [sys.executable, "-m", "crun_batch", *arguments],
        cwd=folder,
        env={**os.environ, **run_kit.ENVIRON},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )


@contextmanager
def running(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A run of the folder's job in a process of its own, once it has sent something; ended in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "crun_batch", "run", "job.yaml", "--yes", *options],
        cwd=folder,
        env={**os.environ, **run_kit.ENVIRON},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: listens(folder / "run") or process.poll() is not None)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def listens(run: Path) -> bool:
    try:
        control.connected(run, WAIT_SECONDS).close()
    except (OSError, RunDirectoryError):
        return False
    return True


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, out, err


def sent(at: SimulatorProcess) -> int:
    return int(at.ledger()["count"])


def quiet(at: SimulatorProcess) -> int:
    """What was charged once nothing of an earlier run is there any more."""
    until(lambda: in_flight(at) == 0)
    return sent(at)


def in_flight(at: SimulatorProcess) -> int:
    return int(at.stats()["in_flight"])
