"""What a session sends with: opened once, shared by the rows and by the judges of their answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from msgspec import Struct, field

from crun_batch.gateway.admission import Lane
from crun_batch.gateway.http.wire import Wire
from crun_batch.preflight.balance import KeepBalance
from crun_batch.preflight.prices import Bill
from crun_batch.workload.endpoint import Endpoint


class Lanes(dict[tuple[str, Hashable, str | None], Lane]):
    """The limits of each (base URL, account, model) that has been asked in this session.

    An account is known by its key: the repr, which tracebacks print, shows none.
    """

    def __repr__(self) -> str:
        return f"Lanes({len(self)})"


class Extent(Struct, frozen=True):
    """How much is to be done: units that were done before this session, and units that it is to finish."""

    done_before: int
    to_do: int


class Resources(Struct, frozen=True):
    """All that sending needs beside the run's context."""

    wire: Wire
    bill: Bill
    endpoints: Sequence[Endpoint]
    """One for each variant, then one for each judge."""
    redact: Callable[[bytes], bytes]
    executor: Executor | None
    """Reads the table ahead, and says that there may be threads; None: everything in place."""
    extent: Extent
    summary: Callable[[int, float], Mapping[str, Any]]
    """What summary.json says after this session has finished so many units in so many seconds."""
    keep_balance: KeepBalance | None
    lanes: Lanes = field(default_factory=Lanes)
