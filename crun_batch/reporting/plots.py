"""Plots as SVG, drawn here: spreads, quality against cost, bars of shares; over time: `timeline_plot`.

Each plot is drawn twice, for wide and for narrow pages, so that its text keeps its size. What a mark means is in
its `data-tip`, which the page's script shows under the pointer. Colours are classes; the page's style gives them.
Owns the drawing; must not know runs or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from crun_batch.console.amounts import count
from crun_batch.reporting.axes import Axis, number_text, rounded_up, seconds_text, spread_apart
from crun_batch.reporting.data import Distribution
from crun_batch.reporting.markup import Markup, element
from crun_batch.reporting.shapes import LETTER, label, line, rect, svg
from crun_batch.reporting.words import percentage

FULL, HALF, NARROW = 1030, 500, 330
COLOURS = 8
_NAMED_POINTS = 16


class BarPart(Struct, frozen=True):
    """One part of a bar of shares: its name, its size, its colour's class (ok, error, 0 to 7, ...)."""

    name: str
    count: int
    colour: str


class Point(Struct, frozen=True):
    """One variant in the plot of quality against cost: x its cost, y its share with low and high."""

    name: str
    x: float
    y: float
    low: float
    high: float
    colour: int
    tip: str


def figure(draw: Callable[[int], Markup], width: int, description: str, role: str = "img") -> Markup:
    """The plot at `width` and at the width of a telephone. `role` group: its marks speak for themselves."""
    return element(
        "figure",
        *(
            element(
                "div",
                element("div", draw(size), role=role, aria_label=description),
                class_=name,
            )
            for name, size in (("wide", width), ("narrow", min(width, NARROW)))
        ),
    )


def share_bar(parts: Sequence[BarPart]) -> Markup:
    """One bar in parts; as wide as what it stands in. Parts of nothing are left out, small ones stay visible."""
    whole = sum(part.count for part in parts)
    shown = [part for part in parts if part.count]
    least = 0.6
    room = 100 - least * len(shown)
    place, marks = 0.0, []
    for part in shown:
        size = least + room * part.count / whole
        tip = f"{part.name}: {count(part.count)} ({percentage(part.count, whole)})"
        marks.append(rect((place, 0, size - (0.25 if len(shown) > 1 else 0), 10), f"f-{part.colour}", tip))
        place += size
    description = ", ".join(f"{count(part.count)} {part.name}" for part in shown)
    return element(
        "svg",
        *marks,
        viewBox="0 0 100 10",
        class_="strip",
        preserveAspectRatio="none",
        role="img",
        aria_label=description or "nothing",
    )


def level_bar(fraction: float, colour: str, *, tip: str | None = None) -> Markup:
    """A bar that is filled to a share between 0 and 1."""
    filled = round(100 * min(1.0, max(0.0, fraction)), 2)
    marks = [rect((0, 0, 100, 10), "f-wash", tip), rect((0, 0, filled, 10), colour, tip)]
    return element(
        "svg", *marks, viewBox="0 0 100 10", class_="strip", preserveAspectRatio="none", aria_hidden="true"
    )


def histogram_plot(distribution: Distribution, width: int) -> Markup:
    """Counts by size, with the median and the 95 % mark."""
    found, words = distribution.histogram, words_of(distribution.unit)
    x = Axis(found.edges[0], found.edges[-1], 46, width - 8, found.logarithmic)
    y = Axis(0, rounded_up(max(found.counts)), 156, 30)
    marks = []
    for value in y.ticks(3):
        marks.append(line((46, y.at(value)), (width - 8, y.at(value)), "grid"))
        marks.append(label((40, y.at(value) + 4), number_text(value), anchor="end"))
    whole = distribution.total.count
    for low, high, number in zip(found.edges, found.edges[1:], found.counts, strict=False):
        left, right = x.at(low), x.at(high)
        if number:
            top = min(y.at(number), 155)
            marks.append(rect((left, top, max(1.0, right - left - 1), 156 - top), "f-accent"))
            tip = f"{words(low)} to {words(high)}\n{count(number)} ({percentage(number, whole)})"
            marks.append(rect((left, 30, right - left, 126), "hit", tip))
    marks += _quantile_marks(distribution, x, width)
    marks.append(line((46, 156), (width - 8, 156), "axis"))
    for value in x.ticks(6 if width > 400 else 4):
        marks += [line((x.at(value), 156), (x.at(value), 161), "axis")]
        marks.append(label((min(x.at(value), width - 18), 175), words(value), anchor="middle"))
    return svg(width, 182, marks)


def _quantile_marks(distribution: Distribution, x: Axis, width: int) -> list[Markup]:
    marks = []
    words, total = words_of(distribution.unit), distribution.total
    wanted = [("median", total.p50), ("95 %", total.p95)]
    texts = [f"{name} {words(value)}" for name, value in wanted]
    places = [x.at(value) for _, value in wanted]
    room = len(texts[0]) + (len(texts[1]) if places[1] + len(texts[1]) * LETTER > width else 0)
    if places[1] - places[0] < room * LETTER + 16:
        texts = [", ".join(texts), ""]
    for place, text in zip(places, texts, strict=True):
        marks.append(line((place, 16), (place, 156), "mark"))
        size = len(text) * LETTER
        ends = place + size > width
        marks.append(
            label((max(place - 4, size) if ends else place + 4, 13), text, "name", anchor="end" if ends else None)
        )
    return marks


def words_of(unit: str) -> Callable[[float], str]:
    """How a value of this unit reads."""
    return seconds_text if unit == "seconds" else number_text


def scatter_plot(
    points: Sequence[Point], width: int, x_words: Callable[[float], str], titles: tuple[str, str]
) -> Markup:
    """Quality (y, with its interval) against cost (x): up is better, left is cheaper."""
    height, left, right = 300, 52, width - 14
    x, y = _cost_axis(points, left, right), _quality_axis(points, height)
    marks = [label((0, 11), titles[0], "name"), label((right, height + 38), titles[1], "name", anchor="end")]
    for value in y.ticks(4):
        marks.append(line((left, y.at(value)), (right, y.at(value)), "grid"))
        marks.append(label((left - 6, y.at(value) + 4), f"{100 * value:.4g} %", anchor="end"))
    marks.append(line((left, height), (right, height), "axis"))
    for value in x.ticks(6 if width > 600 else 3):
        marks += [line((x.at(value), height), (x.at(value), height + 5), "axis")]
        marks.append(label((x.at(value), height + 20), x_words(value), anchor="middle"))
    steps = [(x.at(point.x), y.at(point.y)) for point in frontier(points)]
    if len(steps) > 1:
        marks.append(element("path", d="M" + "L".join(f"{a:g} {b:g}" for a, b in steps), class_="frontier"))
    marks += [_whisker(point, x, y) for point in points]
    marks += _point_names(points, x, y, width)
    marks += [_dot(point, x, y) for point in points]
    return svg(width, height + 44, marks)


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in both: from the cheapest on, each better than all cheaper ones."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not found or point.y > found[-1].y:
            found.append(point)
    return found


def _cost_axis(points: Sequence[Point], left: float, right: float) -> Axis:
    low, high = min(point.x for point in points), max(point.x for point in points)
    if low > 0 and high > 6 * low:
        return Axis(low / 1.4, high * 1.4, left, right, logarithmic=True)
    return Axis(0, high * 1.12 or 1.0, left, right)


def _quality_axis(points: Sequence[Point], height: float) -> Axis:
    low, high = min(point.low for point in points), max(point.high for point in points)
    margin = max(0.01, 0.08 * (high - low))
    return Axis(max(0.0, low - margin), min(1.0, high + margin), height, 24)


def _whisker(point: Point, x: Axis, y: Axis) -> Markup:
    return line((x.at(point.x), y.at(point.low)), (x.at(point.x), y.at(point.high)), "whisker")


def _point_names(points: Sequence[Point], x: Axis, y: Axis, width: int) -> list[Markup]:
    """Names beside their points, apart from each other; where there are too many, only those of the frontier."""
    named = list(points) if len(points) <= _NAMED_POINTS else frontier(points)
    marks = []
    longest = max(10, int(width / 2 / LETTER))
    for on_left in (False, True):
        side = [point for point in named if (x.at(point.x) > width * 0.6) == on_left]
        places = spread_apart([y.at(point.y) + 4 for point in side], 14, 30, y.start - 4)
        for point, place in zip(side, places, strict=True):
            name = point.name if len(point.name) <= longest else point.name[: longest - 1] + "…"
            at = (x.at(point.x) + (-12 if on_left else 12), round(place, 1))
            marks.append(label(at, name, "name", anchor="end" if on_left else None))
    return marks


def _dot(point: Point, x: Axis, y: Axis) -> Markup:
    return element(
        "circle",
        cx=x.at(point.x),
        cy=y.at(point.y),
        r=6.5,
        class_=f"point f{point.colour % COLOURS}",
        data_tip=point.tip,
        tabindex=0,
        role="img",
        aria_label=point.tip,
    )
