"""A report as one HTML file that needs nothing but itself: ReportData in, text out.

What a run did, what it cost, what went wrong, what came out, in this order, for one who did not write the job.
Pure: opens nothing, reads no clock. Every text of the run passes `markup`, which escapes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from msgspec import Struct

from crun_batch.console.amounts import count, counted, duration, rate
from crun_batch.reporting import parts as parts
from crun_batch.reporting.axes import SECOND, number_text, seconds_text
from crun_batch.reporting.data import Amount, Distribution, Quantiles, ReportData, VariantLine
from crun_batch.reporting.markup import Markup, element, join
from crun_batch.reporting.plots import (
    FULL,
    HALF,
    BarPart,
    figure,
    histogram_plot,
    level_bar,
    share_bar,
    words_of,
)
from crun_batch.reporting.tables import ShownTable
from crun_batch.reporting.template import page
from crun_batch.reporting.timeline_plot import timeline_plot
from crun_batch.reporting.variants import overview, variants
from crun_batch.reporting.words import (
    bill_bounds,
    cache_sentence,
    cost_sentence,
    exact_text,
    money_text,
    percentage,
    reused_sentence,
    rows_sentence,
    sum_text,
    time_sentence,
    warnings,
)
from crun_batch.stats.intervals import Rate

_ENDS = {
    "finished": "finished",
    "stopped": "stopped",
    "interrupted": "interrupted",
    "running": "still running",
    "killed": "killed",
}
_BASIC = ("latency", "input tokens", "output tokens")
_VARIANTS_LISTED = 12


def report_html(runs: Sequence[ReportData]) -> str:
    """The whole document for one run, or for several with a comparison of them in front."""
    if len(runs) == 1:
        return page(f"{runs[0].name}: report", run_part(runs[0], ""))
    title = f"{len(runs)} runs"
    heads = [element("div", element("h1", title), class_="head"), overview(runs)]
    bodies = [
        element("section", run_part(run, f"run-{number}-"), class_="run", id=f"run-{number}")
        for number, run in enumerate(runs, 1)
    ]
    return page(title, join([*heads, *bodies]))


_ROWS_NOTE = (
    "Some that are not ok, then some that variants answered differently, then random ones: always the same."
)


def run_part(data: ReportData, prefix: str) -> Markup:
    """Everything about one run; `prefix` keeps the names of its sections apart from those of other runs."""
    spreads = [one for one in data.distributions if one.name in _BASIC]
    counted_by_value = {one.column for one in data.labels}
    outputs = [one for one in data.distributions if one.name not in {*_BASIC, *counted_by_value}]
    came_out = [*parts.labels(data), *map(_spread_card, outputs)]
    exact = "To the last digit, as far as it is known; failed and repeated requests included."
    sections = [
        PageSection("cost", "What it cost", parts.bill(data), exact),
        PageSection("wrong", "What went wrong", parts.failures(data)),
        PageSection("variants", "Quality and cost", variants(data)),
        PageSection("values", "What came out", parts.pairs(came_out), f"Of the {data.noun}s that are ok."),
        PageSection("time", "How it went over time", _time(data)),
        PageSection(
            "sizes", "Latency and tokens", parts.pairs([*map(_spread_card, spreads)]), "Of answered requests."
        ),
        PageSection("rows", "Rows to read", parts.samples(data), _ROWS_NOTE),
        PageSection("facts", "How it was run", parts.facts(data)),
    ]
    shown = [section for section in sections if section.body]
    links = [element("a", section.title, href=f"#{prefix}{section.name}") for section in shown]
    nav = element("nav", *(element("span", link) for link in links), class_="legend", aria_label="sections")
    return join([_head(data), _tiles(data), nav, *(_section(section, prefix) for section in shown)])


class PageSection(Struct, frozen=True):
    """A part of the page: its name in links, its title, what it holds (nothing: it is left out), a note."""

    name: str
    title: str
    body: Markup
    note: str = ""


def _section(section: PageSection, prefix: str) -> Markup:
    name = prefix + section.name
    return element(
        "section",
        element("h2", section.title, id=name),
        element("p", section.note, class_="note") if section.note else None,
        section.body,
        aria_labelledby=name,
    )


def _head(data: ReportData) -> Markup:
    sentences = (
        rows_sentence(data),
        cost_sentence(data),
        cache_sentence(data),
        reused_sentence(data),
        time_sentence(data),
    )
    at = []
    if data.started_at is not None and data.ended_at is not None:
        at = [f"{_moment(data.started_at)} to {_moment(data.ended_at)} UTC"]
    about = " · ".join([*at, ", ".join(data.facts.models), data.facts.table])
    simulated = parts.badge("simulated", "simulated: no money was spent") if data.facts.simulated else None
    state = parts.badge(data.status, _ENDS.get(data.status, data.status))
    return join(
        [
            element("div", element("h1", data.name), state, simulated, class_="head"),
            element("p", about, class_="soft") if about else None,
            element("p", " ".join(sentence for sentence in sentences if sentence), class_="lead"),
            *(element("p", text, class_=f"warning {severity}".strip()) for severity, text in warnings(data)),
        ]
    )


def _moment(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment // SECOND, UTC):%Y-%m-%d %H:%M:%S}"


def _tiles(data: ReportData) -> Markup:
    tiles = [_rows_tile(data), _cost_tile(data), _speed_tile(data), _tokens_tile(data), _score_tile(data)]
    return element("div", *tiles, class_="tiles")


def _tile(name: str, big: str, more: Sequence[object], *rest: object) -> Markup:
    return element(
        "div",
        element("div", name, class_="name"),
        element("div", big, class_="big"),
        *(element("div", line, class_="more") for line in more if line),
        *rest,
        class_="tile",
    )


def _rows_tile(data: ReportData) -> Markup:
    still_open = data.units_total - data.finished
    bar = [BarPart(status, number, status) for status, number in data.by_status.items()]
    more = [f"{count(data.ok)} of {counted(data.units_total, data.noun)}"]
    if data.in_flight:
        more.append(f"{counted(data.in_flight, 'request')} in flight")
    return _tile(
        f"{data.noun}s ok",
        percentage(data.ok, data.units_total),
        more,
        share_bar([*bar, BarPart("open", still_open, "open")]),
    )


def _cost_tile(data: ReportData) -> Markup:
    bounds = bill_bounds(data)
    in_dollars = data.cost.usd is not None
    also = money_text(Amount(credits=data.cost.credits)) if in_dollars and data.cost.credits is not None else ""
    more: list[object] = [also, f"bill {bounds}" if bounds else ""]
    if data.cost.is_known and data.ok:
        more.append(f"{sum_text(data, data.cost.per(data.ok))} per ok {data.noun}")
    name = "known cost" if data.uncertain else "cost"
    return _tile(name, money_text(Amount(usd=data.cost.usd) if in_dollars else data.cost), more, *_budget(data))


def _budget(data: ReportData) -> list[Markup]:
    found = []
    for unit in ("usd", "credits"):
        cap, spent = getattr(data.facts.budget, unit), getattr(data.cost, unit)
        if cap is None:
            continue
        words = (
            f"the budget of {exact_text(cap)} credits"
            if unit == "credits"
            else f"the budget of ${exact_text(cap)}"
        )
        if spent is None or not cap:
            found.append(element("div", words, class_="more"))
        else:
            words = f"{100 * spent / cap:.1f} % of {words}"
            found += [element("div", words, class_="more"), level_bar(float(spent / cap), "f-accent", tip=words)]
    return found


def _speed_tile(data: ReportData) -> Markup:
    speed = rate(data.finished / data.seconds, data.noun) if data.seconds else "-"
    latency = next((one.total for one in data.distributions if one.name == "latency"), None)
    more = [f"{duration(data.seconds)}, {counted(data.requests, 'request')}"]
    if latency is not None:
        more.append(f"latency {seconds_text(latency.p50)}, 95 % {seconds_text(latency.p95)}")
    return _tile("speed", speed, more)


def _tokens_tile(data: ReportData) -> Markup:
    inputs = sum(line.input_tokens for line in data.bill)
    outputs = sum(line.output_tokens for line in data.bill)
    cached = sum(line.cached_input_tokens for line in data.bill)
    reasoning = sum(line.reasoning_tokens for line in data.bill)
    more = [
        f"{count(inputs)} in" + (f" ({percentage(cached, inputs)} cached)" if cached else ""),
        f"{count(outputs)} out" + (f" ({percentage(reasoning, outputs)} reasoning)" if reasoning else ""),
    ]
    return _tile("tokens", number_text(inputs + outputs), more)


def _score_tile(data: ReportData) -> Markup | None:
    """The best variant by the first score."""
    scored: list[tuple[Rate, VariantLine]] = []
    for line in data.variants:
        found = next(iter(line.scores.values()), None)
        if found is not None:
            scored.append((found, line))
    if not scored:
        return None
    best, variant = max(scored, key=lambda each: each[0].value)
    score = next(iter(data.variants[0].scores))
    more = [
        f"95 %: {100 * best.low:.1f} to {100 * best.high:.1f} %",
        f"{percentage(variant.missing, variant.rows)} have no answer" if variant.missing else "",
        variant.name if len(data.variants) > 1 else "",
    ]
    return _tile(
        f"score {score}" + (", best" if len(data.variants) > 1 else ""), f"{100 * best.value:.1f} %", more
    )


def _time(data: ReportData) -> Markup:
    timeline = data.timeline
    if timeline is None:
        return Markup("")
    pauses = len(timeline.periods) - 1
    note = f"Each bar is {seconds_text(timeline.bin_seconds)}; times are UTC."
    note += f" {counted(pauses, 'pause')} left out, where the bars are grey." if pauses else ""
    failed = any(each.not_ok for period in timeline.periods for each in period)
    names = [("ok", "ok"), ("error", "not ok")] if failed else [("ok", "ok")]
    legend = [element("span", element("b", class_=f"dot k-{colour}"), words) for colour, words in names]
    description = f"{data.noun}s finished per second, latency and failed requests over time; {note}"
    return parts.card(
        element("div", *legend, element("span", note), class_="legend"),
        figure(lambda width: timeline_plot(timeline, width, data.noun), FULL, description),
    )


def _spread_card(distribution: Distribution) -> Markup:
    words, whole = words_of(distribution.unit), distribution.total
    title = element("h3", distribution.name)
    rows = [["all", *_quantile_cells(distribution.total, words)]]
    if len(distribution.variants) > 1:
        listed = list(distribution.variants.items())[:_VARIANTS_LISTED]
        rows += [[name, *_quantile_cells(found, words)] for name, found in listed]
    headers = ("", "median", "90 %", "95 %", "99 %", "most", "mean")
    if whole.least == whole.greatest:
        alike = f"The same for all {count(whole.count)}: {words(whole.least)}."
        return parts.card(title, element("p", alike))
    description = (
        f"{distribution.name}: median {words(whole.p50)}, 95 % {words(whole.p95)}, most {words(whole.greatest)}"
    )
    plot = figure(lambda width: histogram_plot(distribution, width), HALF, description)
    return parts.card(title, plot, parts.table(ShownTable(distribution.name, headers, rows)))


def _quantile_cells(found: Quantiles, words: Callable[[float], str]) -> list[str]:
    values = (found.p50, found.p90, found.p95, found.p99, found.greatest, found.mean)
    return [words(value) for value in values]
