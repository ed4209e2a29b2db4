"""Rows on which labels differ, the most disputed first, for a person to read or for a labelling tool.

Owns what counts as disputed and the forms of export. Picks the rows with polars and only then gathers their
texts, so that the length of the list, not of the run, sets the memory.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Literal

import orjson
import polars as pl

from crun_batch.console.words import table

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
SCORE_DIGITS = 6
BETWEEN = " | "
"""Between the labels that a variant's repeats gave to one row."""


def disagreements(
    results: pl.LazyFrame,
    *,
    row: str = "row",
    label: pl.Expr | str = "output_text",
    columns: Sequence[str] = (),
    limit: int = 1_000,
) -> pl.DataFrame:
    """The rows whose replies do not all carry the same label; at most `limit`, the most disputed first.

    Columns: the id, `columns` (carried ones), `agreement` (share of the most frequent label), then one per variant
    named `label_<variant>` with its labels. `label` gives each reply's label, or its score, of which SCORE_DIGITS
    digits count; replies in error have none.
    """
    shown = pl.col(label) if isinstance(label, str) else label
    if results.select(label=shown).collect_schema()["label"].is_float():
        shown = shown.round_sig_figs(SCORE_DIGITS)
    replies = results.filter(pl.col("status") != "error").select(
        "variant", *columns, row=pl.col(row), label=shown.cast(pl.String)
    )
    labelled = replies.filter(pl.col("label").is_not_null())
    votes = labelled.group_by("row", "label").agg(votes=pl.len())
    disputed = votes.group_by("row").agg(
        agreement=pl.col("votes").max() / pl.col("votes").sum(), different=pl.len()
    )
    picked = disputed.filter(pl.col("different") > 1).sort("agreement", "row").head(limit).drop("different")
    found = labelled.join(picked, on="row", how="inner").collect()
    names = found["variant"].unique().sort().to_list()
    texts = found.group_by("row", "variant").agg(label=pl.col("label").unique().sort().str.join(BETWEEN))
    wide = texts.pivot(on="variant", on_columns=names, index="row", values="label", aggregate_function="first")
    wide = wide.rename({name: f"label_{name}" for name in names})
    carried = found.group_by("row").agg(pl.col(*columns, "agreement").first())
    return carried.join(wide, on="row").sort("agreement", "row").rename({"row": row})


def disagreements_text(found: pl.DataFrame, *, width: int | None = None) -> str:
    """The rows as a table for a terminal."""
    if found.is_empty():
        return "no row is labelled differently"
    return table(found.columns, found.rows(), width=width)


def exported(found: pl.DataFrame, format: Literal["csv", "jsonl"], *, begins: bool = True) -> str:
    """The rows for a labelling tool: CSV (a text that a spreadsheet would run gets an apostrophe) or JSONL.

    `begins`: with the line of names, in CSV.
    """
    if format == "jsonl":
        return "".join(orjson.dumps(line, default=str).decode() + "\n" for line in found.iter_rows(named=True))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    if begins:
        writer.writerow(map(_cell, found.columns))
    writer.writerows([_cell(value) for value in line] for line in found.iter_rows())
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return orjson.dumps(value, default=str).decode()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value
