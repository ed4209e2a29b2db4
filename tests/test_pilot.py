"""The laws of a pilot: its interval covers the bill, the balance checks the price."""

from __future__ import annotations

import math
import random
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crun_batch.errors import InputError
from crun_batch.options import options_of
from crun_batch.pricing.pilot import forecast, interval_offsets, measure, measured_versus_priced
from crun_batch.stats.intervals import t_quantile

PICO = 10**12
value_lists = st.lists(st.integers(0, 10**13), min_size=2, max_size=60)


def covered(jobs: int, rows: int, draw: object) -> float:
    rng, hits = random.Random(2026), 0
    for _ in range(jobs):
        costs = [draw(rng) for _ in range(rows)]  # type: ignore[operator]
        found = forecast(costs[:200], rows, t_quantile)
        assert found.low is not None and found.high is not None
        hits += found.low <= sum(costs) <= found.high
    return hits / jobs


@pytest.mark.parametrize(
    ("rows", "draw"),
    [
        (500, lambda rng: round(600 * math.exp(rng.gauss(0, 1.5)))),
        (2000, lambda rng: round(600 * math.exp(rng.gauss(0, 1.5)))),
        (1000, lambda rng: max(2000, 500 + 6 * min(1024, round(100 * math.exp(rng.gauss(0, 1.5)))))),
        (1000, lambda rng: round(rng.gauss(10_000, 500))),
    ],
    ids=["skewed-500", "skewed-2000", "cut-and-minimum", "normal"],
)
def test_the_interval_covers_the_true_bill(rows: int, draw: object) -> None:
    """At least 93 of 100 bills, lognormal with sigma 1.5 or tame (all figures: measurements/pilot_interval.py)."""
    assert covered(400, rows, draw) >= 0.93


@settings(max_examples=200, deadline=None)
@given(value_lists, st.integers(0, 10**5))
@example([601953488895] * 2, 15957)
def test_known_rows_bound_the_interval_from_below(values: list[int], rest: int) -> None:
    """known <= low <= expected <= high, in integers; with no rows left the bill is known."""
    found = forecast(values, len(values) + rest, t_quantile)
    assert found.low is not None and found.high is not None and found.expected is not None
    assert sum(values) == found.known <= found.low <= found.high
    assert found.known <= found.expected <= found.high
    if rest == 0:
        assert (found.known, found.known) == (found.low, found.high)


@settings(max_examples=100, deadline=None)
@given(value_lists, st.integers(1, 10**5))
def test_the_same_rows_give_the_same_interval(values: list[int], rest: int) -> None:
    """No randomness, and the order of the rows does not matter beyond float rounding."""
    assert forecast(values, len(values) + rest, t_quantile) == forecast(
        list(values), len(values) + rest, t_quantile
    )
    backward = interval_offsets(values[::-1], rest, t_quantile)
    assert interval_offsets(values, rest, t_quantile) == pytest.approx(backward, rel=1e-6, abs=1.0)


@settings(max_examples=100, deadline=None)
@given(value_lists, st.integers(1, 10**5), st.integers(2, 10**6))
def test_the_interval_does_not_depend_on_the_unit(values: list[int], rest: int, factor: int) -> None:
    """Dollars or cents: the offsets scale with the amounts."""
    scaled = interval_offsets([value * factor for value in values], rest, t_quantile)
    assert scaled == pytest.approx(
        [offset * factor for offset in interval_offsets(values, rest, t_quantile)], rel=1e-6
    )


def test_a_right_skewed_sample_reaches_further_up_than_down() -> None:
    """The risk is above: long answers that the sample missed."""
    below, above = interval_offsets([1] * 190 + [100] * 10, 1000, t_quantile)
    assert above > 1.5 * below > 0


def test_the_upper_end_stops_at_the_hard_bound() -> None:
    """No further row costs more than a row's hold."""
    values = [1] * 9 + [1000]
    assert sum(values) + 90 * 500 == forecast(values, 100, t_quantile, highest_per_row=500).high
    assert (forecast(values, 100, t_quantile).high or 0) > sum(values) + 90 * 500


@pytest.mark.parametrize(("values", "expected"), [([], None), ([5], 50)])
def test_fewer_than_two_rows_give_no_interval(values: list[int], expected: int | None) -> None:
    """One row tells a mean, not a spread."""
    found = forecast(values, 10, t_quantile)
    assert (expected, None, None) == (found.expected, found.low, found.high)


def test_more_values_than_rows_is_a_mistake() -> None:
    """ValueError, with both numbers."""
    with pytest.raises(ValueError, match="3 values for 2 rows"):
        forecast([1, 2, 3], 2, t_quantile)


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    [
        (0.99, 1, 31.8205),
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 10, 2.2281),
        (0.99, 199, 2.3452),
        (0.985, 30, 2.2783),
    ],
)
def test_t_quantile_matches_the_tables(probability: float, degrees: int, quantile: float) -> None:
    """Textbook values, the two rows of the smallest pilot (one degree of freedom) included."""
    assert quantile == pytest.approx(t_quantile(probability, degrees), abs=1e-4)


@pytest.mark.parametrize("values", [[40, 60], [0, 1], [7 * 10**12, 9 * 10**12]])
def test_a_pilot_of_two_rows_reaches_as_far_as_the_exact_quantile(values: list[int]) -> None:
    """Two rows have no skewness: it reaches the t of one degree of freedom (21.2049 at 1.5 %) times the error."""
    low, high = interval_offsets(values, 98, t_quantile)
    error = 98 * abs(values[1] - values[0]) / 2**0.5 * (1 / 2 + 1 / 98) ** 0.5
    assert (21.2049, 31.8205) == pytest.approx((low / error, high / error), abs=1e-3)


def test_the_balance_measures_credits_per_row() -> None:
    """1,000 - 997.5 over 50 rows are 0.05 credits each; the last place seen is the uncertainty."""
    measured = measure(Decimal(1000), Decimal("997.5"), 50)
    assert measured is not None
    assert (PICO // 20, PICO // 10) == (measured.credits_per_row_pico, measured.uncertainty_pico)


@pytest.mark.parametrize(("before", "after", "rows"), [("10", "11", 5), ("10", "9", 0)])
def test_a_risen_balance_or_no_rows_measures_nothing(before: str, after: str, rows: int) -> None:
    """A top-up in between is no negative price."""
    assert None is measure(Decimal(before), Decimal(after), rows)


@pytest.mark.parametrize(
    ("after", "priced", "held", "verdict"),
    [
        ("997.50", "2.5", "0", "agree"),
        ("996.30", "2.5", "0", "agree"),
        ("996.20", "2.5", "0", "differ"),
        ("996.20", "2.5", "0.1", "agree"),
        ("998.80", "2.5", "0", "differ"),
        ("998.70", "2.5", "0", "agree"),
        ("1000.00", "2.5", "0", "differ"),
        ("998", "0.4", "0", "differ"),
        ("999", "0.4", "0", "too_coarse"),
        ("500", "2.5", "0", "differ"),
    ],
)
def test_more_than_half_apart_is_refused(after: str, priced: str, held: str, verdict: str) -> None:
    """Measured against priced: half is the line, what the balance's rounding explains does not count."""
    measured = measure(Decimal("1000"), Decimal(after), 50)
    found = measured_versus_priced(measured, int(Decimal(priced) * PICO), int(Decimal(held) * PICO))
    assert verdict == found.verdict


def test_an_unknown_price_or_balance_is_not_compared() -> None:
    """Nothing to compare is not an agreement."""
    assert "not_measured" == measured_versus_priced(None, 5).verdict
    assert "not_measured" == measured_versus_priced(measure(Decimal(2), Decimal(1), 1), None).verdict


@pytest.mark.parametrize("rows", [0, -5, True, 2.5, "2"])
def test_a_pilot_in_python_has_a_number_of_rows(rows: object) -> None:
    """As on the command line: a pilot of no rows would be done at once, and have told nothing."""
    with pytest.raises(InputError, match=r"pilot: .*: a pilot sends a whole number of rows, at least 1"):
        options_of({"pilot": rows})
    assert 2 == options_of({"pilot": 2}).pilot
