"""A disk in a real process that kills itself, by SIGKILL, before, within or after its k-th operation."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from simulation.mortal import MortalDisk

from crun_batch.store.disk import Disk


class DeadlyDisk(MortalDisk):
    """Does all for real, and then dies for real."""

    def sync(self, descriptor: int) -> None:
        self._step("sync", lambda: Disk.sync(self, descriptor))

    def sync_folder(self, path: Path) -> None:
        self._step(f"sync folder {path.name}", lambda: Disk.sync_folder(self, path))

    def _die(self, name: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
