"""Finished units that are asked again (`--retry`, `--redo-changed`): opened, with what their attempts cost so far.

A unit's result sums up all its attempts, so the earlier ones must be known again before the next one goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from crun_batch.console.amounts import counted, noun_of
from crun_batch.pricing.account import Account, UnitKey, UnitSoFar
from crun_batch.records import Usage, known_pico
from crun_batch.state.done import DoneMarks
from crun_batch.store.packs import ROWS_ALONE_AFTER
from crun_batch.store.schema import TOKENS
from crun_batch.store.views import attempts_frame, results_frame

COSTS = ("cost_usd", "cost_credits")


def reopen(done: DoneMarks, account: Account, kinds: frozenset[str], *, path: Path, id_name: str) -> int:
    """Open the units whose status or error kind is among `kinds`; how many they are."""
    count = done.reopen_endings(kinds)
    if count:
        import polars as pl  # a run that asks nothing again does without

        asked_again = results_frame(path).filter(
            pl.col("status").is_in(kinds) | pl.col("error_kind").is_in(kinds).fill_null(value=False)
        )
        rows = asked_again.select(pl.col(id_name).cast(pl.String), "variant", "repeat").collect().rows()
        recall(account, rows, path=path, id_name=id_name)
    return count


def asked_again(count: int, kinds: frozenset[str], units_per_row: int) -> str:
    """3 finished rows are asked again (error, truncated)."""
    what = counted(count, f"finished {noun_of(units_per_row)}")
    return f"{what} {'is' if count == 1 else 'are'} asked again ({', '.join(sorted(kinds))})"


def recall(account: Account, units: Iterable[UnitKey], *, path: Path, id_name: str) -> None:
    """Put the sums of these units' attempts back into the account."""
    keys = list(units)
    if keys:
        account.open_units.update(_sums_of_attempts(path, id_name, keys))


def _sums_of_attempts(path: Path, id_name: str, units: list[UnitKey]) -> Iterable[tuple[UnitKey, UnitSoFar]]:
    import polars as pl

    keys = pl.DataFrame(units, schema={"id": pl.String, "variant": pl.String, "repeat": pl.Int32}, orient="row")
    attempts = attempts_frame(path).with_columns(pl.col(id_name).cast(pl.String).alias("id"))
    goes_alone = pl.col("pack_rows").is_not_null() & pl.any_horizontal(
        (pl.col("outcome") == outcome) & (pl.col("error_kind") == kind) for outcome, kind in ROWS_ALONE_AFTER
    )
    sums = (
        attempts.filter(pl.col("judge").is_null())
        .join(keys.lazy(), on=keys.columns, how="semi")
        .group_by(keys.columns)
        .agg(
            pl.len().alias("attempts"),
            (pl.col("outcome") == "unknown").sum().alias("unknown"),
            pl.col("output_tokens").is_not_null().any().alias("has_usage"),
            *(pl.col(name).sum() for name in TOKENS),
            *(pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum()).alias(name) for name in COSTS),
            pl.col("cost_source").drop_nulls().last(),
            pl.col("started_at").min().dt.epoch("us"),
            goes_alone.any().alias("goes_alone"),
        )
    )
    for row in sums.collect().iter_rows(named=True):
        usage = Usage(*(row[name] for name in TOKENS)) if row["has_usage"] else None
        usd, credits_ = (known_pico(row[name]) for name in COSTS)
        yield (
            (row["id"], row["variant"], row["repeat"]),
            UnitSoFar(
                attempts=row["attempts"],
                unknown=row["unknown"],
                usage=usage,
                cost_usd=usd,
                cost_credits=credits_,
                cost_source=row["cost_source"],
                started_at=row["started_at"],
                goes_alone=row["goes_alone"],
            ),
        )
