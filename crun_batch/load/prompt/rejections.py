"""Rows without a prompt: the error that says so of one, and one complaint for all that have the same reason.

Owns the words and how much is kept: memory is bounded, whatever the number of rows.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec import field as struct_field

from crun_batch.errors import Mistake
from crun_batch.records import Row

ROWS_NAMED = 5
MOST_REASONS = 20
REJECTED_ADVICE = "Fix the rows, leave them out with input.where, or let the template say what a null means."


class RowRejected(Exception):
    """A row has no prompt. The message names the row, its id, the job key or column, and the reason."""

    def __init__(self, row: Row, reason: str, key: str = "") -> None:
        super().__init__(f"{shown_row(row.position, row.row_id)}{f', {key}' if key else ''}: {reason}")
        self.position = row.position
        self.row_id = row.row_id
        self.key = key
        self.reason = reason


def shown_row(position: int, row_id: int | str) -> str:
    """Row 17 (id 'r17')."""
    text = repr(row_id)
    return f"row {position} (id {text if len(text) <= 80 else text[:79] + '…'})"


class _Reason(Struct):
    rows: int = 0
    last_position: int = -1
    first: list[tuple[int, int | str]] = struct_field(default_factory=list)


class Rejections(Struct):
    """What was said of rows without a prompt, by job key and reason, in the order of their first rows."""

    reasons: dict[tuple[str, str], _Reason] = struct_field(default_factory=dict)
    rows: int = 0
    """Rows that have none; several variants may complain of one."""
    _last_position: int = -1
    _unnamed_rows: int = 0

    def add(self, error: RowRejected) -> None:
        """One variant's complaint about a row; the complaints about a row come together."""
        if error.position != self._last_position:
            self.rows += 1
            self._last_position = error.position
        found = self.reasons.get((error.key, error.reason))
        if found is None:
            if len(self.reasons) >= MOST_REASONS:
                self._unnamed_rows += 1
                return
            found = self.reasons[error.key, error.reason] = _Reason()
        if found.last_position == error.position:
            return
        found.last_position = error.position
        found.rows += 1
        if len(found.first) < ROWS_NAMED:
            found.first.append((error.position, error.row_id))

    def mistakes(self, file: str, *, is_all: bool = True) -> list[Mistake]:
        """One for each reason: of how many rows it holds, and the first of them; `is_all`: all rows were read."""
        found = [
            Mistake(_message(reason, where, is_all=is_all), file=file, row=where.first[0][0], key=key or None)
            for (key, reason), where in self.reasons.items()
        ]
        if self._unnamed_rows:
            found.append(Mistake(f"{self._unnamed_rows:,} rows more have no prompt for other reasons", file=file))
        return found


def _message(reason: str, where: _Reason, *, is_all: bool) -> str:
    if where.rows == 1:
        return f"{reason}; in {shown_row(*where.first[0])}"
    named = ", ".join(shown_row(*each) for each in where.first)
    others = where.rows - len(where.first)
    least = "" if is_all else "at least "
    return f"{reason}; in {least}{where.rows:,} rows: {named}" + (f" and {others:,} more" if others else "")
