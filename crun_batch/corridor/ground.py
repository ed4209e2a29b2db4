"""What a run stands on besides its job: the disk, threads, the network of the control calls. Replaced in tests."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from msgspec import Struct

from crun_batch.store.disk import Disk
from crun_batch.store.journal import JournalSettings, Syncer


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
