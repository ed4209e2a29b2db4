"""A cell of a CSV, as every file for a spreadsheet that the tool writes has it: the one guard, for all of them.

A text must neither run where it is opened nor steer the terminal that shows it.
"""

from __future__ import annotations

from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
GUARD = "'"
"""Stands before a text that a spreadsheet would run."""
_CONTROLS = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\r"},
    **{code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}
"""Characters that steer a terminal, or turn its text around, and how they are written where people look."""


def guarded(cell: Any) -> Any:
    """A text that does nothing where it is shown; what is no text is as it was."""
    if not isinstance(cell, str):
        return cell
    shown = without_controls(cell)
    return GUARD + shown if shown.startswith(FORMULA_STARTS) else shown


def unguarded(cell: str) -> str:
    """The text before its guard; control characters stay written out, as they were to whoever edited the file."""
    rest = cell.removeprefix(GUARD)
    return rest if rest.startswith(FORMULA_STARTS) else cell


def without_controls(text: str) -> str:
    """Most texts hold none: these are left as they are at once, translating takes many times as long."""
    return text if text.isascii() and text.isprintable() else text.translate(_CONTROLS)
