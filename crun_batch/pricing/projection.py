"""What a run that goes on holds, and will have cost: told while it sends, and on the local page."""

from __future__ import annotations

from crun_batch.pricing.budget import Purse


def reserved_pico(purse: Purse) -> int | None:
    """Held in flight and for unknown outcomes, as far as a bound is known; None: what is asked has none."""
    reserved = purse.held_pico + purse.unknown_pico
    return None if not reserved and purse.has_met_unbounded else reserved


def projected_pico(
    spent_pico: int | None, finished_units: int, open_units: int, on_others_pico: int = 0
) -> int | None:
    """What it will have cost if the open units cost what the finished ones did on average.

    Pico-units, rounded down; None where what was spent is unknown, or nothing is finished. `on_others_pico`: what
    of it was spent on something else (on the rows, while their judges are asked).
    """
    if spent_pico is None or not finished_units:
        return None
    return spent_pico + (spent_pico - on_others_pico) * open_units // finished_units
