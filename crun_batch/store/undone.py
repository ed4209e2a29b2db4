"""Which requests a batch has left undone: with `lane: batch-then-live` their units are asked live from then on.

Told from what is recorded of an attempt, so that a start after a kill knows it too.
"""

from __future__ import annotations

from crun_batch.records import is_batch_lane

NEVER_IN_A_BATCH = ("not_sent", "connection")
"""Outcome and kind of a request whose batch was not submitted, or was refused as a whole."""


def left_undone(endpoint: str | None, outcome: str, kind: str | None) -> bool:
    """Whether a batch had the request and brought no answer to it; `kind`: of its failure, None: an answer."""
    return kind is not None and is_batch_lane(endpoint) and (outcome, kind) != NEVER_IN_A_BATCH
