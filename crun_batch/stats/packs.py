"""How often an answer that was given among others is the answer that the row gets alone, with intervals.

Pure: pairs of answers in, figures out. Rows of one request may fail together, so the interval of the agreement is
the wider of two: over rows, and over requests as clusters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from crun_batch.stats.intervals import Difference, Rate, RowSums, paired_difference, rate_of, wilson_interval
from crun_batch.stats.kappa import Coefficient, cohens_kappa

MOST_LABELS = 50
"""Answers of more different kinds are no labels, and have no kappa."""


class AnswerPair(Struct, frozen=True):
    """One row's answer from a request of several rows, beside the one that it got alone."""

    request: int
    """Names the request."""
    place: int
    """The row's number there, from 1."""
    rows: int
    packed: str
    alone: str
    is_same: bool
    score_differences: Mapping[str, float] = {}
    """Grader -> the packed answer's score less the other's, where both have one."""


class PackAgreement(Struct, frozen=True):
    """What the pairs say. `by_place`: agreement in the second half of the requests less that in the first."""

    same: Rate
    kappa: Coefficient | None
    first_half: Rate | None
    second_half: Rate | None
    by_place: Difference | None
    scores: Mapping[str, Difference]


def pack_agreement(pairs: Sequence[AnswerPair]) -> PackAgreement | None:
    """None without pairs."""
    if not pairs:
        return None
    first = [pair for pair in pairs if 2 * pair.place <= pair.rows]
    second = [pair for pair in pairs if 2 * pair.place > pair.rows]
    halves = _rate(first), _rate(second)
    names = dict.fromkeys(name for pair in pairs for name in pair.score_differences)
    scores = {
        name: _mean(pair.score_differences[name] for pair in pairs if name in pair.score_differences)
        for name in names
    }
    return PackAgreement(
        same=_widest(_rate(pairs), _rate(pairs, lambda pair: pair.request)),
        kappa=_kappa(pairs),
        first_half=halves[0],
        second_half=halves[1],
        by_place=_between(*halves),
        scores={name: found for name, found in scores.items() if found is not None},
    )


def rows_needed(lowest: float) -> int:
    """How many rows with the same answer, and none with another, have an interval that begins no lower."""
    if lowest >= 1.0:
        return 0
    rows = 1
    while wilson_interval(1.0, rows)[0] < lowest:
        rows = rows + max(1, rows // 100)
    return rows


def _rate(pairs: Iterable[AnswerPair], cluster: Callable[[AnswerPair], int] | None = None) -> Rate | None:
    sums: dict[int, list[int]] = {}
    for index, pair in enumerate(pairs):
        of = sums.setdefault(index if cluster is None else cluster(pair), [0, 0])
        of[0] += pair.is_same
        of[1] += 1
    found = RowSums(
        rows=len(sums),
        y=sum(y for y, _ in sums.values()),
        x=sum(x for _, x in sums.values()),
        yy=sum(y * y for y, _ in sums.values()),
        xy=sum(x * y for y, x in sums.values()),
        xx=sum(x * x for _, x in sums.values()),
    )
    return rate_of(found)


def _widest(by_rows: Rate | None, by_requests: Rate | None) -> Rate:
    """Where no two answers differ, nothing speaks for clusters: each row counts."""
    assert by_rows is not None
    if by_requests is None or by_rows.value in (0.0, 1.0):
        return by_rows
    return Rate(
        by_rows.value, min(by_rows.low, by_requests.low), max(by_rows.high, by_requests.high), by_rows.rows
    )


def _kappa(pairs: Sequence[AnswerPair]) -> Coefficient | None:
    counts = Counter((pair.packed, pair.alone) for pair in pairs)
    labels = {label for cell in counts for label in cell}
    return cohens_kappa(dict(counts)) if len(labels) <= MOST_LABELS and len(labels) < len(pairs) else None


def _mean(differences: Iterable[float]) -> Difference | None:
    told = list(differences)
    return paired_difference(
        len(told), math.fsum(told), math.fsum(one * one for one in told), max(map(abs, told), default=0.0)
    )


def _between(first: Rate | None, second: Rate | None) -> Difference | None:
    """The second rate less the first, of other rows: Newcombe's interval from those of both (1998, method 10)."""
    if first is None or second is None:
        return None
    value = second.value - first.value
    down = math.hypot(second.value - second.low, first.high - first.value)
    up = math.hypot(second.high - second.value, first.value - first.low)
    low, high = value - down, value + up
    p = 1.0 if low <= 0 <= high else 0.05
    return Difference(
        value, max(-1.0, low), min(1.0, high), p, first.rows + second.rows, "Newcombe's hybrid score"
    )
