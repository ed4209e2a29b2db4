"""The usage that the columns of an attempt hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crun_batch.records import Usage
from crun_batch.store.schema import TOKENS

USAGE_COUNTS = (*TOKENS, "cache_write_1h_tokens")
"""What of it counts tokens."""
USAGE_COLUMNS = (*TOKENS, "service_tier", "cache_write_1h_tokens", "other_charges")
"""All that the price of an attempt's tokens depends on, in the order of the fields of Usage."""


def recorded_usage(values: Sequence[Any]) -> Usage | None:
    """What `USAGE_COLUMNS` say; None where no reply told its tokens."""
    read, cached, written, output, reasoning, tier, for_an_hour, other_charges = values
    if read is None:
        return None
    return Usage(
        read, cached or 0, written or 0, output or 0, reasoning or 0, tier, for_an_hour or 0, other_charges
    )
