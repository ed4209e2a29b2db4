"""What a pilot tells of packing: how often a row has the same answer in a pack and alone, and what follows.

Below `pack.min_agreement` nothing more is sent packed. Sends and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import to_builtins

from crun_batch.console.packing import phrases_of
from crun_batch.errors import RefusedToStart
from crun_batch.preflight.pack_pairs import answer_pairs
from crun_batch.state.run_state import RunContext
from crun_batch.stats.packs import AnswerPair, pack_agreement, rows_needed
from crun_batch.workload.request import Variant


def agreement_document(context: RunContext, seed: int) -> dict[str, Any] | None:
    """The pilot's word on packing, for summary.json, variant by variant; None where nothing is packed.

    Rates have value, low, high (95 %) and rows; `kappa` where the answers are labels; `by_place` is the agreement
    in the second half of the requests less that in the first; `scores` the packed answer's less the other's.
    """
    packing = {variant.name: variant for variant in context.workload.variants if variant.job.pack is not None}
    if not packing:
        return None
    pairs = answer_pairs(context, packing, seed)
    return {name: _told(variant, pairs[name]) for name, variant in packing.items()}


def refuse_disagreement(context: RunContext) -> None:
    """After a pilot whose packed answers were too often others than those alone, nothing more is sent packed.

    As long as rows go packed in that format, as many together or more. Raises RefusedToStart.
    """
    pilot = context.state.pilot or {}
    for variant in context.workload.variants:
        spec, told = variant.job.pack, (pilot.get("packing") or {}).get(variant.name)
        if spec is None or told is None or told["same"] is None:
            continue
        is_that = spec.format == told["format"] and spec.rows >= told["rows_together"]
        if is_that and told["same"]["low"] < spec.min_agreement:
            raise RefusedToStart(
                f"the last pilot: {'; '.join(phrases_of(told))}; pack.min_agreement is {spec.min_agreement:g}",
                advice=_advice(told["same"], spec.min_agreement),
            )


def unmeasured_notes(context: RunContext) -> list[str]:
    """That nobody has measured how often packed answers are others; nothing where it was, or nothing is packed."""
    pilot = (context.state.pilot or {}).get("packing") or {}
    packing = [variant for variant in context.workload.variants if variant.job.pack is not None]
    if context.options.pilot is not None or all(variant.name in pilot for variant in packing):
        return []
    rows = rows_needed(max(variant.job.pack.min_agreement for variant in packing if variant.job.pack is not None))
    return [
        "how often packed answers differ from those of rows alone is not measured: "
        f"`--pilot {rows}` asks so many rows both ways"
    ]


def _advice(same: Mapping[str, Any], least: float) -> str:
    needed = rows_needed(least)
    if same["value"] >= least and same["rows"] < needed:
        return f"Ask more rows both ways, `--pilot {needed}` or more; or take pack out: rows then go alone."
    return "Take pack out: rows then go alone, and finished ones stay; or try fewer rows, or another format."


def _told(variant: Variant, pairs: Sequence[AnswerPair]) -> dict[str, Any]:
    spec = variant.job.pack
    assert spec is not None
    found = pack_agreement(pairs)
    told: dict[str, Any] = {"format": spec.format, "rows_together": spec.rows, "min_agreement": spec.min_agreement}
    if found is None:
        return {**told, "same": None, "kappa": None, "by_place": None, "scores": {}}
    return told | {
        "same": to_builtins(found.same),
        "kappa": None if found.kappa is None else to_builtins(found.kappa),
        "by_place": None if found.by_place is None else to_builtins(found.by_place),
        "scores": to_builtins(dict(found.scores)),
    }
