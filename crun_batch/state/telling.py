"""Telling a running session something from another process: one question, one answer, over its socket.

One line of JSON each way. A question is {"do": "set", "values": {key: value}}, or {"do": "pause"}, "resume",
"stop"; an answer has `changes` and how the session stands, or `error` with the exit code that goes with it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from crun_batch.errors import (
    EXIT_DISK,
    EXIT_INPUT,
    CrunBatchError,
    DiskFailed,
    InputError,
    Mistake,
    NotRunning,
    RunDirectoryError,
    refusals_of_the_system,
)
from crun_batch.state.summary import RUNNING
from crun_batch.store.control import NoListener, connected
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.store.holder import holder

MOST_BYTES = 2**16
"""Of a question, and of an answer."""
TIMEOUT_SECONDS = 30.0


def tell(path: Path, question: Mapping[str, Any]) -> dict[str, Any]:
    """What the running session of a run directory answers.

    Raises NotRunning, InputError (what it was told is wrong; nothing has changed), RunDirectoryError.
    """
    line = orjson.dumps(question, default=str) + b"\n"
    if len(line) > MOST_BYTES:
        raise InputError(f"more than {MOST_BYTES:,} bytes are no setting")
    with refusals_of_the_system():
        try:
            with connected(path, TIMEOUT_SECONDS) as connection:
                connection.sendall(line)
                answer = orjson.loads(_line_from(connection.makefile("rb")))
        except NoListener:
            raise _not_running(path) from None
        except (TimeoutError, ConnectionError, orjson.JSONDecodeError) as error:
            raise RunDirectoryError(
                f"{path}: the session gave no answer ({error or type(error).__name__})",
                advice="`crun-batch status` says whether it still runs, and what was set.",
            ) from error
    if "error" in answer:
        raise _refusal(answer)
    return {**answer, "output_dir": str(path)}


def _line_from(stream: Any) -> bytes:
    line: bytes = stream.readline(MOST_BYTES)
    if not line.endswith(b"\n"):
        raise ConnectionError("it ended before it answered")
    return line


def _refusal(answer: Mapping[str, Any]) -> CrunBatchError:
    if answer["exit_code"] == EXIT_INPUT:
        return InputError([Mistake(**mistake) for mistake in answer["mistakes"]])
    if answer["exit_code"] == EXIT_DISK:
        return DiskFailed(answer["error"])
    return RunDirectoryError(answer["error"])


def _not_running(path: Path) -> NotRunning:
    """Why nobody listens, and what to do instead."""
    run, process = RunDirectory(path), holder(path)
    if process is not None:
        _refuse_elsewhere(path, process)
        number = process.split(" ")[1] if process.startswith("process ") else "PID"
        return NotRunning(
            f"{path}: the session cannot be told anything ({process}): it is about to start or to end, or its "
            "file system takes no socket",
            advice=f"Try again in a moment; `kill -TERM {number}` on its host ends it in an orderly way.",
        )
    if not run.has_summary:
        raise InputError(f"{path}: there is no run here (no summary.json)")
    summary = read_json(run.summary)
    ended = "it was killed" if summary["status"] == RUNNING.status else f"it is {summary['status']}"
    return NotRunning(
        f"{path}: no session runs there now, {ended}; nothing was changed",
        advice="What holds at the next start is in the job file; --set KEY=VALUE of `run` changes it there.",
    )


def _refuse_elsewhere(path: Path, process: str) -> None:
    """A socket reaches its own host alone. Raises RunDirectoryError."""
    host = process.partition(" on ")[2].partition(",")[0]
    if host and host != socket.gethostname():
        raise RunDirectoryError(
            f"{path}: who runs it is on another host ({process}), and is told things there alone",
            advice=f"Give the same command on {host}.",
        )


def who(user_id: int | None, process_id: int | None) -> dict[str, Any]:
    """Somebody who tells a session something: `user` by name where he has one, `user_id`, `process_id`."""
    number = os.geteuid() if user_id is None else user_id
    return {"user": _name_of(number), "user_id": number, "process_id": process_id}


def _name_of(user_id: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"
