"""Which models answered a variant, as they call themselves: a change in the middle of a run is another model."""

from __future__ import annotations

from datetime import datetime

import polars as pl
from msgspec import Struct


class ServedModel(Struct, frozen=True):
    """One of the models that answered a variant; `replies` of it from `first` to `last` (UTC)."""

    variant: str
    model: str
    replies: int
    first: datetime | None
    last: datetime | None


def served_models(results: pl.LazyFrame) -> tuple[ServedModel, ...]:
    """Of each variant that more than one model answered, all of them in the order of their first reply."""
    names = results.collect_schema().names()
    if "model" not in names:
        return ()
    moment = pl.col("finished_at") if "finished_at" in names else pl.lit(None, pl.Datetime("us", "UTC"))
    found = (
        results.filter(pl.col("model").is_not_null())
        .group_by("variant", "model")
        .agg(replies=pl.len(), first=moment.min(), last=moment.max())
        .filter(pl.len().over("variant") > 1)
        .sort("variant", "first", "model")
        .collect()
    )
    return tuple(ServedModel(*line) for line in found.iter_rows())
