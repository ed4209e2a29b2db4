"""A batch while a session works at it, and the figures by which the job is cut into batches. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING

from msgspec import Struct, field

from crun_batch.console.amounts import UNKNOWN, counted, from_pico, money
from crun_batch.console.batch_words import batch_name
from crun_batch.gateway.batches.form import BatchLineRead
from crun_batch.records import Attempt, Fault, Hold, Response, Ticket
from crun_batch.store.batches import OVER, BatchEntry, BatchStep

LINE_BYTES = 120
"""What a line takes beside the body: custom id, method, path."""
MOST_BYTES_AWAITED = 512 * 2**20
MOST_REQUESTS_AWAITED = 200_000
"""Bodies and requests that are in memory, waiting for a batch or in one: more are not drawn."""


class Ending(Struct, frozen=True):
    """What is known of the requests of a batch of which nothing more comes."""

    arrivals: Mapping[int, Response | Fault]
    """Serial -> what was told of it."""
    missing: Fault
    """What became of those that nothing tells of."""
    step: BatchStep = "settled"
    """What the disk says of the batch when they are recorded."""
    is_uncounted: bool = False
    """Whether a failure is none of the requests' own."""
    is_too_much: bool = False
    """Whether the gateway took no batch of so many tokens."""


class LiveBatch(Struct):
    """One batch: what the disk says of it, its requests that this session knows, when to do something next."""

    entry: BatchEntry
    variant: int
    attempts: dict[int, Attempt] = field(default_factory=dict)
    """Serial -> request, until it is concluded."""
    due: float = 0.0
    """Monotonic second from which its next step may be tried."""
    content: bytes = b""
    """What is sent for its requests, until the gateway has it, or may have it."""
    ending: Ending | None = None
    """Once nothing more comes of it."""
    ruled_out: frozenset[str] = frozenset()
    """Of batches that it might have been those that are not it."""
    absent_since: float | None = None
    """When the list of batches was first readable and did not have it; or its files were, and did not have all."""
    fetched: set[str] = field(default_factory=set)
    """Which of its files this session has read."""
    failing_since: float | None = None
    failures: int = 0
    enqueued_before: int | None = None
    """Tokens in the variant's other batches when it was drafted; None: an earlier session has drafted it."""
    was_running: bool = False
    """Whether this session has seen it before its end."""

    @property
    def is_of_earlier_session(self) -> bool:
        """Whether what refused it may have been mended since: a balance, a key, the gateway itself."""
        return self.enqueued_before is None

    @property
    def is_over(self) -> bool:
        """Whether the disk says that nothing more comes of it."""
        return self.entry.step in OVER

    @property
    def is_enqueued(self) -> bool:
        """Whether its tokens count against the gateway's limit, as far as is known."""
        return self.entry.step != "stored"

    @property
    def bytes_awaited(self) -> int:
        return sum(len(attempt.ticket.body) for attempt in self.attempts.values())


class BatchLimits(Struct, frozen=True):
    """What a batch may hold at most, as the job file says it, and how the gateway is asked about batches."""

    requests: int
    bytes: int
    enqueued_tokens: int | None
    look_seconds: float
    absent_seconds: float
    """How long the list must not have a batch, whose create call nobody answered, before it is created again."""
    give_up_seconds: float


class Filling:
    """How much of a batch is taken: says whether one more request fits."""

    def __init__(self, limits: BatchLimits, free_tokens: int | None) -> None:
        self._limits = limits
        self._free_tokens = free_tokens
        self.requests = self.bytes = self.tokens = 0

    def fits(self, ticket: Ticket) -> bool:
        """Whether the request fits; the first one always does where nothing limits tokens, however large it is."""
        if self._free_tokens is not None and self.tokens + ticket.bound_tokens > self._free_tokens:
            return False
        if not self.requests:
            return True
        size = self.bytes + len(ticket.body) + LINE_BYTES
        return self.requests < self._limits.requests and size <= self._limits.bytes

    def add(self, ticket: Ticket) -> None:
        self.requests += 1
        self.bytes += len(ticket.body) + LINE_BYTES
        self.tokens += ticket.bound_tokens


def tag_of(place: str, number: int, at: int) -> str:
    """What the custom ids of a batch begin with: no other run's, and no other batch's."""
    return hashlib.blake2b(f"{place} {number} {at}".encode(), digest_size=6).hexdigest()


def custom_id(tag: str, serial: int) -> str:
    """A request's name in its batch: at most 64 characters everywhere."""
    return f"{tag}-{serial}"


def serial_of(name: str, entry: BatchEntry) -> int | None:
    """The request that a custom id names; None: it is none of this batch's."""
    tag, _, digits = name.rpartition("-")
    serial = int(digits) if tag == entry.tag and digits.isdecimal() and len(digits) < 19 else -1
    return serial if serial in entry.serials else None


def arrivals_by_serial(
    lines: list[BatchLineRead | None], entry: BatchEntry
) -> tuple[dict[int, Response | Fault], int]:
    """What the lines of a batch's files say of its requests, each once; and how many lines belong to none.

    Of two lines about one request a reply goes before none, and the first before the second: it was paid once.
    """
    found: dict[int, Response | Fault] = {}
    strays = 0
    for line in lines:
        serial = None if line is None else serial_of(line.custom_id, entry)
        if line is None or serial is None:
            strays += 1
        elif not isinstance(found.get(serial), Response):
            found[serial] = line.arrival if isinstance(line.arrival, Response) else found.get(serial, line.arrival)
    return found, strays


def holds_together(holds: list[Hold]) -> Mapping[str, int | None]:
    """The sum, as the fields of a BatchEntry; None in a unit in which one of them is not bounded."""

    def total(amounts: list[int | None]) -> int | None:
        known = [amount for amount in amounts if amount is not None]
        return sum(known) if len(known) == len(amounts) else None

    return {
        "held_usd": total([hold.usd_pico for hold in holds]),
        "held_credits": total([hold.credits_pico for hold in holds]),
    }


def name_of(entry: BatchEntry) -> str:
    """What a batch is called in words, as far as it has a name."""
    return batch_name(entry.batch_id, entry.file_id, entry.suspects)


def words_of_what_stays(entries: Sequence[BatchEntry], *, gateway_ends: bool) -> str:
    """What a session that ends leaves at the gateway, and what can be done about it."""
    names = ", ".join(map(name_of, entries))
    batches = counted(len(entries), "batch")
    requests = counted(sum(entry.requests for entry in entries), "request")
    held = holds_together([Hold(entry.held_usd, entry.held_credits) for entry in entries])
    reserved = money(from_pico(held["held_usd"]), from_pico(held["held_credits"]), ROUND_CEILING)
    what = f"{names}; {requests}" + ("" if reserved == UNKNOWN else f", {reserved} reserved")
    is_one = len(entries) == 1
    if gateway_ends:
        ends, them = ("ends", "it") if is_one else ("end", "them")
        return f"{batches} ({what}) {ends} with the simulator: run again sends {them} anew"
    stays, are, them = ("stays", "it is", "it") if is_one else ("stay", "they are", "them")
    paid = f"{'is' if is_one else 'are'} paid when {are} done"
    return (
        f"{batches} {stays} at the gateway ({what}) and {paid}: "
        f"run again to collect {them}, or crun-batch cancel RUN"
    )
