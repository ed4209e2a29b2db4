"""The processes of one job by several workers: started, found, killed, cut off; whoever started them in which way.

A team is asked for its parts again and again: whoever was killed may have a successor that nobody here started.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from crun_batch.store.holder import holder

from .cables import Cables, free_port
from .cluster import Nodes
from .nest import Hatched, Nest

OVER = (0, 1, 4)
"""Exit codes of the process that merges: all rows, some of them not ok, the budget is used up."""
DRIVER, GIVER = "driver", "coordinator"
WORKER, NODE = "worker", "node"
STOPPED_WITHIN_SECONDS = 5.0


class Team:
    """Who works on one job file, in its folder. Parts are named: a driver, a coordinator, workers by number."""

    cuts_cables = False
    """Whether it is a place that is cut off, with whoever comes there; else a process stands still."""

    def __init__(self, nest: Nest, job: Path, workers: int) -> None:
        self.nest, self.job, self.workers = nest, job, workers
        self.log = job.with_suffix(".log")
        self.run = job.with_name("run")
        self.places = [job.with_name(f"run-shard-{number}-of-{workers}") for number in range(1, workers + 1)]
        self.leader: Hatched | None = None
        self.leads_with: list[object] = []

    def start(self) -> None:
        """Whoever is not there and is to be started by a person, or by a scheduler."""
        if self.leader is None or self.leader.poll() not in (None, *OVER):
            self.leader = self.nest.start(self.log, *self.leads_with)

    @property
    def exit_code(self) -> int | None:
        """How the process that merges has ended; None: not yet, or not by itself."""
        return None if self.leader is None else self.leader.poll()

    def parts(self) -> dict[str, int]:
        """The processes that live."""
        raise NotImplementedError

    def falls_with(self, pid: int) -> list[int]:
        """The processes that end where this one does, and it."""
        return [pid]

    def cut(self, number: int) -> bool:
        """Cut a worker off, by its number from 0; whether it lives."""
        return self._signalled(f"{WORKER} {number + 1}", signal.SIGSTOP)

    def mend(self, number: int) -> None:
        """And let it be back."""
        self._signalled(f"{WORKER} {number + 1}", signal.SIGCONT)

    def end(self) -> None:
        """Nothing is left running."""
        for pid in self.parts().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _leads(self) -> dict[str, int]:
        return {} if self.leader is None or self.leader.poll() is not None else {DRIVER: self.leader.pid}

    def _by_their_locks(self) -> dict[str, int]:
        found = {f"{WORKER} {number}": process_at(place) for number, place in enumerate(self.places, 1)}
        return {part: pid for part, pid in found.items() if pid is not None}

    def _signalled(self, part: str, number: signal.Signals) -> bool:
        pid = self.parts().get(part)
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        return True


class OneMachine(Team):
    """`run --workers N`: the driver gives the leases, and starts its workers itself."""

    def __init__(self, nest: Nest, job: Path, workers: int) -> None:
        super().__init__(nest, job, workers)
        self.leads_with = ["run", job, "--workers", workers, "--yes", "--until-budget"]

    def parts(self) -> dict[str, int]:
        return self._leads() | self._by_their_locks()


class Coordinated(Team):
    """A coordinator's process, and a process for each shard, at the end of a cable of its own."""

    cuts_cables = True

    def __init__(self, nest: Nest, job: Path, workers: int) -> None:
        super().__init__(nest, job, workers)
        port = free_port()
        self.cables = Cables(workers, port)
        self.leads_with = ["coordinator", job, "--shards", workers, "--port", port, "--yes", "--until-budget"]
        self.own: list[Hatched | None] = [None] * workers

    def start(self) -> None:
        super().start()
        for number, own in enumerate(self.own):
            if own is None or own.poll() not in (None, *OVER):
                url = f"http://127.0.0.1:{self.cables.port(number)}"
                shard = f"{number + 1}/{self.workers}"
                self.own[number] = self.nest.start(
                    self.log, "run", self.job, "--shard", shard, "--coordinator", url
                )

    def parts(self) -> dict[str, int]:
        leads = self._leads()
        return ({GIVER: leads[DRIVER]} if leads else {}) | {
            f"{WORKER} {number}": own.pid
            for number, own in enumerate(self.own, 1)
            if own is not None and own.poll() is None
        }

    def cut(self, number: int) -> bool:
        self.cables.cut(number)
        return True

    def mend(self, number: int) -> None:
        self.cables.mend(number)

    def end(self) -> None:
        super().end()
        self.cables.close()


class OnRay(Team):
    """Actors of a cluster: one gives leases, one for each shard works; the driver starts them, and may die.

    A node's raylet dies with all that runs on the node. It is replaced.
    """

    def __init__(self, nest: Nest, job: Path, workers: int, nodes: Nodes) -> None:
        super().__init__(nest, job, workers)
        self.nodes = nodes
        self.leads_with = ["run", job, "--ray", nodes.address, "--workers", workers, "--yes", "--until-budget"]

    def start(self) -> None:
        self.nodes.replace_dead()
        super().start()

    def parts(self) -> dict[str, int]:
        giver = process_at(self.run.with_name("run-leases"))
        nodes = {f"{NODE} {number}": pid for number, pid in self.nodes.living().items()}
        return self._leads() | self._by_their_locks() | nodes | ({} if giver is None else {GIVER: giver})

    def falls_with(self, pid: int) -> list[int]:
        if pid not in self.nodes.living().values():
            return [pid]
        stopped([pid])  # it starts no other
        return [pid, *children(pid)]

    def end(self) -> None:
        """Its actors too; the cluster goes on."""
        nodes = self.nodes.living().values()
        for pid in self.parts().values():
            if pid not in nodes:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def process_at(place: Path) -> int | None:
    """Who has this run directory, or book of leases, now."""
    said = holder(place) if place.is_dir() else None
    found = None if said is None else re.match(r"process (\d+) on ", said)
    return None if found is None else int(found[1])


def stopped(pids: Sequence[int]) -> None:
    """These processes stand still when this returns, or are gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + STOPPED_WITHIN_SECONDS
    while any(_state(pid) not in ("T", "Z", "X", None) for pid in pids):
        assert time.monotonic() < until, f"one of {pids} does not stand still"
        time.sleep(0.001)


def children(pid: int) -> list[int]:
    """The processes that this one has started, and that live."""
    found = (int(one.name) for one in Path("/proc").iterdir() if one.name.isdecimal())
    return [one for one in found if _told_of(one)[1:2] == [str(pid)]]


def _state(pid: int) -> str | None:
    return next(iter(_told_of(pid)), None)


def _told_of(pid: int) -> list[str]:
    """Its state, the process that started it, and more; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


TEAMS: Mapping[str, Any] = {"one machine": OneMachine, "coordinated": Coordinated, "ray": OnRay}
