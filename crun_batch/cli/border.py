"""The border of the command line: whatever ends a command leaves as an exit code and words.

Owns signals outside of sending (sending has its own, which drain), and the translation of every error. No
traceback passes here, unless CRUN_BATCH_DEBUG asks for it.
"""

from __future__ import annotations

import atexit
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

import typer

from crun_batch.cli.lean import load_arrow_for
from crun_batch.cli.options import resume_command
from crun_batch.cli.output import (
    complain_of,
    complain_of_bug,
    error_document,
    make_standard_error_patient,
    out_json,
    say,
)
from crun_batch.errors import (
    EXIT_BUG,
    EXIT_DISK,
    EXIT_INPUT,
    SIGNALS,
    CrunBatchError,
    DiskFailed,
    RefusedToStart,
    refusals_of_the_system,
    wanted_signals,
)

TOLD_AGAIN_SECONDS = 0.05
"""When a signal is given again that came at a moment at which nothing may be made of it."""
_NOTHING_RAISED_IN = (
    "ExtensionFileLoader.",
    "_get_module_lock.<locals>.cb",
    "WeakSet.__init__.<locals>._remove",
    "WeakKeyDictionary.__init__.<locals>.remove",
    "WeakValueDictionary.__init__.<locals>.remove",
)
"""Functions of such moments, `__del__` beside them. A library in C that is being loaded bears no exception in its
first steps (orjson ends by SIGSEGV); where an object ends, the interpreter shows the exception and goes on."""
USAGE_WORDS = {
    "Value error, ": "",
    "Input should be a valid integer, unable to parse string as an integer": "must be a whole number",
    "Input should be a valid number, unable to parse string as a number": "must be a number",
}
"""Of the library that reads options -> ours."""
LEAST_ADDRESS_SPACE_BYTES = 5 * 2**29
"""What a small run reserves is 1.8 GiB on two processors."""


class _Signalled(SystemExit):
    """A signal outside of sending: a SystemExit, which event loops and libraries let pass.

    A library in C that meets it may end the process at once, with this exit code and without coming back here.
    """

    def __init__(self, number: signal.Signals) -> None:
        self.exit_code, self.name = SIGNALS[number]
        super().__init__(self.exit_code)


def guarded(command: Callable[[], int | None], given: Sequence[str]) -> int:
    """Run `command`, made of the arguments `given`; its exit code, or that of what stopped it."""
    make_standard_error_patient()
    raised: list[_Signalled] = []

    def caught(number: int, frame: FrameType | None) -> None:
        if _bears_no_exception(frame):
            again = threading.Timer(TOLD_AGAIN_SECONDS, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        signalled = _Signalled(signal.Signals(number))
        raised.append(signalled)
        atexit.register(say_ended, signalled.name)
        raise signalled

    def say_ended(name: str) -> None:
        say(f"{name}: ended; what was recorded stays{_way_on(given)}")

    former = {number: signal.signal(number, caught) for number in wanted_signals()}
    try:
        refuse_little_address_space()
        load_arrow_for(given)
        with refusals_of_the_system():
            return command() or 0
    except _Signalled as signalled:
        say_ended(signalled.name)
        return signalled.exit_code
    except typer.TyperException as error:
        return _usage(error)
    except CrunBatchError as error:
        if "--json" in given:
            with suppress(DiskFailed):  # said in words
                out_json(error_document(error))
        complain_of(error)
        return error.exit_code
    except MemoryError:
        say(f"there is no memory left; what was recorded stays{_way_on(given)}")
        return EXIT_DISK
    except Exception as error:  # noqa: BLE001 - the last border: said in one sentence, with its own exit code
        if raised:  # a library that met the signal made an error of its own of it, as pydantic of a schema
            say_ended(raised[0].name)
            return raised[0].exit_code
        complain_of_bug(error)
        return EXIT_BUG
    finally:
        atexit.unregister(say_ended)
        for number, handler in former.items():
            signal.signal(number, handler)


def _bears_no_exception(frame: FrameType | None) -> bool:
    """Whether an exception raised there would be lost, or end the process in the middle of a step."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_qualname.startswith(_NOTHING_RAISED_IN):
            return True
        frame = frame.f_back
    return False


def refuse_little_address_space() -> None:
    """Where there is too little, libraries that read tables end the process, each in its way: none is loaded yet.

    Raises RefusedToStart.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE_BYTES:
        raise RefusedToStart(
            f"this process may use {limit / 2**30:.1f} GiB of address space (ulimit -v); it needs "
            f"{LEAST_ADDRESS_SPACE_BYTES / 2**30:.1f} GiB, most of which is reserved and never touched",
            advice="Lift it (ulimit -v unlimited); a container or systemd-run -p MemoryMax=1G limits the memory.",
        )


def _way_on(given: Sequence[str]) -> str:
    if given[:1] in (["status"], ["view"]):
        return "; the run is left alone"
    return f"; resume with: {resume_command([sys.argv[0], *given])}" if given[:1] == ["run"] else ""


def _usage(error: typer.TyperException) -> int:
    """What is wrong with the command line itself, and how it is used."""
    show = getattr(error, "show", None)
    if show is not None:
        for words, ours in USAGE_WORDS.items():
            error.message = error.message.replace(words, ours)
        show()
    else:
        say(error.format_message())
    return EXIT_INPUT
