"""Agreement beyond chance, of two who label the same rows: Cohen's kappa. Pure, over counts."""

from __future__ import annotations

import math
from collections import Counter
from statistics import NormalDist

from msgspec import Struct

_STANDARD_ERRORS = NormalDist().inv_cdf(0.975)
"""From the middle of a 95 % interval to its end."""


class Coefficient(Struct, frozen=True):
    """Agreement beyond chance: 1 is perfect, 0 is what chance gives, below 0 is worse.

    `value` is None where chance alone would always agree, as with a single label; the interval where it cannot
    be told. `rows` is how many rows it rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    rows: int


def cohens_kappa(counts: dict[tuple[str, str], int]) -> Coefficient:
    """Cohen's kappa from (first label, second label) -> rows, with its 95 % interval."""
    rows = sum(counts.values())
    if rows == 0:
        return Coefficient(None, None, None, 0)
    share = {cell: count / rows for cell, count in counts.items()}
    first, second = _margin(counts, 0), _margin(counts, 1)
    observed = math.fsum(part for (a, b), part in share.items() if a == b)
    chance = math.fsum(part * second.get(label, 0.0) for label, part in first.items())
    if 1 - chance < 1e-12:
        return Coefficient(None, None, None, rows)
    kappa = (observed - chance) / (1 - chance)
    terms = (
        part
        * (
            (1 - (first[a] + second[b]) * (1 - kappa)) ** 2
            if a == b
            else ((1 - kappa) * (second.get(a, 0.0) + first.get(b, 0.0))) ** 2
        )
        for (a, b), part in share.items()
    )
    spread = math.fsum(terms) - (kappa - chance * (1 - kappa)) ** 2
    reach = _STANDARD_ERRORS * math.sqrt(max(0.0, spread) / rows) / (1 - chance)
    return Coefficient(kappa, max(-1.0, kappa - reach), min(1.0, kappa + reach), rows)


def _margin(counts: dict[tuple[str, str], int], side: int) -> dict[str, float]:
    """Label -> its share on one side. Counted first and divided once: the order of the cells does not show."""
    margin: Counter[str] = Counter()
    for labels, count in counts.items():
        margin[labels[side]] += count
    return {label: count / margin.total() for label, count in margin.items()}
