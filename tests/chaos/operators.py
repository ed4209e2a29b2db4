"""What people do to a run that is going on: move or delete its directory, stop the process, set the clock back."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .sessions import Nursery

DAY_SECONDS = 86_400
STOPPED = (0, 1, 7)
"""How a session may end whose directory goes away: done before it noticed, or exit 7."""
ENDED = (0, 1, -signal.SIGKILL)


def moved(nursery: Nursery, order: dict[str, Any], place: Path, chance: random.Random) -> int:
    """The directory is elsewhere for the rest of the session, and back before the next one."""
    elsewhere = place.with_name(f"{place.name}-elsewhere")
    code = nursery.session(order, None, (_soon(chance), lambda pid: _renamed(pid, place, elsewhere)))
    if elsewhere.exists():
        if place.exists():  # moved before the session had all its folders: it has made those it lacked
            place.rename(place.with_name(f"{place.name}-anew"))
        elsewhere.rename(place)
    return code


def deleted(nursery: Nursery, order: dict[str, Any], place: Path, chance: random.Random) -> int:
    """Nothing of the directory is left."""
    code = nursery.session(order, None, (_soon(chance), lambda _: shutil.rmtree(place, ignore_errors=True)))
    shutil.rmtree(place, ignore_errors=True)
    return code


def stopped(nursery: Nursery, order: dict[str, Any], place: Path, chance: random.Random) -> int:
    """SIGSTOP, SIGCONT after a second or two, and later a kill."""
    return nursery.session(order, 4.0 + chance.random(), (_soon(chance), lambda pid: _stopped(pid, chance)))


def clock_set_back(nursery: Nursery, order: dict[str, Any], place: Path, chance: random.Random) -> int:
    """The day's clock is a day behind from a moment on; then a kill."""
    order["clock_jump"] = [chance.uniform(0.0, 0.6), -DAY_SECONDS]
    return nursery.session(order, 0.5 + chance.random())


Operator = Callable[[Nursery, dict[str, Any], Path, random.Random], int]
OPERATORS: dict[Operator, tuple[int, ...]] = {
    moved: STOPPED,
    deleted: STOPPED,
    stopped: ENDED,
    clock_set_back: ENDED,
}
"""What may happen, and how a session may end by it."""


def _soon(chance: random.Random) -> float:
    return 0.2 + chance.expovariate(1 / 0.5)


def _renamed(pid: int, place: Path, elsewhere: Path) -> None:
    """Once the session has it open: one that finds none makes another, and pays for all of it with good reason."""
    lock = str(place / ".lock")
    with suppress(FileNotFoundError):  # the session has ended
        while lock not in _open_files(pid):
            time.sleep(0.01)
        place.rename(elsewhere)


def _open_files(pid: int) -> set[str]:
    """Raises FileNotFoundError where there is no such process."""
    files = set()
    for descriptor in list(Path(f"/proc/{pid}/fd").iterdir()):
        with suppress(FileNotFoundError):  # closed meanwhile
            files.add(str(descriptor.readlink()))
    return files


def _stopped(pid: int, chance: random.Random) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(chance.uniform(0.2, 1.5))
        os.kill(pid, signal.SIGCONT)
