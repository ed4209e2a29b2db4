"""What `doctor` found, in words: a line for each thing, and below it what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from crun_batch.console.amounts import counted
from crun_batch.console.words import one_line

MARKS = {"good": "ok", "note": "note", "problem": "PROBLEM"}
_WIDTH = 100
"""Where standard output is no terminal."""


def doctor_text(document: Mapping[str, Any], width: int | None = None) -> str:
    """Every finding in its order, then the verdict."""
    findings = document["findings"]
    names = max(len(one["about"]) for one in findings)
    marks = max(map(len, MARKS.values()))
    lines = []
    for one in findings:
        head = f"{MARKS[one['level']]:{marks}}  {one_line(one['about']):{names}}  "
        lines += _hanging(head, one["says"], width or _WIDTH)
        if one["advice"] is not None:
            lines += _hanging(" " * len(head), f"-> {one['advice']}", width or _WIDTH)
    problems = sum(one["level"] == "problem" for one in findings)
    verdict = "ready" if document["is_ready"] else f"not ready: {counted(problems, 'problem')}"
    return "\n".join([*lines, "", verdict])


def _hanging(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        one_line(text),
        max(width, len(head) + 20),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_on_hyphens=False,
    )
