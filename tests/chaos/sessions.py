"""Sessions in real processes: forked from a nursery that has loaded everything, or from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import orjson

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 300.0
TELLING_SECONDS = 2.0
"""How long a session that hangs may tell where it is."""
LAST_CHARACTERS = 6_000


class Nursery:
    """The process that forks runners."""

    def __init__(self, log: Path) -> None:
        self.log = log.open("ab")
        self._hung = False
        self._said_before = 0
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

        One that hangs tells where, and is aborted, which is no exit code that anything allows; see `told`.
        `meanwhile`: what is done, and after how many seconds, while it runs; it is given the process id.
        """
        pid = self.begin(order)
        seconds, end = (LONGEST_SECONDS, self._abort) if kill_after is None else (kill_after, _kill)
        timers = [threading.Timer(seconds, end, [pid])]
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
        self._hung, self._said_before = False, Path(self.log.name).stat().st_size
        self._child.stdin.write(orjson.dumps(order) + b"\n")
        self._child.stdin.flush()
        return int(orjson.loads(self._child.stdout.readline())["pid"])

    def end(self) -> int:
        """Wait for the session; its exit code, negative for the signal that killed it."""
        assert self._child.stdout is not None
        return int(orjson.loads(self._child.stdout.readline())["code"])

    def last_words(self) -> str:
        """What the last session has said in the end."""
        said = Path(self.log.name).read_bytes()[self._said_before :]
        return said.decode(errors="replace")[-LAST_CHARACTERS:]

    def told(self, code: int) -> str:
        """How the last session ended, and what it said in the end: for one that should not have ended so."""
        how = f"it ended with exit code {code}"
        if self._hung:
            how = f"it hung, and was aborted after {LONGEST_SECONDS:g} seconds"
        elif code < 0:
            how = f"it was ended by {signal.Signals(-code).name}, which nobody sent"
        return f"{how}; its last words:\n{self.last_words()}"

    def _abort(self, pid: int) -> None:
        """What hangs says before where it is: its tasks, then, as `faulthandler` does, its threads."""
        self._hung = True
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR2)
            time.sleep(TELLING_SECONDS)
            os.kill(pid, signal.SIGABRT)

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


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _environ() -> dict[str, str]:
    """`PYTHONFAULTHANDLER`: whatever aborts a session, its threads are told where they were."""
    said = {"CHAOS_KEY": "ak_sim_chaos", "POLARS_MAX_THREADS": "2", "PYTHONFAULTHANDLER": "1"}
    return {**os.environ, **said}
