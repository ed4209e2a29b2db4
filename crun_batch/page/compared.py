"""Variants side by side for the page: what `compare` tells, and how far each one's confidence can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import to_builtins

from crun_batch.errors import InputError
from crun_batch.page.facts import CONFIDENCE, RunFacets
from crun_batch.reporting.annotated import GOLD, with_gold
from crun_batch.reporting.comparing import ComparisonOptions, compare_runs, label_of
from crun_batch.stats.calibration import calibration
from crun_batch.store.views import results_frame

COMPARED_BY = ("by", "baseline", "label", "gold")
"""The parameters that decide what is compared."""
MOST_CLASSES = 40
"""Of more classes the page shows no confusion matrix; `compare --json` has all of it."""


def compared_document(path: Path, facets: RunFacets, asked: Mapping[str, str]) -> dict[str, Any]:
    """The document of `compare`, with `calibration` by variant. Raises InputError for what is not there."""
    score = asked.get("by") or (facets.scores[0] if facets.scores else None)
    options = ComparisonOptions(
        score=score,
        baseline=asked.get("baseline") or None,
        label=asked.get("label") or None,
        gold=asked.get("gold") or None,
    )
    found = compare_runs([path], options).to_dict()
    gold = found["gold"]
    for figures in (gold or {}).values():
        if len(figures["classes"]) > MOST_CLASSES:
            figures["confusion"] = None
    return {
        **found,
        "disagreements": None,
        "gold_column": options.gold,
        "is_gold_of_people": options.gold == GOLD and GOLD not in facets.columns,
        "label": _label_path(options, facets),
        "calibration": _calibrations(path, facets, options),
        "scores": list(facets.scores),
        "variants_known": list(facets.variants),
        "columns": [GOLD, *facets.carried],
    }


def _label_path(options: ComparisonOptions, facets: RunFacets) -> str | None:
    """The label as SQL names it, so that a cell of the confusion matrix can open its rows."""
    if options.label is not None:
        return options.label
    output = facets.columns.get("output")
    names = [] if output is None else [output.field(place).name for place in range(output.num_fields)]
    only = "label" if "label" in names else names[0] if len(names) == 1 else None
    return f"output.{only}" if only is not None else "nullif(trim(output_text), '')"


def _calibrations(path: Path, facets: RunFacets, options: ComparisonOptions) -> dict[str, Any] | None:
    """By variant; right is what agrees with gold labels where they are named, else the score."""
    if facets.confidence is None or (options.gold is None and options.score is None):
        return None
    results = results_frame(path)
    if options.gold == GOLD and GOLD not in facets.columns:
        results = with_gold(results, facets.id_name, [path])
    names = results.collect_schema()
    if options.gold is not None:
        label = label_of(names, options)
        if label is None:
            raise InputError("the replies have no labels that right labels could be held against")
        right = (label.cast(pl.String) == pl.col(options.gold).cast(pl.String)).cast(pl.Float64)
    else:
        right = pl.col(f"score_{options.score}")
    is_typed = facets.confidence != f'"{CONFIDENCE}"'
    confidence = pl.col("output").struct.field(CONFIDENCE) if is_typed else pl.col(CONFIDENCE)
    frame = results.filter(pl.col("status") != "error").select(
        "variant", row=pl.col(facets.id_name), confidence=confidence, right=right
    )
    frame = frame.collect().lazy()
    found = {variant: calibration(frame.filter(pl.col("variant") == variant)) for variant in facets.variants}
    return {variant: to_builtins(one) for variant, one in found.items() if one is not None} or None
