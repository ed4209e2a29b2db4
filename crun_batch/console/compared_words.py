"""All that `compare` tells, in words: the comparison, labels against gold, rows on which replies differ."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import polars as pl

from crun_batch.console.compare_words import comparison_text, percent, rate
from crun_batch.console.disagreements import disagreements_text
from crun_batch.console.tables import table
from crun_batch.console.words import display_width, one_line
from crun_batch.stats.agreement import GoldFigures
from crun_batch.stats.comparison import Comparison

ROWS_SHOWN = 10
MOST_CLASSES_SHOWN = 20


def compared_text(
    comparison: Comparison,
    gold: Mapping[str, GoldFigures],
    disagreements: pl.DataFrame,
    *,
    width: int | None = None,
) -> str:
    """All of a comparison for a terminal; of the rows on which replies differ the first ROWS_SHOWN."""
    parts = [comparison_text(comparison, width=width)]
    parts += [gold_text(name, figures, width=width) for name, figures in gold.items()]
    if disagreements.width:
        head = "rows on which replies differ, the most disputed first:\n" if disagreements.height else ""
        parts.append(head + disagreements_text(disagreements.head(ROWS_SHOWN), width=width))
    return _folded("\n\n".join(parts), width)


def gold_text(name: str, figures: GoldFigures, *, width: int | None = None) -> str:
    """One variant against the gold labels, for a terminal."""
    head = one_line(
        f"{name} against gold: {rate(figures.accuracy)} right; macro "
        f"precision {percent(figures.macro_precision)}, recall "
        f"{percent(figures.macro_recall)}, F1 {percent(figures.macro_f1)}"
    )
    if len(figures.classes) > MOST_CLASSES_SHOWN:
        return f"{head}\n{len(figures.classes)} classes: their figures and the confusion matrix are in --json"
    return _folded(f"{head}\n{_classes(figures, width)}\n\n{_confusion(figures, width)}", width)


def _folded(text: str, width: int | None) -> str:
    """Sentences go on in the next line; what tables and lists have is within the width already."""
    if width is None:
        return text
    lines = ([line] if display_width(line) <= width else textwrap.wrap(line, width) for line in text.split("\n"))
    return "\n".join(part for line in lines for part in line)


def _classes(figures: GoldFigures, width: int | None) -> str:
    repeats = any(one.rows != one.support for one in figures.classes)
    headers = ("class", "rows", *(["replies"] if repeats else []), "labelled so", "precision", "recall", "F1")
    lines = [
        (
            one.label,
            one.rows,
            *([one.support] if repeats else []),
            one.predicted,
            rate(one.precision),
            rate(one.recall),
            rate(one.f1),
        )
        for one in figures.classes
    ]
    return table(headers, lines, width=width)


def _confusion(figures: GoldFigures, width: int | None) -> str:
    """One line per gold class, one column per label that replies carry; counts replies, as `labelled so` does."""
    labels = [one.label for one in figures.classes]
    lines = [
        (label, *counts, none)
        for label, counts, none in zip(labels, figures.confusion, figures.unlabelled, strict=True)
    ]
    return table(("replies: gold \\ labelled", *labels, "no label"), lines, width=width)
