"""The runs that a page shows: those that were named, or all below a folder, which may become more.

A run is asked for by its place in the list of this moment and by no path: nothing else can be opened.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from crun_batch.errors import InputError
from crun_batch.page.compared import COMPARED_BY, compared_document
from crun_batch.page.held import HeldRoom
from crun_batch.page.live import LiveStatus
from crun_batch.page.opened import fingerprint
from crun_batch.page.rows import RunRows, with_unanswered
from crun_batch.paths import is_folder
from crun_batch.state.listing import list_runs
from crun_batch.store.directory import RunDirectory

COMPARISONS_KEPT = 20


class ShownRun:
    """One run of the page, with what is kept open of it."""

    def __init__(self, path: Path, room: HeldRoom) -> None:
        self.path = path
        self.rows = RunRows(path, room)
        self.live = LiveStatus(path)
        self._compared: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._comparing = threading.Lock()

    def failures(self) -> dict[str, Any]:
        """As `RunRows.failures`; requests in flight at a kill among them, as the next session will call them."""
        return with_unanswered(self.rows.failures(), self.live.unanswered_at_a_kill())

    def compared(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """The variants side by side; the same question of the same run is answered from memory."""
        facets = self.rows.facets()
        question = repr([asked.get(name) for name in COMPARED_BY])
        with self._comparing:  # one at a time: each takes the machine for itself
            stamp = fingerprint(self.path), self.rows.people.stamp()
            known = self._compared.get(question)
            if known is None or known[0] != stamp:
                if len(self._compared) >= COMPARISONS_KEPT:
                    self._compared.clear()
                known = self._compared[question] = stamp, compared_document(self.path, facets, asked)
            return known[1]


class ShownRuns:
    """Runs by the name that stands in an address: the directory as it was named, or found below a folder."""

    def __init__(self, places: Sequence[Path]) -> None:
        gone = next((place for place in places if not is_folder(place)), None)
        if gone is not None:
            raise InputError(f"{gone}: there is no such folder")
        self._runs = tuple(place for place in places if is_run(place))
        self._folders = tuple(place for place in places if not is_run(place))
        self._opened: dict[str, ShownRun] = {}
        self._room = HeldRoom()
        self._lock = threading.Lock()

    def listed(self) -> list[dict[str, Any]]:
        """Every run there is now, as `runs` tells it. Raises InputError where a folder is gone."""
        found = [one for place in (*self._runs, *self._folders) for one in list_runs(place)]
        return list({one.directory: structs.asdict(one) for one in found}.values())

    def run(self, name: str | None) -> ShownRun:
        """The run of that name; without one, the first. Raises InputError where none is."""
        with self._lock:
            if name is not None and name in self._opened and is_run(self._opened[name].path):
                return self._opened[name]
            there = [*map(str, self._runs), *self._below()]
            if not there:
                raise InputError("there is no run here yet")
            wanted = there[0] if name is None else name
            if wanted not in there:
                raise InputError(f"{wanted}: this page shows no such run")
            return self._opened.setdefault(wanted, ShownRun(Path(wanted), self._room))

    def _below(self) -> list[str]:
        found = [one for folder in self._folders for one in list_runs(folder)]
        return [one.directory for one in found if one.problem is None]

    def close(self) -> None:
        """Close what is open of them."""
        for one in self._opened.values():
            one.rows.close()


def is_run(path: Path) -> bool:
    """Whether a run directory stands there."""
    return RunDirectory(path).has_job
