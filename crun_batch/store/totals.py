"""What all attempts of a run come to together."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from crun_batch.records import decimal_text

AMOUNTS = ("cost_usd", "cost_credits", "held_unknown_usd", "held_unknown_credits")


class AttemptTotals(Struct, frozen=True):
    """Sums over the attempts; amounts in pico. A cost that is unknown adds nothing and is counted."""

    attempts: int
    done: int
    rejected: int
    not_sent: int
    unknown: int
    unpriced: int
    """Done, with tokens or not, and no cost known in any unit."""
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: int
    cost_credits: int
    held_unknown_usd: int
    """Holds of the attempts that may have been billed and whose cost is unknown."""
    held_unknown_credits: int

    def document(self) -> dict[str, int | str]:
        """As a summary tells them: amounts as decimal text, of any size (in pico they outgrow 64 bits)."""
        return {
            name: decimal_text(value) if name in AMOUNTS else value
            for name, value in msgspec.to_builtins(self).items()
        }
