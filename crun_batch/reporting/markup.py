"""HTML and SVG that cannot be broken out of: text becomes markup in one place, and that place escapes it.

`element` escapes every child and attribute that is not already Markup, so hostile text (what a model says, what a
table holds) stays text. Owns the escaping only; must not know reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ESCAPES = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;", ord("'"): "&#39;"}
_UNSHOWABLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Control characters, those that turn the direction of what follows, halves of surrogate pairs."""
_VOID = frozenset({"br", "meta", "wbr"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """Any value as text in markup; what a page cannot show becomes U+FFFD. Markup stays as it is."""
    if isinstance(text, Markup):
        return text
    return Markup(_UNSHOWABLE.sub("\ufffd", str(text)).translate(_ESCAPES))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """`element("td", text, class_="number")`: children in order, None left out; an attribute's `_` is `-`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """The parts one after the other, each escaped; None left out."""
    return Markup("".join(escape(part) for part in parts if part is not None))
