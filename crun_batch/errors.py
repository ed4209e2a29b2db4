"""What can stop a run. One class, one exit code, one sentence; a single row's failure is a value, not an error.

    CrunBatchError
    ├── InputError          2   the job, the table or the command line is wrong; carries every mistake found
    ├── RefusedToStart      3   credits, budget, an unknown price, not confirmed; nothing was sent
    ├── RunDirectoryError   6   in use, of another job, or damaged
    │   ├── RunInUse
    │   ├── NotRunning          no session runs there that could be told anything
    │   ├── RequestsChanged     a finished unit's request would now differ
    │   └── RunDamaged
    └── DiskFailed          7   a write, fsync or rename failed

What stops a run after something was sent (exit codes 1, 4, 5, 130, 143) is no exception: the run ends in an
orderly way and its `Run` says why.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from msgspec import Struct

LONGEST_NAME_TOLD = 120
ARGUMENT = "argument "
"""What stands before the name of an argument of Python, where a mistake names no file."""
EXIT_OK = 0
EXIT_ROWS_FAILED = 1
EXIT_INPUT = 2
EXIT_REFUSED_TO_START = 3
EXIT_OUT_OF_MONEY = 4
EXIT_GATEWAY_REFUSED = 5
EXIT_RUN_DIRECTORY = 6
EXIT_DISK = 7
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
SIGNALS = {
    signal.SIGINT: (EXIT_INTERRUPTED, "Ctrl-C"),
    signal.SIGTERM: (EXIT_TERMINATED, "SIGTERM"),
    signal.SIGHUP: (EXIT_TERMINATED, "SIGHUP"),
}
"""What ends a command from outside: its exit code, and its name."""


class Mistake(Struct, frozen=True):
    """One thing that is wrong: where (file, line, row, key), what was found, what is allowed or to be done."""

    message: str
    file: str | None = None
    line: int | None = None
    row: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        row = f"row {self.row}" if self.row is not None else None
        where = ", ".join(part for part in (place, row, self.key) if part)
        return f"{where}: {self.message}" if where else self.message


class CrunBatchError(Exception):
    """A run that cannot start or cannot go on. `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int]
    advice: str = ""

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class InputError(CrunBatchError):
    """The job, the table or the command line is wrong. `mistakes` holds all that were found, in file order."""

    exit_code = EXIT_INPUT

    def __init__(self, mistakes: Sequence[Mistake] | Mistake | str, *, advice: str = "") -> None:
        if isinstance(mistakes, str):
            mistakes = Mistake(mistakes)
        self.mistakes: tuple[Mistake, ...] = (mistakes,) if isinstance(mistakes, Mistake) else tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes), advice=advice)


class RefusedToStart(CrunBatchError):
    """Credits, budget, an unknown price, or no confirmation. Nothing was sent."""

    exit_code = EXIT_REFUSED_TO_START


class RunDirectoryError(CrunBatchError):
    """The run directory cannot be used."""

    exit_code = EXIT_RUN_DIRECTORY


class RunInUse(RunDirectoryError):
    """Another process writes to this run directory."""


class NotRunning(RunDirectoryError):
    """No session runs in this directory, so there is nobody to tell anything."""


class RequestsChanged(RunDirectoryError):
    """Finished units would now send other requests; answers to different questions are never mixed."""


class RunDamaged(RunDirectoryError):
    """A file of the run is damaged in a way that no crash of ours explains."""


class DiskFailed(CrunBatchError):
    """A write, fsync or rename failed. What is recorded stays; start again when the disk is well."""

    exit_code = EXIT_DISK


def wanted_signals() -> tuple[signal.Signals, ...]:
    """Those that end a command; without SIGHUP where it is ignored since before the start."""
    hangup_is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in SIGNALS if number is not signal.SIGHUP or not hangup_is_ignored)


@contextmanager
def adding_to(mistakes: list[Mistake]) -> Iterator[None]:
    """What is found wrong inside is added to `mistakes`, so that what does not need it is looked at too."""
    try:
        yield
    except InputError as error:
        mistakes += error.mistakes


@contextmanager
def refusals_of_the_system() -> Iterator[None]:
    """What the system refuses about a file that somebody named is an error of ours, wherever it comes up.

    Raises InputError (no name that the file system takes) and DiskFailed (no permission, no room, no such device).
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        text = f"{_shortened(str(error.filename))}: {error.strerror}"
        raise (InputError(text) if error.errno == errno.ENAMETOOLONG else DiskFailed(text)) from error


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME_TOLD else f"{name[:LONGEST_NAME_TOLD]}... ({len(name):,} characters)"
