"""How many rows are worked on at one go: as many as their bodies fill some memory, by those that came before."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

ROWS_AT_ONCE = 64
BYTES_AT_ONCE = 2**20
"""Of request bodies that are made ahead of their turn."""

T = TypeVar("T")


class Portions:
    """Takes rows in portions. The first is a single row: nothing is known of its size."""

    def __init__(self) -> None:
        self._rows_at_once = 1

    def take(self, rows: deque[T]) -> list[T]:
        """The next rows, at least one; they leave `rows`, which is not empty."""
        return [rows.popleft() for _ in range(min(self._rows_at_once, len(rows)))]

    def learn(self, rows: int, body_bytes: int) -> None:
        """The rows of the last portion, and the bytes of all their bodies together."""
        fitting = BYTES_AT_ONCE * rows // body_bytes if body_bytes else ROWS_AT_ONCE
        self._rows_at_once = max(1, min(ROWS_AT_ONCE, fitting))
