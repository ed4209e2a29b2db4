"""A report for the terminal: the same sentences and tables as the page, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from crun_batch.console.amounts import count
from crun_batch.console.tables import table
from crun_batch.console.words import entry, one_line
from crun_batch.reporting.data import Labels, ReportData
from crun_batch.reporting.tables import ShownTable, bill_tables, retried_table, variants_table
from crun_batch.reporting.words import (
    cache_sentence,
    cost_sentence,
    percentage,
    reused_sentence,
    rows_sentence,
    time_sentence,
    warnings,
)

LABELS_LISTED = 10
_EXAMPLE_CHARACTERS = 200


def report_text(runs: Sequence[ReportData], *, width: int | None = None) -> str:
    """What each run did, what it cost, what went wrong, what came out; `width` in terminal columns."""
    return "\n\n\n".join(_run_text(run, width) for run in runs)


def _run_text(data: ReportData, width: int | None) -> str:
    sentences = [
        rows_sentence(data),
        cost_sentence(data),
        cache_sentence(data),
        reused_sentence(data),
        time_sentence(data),
    ]
    simulated = " (simulated: no money was spent)" if data.facts.simulated else ""
    lines = [f"{data.name}: {data.status}{simulated}", *filter(None, sentences)]
    lines += [f"! {sentence}" for _, sentence in warnings(data)]
    # a command that is to be copied is left to the terminal
    copied = data.resume_command or "\n"
    head = "\n".join(entry("", one_line(line), None if copied in line else width, indent="  ") for line in lines)
    return "\n\n".join([head, *(_table_text(one, width) for one in _tables(data))])


def _tables(data: ReportData) -> list[ShownTable]:
    named = [(line.name, line) for line in data.variants if line.rows]
    scores = list(dict.fromkeys(score for _, line in named for score in line.scores))
    return [
        *(bill_tables(data) if data.bill else []),
        *([_failures(data)] if data.failures else []),
        *([retried_table(data)] if data.retried else []),
        *([variants_table(named, scores, data.noun_in_variant)] if len(named) > 1 or (named and scores) else []),
        *(_labels(data, one, [name for name, _ in named]) for one in data.labels),
    ]


def _table_text(shown: ShownTable, width: int | None) -> str:
    cells = table(shown.headers, [[str(cell) for cell in row] for row in shown.rows], width=width)
    return f"{one_line(shown.title)}\n{cells}"


def _failures(data: ReportData) -> ShownTable:
    rows = [
        (
            failure.status,
            failure.kind or "-",
            count(failure.rows),
            percentage(failure.rows, data.finished),
            failure.examples[0].row_id if failure.examples else "-",
            (failure.examples[0].message or failure.examples[0].text)[:_EXAMPLE_CHARACTERS]
            if failure.examples
            else "-",
        )
        for failure in data.failures
    ]
    titles = ("status", "kind", f"{data.noun}s", "of the finished", "for example", "")
    return ShownTable(f"{data.noun.capitalize()}s that are not ok", titles, rows)


def _labels(data: ReportData, found: Labels, variants: Sequence[str]) -> ShownTable:
    sums = {label: sum(by.values()) for label, by in found.counts.items()}
    wholes = {name: sum(by.get(name, 0) for by in found.counts.values()) for name in variants}
    listed = list(found.counts.items())[:LABELS_LISTED]
    if len(variants) > 1:
        shares = [[percentage(by.get(name, 0), wholes[name]) for name in variants] for _, by in listed]
    else:
        shares = [[percentage(sums[label], sum(sums.values()))] for label, _ in listed]
    rows = [
        (label or "(empty)", *cells, count(sums[label])) for (label, _), cells in zip(listed, shares, strict=True)
    ]
    headers = (found.column, *(variants if len(variants) > 1 else ["share"]), f"{data.noun}s")
    return ShownTable(f"Values of {found.column}", headers, rows)
