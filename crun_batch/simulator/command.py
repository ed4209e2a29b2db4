"""The simulator's command line: one option per setting, made from the settings themselves.

`--latency-seconds 0.2 --faults '{"500": 0.03}' --concurrency 8`: a value is JSON where it reads as JSON, else
text. The first line on standard output is {"base_url": ...}; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import inspect
import re
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import orjson

from crun_batch.errors import InputError
from crun_batch.simulator.server import Simulator, allow_many_connections
from crun_batch.simulator.settings import Settings, read_settings, read_settings_file

_DOCUMENTED = re.compile(r'^    (\w+): [^\n]*\n    """(.*?)"""', re.MULTILINE | re.DOTALL)


def parser() -> argparse.ArgumentParser:
    """The options: one per setting, with the setting's own words as its help."""
    options = argparse.ArgumentParser("crun-batch simulator", description="A simulated gateway on loopback.")
    options.add_argument(
        "--settings", type=Path, metavar="FILE", help="settings as a JSON file; options win over it"
    )
    options.add_argument("--settings-json", metavar="JSON", help="settings as JSON text; options win over it")
    options.add_argument(
        "--settings-stdin",
        action="store_true",
        help="settings as one line of JSON on standard input; the simulator ends when that is closed",
    )
    options.add_argument("--listening-fd", type=int, help=argparse.SUPPRESS)  # of the process that starts it
    for name, words in _DOCUMENTED.findall(inspect.getsource(Settings)):
        options.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=words.replace("%", "%%"))
    return options


def main_settings(arguments: Sequence[str] | None = None) -> tuple[Settings, bool, int | None]:
    """Settings from a command line, whether to end with standard input, an open socket to listen at.

    Raises InputError.
    """
    given = vars(parser().parse_args(arguments))
    listening = given.pop("listening_fd")
    path, text, from_stdin = given.pop("settings"), given.pop("settings_json"), given.pop("settings_stdin")
    settings = read_settings_file(path) if path is not None else Settings()
    for line in (text, sys.stdin.readline() if from_stdin else None):
        if line is not None:
            settings = read_settings(_object(line), base=settings)
    named = {name: _value(text) for name, text in given.items() if text is not None}
    return read_settings(named, base=settings), from_stdin, listening


def _object(text: str) -> dict[str, Any]:
    value = _value(text)
    if not isinstance(value, dict):
        raise InputError("the simulator's settings are no JSON object")
    return value


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def serve(arguments: Sequence[str] | None = None) -> int:
    """Run the simulator with options as on its command line until it is told to stop; the exit code."""
    try:
        settings, until_stdin_closes, listening = main_settings(arguments)
        simulator = Simulator(settings, None if listening is None else socket.socket(fileno=listening))
        allow_many_connections()
        gc.freeze()
        _run(_serve(simulator, until_stdin_closes))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"the simulator cannot listen: {error}\n")
        return 1
    return 0


def _run(main_task: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main_task)
    else:
        uvloop.run(main_task)


async def _serve(simulator: Simulator, until_stdin_closes: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), stop.set)
    async with simulator:
        sys.stdout.write(orjson.dumps({"base_url": simulator.base_url}).decode() + "\n")
        sys.stdout.flush()
        if not until_stdin_closes:
            sys.stderr.write(
                f"a job meets it with: export CRUN_BASE_URL={simulator.base_url} CRUN_API_KEY=ak_sim\n"
                "Ctrl-C ends it\n"
            )
        await stop.wait()
