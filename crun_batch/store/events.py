"""The events of the journal, one struct per kind, and the line each becomes.

A line is the event as JSON, a TAB, the CRC-32 of the JSON as 8 lower-case hex digits, LF. Amounts are integers
of pico; times are integer microseconds since the epoch; durations integer microseconds. A field at its default
is left out. Owns: the encoding. Must not know: files.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any
from zlib import crc32

import msgspec
from msgspec import Struct, structs

from crun_batch.records import Cost, PackPlace
from crun_batch.store.packs import sends_rows_alone
from crun_batch.store.undone import left_undone

FORMAT = 1
"""Version of the journal's format, in the head of every segment."""


class StartEvent(Struct, frozen=True, tag_field="e", tag="start", omit_defaults=True, gc=False):
    """A request is about to be sent."""

    n: int
    """Serial of the attempt in its run directory, increasing over all sessions."""
    id: str
    position: int
    variant: str
    repeat: int = 0
    turn: int = 0
    purpose: str = "answer"
    attempt: int = 1
    """Of this unit, from 1."""
    started_at: int = 0
    request_hash: str = ""
    held_usd: int | None = None
    held_credits: int | None = None
    judge: str | None = None
    """The judge that is asked; `variant` and `repeat` are then those of the answer that it judges."""
    endpoint: str | None = None
    """Where it goes, of several by name."""
    service_tier: str | None = None
    """The gateway's tier that it asks for."""
    pack: PackPlace | None = None
    """Of a row in a request with others: serials in a row, the raw reply with the first one's end."""

    @property
    def first_of_pack(self) -> int:
        """The serial of the first row of its request; its own where it is alone."""
        return self.n if self.pack is None else self.n - self.pack.place + 1

    def sends_row_alone(self, outcome: str, kind: str) -> bool:
        """Whether its row, which goes with others, is not to go with others again after this failure."""
        return self.pack is not None and sends_rows_alone(outcome, kind)

    def is_left_undone(self, outcome: str, kind: str) -> bool:
        """Whether this failure says that its batch brings no answer to it."""
        return left_undone(self.endpoint, outcome, kind)


class EndFault(Struct, frozen=True, omit_defaults=True):
    """Why there is no whole reply."""

    stage: str
    kind: str
    message: str


class EndEvent(Struct, frozen=True, tag_field="e", tag="end", omit_defaults=True, gc=False):
    """The raw reply, or the fault, written before anything parses it."""

    n: int
    finished_at: int
    latency_us: int = 0
    http_status: int | None = None
    headers: Mapping[str, str] | None = None
    body: str | None = None
    body64: str | None = None
    """The body in base64, where its bytes are not UTF-8."""
    fault: EndFault | None = None

    def raw_body(self) -> bytes:
        """The bytes of the reply, exactly as they came."""
        return recorded_bytes(self.body, self.body64)


class RawEnd(Struct, frozen=True, gc=False):
    """What becomes an end event: the same, with the bytes of the reply."""

    n: int
    finished_at: int
    latency_us: int
    http_status: int | None
    headers: Mapping[str, str] | None
    body: bytes
    """Any bytes."""
    fault: EndFault | None = None


class FinalPart(Struct, frozen=True, omit_defaults=True, gc=False):
    """The final result of a unit. Tokens and costs are sums over all the unit's attempts so far.

    `as_read` true: in a read event, a field among INHERITED that is None here has the read event's value.
    False: None means null.
    """

    status: str
    as_read: bool = False
    error_kind: str | None = None
    error_message: str | None = None
    text: str | None = None
    tool_calls: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    response_id: str | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: int | None = None
    cost_credits: int | None = None
    cost_source: str | None = None
    attempt_count: int = 1
    unknown_attempts: int = 0
    latency_us: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    request_hash: str | None = None
    carried: Mapping[str, str | None] | None = None
    """As `carried_encoder` makes it."""
    output: str | None = None
    """JSON text of the reply's object, where the job has an output schema."""
    outputs: list[str] | None = None
    supersedes: bool = False
    """An earlier final of the same unit is replaced by this one (retry, redo)."""
    replaces: str | None = None
    """The ending of that earlier final: `status`, or `status:error_kind`."""
    reused_from: str | None = None
    """The run whose answer this is, as the job file names it."""
    saved_usd: int | None = None
    """Of such an answer: what it had cost there, in pico."""
    saved_credits: int | None = None

    @property
    def is_shared(self) -> bool:
        """Whether it is the answer to another unit's identical request."""
        return self.attempt_count == 0 and self.request_hash is not None and self.reused_from is None

    @property
    def has_known_saving(self) -> bool:
        """Whether it is known what an earlier run's answer had cost there."""
        return self.saved_usd is not None or self.saved_credits is not None

    @property
    def saved(self) -> Cost | None:
        """What was not spent again; None: nothing was taken over."""
        return None if self.reused_from is None else Cost(self.saved_usd, self.saved_credits)


INHERITED = (
    "error_kind",
    "error_message",
    "text",
    "tool_calls",
    "finish_reason",
    "model",
    "response_id",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
    "cost_credits",
    "cost_source",
    "latency_us",
    "started_at",
    "finished_at",
    "request_hash",
)
"""Fields that a FinalPart with `as_read` takes from its read event."""


class ReadEvent(Struct, frozen=True, tag_field="e", tag="read", omit_defaults=True, gc=False):
    """What was made of a reply or fault; in the same segment as its end, right after it."""

    n: int
    id: str
    position: int
    variant: str
    outcome: str
    repeat: int = 0
    turn: int = 0
    purpose: str = "answer"
    attempt: int = 1
    started_at: int = 0
    finished_at: int | None = None
    latency_us: int | None = None
    request_hash: str = ""
    held_usd: int | None = None
    held_credits: int | None = None
    http_status: int | None = None
    error_kind: str | None = None
    error_message: str | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: int | None = None
    cost_credits: int | None = None
    cost_source: str | None = None
    reported_usd: str | None = None
    text: str | None = None
    tool_calls: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    response_id: str | None = None
    assembled: str | None = None
    counted: int = 0
    """Of the unit, after this attempt: attempts that count against max_attempts."""
    unknown_retries: int = 0
    gives_up: bool = False
    """The unit ends with this failure, and its final part, which needs the row, is yet to be written."""
    final: FinalPart | None = None
    judge: str | None = None
    endpoint: str | None = None
    service_tier: str | None = None
    """At which the reply says it was served, else which was asked for."""
    pack_rows: int | None = None
    """Of a row in a request with others: how many there are, and its number among them."""
    pack_place: int | None = None
    cache_write_1h_tokens: int | None = None
    """Of the tokens written to the cache those that are kept for an hour; None: none."""
    other_charges: str | None = None
    """What else than its token counts was billed, in words."""

    @property
    def sends_row_alone(self) -> bool:
        """Whether its row, which went with others, is not to go with others again."""
        return self.pack_rows is not None and sends_rows_alone(self.outcome, self.error_kind)

    @property
    def is_left_undone(self) -> bool:
        """Whether its batch has brought no answer to it."""
        return left_undone(self.endpoint, self.outcome, self.error_kind)


class FinalEvent(Struct, frozen=True, tag_field="e", tag="final", omit_defaults=True):
    """A unit that is concluded without an attempt of its own now: a template error, a shared reply."""

    id: str
    position: int
    variant: str
    final: FinalPart
    repeat: int = 0


class HeadEvent(Struct, frozen=True, tag_field="e", tag="head"):
    """First line of a segment: all that must be known to go on without the older segments."""

    format: int
    segment: int
    session: int
    at: int
    next_serial: int
    in_flight: tuple[StartEvent, ...]
    """Started before this segment, not yet ended."""
    checkpoint: Any
    """The runner's own, opaque to the store."""


class SyncedMark(Struct, frozen=True, tag_field="e", tag="synced"):
    """No event, but a mark between them: so far the file was on the disk when this line was written."""

    bytes: int


Event = HeadEvent | StartEvent | EndEvent | ReadEvent | FinalEvent

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_mark_decoder = msgspec.json.Decoder(SyncedMark)
_MARK_BEGINS = b'{"e":"synced"'


def whole_final(read: ReadEvent, final: FinalPart) -> FinalPart:
    """The final with every inherited field filled in from its read event."""
    if not final.as_read:
        return final
    inherited = {name: getattr(read, name) for name in INHERITED if getattr(final, name) is None}
    return structs.replace(final, as_read=False, **inherited)


def recorded_bytes(body: str | None, body64: str | None) -> bytes:
    """The bytes of a reply that is kept as text, or in base64; empty where none came."""
    return (body or "").encode() if body64 is None else base64.b64decode(body64)


def end_event(raw: RawEnd) -> EndEvent:
    """The end event of a raw reply."""
    text, text64 = None, None
    try:
        text = raw.body.decode()
    except UnicodeDecodeError:
        text64 = base64.b64encode(raw.body).decode()
    return EndEvent(raw.n, raw.finished_at, raw.latency_us, raw.http_status, raw.headers, text, text64, raw.fault)


def encode_line(event: Struct) -> bytes:
    """The event's line. A lone surrogate, which no JSON reader takes, becomes U+FFFD; the raw body keeps it."""
    try:
        payload = _encoder.encode(event)
    except UnicodeEncodeError:
        payload = _encoder.encode(_without_surrogates(msgspec.to_builtins(event)))
    return b"%b\t%08x\n" % (payload, crc32(payload))


def encode_lines(events: Iterable[Struct]) -> list[bytes]:
    """`encode_line` of each."""
    try:
        payloads = list(map(_encoder.encode, events))
    except UnicodeEncodeError:
        return list(map(encode_line, events))
    return [b"%b\t%08x\n" % (payload, crc32(payload)) for payload in payloads]


def payload_of(line: bytes) -> bytes | None:
    """The JSON of a whole line with a right checksum; None for any other bytes."""
    payload = line[:-10]
    return payload if line[-10:] == b"\t%08x\n" % crc32(payload) else None


def decode_payload(payload: bytes) -> Event:
    """The event of a payload. Raises msgspec.DecodeError or ValidationError: a line of another format."""
    return _decoder.decode(payload)


def synced_bytes(payload: bytes) -> int | None:
    """What a mark says: the length of the file that was on the disk. None: an event."""
    return _mark_decoder.decode(payload).bytes if payload.startswith(_MARK_BEGINS) else None


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(part) for part in value]
    return value
