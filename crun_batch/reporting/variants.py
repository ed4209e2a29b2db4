"""Variants and runs side by side in a report: quality against cost as a plot, and the figures as a table."""

from __future__ import annotations

from collections.abc import Sequence

from crun_batch.console.amounts import counted, duration
from crun_batch.reporting.axes import number_text, seconds_text
from crun_batch.reporting.data import ReportData, VariantLine
from crun_batch.reporting.markup import Markup, element, join
from crun_batch.reporting.parts import badge, card, table
from crun_batch.reporting.plots import FULL, HALF, Point, figure, scatter_plot
from crun_batch.reporting.tables import ShownTable, cost_of_row, rate_words, variants_table
from crun_batch.reporting.words import money_text, percentage, short_amount
from crun_batch.stats.intervals import Rate

SCORES_PLOTTED = 4
_NOTE = (
    "Up is better, left is cheaper; the bars are 95 % intervals. The dashed line joins the variants that no other "
    "one beats in both."
)


def variants(data: ReportData) -> Markup:
    """Plots and table of one run's variants; nothing where there is one variant and no score."""
    lines = [line for line in data.variants if line.rows]
    scores = list(dict.fromkeys(name for line in lines for name in line.scores))
    if not lines or (len(lines) < 2 and not scores):
        return Markup("")
    named = [(line.name, line) for line in lines]
    plots = []
    if len(lines) > 1:
        wanted: list[str | None] = [*scores[:SCORES_PLOTTED]] or [None]
        width = FULL if len(wanted) == 1 else HALF
        plots = [one for score in wanted if (one := _plot(named, score, width, data.noun_in_variant)) is not None]
    note = element("p", _NOTE, class_="note") if plots else None
    shown = element("div", *plots, class_="pair") if len(plots) > 1 else join(plots)
    return join([note, shown, card(table(variants_table(named, scores, data.noun_in_variant)))])


def overview(runs: Sequence[ReportData]) -> Markup:
    """Several runs: a line each, and their variants in one plot."""
    rows = [
        (
            join(
                [
                    element("a", run.name, href=f"#run-{number}"),
                    element("br"),
                    element("span", run.directory, class_="soft"),
                ]
            ),
            join([badge(run.status), " ", badge("simulated") if run.facts.simulated else None]),
            counted(run.units_total, run.noun),
            percentage(run.ok, run.units_total),
            money_text(run.cost),
            money_text(run.cost.per(run.finished)),
            duration(run.seconds),
        )
        for number, run in enumerate(runs, 1)
    ]
    headers = ("run", "", "size", "ok", "known cost", "of each", "time")
    names = [run.name for run in runs]
    called = [run.name if names.count(run.name) == 1 else run.directory for run in runs]
    named = [
        (f"{name}: {line.name}" if len(run.variants) > 1 else name, line)
        for name, run in zip(called, runs, strict=True)
        for line in run.variants
        if line.rows
    ]
    shared = list(dict.fromkeys(name for _, line in named for name in line.scores))[:1]
    noun = "unit" if any(run.facts.repeats > 1 for run in runs) else "row"
    plot = _plot(named, shared[0] if shared else None, FULL, noun) if len(named) > 1 else None
    return join(
        [
            card(table(ShownTable("Runs", headers, rows, texts=2))),
            element("p", _NOTE, class_="note") if plot else None,
            plot,
        ]
    )


def _plot(named: Sequence[tuple[str, VariantLine]], score: str | None, width: int, noun: str) -> Markup | None:
    """Share of ok rows, or the mean of a score, against the cost of a row in the unit that most variants know.

    `noun`: what the variants' lines count.
    """
    unit = _unit([line for _, line in named])
    colours = _colours([line for _, line in named])
    points = []
    for (name, line), colour in zip(named, colours, strict=True):
        rate = line.ok_rate if score is None else line.scores.get(score)
        each = _per_row(line, unit)
        if rate is not None and each is not None:
            points.append(
                Point(name, each, rate.value, rate.low, rate.high, colour, _tip(name, line, score, rate, noun))
            )
    if len(points) < 2:
        return None
    titles = _titles(score, unit, noun)
    description = "; ".join(f"{point.name}: {100 * point.y:.1f} %" for point in points)

    def draw(size: int) -> Markup:
        return scatter_plot(points, size, lambda value: _cost_words(unit, value), titles)

    return card(figure(draw, width, f"{titles[0]} against {titles[1]}. {description}", role="group"))


def _titles(score: str | None, unit: str, noun: str) -> tuple[str, str]:
    quality = f"{noun}s that are ok" if score is None else f"mean of score {score}"
    each = {"usd": "cost of a {} in $", "credits": "cost of a {} in credits", "tokens": "tokens of a {}"}
    costs = {name: words.format(noun) for name, words in each.items()}
    return quality, costs[unit]


def _unit(lines: Sequence[VariantLine]) -> str:
    """Dollars or credits, whichever more variants know; tokens where no cost is known."""
    known = {unit: sum(getattr(line.cost, unit) is not None for line in lines) for unit in ("usd", "credits")}
    best = max(known, key=lambda unit: known[unit])
    return best if known[best] else "tokens"


def _per_row(line: VariantLine, unit: str) -> float | None:
    """For a plot only: the place of a point is no amount of money."""
    if unit == "tokens":
        return (line.input_tokens + line.output_tokens) / line.rows
    amount = getattr(cost_of_row(line), unit)
    return None if amount is None else float(amount)


def _cost_words(unit: str, value: float) -> str:
    return number_text(value) if unit == "tokens" else short_amount(unit, value)


def _colours(lines: Sequence[VariantLine]) -> list[int]:
    """By the level of the first axis that tells variants apart, else each its own."""
    for axis in dict.fromkeys(name for line in lines for name in line.axes):
        levels = list(dict.fromkeys(line.axes.get(axis, "") for line in lines))
        if 1 < len(levels) < len(lines):
            return [levels.index(line.axes.get(axis, "")) for line in lines]
    return list(range(len(lines)))


def _tip(name: str, line: VariantLine, score: str | None, rate: Rate, noun: str) -> str:
    what = "ok" if score is None else score
    return "\n".join(
        [
            name,
            *(f"{axis}: {level}" for axis, level in line.axes.items()),
            f"{what} {rate_words(rate)}",
            *([f"{counted(line.missing, noun)} without an answer"] if line.missing else []),
            f"{money_text(cost_of_row(line))} a {noun}, {counted(line.rows, noun)}",
            *([f"latency {seconds_text(line.latency_p50)}"] if line.latency_p50 is not None else []),
        ]
    )
