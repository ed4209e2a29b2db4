"""What the pool needs from outside: where requests go, what is done at each event, where tickets come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from msgspec import Struct

from crun_batch.gateway.admission import Admitted, Lane
from crun_batch.gateway.protocols import Protocol as WireProtocol
from crun_batch.gateway.retry import RetryPolicy
from crun_batch.gateway.spread import AnyLane, Destination, Spread
from crun_batch.gateway.steering import Allowance
from crun_batch.records import Attempt, Fault, Halt, Outcome, Response, Room, Ticket

NO_ROOM = "there is no room for one more request"
"""Why a run halts whose next request cannot be reserved, with none in flight that could give room."""


class Route(Struct, frozen=True):
    """Where the tickets of one variant go."""

    lane: Lane
    url: str
    headers: Mapping[str, str]
    protocol: WireProtocol
    stream: bool
    name: str = ""
    """The variant's, for people."""
    key: str = "the key"
    """Where its key is from, for people."""
    spread: Spread | None = None
    """Of a list of endpoints: what gives each ticket one of them."""
    place: Destination | None = None
    """That endpoint, where this is the way to it."""
    by_endpoint: Mapping[str, Route] = {}
    """Of a list: the way to each of its endpoints; the fields above are then those of the first."""

    @property
    def queued_in(self) -> AnyLane:
        """What its tickets wait for."""
        return self.lane if self.spread is None else self.spread


class Hooks(Protocol):
    """What a session does at each event. All are synchronous, and on disk before anything follows from them."""

    def together(self) -> AbstractContextManager[None]:
        """What is recorded inside is written when the block ends, at once."""

    def reserve(self, ticket: Ticket) -> Room:
        """Hold the ticket's money; "none": no room for it now; "wait": none now, more may come from outside."""

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        """These requests are about to go."""

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        """Replies, or the ends of the waits for them, before anything reads them; returns what is to be read."""

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        """What was made of them; returns for each the follow-up of its unit, to be sent before new rows."""


class TicketSource(Protocol):
    """New tickets, in order."""

    def next(self) -> Ticket | Literal["wait", "end"]:
        """The next ticket; "wait": none yet, the source calls the pool's `wake` when there is one."""


class Sender(Protocol):
    """What sends the tickets of a phase: the pool, or the batch lane."""

    halt: Halt | None

    @property
    def waits_for_money(self) -> bool:
        """Whether nothing goes because the next request does not fit, and more money may come."""
        ...

    async def run(self) -> Halt | None:
        """Until all is done or a halt has ended it; why it ended early."""
        ...

    def stop(self, halt: Halt) -> None:
        """No new requests from now on."""
        ...

    def refuse(self, variant: int, halt: Halt) -> None:
        """The gateway refuses this variant."""
        ...

    def leave_out(self, endpoint: str | None, halt: Halt) -> None:
        """An endpoint can pay no more."""
        ...

    def abandon(self) -> None:
        """End now."""
        ...

    def wake(self) -> None:
        """The source has a ticket again."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests that were sent and are not concluded."""
        ...

    @property
    def in_batches(self) -> int:
        """Those of them that a stop leaves where they are."""
        ...

    @property
    def awaited(self) -> tuple[int, int]:
        """Batches that are out, and how many of their requests are done, as far as the gateway tells."""
        ...

    @property
    def limit(self) -> int:
        """How many may be."""
        ...

    @property
    def waiting_seconds(self) -> float:
        """How long nothing may be sent."""
        ...


class Sending(Struct, frozen=True, gc=False):
    """One request, ready for the wire or on it."""

    attempt: Attempt
    admitted: Admitted
    route: Route


class PoolSettings(Struct, frozen=True):
    """`limits` of the job file, as far as they concern the pool."""

    concurrency: int
    attempt_timeout_seconds: float
    retry: RetryPolicy
    give_up_after_seconds: float
    set_aside: Callable[[int, str], None] | None = None
    """Told that a variant was set aside, and why: none of its tickets is sent any more. None: the run stops."""
    refused: Mapping[int, str] = {}
    """Variants that are set aside from the start, each with the reason: their source makes no tickets."""
    allowance: Allowance | None = None
    """Says what may be in flight at each moment, `concurrency` included. None: `concurrency`, always."""

    def allowed(self) -> Allowance:
        """What says how many may be in flight."""
        return self.allowance or Allowance(self.concurrency)
