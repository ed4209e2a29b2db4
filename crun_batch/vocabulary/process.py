"""A process that counts tokens, asked by this one: a vocabulary takes 70 MB, and a run of hours counts seconds.

Owns when such a process is started, asked again of another, and given up. It ends by itself when it was not asked
for IDLE_SECONDS; the next question starts another. Must not know: models, requests.
"""

from __future__ import annotations

import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

from crun_batch.errors import RefusedToStart
from crun_batch.vocabulary import child

IDLE_SECONDS = 1.0
START_SECONDS = 30.0
"""A vocabulary is loaded in 0.06 s; what takes longer than this is no Python, or stands still."""
END_SECONDS = 1.0


class VocabularyProcess:
    """Counts with one vocabulary, in a process that runs while it is asked. For several threads."""

    def __init__(self, name: str, folder: Path) -> None:
        """`folder`: where the compiled module of bpe-openai is."""
        self._name = name
        self._folder = folder
        self._asking = threading.Lock()
        self._child: _Child | None = None
        self._can_be_had = True

    @property
    def pid(self) -> int | None:
        """The process that was asked last, which may have ended; None before the first question."""
        return None if self._child is None else self._child.pid

    def count_all(self, texts: Sequence[str]) -> list[int] | None:
        """The tokens of each text; None where no process can be had that counts.

        Raises RefusedToStart where each one that is started is killed.
        """
        question = child.question_of(texts)
        with self._asking:
            answer = self._answer(question, len(texts) * child.NUMBER_BYTES) if self._can_be_had else None
            self._can_be_had = answer is not None
        return None if answer is None else child.numbers_of(answer)

    def _answer(self, question: bytes, size: int) -> bytes | None:
        """Asked of the process that there is, then of a new one: a count is the same whoever counts."""
        exit_code = 0
        for _ in range(2):
            try:
                self._child = self._child or _Child(self._name, self._folder)
                return self._child.answer(question, size)
            except (EOFError, BrokenPipeError):
                exit_code = self._ended()
            except (OSError, RuntimeError):  # no process can be started, or no thread
                self._ended()
                return None
            except BaseException:
                self._ended()  # interrupted in the middle of an answer: the next must not be the rest of it
                raise
        if exit_code >= 0:
            return None
        raise RefusedToStart(
            f"the process that counts the tokens of prompts was ended by signal {-exit_code}, and so was another",
            advice="It takes 80 MB, which the system may lack. Without bpe-openai (pip uninstall bpe-openai) no "
            "such process is started, and tokens are estimated from bytes.",
        )

    def _ended(self) -> int:
        """Let go of the process; its exit code, negative: the signal."""
        gone, self._child = self._child, None
        return 0 if gone is None else gone.end()


class _Child:
    """One process, from its start to its end."""

    def __init__(self, name: str, folder: Path) -> None:
        """Raises OSError or RuntimeError where there is no Python, or the system gives no process or no thread."""
        if getattr(sys, "frozen", False):
            raise OSError("the executable of a frozen program is that program")
        self._process = subprocess.Popen(
            [sys.executable or "", "-I", "-S", child.__file__, str(folder), name, str(IDLE_SECONDS)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # whoever reads ours to its end does not wait for this one
            start_new_session=True,  # Ctrl-C is for the parent to handle
        )
        self._reaper = threading.Thread(target=self._process.wait, name="vocabulary", daemon=True)
        self._reaper.start()
        self._close = weakref.finalize(self, _close, self._process, self._reaper)
        self._is_ready = False
        self.pid = self._process.pid

    def answer(self, question: bytes, size: int) -> bytes:
        """Raises EOFError or BrokenPipeError where it ends instead."""
        if not self._is_ready:
            self._await()
        assert self._process.stdin is not None
        left = memoryview(question)
        while left:
            left = left[self._process.stdin.write(left) :]
        return self._read(size)

    def end(self) -> int:
        """End it, if it has not ended; its exit code."""
        self._close()
        return self._process.returncode or 0

    def _await(self) -> None:
        """Raises TimeoutError."""
        assert self._process.stdout is not None
        waiting = select.poll()
        waiting.register(self._process.stdout, select.POLLIN)
        if not waiting.poll(1000 * START_SECONDS):
            self._process.kill()
            raise TimeoutError
        if self._read(len(child.READY)) != child.READY:
            raise EOFError
        self._is_ready = True

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        found = bytearray()
        while len(found) < size:
            part = self._process.stdout.read(size - len(found))
            if not part:
                raise EOFError
            found += part
        return bytes(found)


def _close(process: subprocess.Popen[bytes], reaper: threading.Thread) -> None:
    """Without its pipes it ends. In a fork of ours, whose copies these are, it goes on, and nobody waits."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    reaper.join(END_SECONDS)
