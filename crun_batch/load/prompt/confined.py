"""Templates that could multiply their memory, rendered in a child process with a memory and a time limit.

Owns the child: it is started at the first text, answers one request at a time over its pipes, ends with its
parent, and is started anew after a template that broke its limits. The limit on memory needs an operating
system that enforces RLIMIT_AS (Linux does, macOS does not); the limit on time holds everywhere.
"""

from __future__ import annotations

import pickle
import resource
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from crun_batch.interpreter import python
from crun_batch.load.prompt.templates import MAX_TEXT_CHARACTERS, CarefulEngine, Template, Unrenderable
from crun_batch.paths import is_there

MEMORY_BYTES = 512 * 1024 * 1024
"""What the child may take on top of what it has when it is ready."""
SECONDS = 5.0
"""What one text may take."""
_START = "from crun_batch.load.prompt.confined import serve; serve()"


class ConfinedEngine:
    """The same texts as `CarefulEngine`, from a child process. Not for several threads at once."""

    def __init__(self, templates: Sequence[Template]) -> None:
        self._templates = [(template.key, template.source) for template in templates]
        self._child: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def render(self, key: str, values: Mapping[str, Any]) -> str:
        """The text of the template `key`; Unrenderable where it cannot be made or breaks a limit."""
        child = self._child or self._start()
        assert child.stdin is not None and child.stdout is not None
        try:
            _send(child.stdin, (key, dict(values)))
            text, reason = _receive(child.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            self.close()
            megabytes = MEMORY_BYTES // 1024**2
            raise Unrenderable(f"it needs more than {megabytes} MB of memory or {SECONDS:.0f} s") from None
        except BaseException:
            self.close()  # interrupted in the middle of an answer: the next request must not read the rest of it
            raise
        if reason is not None:
            raise Unrenderable(reason)
        return str(text)

    def close(self) -> None:
        """Ends the child; the next text starts another."""
        if self._finalizer is not None:
            self._finalizer()
        self._child = self._finalizer = None

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            python(_START),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the parent to handle
        )
        self._finalizer = weakref.finalize(self, _end, self._child)
        assert self._child.stdin is not None
        _send(self._child.stdin, self._templates)
        return self._child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


def _send(pipe: BinaryIO | Any, value: object) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def _receive(pipe: BinaryIO | Any) -> Any:
    return pickle.load(pipe)


def _limit_memory() -> None:
    statm = Path("/proc/self/statm")
    if is_there(statm):
        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve() -> None:
    """The child: the templates first, then (key, values) in and (text, reason) out until the pipe ends."""
    templates = [
        Template(key=key, source=source, columns=(), way="confined") for key, source in _receive(sys.stdin.buffer)
    ]
    engine = CarefulEngine(templates)
    _limit_memory()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while True:
        try:
            key, values = _receive(sys.stdin.buffer)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        answer = _answer(engine, key, values)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(sys.stdout.buffer, answer)


def _answer(engine: CarefulEngine, key: str, values: Mapping[str, Any]) -> tuple[str | None, str | None]:
    try:
        text = engine.render(key, values)
    except Unrenderable as error:
        return None, error.reason
    if len(text) > MAX_TEXT_CHARACTERS:
        return None, f"it renders more than {MAX_TEXT_CHARACTERS:,} characters"
    return text, None
