"""Rows on which labels differ, the most disputed first, for a person to read or for a labelling tool.

Owns what counts as disputed and the forms of export. Picks the rows with polars and only then gathers their
texts, so that the length of the list, not of the run, sets the memory.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson
import polars as pl

from crun_batch.console.tables import leading_columns, table
from crun_batch.console.words import one_line, shorten
from crun_batch.store.cells import guarded

SCORE_DIGITS = 6
LABEL = "label_"
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
    digits count; replies in error have none. A carried column that is called like one of these gets `_carried`
    after its name.
    """
    shown = pl.col(label) if isinstance(label, str) else label
    if results.select(label=shown).collect_schema()["label"].is_float():
        shown = shown.round_sig_figs(SCORE_DIGITS)
    carried = {f"carried {place}": name for place, name in enumerate(columns)}  # they may be called as ours are
    renamed = [pl.col(name).alias(inner) for inner, name in carried.items()]
    replies = results.filter(pl.col("status") != "error").select(
        "variant", *renamed, row=pl.col(row), label=shown.cast(pl.String)
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
    wide = wide.rename({name: f"{LABEL}{name}" for name in names})
    whole = found.group_by("row").agg(pl.col(*carried, "agreement").first()).join(wide, on="row")
    ours = {"agreement", *wide.columns[1:]}
    named = {inner: f"{name}_carried" if name in ours else name for inner, name in {"row": row, **carried}.items()}
    return whole.sort("agreement", "row").rename(named)


def disagreements_text(found: pl.DataFrame, *, width: int | None = None) -> str:
    """The rows for a terminal: a table where all answers fit beside each other, else a few lines for each row.

    Answers stand before the carried columns; of these as much as fits.
    """
    if found.is_empty():
        return "no row is labelled differently"
    labels = [name for name in found.columns if name.startswith(LABEL)]
    row, carried = found.columns[0], [name for name in found.columns[1:] if name not in (*labels, "agreement")]
    ordered = found.select(row, *labels, "agreement", *carried)
    if width is None:
        return table(ordered.columns, ordered.rows())
    fitting = leading_columns(ordered.columns, ordered.rows(), width)
    if fitting > len(labels) + 1:
        shown = ordered.select(ordered.columns[:fitting])
        return table(shown.columns, shown.rows(), width=width)
    lines = [line for one in ordered.iter_rows(named=True) for line in _told(one, row, labels, carried)]
    return "\n".join(shorten(line, width) for line in lines)


def _told(one: Mapping[str, Any], row: str, labels: Sequence[str], carried: Sequence[str]) -> Iterator[str]:
    """One row: which variants gave which answer, then what is carried."""
    yield one_line(f"{row} {one[row]}, agreement {one['agreement']:.2f}")
    by_answer: dict[str, list[str]] = {}
    for name in labels:
        by_answer.setdefault(one[name] if one[name] is not None else "no answer", []).append(
            name.removeprefix(LABEL)
        )
    for answer, variants in sorted(by_answer.items(), key=lambda pair: -len(pair[1])):
        yield f"  {one_line(', '.join(variants))}: {one_line(answer)}"
    for name in carried:
        yield f"  {one_line(f'{name}: {one[name]}')}"


def exported(found: pl.DataFrame, format: Literal["csv", "jsonl"], *, begins: bool = True) -> str:
    """The rows for a labelling tool: CSV, each text guarded as in every CSV, or JSONL.

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
    return guarded(orjson.dumps(value, default=str).decode() if isinstance(value, dict | list) else value)
