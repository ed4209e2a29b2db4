"""From requests to tickets: each with its hold and its place in the token window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

from crun_batch.pricing.account import UnitSoFar
from crun_batch.pricing.costs import dearest_holds
from crun_batch.records import CacheTtl, Hold, Price, Row, Ticket, Tries, Unit
from crun_batch.workload.request import Request

NO_TRIES = Tries()


FIRST_TOKENS_PER_BYTE = 0.3


class TokenRatio:
    """Input tokens per byte of request body, as a session's replies tell; a careful guess before the first."""

    def __init__(self) -> None:
        self._tokens = 0
        self._bytes = 0

    def learn(self, input_tokens: int, body_bytes: int) -> None:
        """A reply has told how many tokens a request of so many bytes had."""
        self._tokens += input_tokens
        self._bytes += body_bytes

    @property
    def tokens_per_byte(self) -> float:
        return self._tokens / self._bytes if self._tokens else FIRST_TOKENS_PER_BYTE


PricesOf = Callable[[str | None, str | None], Sequence[Price | None]]
"""Model, service tier that is asked for -> what such a request may cost."""


class Holds:
    """The most that requests can cost, at whichever of their prices."""

    def __init__(self, prices_of: PricesOf, credits_per_usd: Decimal | None) -> None:
        self._prices_of = prices_of
        self._credits_per_usd = credits_per_usd
        self._holds: dict[tuple[str | None, int | None, CacheTtl, str | None], Callable[[int], Hold]] = {}

    def __call__(self, request: Request) -> Hold:
        terms = (request.model, request.output_bound_tokens, request.cache_ttl, request.service_tier)
        at = self._holds.get(terms)
        if at is None:
            at = self._holds[terms] = dearest_holds(
                self._prices_of(request.model, request.service_tier),
                request.output_bound_tokens,
                self._credits_per_usd,
                cache_ttl=request.cache_ttl,
            )
        return at(request.input_bound_tokens)


class Tickets:
    """Makes tickets: requests with their holds and their places in the token window."""

    def __init__(self, hold: Holds, token_ratio: TokenRatio, *, live_hold: Holds | None = None) -> None:
        """`live_hold`: of requests that go in batches by `hold`, and live where these leave them undone."""
        self.hold = hold
        self._live_hold = live_hold
        self._token_ratio = token_ratio

    def ticket(
        self, unit: Unit, row: Row, request: Request, *, so_far: UnitSoFar | None, replaces: str | None
    ) -> Ticket:
        """The unit's next attempt, its earlier ones counted."""
        bound_tokens = self.bound_tokens(request)
        hold, if_left = self._holds(request, so_far)
        return Ticket(
            unit=unit,
            row=row,
            body=request.body,
            request_hash=request.request_hash,
            hold=hold,
            bound_tokens=bound_tokens,
            attempt=so_far.attempts + 1 if so_far is not None else 1,
            tries=so_far.tries if so_far is not None else NO_TRIES,
            model=request.model,
            replaces=replaces,
            turn=request.turn,
            purpose=request.purpose,
            service_tier=request.service_tier,
            prefix=request.prefix,
            if_left=if_left,
        )

    def _holds(self, request: Request, so_far: UnitSoFar | None) -> tuple[Hold, Hold | None]:
        """What is reserved for the request, and if it is to go in a batch what it is where it then goes live."""
        if self._live_hold is None:
            return self.hold(request), None
        live = self._live_hold(request)
        return (live, None) if so_far is not None and so_far.goes_live else (self.hold(request), live)

    def bound_tokens(self, request: Request) -> int:
        """What the request counts against the limit of tokens."""
        return int(request.input_bound_tokens * self._token_ratio.tokens_per_byte) + (
            request.output_bound_tokens or 0
        )
