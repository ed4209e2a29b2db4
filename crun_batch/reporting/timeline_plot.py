"""A run over time: rows per second, latency, and requests without an answer, over the same moments.

Long pauses between sessions take little room, so that what happened stays readable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct

from crun_batch.console.amounts import count, counted, duration, rate
from crun_batch.reporting.axes import SECOND, Axis, moment_text, number_text, rounded_up, seconds_text
from crun_batch.reporting.data import Bin, Timeline
from crun_batch.reporting.markup import Markup, element
from crun_batch.reporting.shapes import LETTER, label, line, rect, svg

DAY = 86_400 * SECOND


def timeline_plot(timeline: Timeline, width: int, noun: str) -> Markup:
    """Rows per second, latency, and requests without an answer, one below the other over the same time.

    `noun`: what the bins count, rows or units.
    """
    bins = [each for period in timeline.periods for each in period]
    columns = _columns(timeline, width)
    panels: list[tuple[Callable[..., list[Markup]], int]] = [
        (partial(_rate_panel, noun), 150),
        (_latency_panel, 90),
    ]
    if any(each.unanswered for each in bins):
        panels.append((_unanswered_panel, 60))
    bottom = 26 + sum(height + 38 for _, height in panels) - 38
    marks = [_pause(columns, index, bottom) for index in range(1, len(columns.starts))]
    top = 26
    for draw, height in panels:
        marks += draw(timeline, columns, (top, top + height))
        top += height + 38
    marks += _time_axis(timeline, columns, bottom, 6 if width > 600 else 3)
    marks += _hits(timeline, columns, bottom, noun)
    return svg(width, bottom + 24, marks)


class _Columns(Struct, frozen=True):
    """Where the bins of a timeline lie: the left edge of each period, the width of a bin and of a pause."""

    starts: tuple[float, ...]
    bin_width: float
    pause_width: float
    left: float
    right: float

    def at(self, period: int, index: float) -> float:
        return round(self.starts[period] + index * self.bin_width, 2)


def _columns(timeline: Timeline, width: int) -> _Columns:
    left, right = 46.0, float(width - 4)
    pauses = len(timeline.periods) - 1
    pause_width = min(26.0, 0.25 * (right - left) / pauses) if pauses else 0.0
    bins = sum(map(len, timeline.periods))
    bin_width = min(40.0, (right - left - pauses * pause_width) / bins)
    starts, place = [], left
    for period in timeline.periods:
        starts.append(place)
        place += len(period) * bin_width + pause_width
    return _Columns(tuple(starts), bin_width, pause_width, left, right)


def _each(timeline: Timeline) -> list[tuple[int, int, Bin]]:
    return [(s, i, each) for s, period in enumerate(timeline.periods) for i, each in enumerate(period)]


def _rate_panel(noun: str, timeline: Timeline, columns: _Columns, place: tuple[int, int]) -> list[Markup]:
    most = max(each.ok + each.not_ok for _, _, each in _each(timeline)) / timeline.bin_seconds
    axis = Axis(0, rounded_up(most), place[1], place[0])
    marks = _panel(axis, columns, f"{noun}s finished per second", number_text)
    for period, index, each in _each(timeline):
        middle = axis.at(each.ok / timeline.bin_seconds)
        top = axis.at((each.ok + each.not_ok) / timeline.bin_seconds)
        x, size = columns.at(period, index), round(columns.bin_width * 0.9, 2)
        if each.ok:
            marks.append(rect((x, middle, size, place[1] - middle), "f-ok"))
        if each.not_ok:
            marks.append(rect((x, top, size, max(1.0, middle - top)), "f-error"))
    return marks


def _latency_panel(timeline: Timeline, columns: _Columns, place: tuple[int, int]) -> list[Markup]:
    most = max((each.latency_p95 or 0.0 for _, _, each in _each(timeline)), default=0.0)
    axis = Axis(0, rounded_up(most, 2), place[1], place[0])
    marks = _panel(axis, columns, "latency: median, and 95 % (faint)", seconds_text, ticks=2)
    for number, period in enumerate(timeline.periods):
        for name, values in (
            ("line faint", [each.latency_p95 for each in period]),
            ("line", [each.latency_median for each in period]),
        ):
            path = _path([(columns.at(number, index + 0.45), value) for index, value in enumerate(values)], axis)
            marks.append(element("path", d=path, class_=name) if path else Markup(""))
    return marks


def _path(points: Sequence[tuple[float, float | None]], axis: Axis) -> str:
    """A line through the points, broken where there is none; a point alone is a short dash."""
    steps, pen_down = [], False
    for x, value in points:
        if value is not None:
            steps.append(f"{'L' if pen_down else f'M{x - 1:g} {axis.at(value)}L'}{x:g} {axis.at(value)}")
        pen_down = value is not None
    return "".join(steps)


def _unanswered_panel(timeline: Timeline, columns: _Columns, place: tuple[int, int]) -> list[Markup]:
    most = max(each.unanswered for _, _, each in _each(timeline)) / timeline.bin_seconds
    axis = Axis(0, rounded_up(most, 2), place[1], place[0])
    marks = _panel(axis, columns, "requests without an answer per second", number_text, ticks=2)
    for period, index, each in _each(timeline):
        if each.unanswered:
            top = min(axis.at(each.unanswered / timeline.bin_seconds), place[1] - 1)
            size = round(columns.bin_width * 0.9, 2)
            marks.append(rect((columns.at(period, index), top, size, place[1] - top), "f-invalid"))
    return marks


def _panel(
    axis: Axis, columns: _Columns, title: str, words: Callable[[float], str], ticks: int = 3
) -> list[Markup]:
    marks = [label((0, axis.end - 12), title, "name")]
    for value in axis.ticks(ticks):
        marks.append(line((columns.left, axis.at(value)), (columns.right, axis.at(value)), "grid"))
        marks.append(label((columns.left - 6, axis.at(value) + 4), words(value), anchor="end"))
    return marks


def _pause(columns: _Columns, period: int, bottom: int) -> Markup:
    x = columns.starts[period] - columns.pause_width
    return rect((x + 1, 16, max(1.0, columns.pause_width - 3), bottom - 16), "pause")


def _time_axis(timeline: Timeline, columns: _Columns, bottom: int, most: int) -> list[Markup]:
    first, last = timeline.periods[0][0].start, timeline.periods[-1][-1].start
    with_day = first // DAY != last // DAY
    words = {
        (period, index): moment_text(each.start, timeline.bin_seconds, with_day=with_day)
        for period, index, each in _each(timeline)
    }
    room = max(len(text) for text in words.values()) * LETTER + 14
    step = max(1, round(max(room, (columns.right - columns.left) / most) / columns.bin_width))
    marks, free = [], columns.left
    for (period, index), text in words.items():
        x = columns.at(period, index)
        if x >= free and (index == 0 or index % step == 0) and x + room - 14 <= columns.right + 6:
            marks += [line((x, bottom), (x, bottom + 5), "axis"), label((x, bottom + 19), text)]
            free = x + room
    return [line((columns.left, bottom), (columns.right, bottom), "axis"), *marks]


def _hits(timeline: Timeline, columns: _Columns, bottom: int, noun: str) -> list[Markup]:
    marks = [
        rect(
            (columns.at(period, index), 16, columns.bin_width, bottom - 16), "hit", _bin_tip(each, timeline, noun)
        )
        for period, index, each in _each(timeline)
    ]
    for period in range(1, len(timeline.periods)):
        before, after = timeline.periods[period - 1][-1], timeline.periods[period][0]
        tip = f"pause of {duration((after.start - before.start) / SECOND - timeline.bin_seconds)}"
        x = columns.starts[period] - columns.pause_width
        marks.append(rect((x, 16, columns.pause_width, bottom - 16), "hit", tip))
    return marks


def _bin_tip(each: Bin, timeline: Timeline, noun: str) -> str:
    rows, seconds = each.ok + each.not_ok, timeline.bin_seconds
    lines = [
        f"{moment_text(each.start, timeline.bin_seconds, with_day=True)} UTC",
        f"{counted(rows, noun)}: {count(each.ok)} ok, {count(each.not_ok)} not ok",
        f"{rate(rows / seconds, noun)}, {each.output_tokens / seconds:,.0f} output tokens/s",
    ]
    if each.latency_median is not None and each.latency_p95 is not None:
        lines.append(f"latency {seconds_text(each.latency_median)}, 95 % {seconds_text(each.latency_p95)}")
    if each.unanswered:
        lines.append(f"{counted(each.unanswered, 'request')} without an answer")
    return "\n".join(lines)
