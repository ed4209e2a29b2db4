"""What each row has of a request that held several: its part of the tokens, of the cost, of what was reserved.

Parts are whole numbers that add up to the whole, to the last digit: each is the rounded share of all up to and
with its row, less the rounded share of those before it. So a row's part can be told from where it stands alone, as
a start after a kill must. Owns that arithmetic. Must not know: prices, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from msgspec import Struct

from crun_batch.records import Cost, Hold, PackPlace, Usage

ROWS_ALONE_AFTER = (
    ("done", "bad_reply"),
    *(("rejected", kind) for kind in ("bad_request", "too_long", "content_filter")),
)
"""Outcome and error: no answer to this row, or a refusal of all."""


def sends_rows_alone(outcome: str, kind: str | None) -> bool:
    """Whether an attempt of a row among others has it asked alone from then on."""
    return (outcome, kind) in ROWS_ALONE_AFTER


class Stretch(Struct, frozen=True):
    """Where something lies in a whole: how much is before it, its own size, the size of the whole, at least 1."""

    before: int
    size: int
    whole: int

    def of(self, amount: int) -> int:
        """Its part of an amount that belongs to the whole."""
        return amount * (self.before + self.size) // self.whole - amount * self.before // self.whole

    def of_known(self, amount: int | None) -> int | None:
        """The same; of an unknown amount each part is unknown."""
        return None if amount is None else self.of(amount)

    def within(self, amount: int) -> Stretch:
        """Its part of an amount, as a stretch there: what is counted among that amount is divided along it."""
        return Stretch(amount * self.before // self.whole, self.of(amount), amount) if amount else self


def stretches(sizes: Sequence[int]) -> list[Stretch]:
    """One for each size, in their order; all alike where nothing has a size."""
    sizes = sizes if any(sizes) else [1] * len(sizes)
    ends = list(accumulate(sizes, initial=0))
    return [Stretch(before, size, ends[-1]) for before, size in zip(ends, sizes, strict=False)]


def text_stretch(place: PackPlace) -> Stretch:
    """Where a row's text lies among those of all rows of its request."""
    return Stretch(place.before, place.size, place.whole)


def hold_part(hold: Hold, place: PackPlace) -> Hold:
    """What a row has of what is reserved for its request."""
    along = text_stretch(place)
    return Hold(along.of_known(hold.usd_pico), along.of_known(hold.credits_pico))


def divided(usage: Usage | None, cost: Cost, text: Stretch, answer: Stretch) -> tuple[Usage | None, Cost]:
    """A row's part of tokens and cost: input by its text's size, output by its answer's, cost by its tokens."""
    if usage is None:
        return None, _cost_part(cost, text)
    read = None if usage.input_tokens is None else text.within(usage.input_tokens)
    written = answer.within(usage.output_tokens)
    along_input = text if read is None else read
    part = Usage(
        input_tokens=text.of_known(usage.input_tokens),
        cached_input_tokens=along_input.of(usage.cached_input_tokens),
        cache_write_tokens=along_input.of(usage.cache_write_tokens),
        output_tokens=answer.of(usage.output_tokens),
        reasoning_tokens=written.of(usage.reasoning_tokens),
        service_tier=usage.service_tier,
        cache_write_1h_tokens=along_input.of(usage.cache_write_1h_tokens),
        other_charges=usage.other_charges,
    )
    total = usage.total_tokens
    if not total:
        return part, _cost_part(cost, text)
    before = (0 if not usage.input_tokens else along_input.before) + (written.before if usage.output_tokens else 0)
    return part, _cost_part(cost, Stretch(before, part.total_tokens or 0, total))


def _cost_part(cost: Cost, along: Stretch) -> Cost:
    usd, credits_ = along.of_known(cost.usd_pico), along.of_known(cost.credits_pico)
    return Cost(usd, credits_, cost.source, cost.beyond_hold)
