"""Variants of a run, or several runs, side by side: reads their results and hands them to the statistics.

Owns which column is a reply's label where nobody says so. Reads only: a run that is being written can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct, to_builtins

from crun_batch.console.compared_words import compared_text
from crun_batch.console.disagreements import disagreements, exported
from crun_batch.errors import InputError
from crun_batch.reporting.annotated import GOLD, with_gold
from crun_batch.stats.agreement import GoldFigures, against_gold, majority_labels, row_labels
from crun_batch.stats.comparison import Comparison, compare, side_by_side
from crun_batch.stats.consensus import consensus_labels
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.store.disk import opened_for_people
from crun_batch.store.views import results_frame, run_schema

DISAGREEMENTS_SHOWN = 10
DISAGREEMENTS_EXPORTED = 100_000
_ROWS_AT_ONCE = 50_000
_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class ComparisonOptions(Struct, frozen=True):
    """What is to be compared, by names of columns of `results`; None: what the results themselves suggest."""

    score: str | None = None
    baseline: str | None = None
    label: str | None = None
    """A column, or a field of one: `output.label`."""
    gold: str | None = None
    """The carried column with the right labels; `annotations`: those that people gave."""


_CELL_WIDTH = 100
"""Columns of a notebook's cell."""


class RunComparison(Struct, frozen=True):
    """A comparison, the labels against gold by variant, and the first rows on which replies differ."""

    comparison: Comparison
    gold: Mapping[str, GoldFigures]
    disagreements: pl.DataFrame
    runs: tuple[Path, ...]
    options: ComparisonOptions

    def to_dict(self) -> dict[str, Any]:
        """Plain data (--json)."""
        gold = {name: to_builtins(figures) for name, figures in self.gold.items()}
        rows = self.disagreements.to_dicts()
        return {**self.comparison.to_dict(), "gold": gold or None, "disagreements": rows}

    def text(self, width: int | None = None) -> str:
        """The same in words, for a terminal of so many columns."""
        return compared_text(self.comparison, self.gold, self.disagreements, width=width)

    def __repr__(self) -> str:
        """What a cell of a notebook shows that ends with a comparison."""
        return f"<RunComparison of {', '.join(repr(str(path)) for path in self.runs)}>\n{self.text(_CELL_WIDTH)}"

    def all_disagreements(self) -> pl.DataFrame:
        """All rows on which replies differ, the most disputed first; at most DISAGREEMENTS_EXPORTED."""
        if self.disagreements.height != DISAGREEMENTS_SHOWN:  # then none was left out
            return self.disagreements
        return compare_runs(self.runs, self.options, disagreements_at_most=DISAGREEMENTS_EXPORTED).disagreements

    def export_disagreements(self, path: str | Path) -> int:
        """Write all of them as .csv or .jsonl; how many they are. Raises DiskFailed."""
        return _write(self.all_disagreements(), Path(path))

    def export_labels(self, path: str | Path) -> int:
        """Write the majority label of each row under each variant; returns how many lines that is.

        Columns: the id, `variant`, `label` (null where votes are tied), `votes` for it, `replies` with a label,
        and `agreement`: how often two of them carry the same label, null for a single one; then `consensus`, the
        row's label over all variants with one vote each (null on a tie), `consensus_votes` and
        `consensus_agreement`. Raises InputError where replies have no labels, DiskFailed.
        """
        results, row, _ = _results(self.runs)
        label = label_of(results.collect_schema(), self.options)
        if label is None:
            raise InputError("the replies have no labels: name the column with --label, such as output.label")
        replies = results.select(
            "variant", row=pl.col(row), label=pl.when(pl.col("status") != "error").then(label)
        )
        together = consensus_labels(majority_labels(replies)).drop("consensus_variants").collect()
        found = row_labels(replies).join(together, on="row", how="left", maintain_order="left")
        return _write(found.rename({"row": row}), Path(path))


def compare_runs(
    paths: Sequence[Path], options: ComparisonOptions, *, disagreements_at_most: int = DISAGREEMENTS_SHOWN
) -> RunComparison:
    """Compare all variants of these runs. Raises InputError for what is not there, RunDamaged."""
    results, row, order = _results(paths)
    if options.gold == GOLD and GOLD not in results.collect_schema():
        results = with_gold(results, row, paths)
    names = results.collect_schema()
    if options.gold is not None:
        _known(names, options.gold)
    label = label_of(names, options)
    comparison = compare(
        results, row=row, score=options.score, baseline=options.baseline, label=label, order=order
    )
    gold = {}
    if options.gold is not None:
        labels = results.select(
            "variant",
            row=pl.col(row),
            label=pl.when(pl.col("status") != "error").then(_required(label)),
            gold=pl.col(options.gold),
        )
        labels = labels.collect().lazy()
        variants = [one.name for one in comparison.variants]
        gold = {name: against_gold(labels.filter(pl.col("variant") == name)) for name in variants}
    differing = _what_differs(label, comparison)
    carried = dict.fromkeys([*([options.gold] if options.gold is not None else []), *_carried(paths)])
    columns = [name for name in carried if name in names and name != row]
    found = (
        disagreements(results, row=row, label=differing, columns=columns, limit=disagreements_at_most)
        if differing is not None
        else pl.DataFrame()
    )
    return RunComparison(comparison, gold, found, tuple(paths), options)


def _write(found: pl.DataFrame, path: Path) -> int:
    format = _FORMATS.get(path.suffix.lower())
    if format is None:
        raise InputError(f"{path}: its ending must be one of {', '.join(_FORMATS)}")
    with opened_for_people(path) as file:
        for number, part in enumerate(found.iter_slices(_ROWS_AT_ONCE) if found.height else [found]):
            file.write(exported(part, format, begins=number == 0).encode())  # type: ignore[arg-type]
    return found.height


def _results(paths: Sequence[Path]) -> tuple[pl.LazyFrame, str, list[str]]:
    """The results of one run, or of several under the names of their folders; the id's column; the variants."""
    row = run_schema(RunDirectory(paths[0])).id_name
    if len(paths) == 1:
        return results_frame(paths[0]), row, _variants(paths[0])
    short = [path.resolve().name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise InputError("a run is named twice")
    named = dict(zip(names, paths, strict=True))
    order = [f"{name}/{variant}" for name, path in named.items() for variant in _variants(path)]
    return side_by_side({name: results_frame(path) for name, path in named.items()}, row), row, order


def _variants(path: Path) -> list[str]:
    """As the job has them in order; a run that was begun before they were written down tells none."""
    names: list[str] = read_json(RunDirectory(path).job).get("variants", [])
    return names


def label_of(names: pl.Schema, options: ComparisonOptions) -> pl.Expr | None:
    """What is named, or `output.label`, or the only field of `output`; the text where gold labels are given.

    A text that is empty or blank is no label, as it is no answer.
    """
    if options.label is not None:
        return _column(names, options.label)
    fields = _fields(names.get("output"))
    only = "label" if "label" in fields else next(iter(fields), None) if len(fields) == 1 else None
    if only is not None:
        return _column(names, f"output.{only}")
    text = pl.col("output_text").str.strip_chars()
    return pl.when(text != "").then(text) if options.gold is not None else None


def _required(label: pl.Expr | None) -> pl.Expr:
    assert label is not None, "gold labels have a label beside them"
    return label


def _column(names: pl.Schema, path: str) -> pl.Expr:
    if path in names:
        return pl.col(path)
    name, _, field = path.partition(".")
    _known(names, name)
    if field not in _fields(names[name]):
        there = ", ".join(_fields(names[name])) or "none"
        raise InputError(f"the column {name} has no field {field!r}; its fields: {there}")
    return pl.col(name).struct.field(field)


def _fields(data_type: Any) -> dict[str, Any]:
    return {field.name: field.dtype for field in data_type.fields} if isinstance(data_type, pl.Struct) else {}


def _known(names: pl.Schema, name: str) -> None:
    if name not in names:
        advice = "carry it: output.columns" if name else ""
        raise InputError(f"the results have no column {name!r}; they have {', '.join(names)}", advice=advice)


def _what_differs(label: pl.Expr | None, comparison: Comparison) -> pl.Expr | None:
    """Labels where there are any, else scores."""
    if label is not None or comparison.score is None:
        return label
    return pl.col(f"score_{comparison.score}").cast(pl.String)


def _carried(paths: Sequence[Path]) -> list[str]:
    return list(run_schema(RunDirectory(paths[0])).carried.names)
