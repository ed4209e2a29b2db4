"""What a run stands on besides its job: the disk, threads, the network of the control calls. Replaced in tests."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from msgspec import Struct

from crun_batch.store.disk import Disk
from crun_batch.store.journal import JournalSettings
from crun_batch.store.syncer import Syncer


class Ground(Struct, frozen=True):
    """The defaults are the real things."""

    disk: Disk | None = None
    journal: JournalSettings | None = None
    syncer: Callable[[], Syncer] | None = None
    """Makes what syncs the journal; None: a thread."""
    in_place: bool = False
    """Read the table and seal segments where they are asked for, not in threads: what a simulation needs."""
    transport: httpx.AsyncBaseTransport | None = None
    """Carries the control calls (models, balance); None: the network."""
    balance_every_seconds: float = 60.0
    """How often the balance is read while requests are sent."""
    balance_reads: int = 30
    """How often a pilot reads the balance at most, until it stands still."""
    balance_pause_seconds: float = 1.0
    """How long it waits between two of these readings."""
