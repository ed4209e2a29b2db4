"""How far a run has come, and everything that one session of it needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from crun_batch.options import RunOptions
from crun_batch.pricing.account import Account
from crun_batch.state.background import BackgroundCall
from crun_batch.state.done import DoneMarks
from crun_batch.store.directory import RunDirectory
from crun_batch.store.recover import Recovered
from crun_batch.store.schema import RunSchema
from crun_batch.workload.workload import Workload


class RecordedState(Struct):
    """How far a run has come."""

    account: Account
    done: DoneMarks
    pilot: Mapping[str, Any] | None = None
    """What the run's last pilot told."""


class RunState(RecordedState, kw_only=True):
    """A locked run directory, and how far its run has come."""

    directory: RunDirectory
    schema: RunSchema
    document: dict[str, Any]
    """What job.json said before this session; empty for a new run."""
    recovered: Recovered | None
    fingerprinting: BackgroundCall[dict[str, Any]]
    """Reads the whole table, which nothing before the first record has to wait for."""
    prices: Mapping[str, Any] = {}
    """The prices of this session, once they are chosen."""
    failed_verdicts: int = 0
    """Questions to judges that this session got no verdict for."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides whether finished units would still send the same requests. Raises InputError."""
        return self.fingerprinting.result()


class RunContext(Struct, frozen=True):
    """What every step of a run works with: what is to be done, how it is run, how far it has come."""

    workload: Workload
    options: RunOptions
    state: RunState
