"""The wire: one POST, and either a whole reply or a fault with its stage. The seam of the hot path.

It knows no protocol, no row and no retry: one call is at most one POST that reaches a server, and nothing here
sends anything twice.

What a fault's stage means: `not_sent` is proven (no byte of the request left this process), and may be sent again
for free; `unknown` is everything else, because the gateway may have billed it. The table of all faults is in
`docs/wire.md`; a test keeps it true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from crun_batch.gateway.http.bodies import MAX_BODY_BYTES, MAX_BYTES_IN_FLIGHT, ByteBudget, WireSettings
from crun_batch.gateway.http.descriptors import ensure_file_descriptors
from crun_batch.records import Fault, Response


class Wire(Protocol):
    """One way to send a POST. Safe for any number of calls at one time, on one event loop."""

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Awaitable[Response | Fault]:
        """Send once, follow nothing, retry nothing. Ends within `deadline_seconds`, connecting included.

        A network fault is a value. Raises InputError where the URL or a header could never be sent. End a call
        by its deadline, not by cancelling its task: a cancelled request may still reach the server.
        """
        ...

    async def close(self) -> None:
        """Close idle connections. Calls still under way end as faults of unknown outcome."""
        ...


@runtime_checkable
class WidenedWire(Protocol):
    """A wire that may be told of more calls at one time than it was opened for."""

    def widen(self, connections: int) -> None:
        """From now on so many. Raises InputError where the process may not open that many files."""
        ...


def open_wire(
    *,
    connections: int,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_bytes_in_flight: int = MAX_BYTES_IN_FLIGHT,
    connect_timeout_seconds: float = 10.0,
    urls: Iterable[str] = (),
    ca_files: Mapping[str, Path] | None = None,
) -> Wire:
    """Open the wire for at most `connections` calls at one time.

    `urls`: where calls will go, as far as it is known; what they need is made ready now. `ca_files`: URL -> a
    file of CA certificates (PEM) that are trusted there besides the system's. Raises InputError where the
    process may not open that many files, or a proxy or certificates of the environment cannot be used.
    """
    from crun_batch.gateway.http.direct import DirectWire  # brings asyncio, ssl and a parser with it

    ensure_file_descriptors(connections)
    budget = ByteBudget(max_bytes_in_flight, connections)
    settings = WireSettings(budget, max_body_bytes, connect_timeout_seconds, connections)
    return DirectWire(settings, urls, ca_files)
