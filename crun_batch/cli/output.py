"""What the commands hand out: standard output for answers, standard error for complaints.

A reader that has gone away (`| head`) ends nothing with noise. No output holds a value of a secret variable.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from msgspec import structs

from crun_batch.console.words import folded, mistakes_text, one_line
from crun_batch.errors import ARGUMENT, CrunBatchError, DiskFailed, InputError, Mistake

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
SHORTEST_SECRET_CHARACTERS = 8


def width() -> int | None:
    """Columns of the terminal that standard output is; None where it is none: then nothing is shortened."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def width_of_errors() -> int | None:
    """Columns of the terminal that standard error is; None where it is none: then a sentence is one line."""
    return shutil.get_terminal_size().columns if sys.stderr is not None and sys.stderr.isatty() else None


def out(text: str) -> None:
    """A text and a line break to standard output."""
    out_bytes(text.encode(errors="backslashreplace") + b"\n")


def out_for_the_record(text: str) -> None:
    """Words about what is done: where nobody can take them, that is said, and changes nothing about it."""
    try:
        out(text)
    except DiskFailed as error:
        say(f"{error}; the run is not touched by that")


def out_json(document: Any) -> None:
    """One JSON document: amounts as decimal text, moments in ISO 8601."""
    import orjson

    out_bytes(_json(document, orjson.OPT_INDENT_2))


def json_line(document: Any) -> bytes:
    """The same in one line."""
    return _json(document, 0)


def _json(document: Any, form: int) -> bytes:
    import orjson

    options = form | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(document, default=_as_json, option=options | orjson.OPT_PASSTHROUGH_DATETIME)


def out_bytes(data: bytes) -> None:
    """Bytes to standard output. Raises DiskFailed where it takes no more."""
    if sys.stdout is None:  # closed before the start
        raise DiskFailed("standard output is closed")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        leave_standard_output()
    except OSError as error:
        if error.errno == errno.EIO and stat.S_ISCHR(os.fstat(sys.stdout.fileno()).st_mode):
            leave_standard_output()  # the terminal was closed
            return
        raise DiskFailed(f"standard output cannot be written: {error.strerror}") from error


def leave_standard_output() -> None:
    """Nobody reads it any more: what comes is thrown away, without a complaint at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(mistakes: Sequence[Mistake], advice: str = "") -> None:
    """Mistakes in words to standard error."""
    _err(mistakes_text(mistakes, advice))


def complain_of(error: CrunBatchError) -> None:
    """What stopped the command, and what to do next."""
    if isinstance(error, InputError):
        complain(_as_typed(error).mistakes, error.advice)
        return
    _err("\n".join([*map(one_line, str(error).splitlines()), *([one_line(error.advice)] if error.advice else [])]))


def error_document(error: CrunBatchError) -> dict[str, Any]:
    """What --json says where a command stopped."""
    error = _as_typed(error) if isinstance(error, InputError) else error
    mistakes = error.mistakes if isinstance(error, InputError) else ()
    return {
        "error": {
            "exit_code": error.exit_code,
            "message": str(error),
            "advice": error.advice or None,
            "mistakes": [structs.asdict(mistake) for mistake in mistakes],
        }
    }


def _as_typed(error: InputError) -> InputError:
    """Where an argument of Python is the place of a mistake: the option that it came by."""
    mistakes = [
        structs.replace(one, file=f"--{one.file.removeprefix(ARGUMENT).replace('_', '-')}")
        if one.file is not None and one.file.startswith(ARGUMENT)
        else one
        for one in error.mistakes
    ]
    return InputError(mistakes, advice=error.advice)


def complain_of_bug(error: Exception) -> None:
    """An error that we did not foresee: its kind; with CRUN_BATCH_DEBUG its traceback, without any secret."""
    _err(f"this is a bug of ours ({type(error).__name__}); nothing recorded is lost; run it again to resume")
    if os.environ.get("CRUN_BATCH_DEBUG"):
        _write_error(_without_secrets("".join(traceback.format_exception(error))))
    else:
        _err("To report it, start again with CRUN_BATCH_DEBUG=1 and send what it then prints.")


def say(sentence: str) -> None:
    """One sentence to standard error."""
    _err(sentence)


def _err(text: str) -> None:
    _write_error(folded(text, width_of_errors()))


def _write_error(text: str) -> None:
    try:
        sys.stderr.write(text.encode(errors="backslashreplace").decode() + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class _Unheard(io.FileIO):
    """A standard error that never ends a run: a terminal that is gone, a full disk, a pipe without a reader."""

    def write(self, data: Any) -> int:
        """Take all; what cannot be written is lost."""
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def make_standard_error_patient() -> None:
    """From now on no word to standard error fails. Where a stream was closed, no file of a run gets its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is sys.__stderr__:
        buffer = io.BufferedWriter(_Unheard(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(buffer, "utf-8", errors="backslashreplace", line_buffering=True)


def _without_secrets(text: str) -> str:
    secrets = [value for name, value in os.environ.items() if SECRET_NAME.search(name)]
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET_CHARACTERS:
            text = text.replace(secret, "[secret removed]")
    return text


def _as_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent == 0 else f"{value.normalize():f}"
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
