"""The few shapes that plots are made of, as SVG. Numbers are pixels; what a mark means is its `data-tip`."""

from __future__ import annotations

from collections.abc import Sequence

from crun_batch.reporting.markup import Markup, element, join

LETTER = 7.0
"""Width of a letter, roughly, in a wide font: for keeping words inside a plot."""
Place = tuple[float, float]


def svg(width: int, height: float, marks: Sequence[Markup]) -> Markup:
    """The marks as one picture."""
    return element("svg", join(marks), viewBox=f"0 0 {width} {height:g}", width=width, height=f"{height:g}")


def rect(place: tuple[float, float, float, float], class_: str, tip: str | None = None) -> Markup:
    """A box; `place` is x, y, width, height."""
    x, y, width, height = (f"{value:.2f}".rstrip("0").rstrip(".") for value in place)
    return element("rect", x=x, y=y, width=width, height=height, class_=class_, data_tip=tip)


def line(start: Place, end: Place, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)


def label(place: Place, words: str, class_: str | None = None, anchor: str | None = None) -> Markup:
    """Words; `anchor`: which end of them is at the place."""
    return element("text", words, x=place[0], y=place[1], class_=class_, text_anchor=anchor)
