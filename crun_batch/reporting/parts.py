"""The parts of a report that are tables and texts: the bill, failures, labels, sample rows, facts."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from crun_batch.console.amounts import count, counted
from crun_batch.reporting.axes import seconds_text
from crun_batch.reporting.data import Example, FailureKind, Labels, ReportData, ShownAnswer, ShownSample
from crun_batch.reporting.markup import Markup, element, join
from crun_batch.reporting.plots import level_bar
from crun_batch.reporting.tables import ShownTable, bill_tables, retried_table
from crun_batch.reporting.words import HINTS, money_text, percentage, sum_text

VARIANT_COLUMNS = 6


def card(*children: object, wide: bool = False) -> Markup:
    """A box; `wide`: over both columns where boxes stand in pairs."""
    return element("div", *children, class_="card full" if wide else "card")


def pairs(cards: Sequence[Markup]) -> Markup:
    """Boxes in two columns, where there is room; nothing where there are none."""
    if not cards:
        return Markup("")
    return element("div", *cards, class_="pair")


def badge(name: str, words: str | None = None) -> Markup:
    """A word in a frame, in the colour of its status."""
    return element("span", words or name, class_=f"badge is-{name}")


def table(shown: ShownTable) -> Markup:
    """A table that scrolls by itself where the page is too narrow for it."""

    def cells(row: Sequence[object], head: bool) -> Markup:
        return join(
            element(
                "th" if head or index == 0 else "td",
                cell,
                class_=None if index < shown.texts else "number",
                scope="col" if head else "row" if index == 0 else None,
            )
            for index, cell in enumerate(row)
        )

    last = len(shown.rows) - 1 if shown.sums_up else None
    body = [
        element("tr", cells(row, head=False), class_="sum" if index == last else None)
        for index, row in enumerate(shown.rows)
    ]
    head = element("thead", element("tr", cells(shown.headers, head=True)))
    return element("div", element("table", head, element("tbody", *body)), class_="scroll")


def bill(data: ReportData) -> Markup:
    """What was paid for what."""
    if not data.bill:
        none = "Nothing has come back yet." if data.out else "No request was sent."
        return card(element("p", none, class_="soft"))
    return join(card(element("h3", one.title), table(one)) for one in bill_tables(data))


def failures(data: ReportData) -> Markup:
    """Rows that are not ok, by kind with examples; then the requests that brought no answer."""
    kinds = [_failure(data, kind) for kind in data.failures]
    parts = [pairs(kinds) if len(kinds) > 1 else join(kinds)] if kinds else []
    if data.retried:
        note = f"Most of these were asked again: a {data.noun} fails only when its attempts are used up."
        unanswered = retried_table(data)
        parts.append(card(element("h3", unanswered.title), element("p", note, class_="note"), table(unanswered)))
    if not parts:
        done = (
            f"Every finished {data.noun} is ok, and every request was answered."
            if data.finished
            else "Nothing yet."
        )
        return card(element("p", done, class_="soft"))
    return join(parts)


def _failure(data: ReportData, failure: FailureKind) -> Markup:
    hint = HINTS.get(failure.kind or "") or HINTS.get(failure.status, "")
    head = element(
        "div",
        badge(failure.status),
        element("strong", failure.kind) if failure.kind else None,
        element(
            "span",
            f"{counted(failure.rows, data.noun)}, {percentage(failure.rows, data.finished)} of the finished",
        ),
        element("span", f"cost {sum_text(data, failure.cost)}") if failure.cost.is_known else None,
        class_="meta",
    )
    alike: dict[tuple[str, str], list[Example]] = {}
    for example in failure.examples:
        alike.setdefault((example.message, example.text), []).append(example)
    several = len(data.variants) > 1
    quotes = [
        _quote([_where(one, several=several) for one in examples], *said) for said, examples in alike.items()
    ]
    return card(head, element("p", hint, class_="note") if hint else None, *quotes)


def _where(example: Example, *, several: bool) -> str:
    parts = [
        example.row_id,
        example.variant if several else "",
        f"repeat {example.repeat}" if example.repeat else "",
    ]
    return ", ".join(part for part in parts if part)


def _quote(places: Sequence[str], message: str, text: str) -> Markup:
    answer = element("p", text, class_="text", dir="auto") if text else None
    if message and answer is not None:
        answer = element("details", element("summary", "the answer"), answer)
    return element(
        "blockquote",
        element(
            "div", f"row {'; '.join(places)}" if len(places) == 1 else f"rows {'; '.join(places)}", class_="meta"
        ),
        element("p", message, class_="text", dir="auto") if message else None,
        answer,
    )


def labels(data: ReportData) -> list[Markup]:
    """A box per column of few values: how often each occurs, by variant where there are a few."""
    return [_label_card(one, [line.name for line in data.variants], data.noun) for one in data.labels]


def _label_card(found: Labels, variants: Sequence[str], noun: str) -> Markup:
    several = 1 < len(variants) <= VARIANT_COLUMNS
    columns = list(variants) if several else [""]
    wholes = {
        name: sum(sum(by.values()) if name == "" else by.get(name, 0) for by in found.counts.values())
        for name in columns
    }
    rows = []
    for label, by in found.counts.items():
        cells = [element("th", label or element("span", "(empty)", class_="soft"), scope="row", dir="auto")]
        for index, name in enumerate(columns):
            number = by.get(name, 0) if several else sum(by.values())
            colour = f"f{index % 8}" if several else "f-accent"
            cells += _label_cells(_LabelCell(label, name, number, wholes[name], colour, len(columns)))
        rows.append(element("tr", *cells))
    head = None
    if several:
        titles = [element("th", name, colspan=2, scope="col") for name in columns]
        head = element("thead", element("tr", element("td"), *titles))
    others = element("p", f"and {counted(found.others, noun)} with other values", class_="soft")
    note = (
        element("p", f"Lists: a {noun} counts once for each of its values.", class_="note")
        if found.lists
        else None
    )
    body = element("div", element("table", head, element("tbody", *rows)), class_="scroll")
    return card(element("h3", found.column), note, body, others if found.others else None, wide=several)


class _LabelCell(Struct, frozen=True):
    """How often one variant gave one label; `columns`: how many variants stand side by side."""

    label: str
    variant: str
    number: int
    whole: int
    colour: str
    columns: int


def _label_cells(cell: _LabelCell) -> list[Markup]:
    words = percentage(cell.number, cell.whole)
    said = f"{cell.label or '(empty)'}: {count(cell.number)} of {count(cell.whole)}, {words}"
    tip = f"{cell.variant}\n{said}" if cell.variant else said
    bar = level_bar(cell.number / cell.whole if cell.whole else 0.0, cell.colour, tip=tip)
    number = element("span", count(cell.number), class_="soft")
    return [
        element("td", bar, class_=f"bar b{cell.columns}"),
        element("td", words, element("br"), number, class_="number"),
    ]


def samples(data: ReportData) -> Markup:
    """A few rows, each with what went in and what came out."""
    return join(_sample(one, data) for one in data.samples)


def _sample(sample: ShownSample, data: ReportData) -> Markup:
    inputs = [
        part
        for name, text in sample.inputs.items()
        for part in (element("div", name, class_="field"), element("p", text, class_="text", dir="auto"))
    ]
    several = len(data.variants) > 1
    answers = [_answer(answer, several=several) for answer in sample.answers]
    shown = card(
        element("h3", f"{data.id_name} {sample.row_id}"),
        element("div", element("div", *inputs), element("div", *answers), class_="sample"),
    )
    marks = {"data_failed": sample.is_failed, "data_differs": sample.is_differing}
    return element("div", shown, data_row="", **{name: "" for name, holds in marks.items() if holds})


def _answer(answer: ShownAnswer, *, several: bool) -> Markup:
    scores = [f"{name} {score:.3g}" for name, score in answer.scores.items()]
    facts = [
        answer.variant if several else "",
        f"repeat {answer.repeat}" if answer.repeat else "",
        *scores,
        money_text(answer.cost) if answer.cost.is_known else "cost unknown",
        seconds_text(answer.latency_seconds) if answer.latency_seconds is not None else "",
    ]
    cut = answer.characters - len(answer.text)
    return element(
        "div",
        element("div", badge(answer.status), *(element("span", fact) for fact in facts if fact), class_="meta"),
        element("p", answer.text, class_="text", dir="auto") if answer.text else None,
        element("p", f"… and {counted(cut, 'character')} more", class_="soft") if cut > 0 else None,
        element("p", answer.message, class_="text soft", dir="auto") if answer.message else None,
        class_="answer",
    )


def facts(data: ReportData) -> Markup:
    """What was asked of whom."""
    known = data.facts
    listed = [
        ("run directory", data.directory),
        ("table", known.table),
        ("gateway", f"{known.gateway} ({known.protocol})"),
        ("models", ", ".join(known.models)),
        ("repeats", str(known.repeats) if known.repeats > 1 else ""),
        ("made with", ", ".join(f"{name} {version}" for name, version in known.versions.items())),
    ]
    items = [part for name, text in listed if text for part in (element("dt", name), element("dd", text))]
    prompts = [
        part
        for name, text in known.prompt.items()
        for part in (
            element("h3", f"prompt: {name}"),
            element("p", element("code", text), class_="text", dir="auto"),
        )
    ]
    return card(element("dl", *items, class_="facts"), *prompts)
