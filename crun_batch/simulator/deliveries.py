"""Replies as bytes and waits, whole or damaged as a fault wants it. Pure: decides nothing, sends nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct, structs

from crun_batch.simulator.connection import Delivery, chunk, reply_bytes, reply_head
from crun_batch.simulator.settings import Settings
from crun_batch.simulator.spoiling import is_spoiling, spoiled

Headers = tuple[tuple[str, str], ...]
_END = chunk(b"")


class Body(Struct, frozen=True):
    """A 200 reply before it is sent: one piece of JSON, or the events of a stream.

    The first byte comes after `latency_seconds`; writing the rest takes `writing_seconds`.
    """

    pieces: list[bytes]
    streamed: bool
    latency_seconds: float = 0.0
    writing_seconds: float = 0.0
    headers: Headers = ()

    @property
    def whole_seconds(self) -> float:
        """When all of it is written."""
        return self.latency_seconds + self.writing_seconds


def deliver(body: Body, fault: str | None, settings: Settings, finished: Callable[[], None]) -> Delivery:
    """The script for a reply under a fault that the request is charged for, or under none."""
    if fault is not None and is_spoiling(fault):
        pieces = spoiled(body.pieces, fault, streamed=body.streamed)
        body, fault = structs.replace(body, pieces=pieces), None
    if fault is not None:
        steps, end = _DAMAGED[fault](body, settings)
        return Delivery(steps, end, settings.stall_seconds, finished)
    if body.streamed and body.writing_seconds:
        return Delivery(_paced(body), finished=finished)
    if not body.streamed:
        return Delivery(
            [(body.whole_seconds, reply_bytes(200, body.pieces[0], headers=body.headers))], finished=finished
        )
    return Delivery([(body.whole_seconds, _head(body) + b"".join(_coded(body)))], finished=finished)


def with_error(body: Body, error: bytes) -> Body:
    """The reply with an error in place of its second half (stream) or of all of it."""
    pieces = [*body.pieces[: len(body.pieces) // 2], error] if body.streamed else [error]
    return Body(pieces, body.streamed, body.latency_seconds, body.writing_seconds, body.headers)


Steps = list[tuple[float, bytes]]
End = Literal["keep", "close", "reset", "stall"]


def _head(body: Body, content_type: str | None = None) -> bytes:
    if body.streamed:
        head = reply_head(200, content_type or "text/event-stream; charset=utf-8", body.headers)
        return head + b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
    length = sum(map(len, body.pieces))
    return (
        reply_head(200, content_type or "application/json", body.headers) + b"Content-Length: %d\r\n\r\n" % length
    )


def _coded(body: Body) -> list[bytes]:
    return [*map(chunk, body.pieces), _END] if body.streamed else body.pieces


def _paced(body: Body) -> Steps:
    first, *rest = _coded(body)
    pause = body.writing_seconds / max(1, len(rest) - 1)
    steps = [(body.latency_seconds, _head(body) + first), *((pause, piece) for piece in rest[:-1])]
    return [*steps, (0.0, rest[-1])]


def _half(body: Body) -> Steps:
    coded = b"".join(_coded(body))
    return [(body.whole_seconds, _head(body) + coded[: len(coded) // 2])]


def _silent(end: End) -> Callable[[Body, Settings], tuple[Steps, End]]:
    return lambda body, settings: ([(body.whole_seconds, b"")], end)


def _cut(body: Body, settings: Settings) -> tuple[Steps, End]:
    half = Body(body.pieces[: len(body.pieces) // 2], True) if body.streamed else _cut_json(body)
    return [(body.whole_seconds, _head(half) + b"".join(_coded(half)))], "keep"


def _cut_json(body: Body) -> Body:
    middle = len(body.pieces) // 2
    piece = body.pieces[middle].rstrip()
    broken = piece[: len(piece) // 2] + (b"\n\n" if body.streamed else b"")
    return Body([*body.pieces[:middle], broken, *body.pieces[middle + 1 :]], body.streamed)


def _malformed(body: Body, settings: Settings) -> tuple[Steps, End]:
    broken = _cut_json(body)
    return [(body.whole_seconds, _head(broken) + b"".join(_coded(broken)))], "keep"


def _empty(body: Body, settings: Settings) -> tuple[Steps, End]:
    nothing = Body([], body.streamed)
    return [(body.whole_seconds, _head(nothing) + b"".join(_coded(nothing)))], "keep"


def _drip(body: Body, settings: Settings) -> tuple[Steps, End]:
    coded = b"".join(_coded(body))
    drops = [(settings.drip_seconds, coded[place : place + 1]) for place in range(len(coded))]
    return [(body.latency_seconds, _head(body)), *drops], "keep"


_DAMAGED: dict[str, Callable[[Body, Settings], tuple[Steps, End]]] = {
    "reset_after": _silent("reset"),
    "close": _silent("close"),
    "stall": _silent("stall"),
    "stall_body": lambda body, settings: (_half(body), "stall"),
    "truncated": lambda body, settings: (_half(body), "close"),
    "cut_stream": _cut,
    "malformed": _malformed,
    "empty": _empty,
    "drip": _drip,
    "wrong_type": lambda body, settings: (
        [(body.whole_seconds, _head(body, "text/html") + b"".join(_coded(body)))],
        "keep",
    ),
}
