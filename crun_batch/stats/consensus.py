"""One label for each row out of all variants: each variant has one vote, whatever its repeats.

Plain votes, no model of who errs how: with a handful of variants an estimate of each one's errors rests on the
same labels that it is to weigh.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from msgspec import Struct

from crun_batch.stats.agreement import row_sums
from crun_batch.stats.intervals import Rate, rate_of


class Consensus(Struct, frozen=True):
    """How far variants agree on the rows that two or more of them have labelled."""

    rows: int
    decided: int
    """Rows on which one label has more votes than any other."""
    unanimous: int
    agreement: Rate | None
    """How often two variants give a row the same label."""
    variants: dict[str, Rate]
    """How often each variant's label is the one of the others together, where they are decided."""


def consensus_labels(majority: pl.LazyFrame) -> pl.LazyFrame:
    """One line per row: `consensus` (null on a tie), its `consensus_votes`, `consensus_agreement` (null with one).

    `majority` has one line per (row, variant).
    """
    known = majority.filter(pl.col("label").is_not_null())
    votes = known.group_by("row", "label").agg(n=pl.len())
    most = pl.col("n") == pl.col("n").max()
    total = pl.col("n").sum()
    alike = (pl.col("n") * (pl.col("n") - 1)).sum()
    return votes.group_by("row").agg(
        consensus=pl.when(most.sum() == 1).then(pl.col("label").filter(most).first()),
        consensus_votes=pl.col("n").max(),
        consensus_variants=total,
        consensus_agreement=pl.when(total > 1).then(alike / (total * (total - 1))),
    )


def consensus_of(majority: pl.LazyFrame, names: Sequence[str]) -> Consensus | None:
    """The sums; None where no row has labels of two variants."""
    rows = consensus_labels(majority).filter(pl.col("consensus_variants") > 1).collect()
    if rows.is_empty():
        return None
    sums = row_sums(rows.lazy().select(all=pl.lit(""), y="consensus_agreement", x=pl.lit(1.0)), ["all"])
    others = {name: rate for name in names if (rate := _with_others(majority, name)) is not None}
    return Consensus(
        rows=rows.height,
        decided=rows["consensus"].count(),
        unanimous=rows.filter(pl.col("consensus_votes") == pl.col("consensus_variants")).height,
        agreement=rate_of(sums[""]),
        variants=others,
    )


def _with_others(majority: pl.LazyFrame, name: str) -> Rate | None:
    """A variant against what all others say: its own vote must not agree with itself."""
    known = majority.with_columns(pl.col("variant").cast(pl.String), pl.col("label").cast(pl.String))
    own = known.filter(pl.col("variant") == name, pl.col("label").is_not_null()).select("row", "label")
    others = consensus_labels(known.filter(pl.col("variant") != name)).filter(pl.col("consensus").is_not_null())
    both = own.join(others, on="row").select(
        all=pl.lit(""), y=(pl.col("label") == pl.col("consensus")).cast(pl.Float64), x=pl.lit(1.0)
    )
    sums = row_sums(both, ["all"])
    return rate_of(sums[""]) if sums else None
