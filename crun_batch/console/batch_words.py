"""What a batch is called in words."""

from __future__ import annotations

from collections.abc import Sequence


def batch_name(batch_id: str | None, file_id: str | None, suspects: Sequence[str]) -> str:
    """By its id, its file, or, where its creation got no reply, by those that it may be."""
    if batch_id is not None:
        return batch_id
    if file_id is not None:
        return f"of file {file_id}"
    return f"it may be {' or '.join(suspects)}" if suspects else "its creation got no reply"
