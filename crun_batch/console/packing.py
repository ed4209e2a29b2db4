"""What a pilot tells of packing, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def agreement_phrases(packing: Mapping[str, Any] | None) -> list[str]:
    """The same in words, a phrase for each variant and figure."""
    phrases = []
    for name, told in (packing or {}).items():
        which = f"{name}: " if len(packing or {}) > 1 else ""
        phrases += [which + phrase for phrase in phrases_of(told)]
    return phrases


def phrases_of(told: Mapping[str, Any]) -> Iterator[str]:
    """What was measured of one variant, figure by figure."""
    same, kappa, by_place = told["same"], told["kappa"], told["by_place"]
    if same is None:
        yield "no row has an answer both in a pack and alone"
        return
    yield f"{_share(same)} of {same['rows']:,} rows have the same answer packed and alone"
    if kappa is not None and kappa["value"] is not None:
        yield f"Cohen's kappa {kappa['value']:.3f} ({kappa['low']:.3f} to {kappa['high']:.3f})"
    if by_place is not None:
        yield f"second half of the packs against the first: {_points(by_place)}"
    for name, difference in told["scores"].items():
        yield f"score {name}, packed less alone: {_points(difference)}"


def _share(rate: Mapping[str, Any]) -> str:
    return f"{100 * rate['value']:.1f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


def _points(difference: Mapping[str, Any]) -> str:
    value, low, high = (100 * difference[end] for end in ("value", "low", "high"))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
