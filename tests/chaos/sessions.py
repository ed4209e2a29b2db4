"""Sessions in real processes: forked from a nursery that has loaded everything, or from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import orjson

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 300.0
LAST_CHARACTERS = 6_000


class Nursery:
    """The process that forks runners."""

    def __init__(self, log: Path) -> None:
        self.log = log.open("ab")
        self._child = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=ROOT / "tests" if __package__ == "chaos" else ROOT,
            env=_environ(),
        )

    def session(
        self,
        order: dict[str, Any],
        kill_after: float | None,
        meanwhile: tuple[float, Callable[[int], None]] | None = None,
    ) -> int:
        """One session, killed after so many seconds, or when the order says so, or not at all; its exit code.

        One that hangs is aborted, which is no exit code that anything allows. `meanwhile`: what is done, and after
        how many seconds, while it runs; it is given the process id.
        """
        pid = self.begin(order)
        ending = (LONGEST_SECONDS, signal.SIGABRT) if kill_after is None else (kill_after, signal.SIGKILL)
        timers = [threading.Timer(ending[0], _end, [pid, ending[1]])]
        timers += [threading.Timer(meanwhile[0], meanwhile[1], [pid])] if meanwhile is not None else []
        for timer in timers:
            timer.start()
        code = self.end()
        for timer in timers:
            timer.cancel()
        for timer in timers:
            timer.join()
        return code

    def begin(self, order: dict[str, Any]) -> int:
        """Start a session; its process id."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(orjson.dumps(order) + b"\n")
        self._child.stdin.flush()
        return int(orjson.loads(self._child.stdout.readline())["pid"])

    def end(self) -> int:
        """Wait for the session; its exit code, negative for the signal that killed it."""
        assert self._child.stdout is not None
        return int(orjson.loads(self._child.stdout.readline())["code"])

    def last_words(self) -> str:
        """What its sessions have said lately, for whoever wants to know why one ended as it did."""
        return Path(self.log.name).read_text(encoding="utf-8", errors="replace")[-LAST_CHARACTERS:]

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(30)
        self.log.close()


def fresh_session(job: Path, place: Path, kill_after: float, log: IO[bytes]) -> int:
    """A `crun-batch run` that gets SIGKILL so many seconds after it took the run's lock; its exit code."""
    command = [sys.executable, "-m", "crun_batch", "run", str(job), "--yes", "--until-budget"]
    child = subprocess.Popen(command, cwd=ROOT, env=_environ(), stdout=log, stderr=log)
    lock, until = place / ".lock", time.monotonic() + LONGEST_SECONDS
    while child.poll() is None and not (lock.exists() and lock.read_text().startswith(f"process {child.pid} ")):
        assert time.monotonic() < until, f"{place} was not opened in {LONGEST_SECONDS} seconds"
        time.sleep(0.01)
    try:
        return child.wait(kill_after)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _end(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _environ() -> dict[str, str]:
    return {**os.environ, "CHAOS_KEY": "ak_sim_chaos", "POLARS_MAX_THREADS": "2"}
