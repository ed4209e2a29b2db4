"""A process that has loaded the command line and forks commands, which start in milliseconds.

Each line on standard input is an order (JSON): the words of a command, and the file for what it says. The answer
is a line with its process id; when it has ended, a line with that and its exit code (negative: the signal). No
command is run in the nest itself: the libraries' threads begin in the commands. Where standard input ends, so do
all of them.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any

import orjson

ROOT = Path(__file__).parents[2]
WANTED_LATER = (
    "crun_batch.cli.commands",
    "crun_batch.gateway.http.direct",
    "crun_batch.scale.coordinate",
    "crun_batch.scale.coordinated",
    "crun_batch.scale.workers",
)
"""What commands load when they need it: loaded here once."""


class Hatched:
    """A command's process, a session of its own."""

    def __init__(self, pid: int, codes: dict[int, int]) -> None:
        self.pid = pid
        self._codes = codes

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None: it runs."""
        return self._codes.get(self.pid)


class Nest:
    """The process that forks commands. `environ` is what they have besides our own."""

    def __init__(self, **environ: str) -> None:
        self._codes: dict[int, int] = {}
        self._pids: Queue[int] = Queue()
        self._child = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.nest"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT / "tests" if __package__ == "chaos" else ROOT,
            env={**os.environ, "POLARS_MAX_THREADS": "1", **environ},
        )
        self._listener = threading.Thread(target=self._listen, name="nest", daemon=True)
        self._listener.start()

    def start(self, log: Path, *words: object) -> Hatched:
        """Start `crun-batch` with these words."""
        assert self._child.stdin is not None
        self._child.stdin.write(orjson.dumps({"log": str(log), "words": [str(word) for word in words]}) + b"\n")
        self._child.stdin.flush()
        return Hatched(self._pids.get(timeout=60), self._codes)

    def close(self) -> None:
        """End all that still runs."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(30)
        self._listener.join()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            told = orjson.loads(line)
            if "code" in told:
                self._codes[told["pid"]] = told["code"]
            else:
                self._codes.pop(told["pid"], None)  # of an earlier process of that number
                self._pids.put(told["pid"])


def main() -> None:
    """Until standard input ends."""
    for name in WANTED_LATER:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: set[int] = set()
    orders = b""
    while True:
        for ready in select.select([0, woken], [], [])[0]:
            data = os.read(ready, 65536)
            if ready == woken:
                _tell_of_the_dead(living)
            elif not data:
                _end(living)
                return
            else:
                *whole, orders = (orders + data).split(b"\n")
                living |= {_forked(orjson.loads(order)) for order in whole}


def _forked(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _live(order)
    _say({"pid": pid})
    return pid


def _live(order: dict[str, Any]) -> None:
    """One command; never returns."""
    code: object = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, own in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, own)
        sys.argv = ["crun-batch", *order["words"]]
        from crun_batch.cli.commands import main as run_command

        code = run_command()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 70)


def _tell_of_the_dead(living: set[int]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            living.discard(pid)
            _say({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _end(living: set[int]) -> None:
    for pid in living:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in living:
        os.waitpid(pid, 0)


def _say(document: dict[str, Any]) -> None:
    os.write(1, orjson.dumps(document) + b"\n")


if __name__ == "__main__":
    main()
