"""How far a stated confidence can be believed: the figures are those of plain counting."""

from __future__ import annotations

import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crun_batch.stats.calibration import BINS, calibration

ANSWER = st.tuples(st.integers(0, 20), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))


def frame(answers: list[tuple[int, float | None, float | None]]) -> pl.LazyFrame:
    schema = {"row": pl.Int64, "confidence": pl.Float64, "right": pl.Float64}
    return pl.LazyFrame(answers, schema=schema, orient="row")


@settings(deadline=None, max_examples=60)
@given(st.lists(ANSWER, min_size=1, max_size=60))
def test_the_error_and_the_coverage_are_those_of_plain_counting(answers: list[tuple[int, float, float]]) -> None:
    """Bins of equal width, each weighed by its answers; kept is what is sure enough."""
    found = calibration(frame(answers))
    assert found is not None
    bins: dict[int, list[tuple[float, float]]] = {}
    for _, confidence, right in answers:
        bins.setdefault(min(BINS - 1, int(confidence * BINS)), []).append((confidence, right))
    gaps = [abs(sum(c for c, _ in one) - sum(y for _, y in one)) for one in bins.values()]
    assert pytest.approx(sum(gaps) / len(answers)) == found.error
    assert [len(bins[place]) for place in sorted(bins)] == [one.answers for one in found.bins]
    for line in found.coverage:
        kept = [right for _, confidence, right in answers if confidence >= line.threshold]
        assert len(kept) == line.answers and pytest.approx(len(kept) / len(answers)) == line.share
        assert line.right is None if not kept else pytest.approx(sum(kept) / len(kept)) == line.right.value


def test_who_is_as_sure_as_right_has_nearly_no_error_and_who_boasts_has_his_boast() -> None:
    """The interval holds the error of much more data."""
    draw = random.Random(3)
    sure = [draw.random() for _ in range(4000)]
    honest = calibration(frame([(row, one, float(draw.random() < one)) for row, one in enumerate(sure)]))
    assert honest is not None and honest.error < 0.05
    boast = calibration(frame([(row, 0.95, float(draw.random() < 0.7)) for row in range(2000)]))
    assert boast is not None and boast.error_low < 0.25 < boast.error_high


def test_what_is_no_confidence_does_not_count() -> None:
    """Null, beyond 0 to 1, without a score; nothing left is nothing, and not an error of 0."""
    assert None is calibration(frame([(1, None, 1.0), (2, 1.5, 1.0), (3, 0.5, None)]))
    found = calibration(frame([(1, 0.5, 1.0), (2, 7.0, 0.0)]))
    assert found is not None and 1 == found.answers and None is found.error_low
