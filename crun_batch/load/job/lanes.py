"""The lanes of a job: requests one by one, in batches, or in batches first and then one by one.

Owns what the batch lane is called as an endpoint: its price is another one than that of what goes live.
"""

from __future__ import annotations

from typing import Any

from crun_batch.records import BATCH_LANE, is_batch_lane

BATCH_LANES = ("batch", "batch-then-live")
"""In which requests go in batches first."""


def goes_in_batches(lane: object) -> bool:
    """Whether a job in this lane sends batches."""
    return lane in BATCH_LANES


def batch_name(written: Any) -> Any:
    """What records and prices call the batch lane of an endpoint that is called so, or not at all."""
    if written is None:
        return BATCH_LANE
    return written if not isinstance(written, str) or is_batch_lane(written) else f"{written}-{BATCH_LANE}"
