"""The frozen values that travel between the packages.

A closed package may import this module and `errors`, and nothing else of ours. Values are msgspec structs: frozen,
typed, cheap. Those of the hot path are not watched for cycles (`gc=False`): they hold only what was there before.

Units: amounts of money are integers of pico (10**-12) of a dollar or of a credit, and say which in their
name; times of day are integer microseconds since the Unix epoch, UTC; durations are float seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, get_args

from msgspec import Struct

PICO = 10**12
"""Pico-units in one dollar or one credit: 12 decimal places hold one token at 0.0125 per million."""

ProtocolName = Literal["chat", "responses", "messages", "completions"]
Status = Literal["ok", "invalid", "truncated", "refused", "error"]
STATUSES: tuple[str, ...] = get_args(Status)
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "other"]
OutcomeClass = Literal["done", "rejected", "not_sent", "unknown"]
OUTCOMES: tuple[str, ...] = get_args(OutcomeClass)
FREE_OUTCOMES = ("rejected", "not_sent")
"""Of requests that cost nothing, in any unit; of the other classes they were billed, or may have been."""
Purpose = Literal["answer", "repair", "judge", "alone"]
"""`alone`: of a pilot, a row that was asked in a pack, asked once more by itself."""
CostSource = Literal["reply", "job", "models", "list"]
Room = Literal["held", "wait", "none"]
"""Of a request's money: reserved; no room, but more may come from outside; no room."""
ErrorKind = Literal[
    "timeout",
    "connection",
    "rate_limited",
    "server",
    "bad_request",
    "too_long",
    "content_filter",
    "bad_reply",
    "not_found",
    "unknown_outcome",
]
Action = Literal[
    "stop_credits", "stop_key", "stop_refused", "stop_model", "stop_unreached", "fail_row", "retry", "cool_down"
]
"""What a failure asks for: stop the run (exit 4; exit 5; exit 5 before the model's first success and fail the row
after it; exit 5 before the gateway's first answer and retry after it), fail this row, retry it on its own account,
or put it back, uncounted, under the shared cooldown."""
BATCH_LANE = "batch"
CacheTtl = Literal["", "5m", "1h"]
"""How long input may be kept that is written to a cache, in Anthropic's words, rising; empty: none is."""
AUTO_TIER = "auto"
"""Asks for whatever service tier the account has. It is the name of none: what it was, the reply says."""
STANDARD_TIERS = frozenset({"default", "standard", "standard_only", "on_demand"})
"""What OpenAI and Groq (default, on_demand) and Anthropic (standard, asked for as standard_only) call the tier
whose price is the model's (their API references, `service_tier`)."""


class Headers(dict[str, str]):
    """HTTP headers of our requests. A value may be the key: the repr, which tracebacks print, shows names only."""

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"


class Row(Struct, frozen=True, gc=False):
    """One row of the prompt table: its position in the source from 0, its id, its needed columns."""

    position: int
    row_id: int | str
    values: Mapping[str, Any]


class Prompt(Struct, frozen=True, gc=False):
    """What one row asks, rendered, before it takes a protocol's form.

    Either `messages` (OpenAI-style: role and content, content a text or a list of parts) or `body` (a whole
    request body from the table, sent byte for byte).
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    body: bytes | None = None
    remote_parts: int = 0
    """Images and files given by URL: the gateway fetches them, so no byte of ours bounds their tokens."""
    later_turns: tuple[Mapping[str, Any], ...] = ()
    """The user's messages of a conversation that follow the answer to `messages`, one after each answer."""


class Unit(Struct, frozen=True, gc=False):
    """The unit of work: one row, one variant, one repeat."""

    position: int
    row_id: int | str
    variant: int
    repeat: int


class UnitSlots(Struct, frozen=True, gc=False):
    """Where each unit of a table has its place: row by row, in a row variant by variant, then repeat by repeat."""

    variants: int
    repeats: int

    @property
    def per_row(self) -> int:
        return self.variants * self.repeats

    def of(self, position: int, variant: int, repeat: int) -> int:
        """The unit's slot, counted from 0."""
        return (position * self.variants + variant) * self.repeats + repeat


class Hold(Struct, frozen=True, gc=False):
    """The most a request may cost, reserved before it is sent. None: no price is known in that unit."""

    usd_pico: int | None = None
    credits_pico: int | None = None


class Cost(Struct, frozen=True, gc=False):
    """What a request did cost. None: unknown in that unit, which is never the same as 0."""

    usd_pico: int | None = None
    credits_pico: int | None = None
    source: CostSource | None = None
    beyond_hold: str | None = None
    """What else than tokens at known prices was billed, in words: where it is unknown, no hold bounds it."""


class Usage(Struct, frozen=True, gc=False):
    """Token counts in one meaning for all protocols: cached is part of input, reasoning part of output.

    `input_tokens` is None where the reply told its output alone: what it cost is unknown then.
    """

    input_tokens: int | None = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    service_tier: str | None = None
    """At which of the gateway's tiers it was served, as the reply names it, else as it was asked for."""
    cache_write_1h_tokens: int = 0
    """Of those written to the cache the ones that are kept for an hour, at a price of their own."""
    other_charges: str | None = None
    """What else it was billed for, in words; what it cost is then unknown, unless the reply states it."""

    @property
    def total_tokens(self) -> int | None:
        """Input and output together; None where the input was not told."""
        return None if self.input_tokens is None else self.input_tokens + self.output_tokens


class Tries(Struct, frozen=True, gc=False):
    """A row's attempts that count against `max_attempts`, and of those the ones that may have been billed."""

    counted: int = 0
    unknown: int = 0
    refused: int = 0
    """Refusals for lack of room, which never count: they only make the row wait longer for its next turn."""


class PackPlace(Struct, frozen=True, array_like=True, gc=False):
    """Where a row stands in a request that holds several, and what part of it is its own."""

    place: int
    """Its number there, from 1."""
    rows: int
    form: str
    """How the answers are written: `json` or `lines`."""
    before: int
    """Bytes of the texts of the rows before it."""
    size: int
    """Of its own, and of all of them together; at least 1 each."""
    whole: int


class Ticket(Struct, frozen=True, gc=False):
    """A request ready to go: its bytes, what it may cost, what it counts against the token limit."""

    unit: Unit
    row: Row
    """The row that asks, for what travels with it into the results and for what follows the answer."""
    body: bytes
    request_hash: str
    hold: Hold = Hold()
    bound_tokens: int = 0
    purpose: Purpose = "answer"
    turn: int = 0
    attempt: int = 1
    tries: Tries = Tries()
    model: str | None = None
    replaces: str | None = None
    """The ending (`status:error_kind`) of an earlier result of this unit, which this request is to replace."""
    judge: str | None = None
    """Of a question to a judge: the score's name; the unit's variant is then the judge's place among them."""
    answered_by: str | None = None
    """Of a question to a judge: the variant whose answer is judged."""
    service_tier: str | None = None
    """The gateway's tier that it asks for."""
    prefix: str | None = None
    """Names what it begins with, and where that is cached: such requests wait for the first of them."""
    endpoint: str | None = None
    """Of several the one that it goes to, or, while it waits to be sent again, the one that it went to last."""
    avoids: tuple[tuple[str, float], ...] = ()
    """Of several those that have refused it, each with the monotonic second before which it must not go there."""
    pack: PackPlace | None = None
    """Of a row in a request with others."""
    if_left: Hold | None = None
    """Of one that is to go in a batch, and live where that leaves it undone: what is reserved for it then."""


class Response(Struct, frozen=True, gc=False):
    """A whole HTTP reply, whatever its status. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Fault(Struct, frozen=True):
    """A request without a whole reply. `not_sent` only where that is proven; everything else is `unknown`."""

    stage: Literal["not_sent", "unknown"]
    kind: Literal["timeout", "connection", "bad_reply"]
    message: str
    status: int | None = None
    """The status line, where it was read before the rest failed."""
    body: bytes = b""
    """What was read of the body before the fault: evidence, never parsed as a reply. (A stream of events that said
    its end is no fault, however the connection ended.)"""
    is_lasting: bool = False
    """It will be so each time, until somebody changes something: a certificate, a proxy's password, a port."""


STATUS_OF_FINISH: dict[FinishReason, Status] = {
    "stop": "ok",
    "tool_calls": "ok",
    "other": "ok",
    "length": "truncated",
    "content_filter": "refused",
}


class Reply(Struct, frozen=True, gc=False):
    """A 2xx reply, read: the same fields for every protocol."""

    text: str | None
    finish_reason: FinishReason
    usage: Usage | None = None
    tool_calls: str | None = None
    """JSON text of a list of {id, name, arguments}."""
    model: str | None = None
    response_id: str | None = None
    reported_usd: str | None = None
    """The cost the reply itself states, in dollars, as decimal text."""
    assembled: bytes | None = None
    """For a streamed reply: the body it would have had unstreamed."""
    note: str | None = None
    """What makes the answer doubtful, in a sentence; it is the result's error_message."""

    @property
    def status(self) -> Status:
        """The status of a unit whose last word this is: an answer that holds nothing is never `ok`."""
        status = STATUS_OF_FINISH[self.finish_reason]
        return "invalid" if status == "ok" and self.tool_calls is None and is_missing(self.text) else status


_UNSEEN = re.compile(r"[\s\x00-\x20\x7f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]*")


def is_missing(text: str | None) -> bool:
    """Whether an answer's text says nothing: null, empty, blank and invisible are one."""
    return text is None or _UNSEEN.fullmatch(text) is not None


class Failure(Struct, frozen=True):
    """Why an attempt brought no answer: a value that is counted, stored, and decided upon."""

    outcome: OutcomeClass
    kind: ErrorKind
    action: Action
    message: str
    retry_after_seconds: float | None = None
    usage: Usage | None = None
    """Tokens of a reply that was billed and yet no answer (a 200 with status failed)."""
    reported_usd: str | None = None
    """What such a reply states that it cost, in dollars, as decimal text."""


class Again(Struct, frozen=True):
    """Put the row back; it may go again after the delay, holding no place meanwhile."""

    delay_seconds: float
    tries: Tries
    not_there_seconds: float = 0.0
    """Of several endpoints: how long it must not go to the one that failed."""


class GiveUp(Struct, frozen=True):
    """The row has failed for good."""

    tries: Tries


class Halt(Struct, frozen=True):
    """The run must stop; the row stays open."""

    exit_code: int
    reason: str
    last_failures: tuple[str, ...] = ()
    """What failed last, in the gateway's words, the latest first; without what the reason itself says."""
    others_are_finished: bool = False
    """Whether all went as far as it could: only variants that were set aside are left."""

    @property
    def words(self) -> str:
        """The reason, and what failed last."""
        if not self.last_failures:
            return self.reason
        return f"{self.reason}; what failed last: {'; '.join(self.last_failures)}"


Decision = Again | GiveUp | Halt


class Attempt(Struct, frozen=True, gc=False):
    """One request in flight: its ticket and its serial number in the run directory."""

    ticket: Ticket
    serial: int


class Outcome(Struct, frozen=True, gc=False):
    """One attempt that is over: what came of it, and for a failure what follows."""

    attempt: Attempt
    result: Reply | Failure
    decision: Decision | None
    cost: Cost | None = None
    """Of a row in a request with others: its part of what that cost. None: it is priced for itself."""


class Price(Struct, frozen=True):
    """Prices of one model in one currency, integers of 10**-18 (atto) of it per token; the source says whose.

    Tiers: the first matching (above_input_tokens, Price) with the highest threshold replaces the whole price.
    """

    currency: Literal["usd", "credits"]
    source: CostSource
    input_atto: int
    output_atto: int
    cached_input_atto: int | None = None
    cache_write_atto: int | None = None
    cache_write_1h_atto: int | None = None
    minimum_pico: int = 0
    request_pico: int = 0
    """A fee on top of the tokens of every request (OpenRouter's `pricing.request`)."""
    tiers: tuple[tuple[int, Price], ...] = ()
    service_tiers: tuple[tuple[str, Price], ...] = ()
    """(Name, price) of the gateway's tiers that charge otherwise: flex, priority. All else is the standard one."""


def is_batch_lane(endpoint: str | None) -> bool:
    """Whether records call the batch lane so: an endpoint of its own, as its price is another one."""
    return endpoint is not None and (endpoint == BATCH_LANE or endpoint.endswith(f"-{BATCH_LANE}"))


def decimal_text(pico: int) -> str:
    """An amount in pico-units as plain decimal text, exact, without trailing zeros: 10**10 -> "0.01"."""
    sign, (whole, part) = "-" if pico < 0 else "", divmod(abs(pico), PICO)
    return f"{sign}{whole}.{part:012d}".rstrip("0").rstrip(".")


def pico_of(amount: Decimal) -> int:
    """An amount in pico-units, rounded half to even."""
    return scaled(amount, PICO)


def known_pico(amount: Decimal | None) -> int | None:
    """The same; None, which is an amount that nobody knows, stays None."""
    return None if amount is None else scaled(amount, PICO)


def scaled(amount: Decimal, scale: int) -> int:
    """Amount x scale, rounded half to even."""
    above, below = amount.as_integer_ratio()
    return divide_half_even(above * scale, below)


def divide_half_even(dividend: int, divisor: int) -> int:
    """The quotient, rounded half to even; `divisor` is positive."""
    quotient, rest = divmod(dividend, divisor)
    twice = 2 * rest
    return quotient + (twice > divisor or (twice == divisor and quotient & 1))
