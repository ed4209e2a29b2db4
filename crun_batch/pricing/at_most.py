"""What requests can cost at most, where their tokens are only counted about: what is reserved for them.

A reservation takes a token for each byte of a request's body, which no tokenizer exceeds. What is no byte of it
has no such bound: images and files, answers that are still to come, what a gateway keeps under an id. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import structs

from crun_batch.pricing.figures import Span
from crun_batch.records import Hold


class BoundTally:
    """The input bounds of requests, counted by length."""

    def __init__(self, *, reserved_at_once: bool = False) -> None:
        """`reserved_at_once`: for all of them before the first reply, as in batches."""
        self._reserved_at_once = reserved_at_once
        self._lengths: Counter[int] = Counter()
        self._is_unbounded = False

    def add(self, input_bound_tokens: int | None, times: int = 1) -> None:
        """A request that is sent so often; None: nothing bounds its input."""
        if input_bound_tokens is None:
            self._is_unbounded = True
        else:
            self._lengths[input_bound_tokens] += times

    def bounded(
        self, usd: Span, credits_: Span, hold_at: Callable[[int], Hold], is_exact: bool, repeats: int
    ) -> tuple[Span, Span]:
        """The costs with what they cannot exceed: their high ends where tokens are counted exactly, else holds.

        Holds too where all of them are reserved at once: less is no bound of what the budget must bear. Each
        request is sent `repeats` times.
        """
        held, counted = self._total(hold_at, repeats), Hold(usd.high, credits_.high)
        if is_exact and (self._is_unbounded or not self._reserved_at_once):
            held = counted
        return structs.replace(usd, at_most=held.usd_pico), structs.replace(credits_, at_most=held.credits_pico)

    def _total(self, hold_at: Callable[[int], Hold], repeats: int) -> Hold:
        """All holds together; unknown where one of them is."""
        if self._is_unbounded:
            return Hold()
        held = [(hold_at(length), times * repeats) for length, times in self._lengths.items()]
        return Hold(
            _sum([(hold.usd_pico, times) for hold, times in held]),
            _sum([(hold.credits_pico, times) for hold, times in held]),
        )


def _sum(amounts: Sequence[tuple[int | None, int]]) -> int | None:
    total = 0
    for pico, times in amounts:
        if pico is None:
            return None
        total += pico * times
    return total
