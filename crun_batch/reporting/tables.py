"""The tables of a report as cells, the same on the page and in the terminal. Owns rows, columns and words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from msgspec import Struct

from crun_batch.console.amounts import UNKNOWN, count
from crun_batch.records import OUTCOMES, STATUSES
from crun_batch.reporting.axes import seconds_text
from crun_batch.reporting.data import Amount, BillLine, ReportData, VariantLine, total
from crun_batch.reporting.words import (
    exact_text,
    held_text,
    money_text,
    percentage,
    sum_text,
    unit_title,
    units_of,
)
from crun_batch.stats.intervals import Rate

OUTCOME_WORDS = {
    "done": "answered",
    "rejected": "rejected by the gateway",
    "not_sent": "never left this machine",
    "unknown": "outcome unknown, maybe billed",
}
PURPOSE_WORDS = {
    "answer": "answers",
    "alone": "rows alone as well, for a pilot",
    "repair": "repairs of invalid answers",
    "judge": "judges of answers",
}
SOURCE_WORDS = {
    "reply": "cost stated in the reply",
    "job": "prices of the job file",
    "models": "prices of the gateway's model list",
    "list": "public list prices",
    "": "not charged, or unknown",
}


class ShownTable(Struct, frozen=True):
    """Cells in rows; the first `texts` columns are texts, the others numbers. `sums_up`: the last row adds up."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    texts: int = 1
    sums_up: bool = False


class _Grouping(Struct, frozen=True):
    """One way to divide the bill: by what, how the groups are called, in which order they come."""

    title: str
    key: Callable[[BillLine], str]
    words: Mapping[str, str] = {}
    order: Sequence[str] = ()


def bill_tables(data: ReportData) -> list[ShownTable]:
    """By outcome, always; by variant, purpose, source of the price and status where there are several of them."""
    first = _Grouping("By what became of the request", lambda line: line.outcome, OUTCOME_WORDS, OUTCOMES)
    judged = any(line.purpose == "judge" for line in data.bill)
    by_variant = "By variant, the judges of its answers included" if judged else "By variant"
    others = [
        _Grouping(by_variant, lambda line: line.variant, {}, [line.name for line in data.variants]),
        _Grouping("By purpose", lambda line: line.purpose, PURPOSE_WORDS, list(PURPOSE_WORDS)),
        _Grouping("By where the price is from", lambda line: line.source or "", SOURCE_WORDS, list(SOURCE_WORDS)),
    ]
    tables = [_bill_table(data, first), *(_bill_table(data, other) for other in others)]
    shown = [one for index, one in enumerate(tables) if index == 0 or len(one.rows) > 1]
    by_status = _by_status(data)
    return [*shown, by_status] if len(by_status.rows) > 1 or data.ok < data.finished else shown


def _bill_table(data: ReportData, by: _Grouping) -> ShownTable:
    groups: dict[str, list[BillLine]] = {name: [] for name in by.order}
    for line in data.bill:
        groups.setdefault(by.key(line), []).append(line)
    units = units_of([line.cost for line in data.bill] + [line.held for line in data.bill]) or ("usd",)
    rows = [[by.words.get(name, name), *_bill_cells(lines, units)] for name, lines in groups.items() if lines]
    several = len(rows) > 1
    if several:
        rows.append(["all", *_bill_cells(data.bill, units)])
    headers = ["", "requests", "input tokens", "output tokens"]
    headers += [unit_title(unit, "known cost") for unit in units]
    headers += [unit_title(unit, "unknown: at most") for unit in units] if data.uncertain else []
    return ShownTable(by.title, headers, [row[: len(headers)] for row in rows], sums_up=several)


def _bill_cells(lines: Sequence[BillLine], units: Sequence[str]) -> list[str]:
    cost, held = total(line.cost for line in lines), total(line.held for line in lines)
    unpriced = sum(line.unpriced for line in lines)
    charged = any(line.outcome == "done" for line in lines)
    cells = [
        count(sum(line.requests for line in lines)),
        count(sum(line.input_tokens for line in lines)),
        count(sum(line.output_tokens for line in lines)),
    ]
    for unit in units:
        known = getattr(cost, unit)
        text = exact_text(known) if known is not None or charged else "-"
        cells.append(f"{text} + {count(unpriced)} unknown" if unpriced and known is not None else text)
    for unit in units:
        bound = getattr(held, unit)
        unbounded = any(getattr(line, f"unbounded_{unit}") for line in lines)
        cells.append(UNKNOWN if unbounded else "-" if bound is None else exact_text(bound))
    return cells


def _by_status(data: ReportData) -> ShownTable:
    """What went into rows that are of no use."""
    rows = []
    for status in STATUSES:
        lines = [line for line in data.statuses if line.status == status]
        number, cost = sum(line.rows for line in lines), total(line.cost for line in lines)
        if number:
            each = sum_text(data, cost.per(number - sum(line.unpriced for line in lines)))
            rows.append([status, count(number), percentage(number, data.finished), sum_text(data, cost), each])
    noun = data.noun
    headers = ("", f"{noun}s", "of the finished", "known cost", f"a {noun}")
    return ShownTable(f"By how the {noun} ended", headers, rows)


def retried_table(data: ReportData) -> ShownTable:
    """The requests without an answer."""
    rows = [
        (
            OUTCOME_WORDS.get(line.outcome, line.outcome),
            line.kind or "-",
            "-" if line.http_status is None else str(line.http_status),
            count(line.requests),
            percentage(line.requests, data.requests),
            held_text(data, line.held) if line.outcome == "unknown" else "-",
        )
        for line in data.retried
    ]
    headers = ("", "kind", "HTTP status", "requests", "of all", "may have cost at most")
    return ShownTable("Requests that brought no answer", headers, rows, texts=2)


def variants_table(named: Sequence[tuple[str, VariantLine]], scores: Sequence[str], noun: str) -> ShownTable:
    """Variants that have results, by the names given here: quality, cost, size, time. `noun`: row, or unit."""
    beside = ["no answer"] if scores else []
    headers = [
        "variant",
        f"{noun}s",
        "ok",
        *scores,
        *beside,
        f"cost of a {noun}",
        f"per correct {noun}" if scores else f"per ok {noun}",
    ]
    rows = []
    for name, line in named:
        right = line.scores.get(scores[0]) if scores else line.ok_rate
        rows.append(
            [
                name,
                count(line.rows),
                percentage(line.ok, line.rows),
                *(rate_words(line.scores.get(score)) for score in scores),
                *(percentage(line.missing, line.rows) for _ in beside),
                money_text(cost_of_row(line)),
                _per_correct(line, right),
                f"{line.input_tokens / line.rows:,.1f} / {line.output_tokens / line.rows:,.1f}",
                "-" if line.latency_p50 is None else seconds_text(line.latency_p50),
                "-" if line.latency_p95 is None else seconds_text(line.latency_p95),
            ]
        )
    return ShownTable("Variants", [*headers, f"tokens in / out of a {noun}", "latency", "95 %"], rows)


def cost_of_row(line: VariantLine) -> Amount:
    """Of the rows whose cost is known."""
    return line.cost.per(line.rows - line.unpriced)


def rate_words(rate: Rate | None) -> str:
    """81.3 % (79.1 to 83.4)."""
    return "-" if rate is None else f"{100 * rate.value:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def _per_correct(line: VariantLine, rate: Rate | None) -> str:
    """The cost of a row over the share of rows that are right: what one right row costs."""
    if rate is None or not rate.value:
        return "-"
    return money_text(cost_of_row(line).per(Decimal(repr(rate.value))))
