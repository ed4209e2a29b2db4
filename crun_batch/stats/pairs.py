"""Every variant against every other, on the rows that both have, with one correction over all differences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import polars as pl
from msgspec import Struct

from crun_batch.stats.intervals import Difference, holm, paired_binary_difference, paired_difference
from crun_batch.stats.sums import sum_of

MOST_PAIRED_VARIANTS = 12
"""Of more, only the comparisons with the baseline are made: 66 differences are as many as anybody reads."""


class PairDifference(Struct, frozen=True):
    """The score of `first` minus that of `second` over common rows; `p_adjusted` is Holm's over all pairs."""

    first: str
    second: str
    difference: Difference
    p_adjusted: float


def all_pairs(by_row: pl.LazyFrame, names: Sequence[str]) -> tuple[PairDifference, ...]:
    """The difference of each pair that has common rows, in the order of `names`; none of too many variants."""
    if len(names) > MOST_PAIRED_VARIANTS:
        return ()
    to_other = {name: paired_differences(by_row, name) for name in names[1:]}
    found = [
        (first, second, to_other[second][first])
        for first, second in combinations(names, 2)
        if first in to_other[second]
    ]
    adjusted = holm([difference.p for *_, difference in found])
    return tuple(PairDifference(*pair, p) for pair, p in zip(found, adjusted, strict=True))


def paired_differences(by_row: pl.LazyFrame, other: str) -> dict[str, Difference]:
    """Variant -> its paired difference to `other`, from lines of (row, variant, mean, binary)."""
    scored = by_row.filter(pl.col("mean").is_not_null())
    reference = scored.filter(pl.col("variant") == other).select("row", "mean", "binary")
    d = pl.col("mean") - pl.col("mean_other")
    sums = (
        scored.filter(pl.col("variant") != other)
        .join(reference, on="row", suffix="_other")
        .group_by("variant")
        .agg(
            rows=pl.len(),
            total=sum_of(d),
            squares=sum_of(d * d),
            largest=d.abs().max(),
            binary=(pl.col("binary") & pl.col("binary_other")).all(),
            better=(d == 1).sum(),
            worse=(d == -1).sum(),
        )
    )
    found = {}
    for line in sums.collect().iter_rows(named=True):
        if line["binary"]:
            difference = paired_binary_difference(line["rows"], line["better"], line["worse"])
        else:
            difference = paired_difference(line["rows"], line["total"], line["squares"], line["largest"])
        if difference is not None:
            found[line["variant"]] = difference
    return found
