"""The laws of agreement and of intervals; both equal to the libraries of the field."""

from __future__ import annotations

import random
from typing import Any

import krippendorff
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score, confusion_matrix, precision_recall_fscore_support
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from crun_batch.stats.agreement import (
    against_gold,
    krippendorff_alpha,
    majority_labels,
    pair_agreement,
    row_labels,
    self_agreement,
)
from crun_batch.stats.intervals import (
    RowSums,
    holm,
    mcnemar_mid_p,
    paired_binary_difference,
    paired_difference,
    rate_of,
    t_quantile,
    t_tail,
    wilson_interval,
)

CLASSES = "abcde"
NUMBERS = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 5.0, "e": 9.0}


def labelled(
    rows: int, *, seed: int = 1, repeats: int = 3, noise: float = 0.3, missing: float = 0.1
) -> pl.DataFrame:
    """Rows with a gold class, three variants, 1 to `repeats` replies each, known noise, some without a label."""
    rng = random.Random(seed)
    lines = []
    for row in range(rows):
        gold = rng.choice(CLASSES)
        for variant in ("m1", "m2", "m3"):
            for repeat in range(rng.randint(1, repeats)):
                label = gold if rng.random() >= noise else rng.choice(CLASSES)
                lines.append((row, variant, repeat, None if rng.random() < missing else label, gold))
    return pl.DataFrame(lines, schema=["row", "variant", "repeat", "label", "gold"], orient="row")


def value_counts(labels: pl.DataFrame) -> np.ndarray[Any, Any]:
    """Rows x classes, as the krippendorff library takes it."""
    per_row = labels.group_by("row", maintain_order=True).agg("label")["label"].to_list()
    return np.array([[found.count(label) for label in CLASSES] for found in per_row])


@pytest.mark.parametrize("seed", range(4))
def test_alpha_is_krippendorffs(seed):
    """Equal to the krippendorff library, nominal and interval, with missing labels and unequal repeats."""
    labels = labelled(60, seed=seed)
    counts = value_counts(labels)
    nominal = krippendorff_alpha(labels.lazy())
    assert krippendorff.alpha(value_counts=counts, level_of_measurement="nominal") == pytest.approx(nominal.value)
    numbers = labels.lazy().with_columns(label=pl.col("label").replace_strict(NUMBERS, default=None))
    interval = krippendorff_alpha(numbers, "interval")
    domain = list(NUMBERS.values())
    expected = krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement="interval")
    assert expected == pytest.approx(interval.value)
    for found in (nominal, interval):
        assert found.low is not None and found.high is not None
        assert found.low < found.value < found.high


@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_cohens(seed):
    """Value equal to scikit-learn's, interval to that of statsmodels."""
    majority = majority_labels(labelled(200, seed=seed).lazy())
    found = pair_agreement(majority, "m1", "m2")
    wide = majority.collect().pivot(on="variant", index="row", values="label").drop_nulls(["m1", "m2"])
    assert cohen_kappa_score(wide["m1"], wide["m2"]) == pytest.approx(found.kappa.value)
    theirs = cohens_kappa(confusion_matrix(wide["m1"], wide["m2"]))
    assert (theirs.kappa_low, theirs.kappa_upp) == pytest.approx((found.kappa.low, found.kappa.high))
    assert (wide["m1"] == wide["m2"]).mean() == pytest.approx(found.agreement.value)
    assert wide.height == found.agreement.rows == found.kappa.rows


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_figures_against_gold_are_those_of_scikit_learn(seed, missing):
    """Confusion matrix, precision, recall, F1 per class, macro, micro; no label is a miss of its gold class."""
    labels = labelled(80, seed=seed, missing=missing).filter(pl.col("variant") == "m1")
    found = against_gold(labels.lazy())
    gold, given_labels = labels["gold"].to_list(), [label or "-" for label in labels["label"]]
    assert tuple(CLASSES) == tuple(one.label for one in found.classes)
    theirs = confusion_matrix(gold, given_labels, labels=[*CLASSES, "-"])
    assert theirs[:5, :5].tolist() == [list(line) for line in found.confusion]
    assert theirs[:5, 5].tolist() == list(found.unlabelled)
    precision, recall, f1, support = precision_recall_fscore_support(
        gold, given_labels, labels=list(CLASSES), zero_division=0
    )
    for index, one in enumerate(found.classes):
        values = tuple(rate.value for rate in (one.precision, one.recall, one.f1))
        assert (precision[index], recall[index], f1[index]) == pytest.approx(values)
        assert support[index] == one.support
    for average in ("macro", "micro"):
        ours = [getattr(found, f"{average}_{name}") for name in ("precision", "recall", "f1")]
        values = ours if average == "macro" else [rate.value for rate in ours]
        both = precision_recall_fscore_support(gold, given_labels, labels=list(CLASSES), average=average)
        assert both[:3] == pytest.approx(tuple(values))


def test_a_class_never_given_has_no_precision():
    """Nothing to divide by is None; in the macro mean it counts 0, as in scikit-learn."""
    frame = pl.DataFrame({"row": [1, 2], "label": ["a", "a"], "gold": ["a", "b"]})
    found = against_gold(frame.lazy())
    assert found.classes[1].precision is None
    assert 0.25 == found.macro_precision
    assert against_gold(frame.filter(pl.col("row") > 2).lazy()).classes == ()


def test_a_row_without_gold_does_not_count():
    """Null gold is no class."""
    frame = pl.DataFrame({"row": [1, 2, 3], "label": ["a", "a", "a"], "gold": ["a", "b", None]})
    assert 0.5 == against_gold(frame.lazy()).accuracy.value


def test_the_majority_has_more_votes_than_any_other():
    """A tie has no label; replies without a label have no vote."""
    lines = (
        [(1, "m", label) for label in "aab"]
        + [(2, "m", label) for label in "ab"]
        + [(3, "m", "c"), (3, "m", None)]
    )
    found = majority_labels(pl.LazyFrame(lines, schema=["row", "variant", "label"], orient="row"))
    rows = [(1, "m", "a", 2, 3), (2, "m", None, 1, 2), (3, "m", "c", 1, 1)]
    assert rows == found.collect().sort("row").rows()


def test_the_labels_of_rows_have_the_agreement_of_their_repeats():
    """Their mean over rows with repeats is the variant's self-agreement; a tie has votes and no label."""
    lines = [
        (2, "m", "b"),
        (1, "m", "a"),
        (1, "m", "a"),
        (1, "m", "b"),
        (2, "m", "a"),
        (3, "m", "c"),
        (3, "m", None),
    ]
    labels = pl.LazyFrame(lines, schema=["row", "variant", "label"], orient="row")
    found = row_labels(labels)
    assert [(1, "m", "a", 2, 3), (2, "m", None, 1, 2), (3, "m", "c", 1, 1)] == found.drop("agreement").rows()
    assert [1 / 3, 0.0, None] == found["agreement"].to_list()
    assert self_agreement(labels)["m"].value == pytest.approx(found["agreement"].mean())


def test_self_agreement_is_the_share_of_pairs_that_agree():
    """Over rows with two labels and more, every row counting the same."""
    lines = [(1, "m", label) for label in "aab"] + [(2, "m", label) for label in "cc"] + [(3, "m", "a")]
    found = self_agreement(pl.LazyFrame(lines, schema=["row", "variant", "label"], orient="row"))
    assert (1 / 3 + 1) / 2 == pytest.approx(found["m"].value)
    assert 2 == found["m"].rows


@pytest.mark.parametrize("label", ["a", None])
def test_agreement_that_cannot_be_told(label):
    """With one label only, chance alone agrees: no kappa, no alpha, rather than 0 or 1."""
    frame = pl.LazyFrame(
        {"row": [1, 1, 2, 2], "variant": ["m", "n"] * 2, "label": pl.Series([label] * 4, dtype=pl.String)}
    )
    assert krippendorff_alpha(frame).value is None
    assert pair_agreement(majority_labels(frame), "m", "n").kappa.value is None


def test_ids_may_be_text():
    """Nothing depends on the type of the row's id."""
    labels = labelled(40)
    as_text = labels.lazy().with_columns(row=pl.format("id-{}", "row"))
    assert krippendorff_alpha(labels.lazy()).value == pytest.approx(krippendorff_alpha(as_text).value)


# --- intervals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [1, 2, 7, 99, 999, 10**6])
def test_students_law_is_scipys(degrees):
    """Tail and quantile."""
    for t in (0.0, 0.3, 2.0, 15.0):
        assert stats.t.sf(t, degrees) == pytest.approx(t_tail(t, degrees), rel=1e-7)
    assert stats.t.ppf(0.975, degrees) == pytest.approx(t_quantile(0.975, degrees), rel=1e-7)


@given(st.integers(0, 400), st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_wilson_is_that_of_statsmodels(successes, more):
    """And it is the interval of a rate with one yes or no per row."""
    size = successes + more
    expected = proportion_confint(successes, size, method="wilson")
    assert expected == pytest.approx(wilson_interval(successes / size, size), abs=1e-12)
    found = rate_of(RowSums(size, successes, size, successes, successes, size))
    assert expected == pytest.approx((found.low, found.high), abs=1e-12)


@given(st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_the_mid_p_is_that_of_the_binomial_law(better, worse):
    """The exact p of statsmodels less half of what is at the edge, twice."""
    exact = mcnemar([[0, better], [worse, 0]], exact=True).pvalue if better + worse else 1.0
    at_edge = stats.binom.pmf(min(better, worse), better + worse, 0.5)
    expected = exact - at_edge if better != worse else 1.0
    assert expected == pytest.approx(mcnemar_mid_p(better, worse), rel=1e-8)
    assert mcnemar_mid_p(better, worse) == mcnemar_mid_p(worse, better)


@pytest.mark.parametrize("p_values", [[], [0.03], [0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.9], [0.0, 1.0, 0.02]])
def test_holm_is_that_of_statsmodels(p_values):
    """In the order in which they came."""
    expected = multipletests(p_values, method="holm")[1] if p_values else []
    assert list(expected) == pytest.approx(list(holm(p_values)))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_an_interval_holds_its_rate(rows):
    """0 <= low <= rate <= high <= 1, whatever the rows and repeats; repeats never make it surer than rows."""
    pairs = [(min(y, x), x) for y, x in rows]
    found = rate_of(sums_of(pairs))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert len(rows) == found.rows


def sums_of(pairs: list[tuple[float, float]]) -> RowSums:
    return RowSums(
        len(pairs),
        sum(y for y, _ in pairs),
        sum(x for _, x in pairs),
        sum(y * y for y, _ in pairs),
        sum(y * x for y, x in pairs),
        sum(x * x for _, x in pairs),
    )


def test_repeats_that_always_agree_add_no_rows():
    """100 rows asked five times with the same answer are as sure as 100 rows, not as 500."""
    once = rate_of(sums_of([(1, 1)] * 70 + [(0, 1)] * 30))
    five = rate_of(sums_of([(5, 5)] * 70 + [(0, 5)] * 30))
    assert once.value == five.value
    assert once.high - once.low <= five.high - five.low <= 1.05 * (once.high - once.low)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_interval_and_p_of_a_difference_agree(differences):
    """Zero is outside the interval exactly where p is below 0.05; the other way round it is the same, mirrored."""

    def of(values):
        return paired_difference(len(values), sum(values), sum(d * d for d in values), max(map(abs, values)))

    found, mirrored = of(differences), of([-d for d in differences])
    assert found.low <= found.value <= found.high
    assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
    assert (-found.low, -found.high, found.p) == pytest.approx((mirrored.high, mirrored.low, mirrored.p))


def coverage(draw, interval, truth, samples=400) -> float:
    rng = random.Random(2026)
    return sum(low <= truth <= high for low, high in (interval(draw(rng)) for _ in range(samples))) / samples


def clustered(rng: random.Random) -> list[tuple[float, float]]:
    """120 rows asked three times, of unequal difficulty; the rate is 5 / 7."""
    difficulties = [rng.betavariate(2.5, 1) for _ in range(120)]
    return [(sum(rng.random() < p for _ in range(3)), 3) for p in difficulties]


def test_intervals_cover_what_they_promise():
    """At least 92 of 100 in 400 samples where 95 are promised (all figures: tests/measurements/intervals.py)."""

    def rate(pairs):
        found = rate_of(sums_of(pairs))
        return found.low, found.high

    def unclustered(pairs):
        right, asked = sum(y for y, _ in pairs), sum(x for _, x in pairs)
        return wilson_interval(right / asked, asked)

    def difference(pairs):
        better, worse = pairs
        found = paired_binary_difference(150, better, worse)
        return found.low, found.high

    def split(rng):
        drawn = [rng.random() for _ in range(150)]
        return sum(u < 0.08 for u in drawn), sum(u > 0.97 for u in drawn)

    assert coverage(clustered, rate, 5 / 7) >= 0.92
    assert coverage(clustered, unclustered, 5 / 7) < 0.92
    assert coverage(split, difference, 0.05) >= 0.92


def test_nothing_is_nothing():
    """No rows, no figure."""
    assert rate_of(RowSums(0, 0, 0, 0, 0, 0)) is None
    assert paired_binary_difference(0, 0, 0) is None
    assert () == holm([])
    assert 1.0 == mcnemar_mid_p(0, 0)
