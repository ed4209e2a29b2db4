"""What every way of submitting batches offers, whatever its paths: five states, a few calls, kinds of trouble.

    transport   file     requests are uploaded, and a batch is made of the file: the list of batches names it
                inline   they are the body of the call that makes the batch: nothing in the list names them
    results     output and error file, one stream, or a part of the batch itself: `BatchTold.files` names what
                there is to read, `lines` says what it tells

A gateway's own statuses are folded here, so that nothing above knows one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from msgspec import Struct

from crun_batch.records import Failure, Fault, Response

BatchState = Literal["accepted", "running", "ending", "ended", "refused"]


class BatchTold(Struct, frozen=True):
    """What a gateway says of a batch. `refused`: it failed as a whole, and none of its requests was done."""

    id: str
    state: BatchState
    status: str
    """In the gateway's own word, in small letters."""
    file_id: str | None = None
    """The file that its requests came in: what a lost batch is found by. None: they came inline."""
    requests: int | None = None
    """How many it has. None: the gateway does not say, or not yet."""
    model: str | None = None
    """Which is asked. None: the gateway does not say."""
    created_at: float = 0.0
    """Seconds since 1970; 0: the gateway does not say."""
    done: int | None = None
    """Requests that were done or refused; the others were never done. None: the gateway does not count them."""
    files: tuple[tuple[str, str], ...] = ()
    """(output, error or results; its name at the gateway)."""
    code: str | None = None
    why: str | None = None
    """What it failed with."""


class CallTrouble(Struct, frozen=True):
    """A call that brought nothing."""

    fate: Literal["not_done", "unclear", "not_there"]
    """`not_done`: the gateway has said no, or was never reached. `unclear`: it may have done what was asked.
    `not_there`: it has no such call, file or batch."""
    failure: Failure
    """What it said, classified as a reply to a request is."""


class BatchLineRead(Struct, frozen=True):
    """A line of a batch's files: for which request, and what came of it as if it had been sent alone."""

    custom_id: str
    arrival: Response | Fault


class ControlWire(Protocol):
    """What carries the calls."""

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Awaitable[Response | Fault]:
        """See `http.wire.Wire`."""
        ...

    async def get(self, url: str, headers: Mapping[str, str], deadline_seconds: float) -> Response | Fault:
        """The same for a GET."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class BatchForm(Protocol):
    """One way to submit batches. Every call ends within its deadline; trouble is a value."""

    list_path: str
    """Where its batches are listed, below the gateway's base URL."""

    def content(self, requests: Iterable[tuple[str, bytes]]) -> bytes:
        """What is sent for these requests, (custom id, body) each: a file, or the body of the call."""
        ...

    def lines(self, content: bytes) -> Iterator[BatchLineRead | None]:
        """What the lines of something say that a batch has left; None: a line that is none."""
        ...

    async def probe(self) -> CallTrouble | None:
        """Whether there are batches at all; asks nothing that costs."""
        ...

    async def listed(self, since_seconds: float) -> Sequence[BatchTold] | CallTrouble:
        """The batches that were made since then, and it may be older ones."""
        ...

    async def look(self, batch_id: str) -> BatchTold | CallTrouble:
        """How far a batch is."""
        ...

    async def read(self, name: str) -> bytes | CallTrouble:
        """Something that a batch has left, without the secrets that a gateway may repeat."""
        ...

    async def cancel(self, batch_id: str) -> BatchTold | CallTrouble:
        """Ask that it stops."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


@runtime_checkable
class FileForm(BatchForm, Protocol):
    """Requests go in a file."""

    async def upload(self, name: str, content: bytes) -> str | CallTrouble:
        """Keep a file of requests there; its name there."""
        ...

    async def create(self, file_id: str, tags: Mapping[str, str]) -> BatchTold | CallTrouble:
        """Start a batch of that file's requests. `unclear`: it may run."""
        ...


@runtime_checkable
class InlineForm(BatchForm, Protocol):
    """Requests go in the call that makes the batch."""

    async def submit(self, content: bytes) -> BatchTold | CallTrouble:
        """Start a batch of these requests. `unclear`: it may run."""
        ...


# A batch that ended before it came to the request is a `timeout`; one that never took it, or none of all, is not.
EXPIRED = Fault("not_sent", "timeout", "its batch's time was over before this request was done")
CANCELLED = Fault("not_sent", "timeout", "its batch was cancelled before this request was done")
FAILED = Fault("not_sent", "connection", "its batch failed as a whole: no request of it was done")
LOST = Fault(
    "unknown", "bad_reply", "its batch is over and no file has a line for it: it may have been done and billed"
)


def done_at_the_end(told: BatchTold, requests: int) -> int:
    """How many of its requests a batch that is over has done, at most: all, where nobody has counted them."""
    if told.state == "refused":
        return 0
    return requests if told.done is None else told.done


def missing_line(told_done: int, lines_read: int, status: str) -> Fault:
    """What became of a request that no line tells of.

    Where the gateway counts no more requests as done than there are lines, this one was not done: it is free. Else
    some of those without a line were done, and nobody knows which.
    """
    if lines_read < told_done:
        return LOST
    return {"failed": FAILED, "cancelled": CANCELLED, "canceled": CANCELLED}.get(status, EXPIRED)
