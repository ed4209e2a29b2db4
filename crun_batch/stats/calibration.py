"""How far a stated confidence can be believed: of what is said to be 80 % sure, 80 % should be right.

Owns the bins, the expected calibration error and the coverage at thresholds, over a frame of `row`, `confidence`
(0 to 1) and `right` (0 to 1). Sums of bins only become Python values; the error's interval leaves out groups of
rows in turn (jackknife), since the answers of one row belong together. The error is that of Naeini, Cooper and
Hauskrecht 2015 with bins of equal width; it is biased upwards where bins hold few rows, as its interval shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl
from msgspec import Struct

from crun_batch.stats.agreement import GROUPS, row_sums
from crun_batch.stats.intervals import Rate, jackknife_interval, rate_of
from crun_batch.stats.sums import sum_of

BINS = 10
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class CalibrationBin(Struct, frozen=True):
    """Answers whose confidence is from `low` to below `high` (the last bin: up to 1)."""

    low: float
    high: float
    answers: int
    confidence: float
    """Their mean confidence."""
    right: Rate
    """How many of them are right."""


class Coverage(Struct, frozen=True):
    """What is kept where only answers from this confidence on are."""

    threshold: float
    answers: int
    share: float
    """Of all answers with a confidence."""
    right: Rate | None


class Calibration(Struct, frozen=True):
    """One variant's confidence against how often it is right."""

    answers: int
    error: float
    """The expected calibration error: 0 is perfect."""
    error_low: float | None
    error_high: float | None
    """Its 95 % interval; None where it cannot be told."""
    bins: tuple[CalibrationBin, ...]
    coverage: tuple[Coverage, ...]


def calibration(answers: pl.LazyFrame) -> Calibration | None:
    """Of answers with a confidence from 0 to 1 and a score; None where there are none."""
    confidence = pl.col("confidence").cast(pl.Float64)
    known = (
        answers.select("row", confidence=confidence, right=pl.col("right").cast(pl.Float64))
        .filter(pl.col("confidence").is_between(0.0, 1.0), pl.col("right").is_not_null())
        .with_columns(
            bin=(pl.col("confidence") * BINS).floor().clip(0, BINS - 1).cast(pl.Int64),
            group=pl.col("row").rank("dense") % GROUPS,
        )
        .collect()
        .lazy()
    )
    sums = (
        known.group_by("bin", "group")
        .agg(n=pl.len(), c=sum_of(pl.col("confidence")), y=sum_of(pl.col("right")))
        .collect()
    )
    if sums.is_empty():
        return None
    total = int(sums["n"].sum())
    whole = _error(sums)
    without = [_error(sums.filter(pl.col("group") != group)) for group in sums["group"].unique()]
    low, high = _interval(whole, without)
    return Calibration(total, whole, low, high, _bins(known, sums), _coverage(known, total))


def _error(sums: pl.DataFrame) -> float:
    """The mean distance between how sure answers are and how often they are right, bin by bin."""
    bins = sums.group_by("bin").agg(sum_of(pl.col("n", "c", "y")))
    total = int(bins["n"].sum())
    return math.fsum(abs(c - y) for _, _, c, y in bins.iter_rows()) / total if total else 0.0


def _interval(whole: float, without: Sequence[float]) -> tuple[float | None, float | None]:
    found = jackknife_interval(whole, without)
    return (None, None) if found is None else (max(0.0, found[0]), min(1.0, found[1]))


def _rates(by_row: pl.LazyFrame, key: str) -> dict[object, Rate]:
    sums = row_sums(by_row, [key])
    return {name: rate for name, one in sums.items() if (rate := rate_of(one)) is not None}


def _bins(known: pl.LazyFrame, sums: pl.DataFrame) -> tuple[CalibrationBin, ...]:
    rates = _rates(known.group_by("bin", "row").agg(y=sum_of(pl.col("right")), x=pl.len()), "bin")
    bins = sums.group_by("bin").agg(sum_of(pl.col("n", "c"))).sort("bin")
    return tuple(
        CalibrationBin(place / BINS, (place + 1) / BINS, n, c / n, rates[place])
        for place, n, c in bins.iter_rows()
    )


def _coverage(known: pl.LazyFrame, total: int) -> tuple[Coverage, ...]:
    """From each threshold on. Where no row is repeated, each answer is a row: none need be put together."""
    is_repeated = known.select(pl.col("row").is_duplicated().any()).collect().item()
    found = []
    for threshold in THRESHOLDS:
        kept = known.filter(pl.col("confidence") >= threshold)
        if is_repeated:
            by_row = kept.group_by("row").agg(y=sum_of(pl.col("right")), x=pl.len()).collect()
        else:
            by_row = kept.select("row", y="right", x=pl.lit(1)).collect()
        answers = int(by_row["x"].sum())
        rates = _rates(by_row.lazy().select(pl.lit("").alias("all"), "y", "x"), "all")
        found.append(Coverage(threshold, answers, answers / total, rates.get("")))
    return tuple(found)
