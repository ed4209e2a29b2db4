"""A text that stands in whatever a regular expression (RE2) matches, told from how it is written. Pure.

It leads to the few rows that the expression must be held against. Where the writing does not tell one at a glance
there is none: all rows are looked at.
"""

from __future__ import annotations

import re

LEAST_CHARACTERS = 3
_PIECE = re.compile(
    r"""
    \\(?P<escaped>[^\w\s])            # a sign that stands for itself
    | \\[bBAzdDwWsS]                  # a place, a kind of character
    | (?P<unknown>\\.?|\(\?|\x00)     # other escapes, flags: nothing is certain
    | (?P<either>\|)
    | \[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]
    | (?P<repeat>\*|\?|\{\d+(?:,\d*)?\})
    | (?P<brace>\{)
    | (?P<group>[()])
    | [.^$+]
    | (?P<plain>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def certain_text(pattern: str) -> str | None:
    """The longest text that each match has, of LEAST_CHARACTERS at least; None where none is told."""
    found, run, depth = [""], "", 0
    for piece in _PIECE.finditer(pattern):
        if piece["unknown"] or piece["brace"] or (piece["either"] and depth == 0):
            return None
        depth += {"(": 1, ")": -1}.get(piece["group"] or "", 0)
        character = piece["escaped"] or piece["plain"]
        if character is not None and depth == 0:  # what stands in a group may be repeated, or not be there
            run += character
            continue
        found.append(run[:-1] if piece["repeat"] else run)
        run = ""
    longest = max((*found, run), key=len)
    return longest if len(longest) >= LEAST_CHARACTERS else None
