"""A process that has loaded everything and forks runners, so that a killed session costs milliseconds to start.

Each line on standard input is an order (JSON); the answer is a line with the runner's pid, and when it has ended
a line with its pid and its exit code (negative: the signal). Nothing is run in the nursery itself: the libraries'
threads begin in the runners.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from crun_batch import run
from crun_batch.errors import CrunBatchError
from crun_batch.options import Platform
from crun_batch.store.journal import JournalSettings
from crun_batch.vocabulary import counters
from crun_batch.vocabulary.process import VocabularyProcess

from .deadly import DeadlyDisk

WANTED_LATER = ("pandas", "genai_prices", "crun_batch.gateway.http.direct")
"""What a session loads when it needs it: loaded here once."""


def main() -> None:
    """Until standard input ends."""
    for name in WANTED_LATER:
        importlib.import_module(name)
    VocabularyProcess.count_all = lambda self, texts: None  # type: ignore[method-assign] # what is loaded here counts
    counters.token_counter("gpt-5.4").count("once for all runners")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        order = orjson.loads(line)
        pid = os.fork()
        if pid == 0:
            _live(order)
        _say({"pid": pid})
        _, status = os.waitpid(pid, 0)
        _say({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _live(order: dict[str, Any]) -> None:
    """One session, in a process of its own; never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGUSR2, _tell_tasks)
    code = 70
    try:
        if "most_bytes_of_a_file" in order:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["most_bytes_of_a_file"],) * 2)
        if "clock_jump" in order:
            _set_the_clock(*order["clock_jump"])
        number = signal.Signals[order.get("signal", "SIGKILL")]
        disk = DeadlyDisk(order["at"], order["when"], number) if order["at"] else None
        platform = Platform(
            disk=disk,
            journal=JournalSettings(segment_bytes=order["segment_bytes"]),
            batch_absent_seconds=order.get("absent_seconds", 60.0),
        )
        ended = run(Path(order["job"]), platform=platform, until_budget=True)
        code = ended.exit_code or 0
    except CrunBatchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def _tell_tasks(*_: object) -> None:
    """Where each task of the loop waits, on standard error."""
    with suppress(RuntimeError):  # no loop runs
        for task in asyncio.all_tasks():
            task.print_stack(file=sys.stderr)


def _set_the_clock(after_seconds: float, by_seconds: float) -> None:
    """From a moment on, the day's clock of this process is off."""
    due, now_ns, now = time.monotonic() + after_seconds, time.time_ns, time.time
    shift = lambda: by_seconds if time.monotonic() >= due else 0.0  # noqa: E731
    time.time_ns = lambda: now_ns() + round(shift() * 1e9)
    time.time = lambda: now() + shift()


def _say(document: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(document) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
