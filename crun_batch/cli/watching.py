"""A run that is watched from another terminal: a block that is drawn over itself, or a line for each change."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Any

from crun_batch.cli.output import json_line, out, out_bytes
from crun_batch.cli.screen import ERASE_BELOW


def follow_run(changes: Iterator[dict[str, Any]], *, json: bool) -> dict[str, Any]:
    """Show each status as it comes; the last one. On a terminal nothing of them stays: the caller says the end."""
    from crun_batch.console.runs_words import followed_block, followed_line

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    drawn = 0
    last: dict[str, Any] = {}
    for last in changes:
        if json:
            out_bytes(json_line(last))
        elif not is_terminal:
            out(followed_line(last))
        else:
            size = shutil.get_terminal_size()
            block = followed_block(last, size.columns, size.lines)
            out(_over(drawn) + block)
            drawn = block.count("\n") + 1
    if is_terminal and not json:
        out_bytes(_over(drawn).encode())
    return last


def _over(lines: int) -> str:
    """Back to the first of so many lines, and nothing below it."""
    return f"\x1b[{lines}A{ERASE_BELOW}" if lines else ""
