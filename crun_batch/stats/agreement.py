"""How far labels can be trusted: agreement of repeats, of variants, of all, and against gold labels.

Owns the counting and the coefficients, over frames of the columns `row`, `variant`, `label` (one line per reply;
a null label is no label). Must not know results, files or words. The frames may be lazy and large: all counting
is done by polars, and only sums and small tables become Python values.

The coefficients are our own: scikit-learn and krippendorff bring numpy and scipy and want every label in memory,
where polars is already there and counts in bounded groups. The tests hold them equal to both libraries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import polars as pl
from msgspec import Struct

from crun_batch.stats.intervals import Rate, RowSums, jackknife_interval, rate_of
from crun_batch.stats.kappa import Coefficient, cohens_kappa
from crun_batch.stats.sums import mean_of, sum_of

GROUPS = 100
"""Groups of rows that a jackknife leaves out in turn; fewer rows are left out one by one."""


class PairAgreement(Struct, frozen=True):
    """Two variants on the rows that both have labelled."""

    first: str
    second: str
    agreement: Rate | None
    kappa: Coefficient


class ClassFigures(Struct, frozen=True):
    """One class against gold: None where there is nothing to divide by."""

    label: str
    support: int
    """Replies to rows whose gold label it is."""
    rows: int
    """Those rows: fewer than their replies where rows are asked repeatedly."""
    predicted: int
    """Replies that were labelled so."""
    precision: Rate | None
    recall: Rate | None
    f1: Rate | None


class GoldFigures(Struct, frozen=True):
    """Labels against gold labels.

    `confusion[i][j]`: replies to rows of gold class i that were labelled with class j, in the order of `classes`
    (sorted); `unlabelled[i]`: those without a label, which lower recall and accuracy, not precision. Macro
    figures are plain means over the classes, an undefined one counting 0 (as in scikit-learn); micro ones are
    over replies.
    """

    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    unlabelled: tuple[int, ...]
    accuracy: Rate | None
    macro_precision: float
    macro_recall: float
    macro_f1: float
    micro_precision: Rate | None
    micro_recall: Rate | None
    micro_f1: Rate | None


def majority_labels(labels: pl.LazyFrame) -> pl.LazyFrame:
    """One line per (row, variant): the label with the most replies, null on a tie; `votes`, `replies`."""
    keys = ["row", "variant"]
    votes = pl.col("votes")
    counted = labels.filter(pl.col("label").is_not_null()).group_by(*keys, "label").agg(votes=pl.len())
    totals = counted.with_columns(most=votes.max().over(keys), replies=votes.sum().over(keys))
    top = totals.filter(votes == pl.col("most")).group_by(keys)
    found = top.agg(pl.col("label", "votes", "replies").first(), tied=pl.len())
    return found.with_columns(label=pl.when(pl.col("tied") == 1).then("label")).drop("tied")


def row_labels(labels: pl.LazyFrame) -> pl.DataFrame:
    """The majority labels in order, with `agreement`: how often two replies of the row agree; null with one."""
    labels = labels.filter(pl.col("label").is_not_null())
    counted = labels.group_by("row", "variant", "label").agg(n=pl.len())
    votes, replies = pl.col("n"), pl.col("n").sum()
    pairs = replies * (replies - 1)
    agree = pl.when(pairs > 0).then((votes * (votes - 1)).sum() / pairs)
    agreed = counted.group_by("row", "variant").agg(agreement=agree)
    found = majority_labels(labels).join(agreed, on=["row", "variant"])
    return (
        found.select("row", "variant", "label", "votes", "replies", "agreement").sort("row", "variant").collect()
    )


def self_agreement(labels: pl.LazyFrame) -> dict[str, Rate]:
    """Variant -> how often two replies of it to the same row carry the same label, over rows with repeats."""
    counted = labels.filter(pl.col("label").is_not_null()).group_by("row", "variant", "label").agg(votes=pl.len())
    votes, replies = pl.col("votes"), pl.col("votes").sum()
    agree = (votes * (votes - 1)).sum() / (replies * (replies - 1))
    rows = counted.group_by("row", "variant").agg(replies=replies, y=agree).filter(pl.col("replies") > 1)
    return {
        name: rate
        for name, sums in row_sums(rows.with_columns(x=pl.lit(1.0)), ["variant"]).items()
        if (rate := rate_of(sums)) is not None
    }


def pair_agreement(majority: pl.LazyFrame, first: str, second: str) -> PairAgreement:
    """Raw agreement and Cohen's kappa of two variants over the rows where both have a label.

    `majority` has one line per (row, variant). Kappa's interval is by its large-sample error (Fleiss, Cohen and
    Everitt 1969).
    """
    known = majority.filter(pl.col("label").is_not_null())
    sides = [
        known.filter(pl.col("variant") == name).select("row", label=pl.col("label").cast(pl.String))
        for name in (first, second)
    ]
    cells = (
        sides[0]
        .join(sides[1], on="row", suffix="_second")
        .group_by("label", "label_second")
        .agg(count=pl.len())
        .collect()
    )
    counts = {(a, b): count for a, b, count in cells.iter_rows()}
    rows = sum(counts.values())
    agreed = sum(count for (a, b), count in counts.items() if a == b)
    return PairAgreement(
        first, second, rate_of(RowSums(rows, agreed, rows, agreed, agreed, rows)), cohens_kappa(counts)
    )


def krippendorff_alpha(labels: pl.LazyFrame, level: Literal["nominal", "interval"] = "nominal") -> Coefficient:
    """Krippendorff's alpha of all labels, every variant and repeat being a coder, over rows with two and more.

    `interval`: labels are numbers, and differences count by their square. The 95 % interval leaves out groups of
    rows in turn (jackknife), since the labels of one row belong together.
    """
    rated = labels.filter(pl.col("label").is_not_null()).with_columns(ratings=pl.len().over("row"))
    rated = rated.filter(pl.col("ratings") > 1).with_columns(group=pl.col("row").rank("dense") % GROUPS)
    return _nominal_alpha(rated) if level == "nominal" else _interval_alpha(rated)


def _nominal_alpha(rated: pl.LazyFrame) -> Coefficient:
    """Disagreement seen: pairs of unlike labels within rows; expected: among all labels, by their counts."""
    cells = rated.group_by("group", "row", "label").agg(n=pl.len())
    size, alike = pl.col("n").sum(), (pl.col("n") * pl.col("n")).sum()
    rows = cells.group_by("group", "row").agg(total=size, seen=(size * size - alike) / (size - 1))
    by_group = rows.group_by("group").agg(
        rows=pl.len(), total=pl.col("total").sum().cast(pl.Float64), seen=sum_of(pl.col("seen"))
    )
    classes = cells.group_by("group", "label").agg(n=pl.col("n").sum().cast(pl.Float64))
    whole = pl.col("n").sum().over("label")
    cross = (
        classes.with_columns(whole=whole)
        .group_by("group")
        .agg(cross=(pl.col("n") * pl.col("whole")).sum(), own=(pl.col("n") ** 2).sum())
    )
    table = by_group.join(cross, on="group").sort("group").collect()

    def alpha(total: float, seen: float, alike: float) -> float | None:
        expected = (total * total - alike) / (total - 1) if total > 1 else 0.0
        return 1 - seen / expected if expected > 0 else None

    total, seen, alike_all = (math.fsum(table[name]) for name in ("total", "seen", "cross"))
    without = [
        alpha(total - line["total"], seen - line["seen"], alike_all - 2 * line["cross"] + line["own"])
        for line in table.iter_rows(named=True)
    ]
    return _with_interval(alpha(total, seen, alike_all), without, sum(table["rows"]))


def _interval_alpha(rated: pl.LazyFrame) -> Coefficient:
    """The same with squared differences, which sums of labels and of their squares give."""
    number = pl.col("label").cast(pl.Float64)
    centred = rated.with_columns(label=number - mean_of(number))
    size, x = pl.len().cast(pl.Float64), pl.col("label")
    rows = centred.group_by("group", "row").agg(
        total=size,
        sum=sum_of(x),
        squares=sum_of(x * x),
        seen=2 * (size * sum_of(x * x) - sum_of(x) ** 2) / (size - 1),
    )
    table = (
        rows.group_by("group")
        .agg(sum_of(pl.col("total", "sum", "squares", "seen")), rows=pl.len())
        .sort("group")
        .collect()
    )

    def alpha(total: float, seen: float, sum_: float, squares: float) -> float | None:
        expected = 2 * (total * squares - sum_ * sum_) / (total - 1) if total > 1 else 0.0
        return 1 - seen / expected if expected > 1e-12 * squares else None

    whole = {name: math.fsum(table[name]) for name in ("total", "seen", "sum", "squares")}
    without = [
        alpha(*(whole[name] - line[name] for name in ("total", "seen", "sum", "squares")))
        for line in table.iter_rows(named=True)
    ]
    return _with_interval(alpha(*whole.values()), without, sum(table["rows"]))


def _with_interval(value: float | None, without: Sequence[float | None], rows: int) -> Coefficient:
    known = [one for one in without if one is not None]
    interval = jackknife_interval(value, known) if value is not None and len(known) == len(without) else None
    low, high = interval or (None, None)
    return Coefficient(value, low, None if high is None else min(1.0, high), rows)


def against_gold(labels: pl.LazyFrame) -> GoldFigures:
    """Labels against the column `gold`; rows without a gold label do not count, repeats of a row are clustered."""
    known = (
        labels.filter(pl.col("gold").is_not_null())
        .select("row", label=pl.col("label").cast(pl.String), gold=pl.col("gold").cast(pl.String))
        .collect()
        .lazy()
    )
    counted = known.group_by("gold", "label").agg(n=pl.len()).collect()
    cells = {(gold, label): n for gold, label, n in counted.iter_rows()}
    names = sorted({label for cell in cells for label in cell if label is not None})
    hit = (pl.col("label") == pl.col("gold")).fill_null(False)
    by_row = known.group_by("row").agg(
        hits=hit.sum(), gold=pl.len(), predicted=pl.col("label").is_not_null().sum()
    )
    micro = _figures(by_row.with_columns(label=pl.lit("")))[""] if cells else (None, None, None)
    per_class = _figures(_by_row_and_class(known, hit))
    rows_of = dict(known.group_by("gold").agg(pl.col("row").n_unique()).collect().iter_rows())
    classes = tuple(
        ClassFigures(
            name,
            sum(n for (gold, _), n in cells.items() if gold == name),
            rows_of.get(name, 0),
            sum(n for (_, label), n in cells.items() if label == name),
            *per_class[name],
        )
        for name in names
    )
    return GoldFigures(
        classes,
        tuple(tuple(cells.get((gold, label), 0) for label in names) for gold in names),
        tuple(cells.get((gold, None), 0) for gold in names),
        accuracy=micro[1],
        macro_precision=_macro([one.precision for one in classes]),
        macro_recall=_macro([one.recall for one in classes]),
        macro_f1=_macro([one.f1 for one in classes]),
        micro_precision=micro[0],
        micro_recall=micro[1],
        micro_f1=micro[2],
    )


def _by_row_and_class(known: pl.LazyFrame, hit: pl.Expr) -> pl.LazyFrame:
    """Per row and class: replies that were right (`hits`), that should have been it, that were it."""
    sides = [
        known.filter(pl.col("label").is_not_null()).select("row", "label", hits=hit, gold=hit, predicted=True),
        known.filter(~hit).select("row", label=pl.col("gold"), hits=False, gold=True, predicted=False),
    ]
    sums = pl.col("hits", "gold", "predicted").cast(pl.Int64).sum()
    return pl.concat(sides).group_by("row", "label").agg(sums)


def _figures(by_row: pl.LazyFrame) -> dict[str, tuple[Rate | None, Rate | None, Rate | None]]:
    """Class -> precision, recall, F1. F1 is a ratio of sums over rows too: twice the hits / (gold + predicted)."""
    by_row = by_row.collect().lazy()
    hits, both = pl.col("hits"), pl.col("gold") + pl.col("predicted")
    ratios = [(hits, pl.col("predicted")), (hits, pl.col("gold")), (2 * hits, both)]
    found = [row_sums(by_row.select("label", y=y, x=x), ["label"]) for y, x in ratios]
    precision, recall, f1 = ({name: rate_of(sums) for name, sums in one.items()} for one in found)
    return {name: (precision[name], recall[name], f1[name]) for name in f1}


def _macro(rates: Sequence[Rate | None]) -> float:
    return math.fsum(rate.value for rate in rates if rate is not None) / len(rates) if rates else 0.0


def row_sums(by_row: pl.LazyFrame, keys: Sequence[str]) -> dict[Any, RowSums]:
    """Per key (a tuple where there are several) the sums of the columns `y` and `x`, one line per row."""
    y, x = pl.col("y").cast(pl.Float64), pl.col("x").cast(pl.Float64)
    sums = by_row.group_by(keys).agg(
        rows=(x > 0).sum(), y=sum_of(y), x=sum_of(x), yy=sum_of(y * y), xy=sum_of(x * y), xx=sum_of(x * x)
    )
    count = len(keys)
    return {line[0] if count == 1 else line[:count]: RowSums(*line[count:]) for line in sums.collect().iter_rows()}
