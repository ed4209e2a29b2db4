"""A disk in a real process that gives itself a signal before, within or after its k-th operation."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from simulation.mortal import MortalDisk, When

from crun_batch.store.disk import Disk


class DeadlyDisk(MortalDisk):
    """Does all for real, and then dies for real; or, by a signal that is no end, goes on and is not hit again."""

    def __init__(self, at: int, when: When, number: signal.Signals = signal.SIGKILL) -> None:
        """`number`: one that is no end goes with `after` alone."""
        super().__init__(at, when)
        self.number = number

    def sync(self, descriptor: int) -> None:
        self._step("sync", lambda: Disk.sync(self, descriptor))

    def sync_folder(self, path: Path) -> None:
        self._step(f"sync folder {path.name}", lambda: Disk.sync_folder(self, path))

    def _die(self, name: str) -> None:
        self.at = None
        if self.number is not signal.SIGKILL:
            print(sent(self.number), name, file=sys.stderr, flush=True)
        os.kill(os.getpid(), self.number)


def sent(number: signal.Signals) -> str:
    """What is said before a signal that is no end."""
    return f"{number.name} comes after"
