"""The laws of comparing variants: paired, clustered, corrected for being several, and what the rule names."""

from __future__ import annotations

import csv
import io
import random
from decimal import Decimal
from typing import Any

import orjson
import polars as pl
import pytest
from scipy import stats

from crun_batch.console.compare_words import comparison_text
from crun_batch.console.disagreements import disagreements, disagreements_text, exported
from crun_batch.errors import InputError
from crun_batch.stats.agreement import krippendorff_alpha
from crun_batch.stats.calibration import calibration
from crun_batch.stats.comparison import Comparison, compare, side_by_side

MONEY = pl.Decimal(38, 12)
SCHEMA: dict[str, Any] = {
    "row": pl.Int64,
    "variant": pl.String,
    "repeat": pl.Int32,
    "status": pl.String,
    "output_text": pl.String,
    "score_right": pl.Float64,
    "cost_usd": MONEY,
    "cost_credits": MONEY,
    "latency_seconds": pl.Float64,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "reasoning_tokens": pl.Int64,
}
Models = dict[str, tuple[float, str]]
"""Variant -> accuracy, cost of a reply in dollars."""


def line(row: int, variant: str, score: float | None, **changes: Any) -> dict[str, Any]:
    """One result: ok, 0.001 dollars, 1 s, 10 and 5 tokens, unless said otherwise."""
    plain = {
        "row": row,
        "variant": variant,
        "repeat": 0,
        "status": "ok",
        "output_text": "yes" if score else "no",
        "score_right": score,
        "cost_usd": Decimal("0.001"),
        "cost_credits": None,
        "latency_seconds": 1.0,
        "input_tokens": 10,
        "output_tokens": 5,
        "reasoning_tokens": 0,
    }
    return plain | changes


def frame(lines: list[dict[str, Any]]) -> pl.LazyFrame:
    return pl.LazyFrame(lines, schema=SCHEMA)


def simulated(models: Models, rows: int, *, repeats: int = 1, seed: int = 3) -> pl.LazyFrame:
    """Variants of known accuracy on the same rows, which are of unequal difficulty."""
    rng = random.Random(seed)
    lines = []
    for row in range(rows):
        ease = rng.uniform(-0.15, 0.15)
        for variant, (accuracy, cost) in models.items():
            for repeat in range(repeats):
                score = float(rng.random() < accuracy + ease)
                lines.append(line(row, variant, score, repeat=repeat, cost_usd=Decimal(cost)))
    return frame(lines)


def by_name(comparison: Comparison) -> dict[str, Any]:
    return {one.name: one for one in comparison.variants}


@pytest.mark.parametrize("repeats", [1, 2])
def test_known_accuracies_are_recovered(repeats):
    """Each within its interval, the ranking right, the cheap one that is as good named."""
    models = {"large": (0.8, "0.02"), "medium": (0.8, "0.005"), "small": (0.6, "0.0001")}
    found = compare(simulated(models, 800, repeats=repeats))
    for name, (accuracy, _) in models.items():
        score = by_name(found)[name].score
        assert score.low <= accuracy <= score.high
        assert 800 == score.rows
    assert "medium" == found.choice.variant
    assert {"large", "medium"} == set(found.choice.candidates)
    assert ("small",) == found.worse


def test_a_paired_difference_is_more_than_two_intervals():
    """Intervals of the scores overlap; the same rows compared one by one tell them apart."""
    lines = [line(row, "a", float(row % 2)) for row in range(200)]
    lines += [line(row, "b", float(row % 2 and row > 20)) for row in range(200)]
    found = by_name(compare(frame(lines)))
    assert found["a"].score.low < found["b"].score.high
    against = found["b"].to_baseline
    assert against.is_worse
    assert -0.05 == pytest.approx(against.difference.value)
    assert 0.5**10 == pytest.approx(against.difference.p)
    assert "McNemar's mid-p test" == against.difference.method


def test_repeats_are_averaged_before_rows_are_compared():
    """With repeats the difference is that of the rows' means, by t over rows, not over replies."""
    rng = random.Random(5)
    lines = [
        line(row, variant, float(rng.random() < rate), repeat=repeat)
        for row in range(300)
        for variant, rate in (("a", 0.7), ("b", 0.6))
        for repeat in range(3)
    ]
    results = frame(lines)
    difference = by_name(compare(results))["b"].to_baseline.difference
    means = results.group_by("row", "variant").agg(pl.col("score_right").mean()).collect()
    wide = means.pivot(on="variant", index="row", values="score_right")
    expected = stats.ttest_rel(wide["b"], wide["a"])
    assert (wide["b"] - wide["a"]).mean() == pytest.approx(difference.value)
    assert expected.confidence_interval().low == pytest.approx(difference.low, abs=0.003)
    assert expected.confidence_interval().high == pytest.approx(difference.high, abs=0.003)
    assert 300 == difference.rows


def test_several_comparisons_are_corrected():
    """p of each, times how many are left (Holm): never below its own."""
    models = dict.fromkeys("abcdef", (0.7, "0.001"))
    found = compare(simulated(models, 100))
    against = [one.to_baseline for one in found.variants[1:]]
    assert all(one.p_adjusted >= one.difference.p for one in against)
    lowest = min(against, key=lambda one: one.difference.p)
    assert min(1.0, 5 * lowest.difference.p) == pytest.approx(lowest.p_adjusted)


def test_equal_variants_are_rarely_called_different():
    """At most 10 of 100 families of three equal variants have one that is called different (5 are promised)."""
    models = dict.fromkeys("abc", (0.75, "0.001"))
    false_alarms = 0
    for seed in range(100):
        found = compare(simulated(models, 60, seed=seed))
        false_alarms += any(one.to_baseline.p_adjusted < 0.05 for one in found.variants[1:])
    assert false_alarms <= 10


def test_a_row_that_failed_counts_as_wrong():
    """Errors lower the score and are shown; a reply that waits for its score does neither."""
    lines = [line(row, "a", 1.0) for row in range(8)]
    lines += [line(8, "a", None, status="error", output_text=None), line(9, "a", None)]
    found = by_name(compare(frame(lines)))["a"]
    assert 8 / 9 == pytest.approx(found.score.value)
    assert 0.1 == pytest.approx(found.errors.value)
    assert 9 == found.score.rows


def test_the_share_of_missing_answers_stands_beside_the_score():
    """Null, empty and blank texts and rows in error; a variant that is silent is not the better one."""
    silent = [None, "", "  ", "yes"]
    lines = [line(row, "chatty", 1.0 if row % 4 else 0.0) for row in range(40)]
    lines += [
        line(row, "silent", float(silent[row % 4] == "yes"), output_text=silent[row % 4]) for row in range(39)
    ]
    lines.append(line(39, "silent", None, status="error", output_text=None))
    compared = compare(frame(lines), score="right", baseline="chatty")
    found = by_name(compared)
    assert (0.0, pytest.approx(31 / 40)) == (found["chatty"].missing.value, found["silent"].missing.value)
    assert ("chatty", ("silent",)) == (compared.choice.variant, compared.worse)
    text = comparison_text(compared)
    assert "77.5 %" in text and "1 reply ended in error" in text and "30 replies have no text and score 0" in text


@pytest.mark.parametrize("width", [20, 60, 80, 120])
def test_one_variant_has_its_table_at_every_width(width):
    """Columns that are empty, titles included, break nothing."""
    assert "90.0 %" in comparison_text(
        compare(frame([line(row, "a", float(row > 0)) for row in range(10)])), width=width
    )


def test_only_common_rows_are_paired():
    """A stopped run compares what both have; without common rows there is no difference and no candidate."""
    lines = [line(row, "a", 1.0) for row in range(10)] + [line(row, "b", 0.0) for row in range(5, 30)]
    lines += [line(row, "c", 0.0) for row in range(50, 60)]
    found = compare(frame(lines))
    assert 5 == by_name(found)["b"].to_baseline.difference.rows
    assert by_name(found)["c"].to_baseline is None
    assert "c" not in found.choice.candidates
    assert "no common rows" in comparison_text(found)


def test_money_is_exact_and_unknown_is_not_zero():
    """Cost per row and per correct row over the replies whose cost is known."""
    lines = [line(row, "a", float(row < 3), cost_usd=Decimal("0.000000000009")) for row in range(4)]
    lines += [line(row, "b", 1.0, cost_usd=None) for row in range(4)]
    lines.append(line(4, "a", 1.0, cost_usd=None))
    found = by_name(compare(frame(lines)))
    assert Decimal("0.000000000036") == found["a"].cost_usd.total
    assert Decimal("0.000000000009") == found["a"].cost_usd.per_row
    assert Decimal("0.000000000011") == found["a"].cost_usd.per_correct_row  # 9 / (4 / 5) pico
    assert 1 == found["a"].cost_usd.unknown_replies
    assert found["b"].cost_usd.total is None
    assert "what a row costs is not known" in compare(frame(lines)).choice.reason


def test_credits_serve_where_dollars_are_unknown():
    """The rule takes the unit in which all candidates are known."""
    lines = [
        line(row, name, 1.0, cost_usd=None, cost_credits=Decimal(cost))
        for row in range(30)
        for name, cost in (("a", "2"), ("b", "1"))
    ]
    found = compare(frame(lines))
    assert "b" == found.choice.variant
    assert "1 credit" in comparison_text(found)


def test_latency_and_tokens():
    """Percentiles of the latency, tokens per reply."""
    lines = [line(row, "a", 1.0, latency_seconds=float(row), output_tokens=row) for row in range(101)]
    found = by_name(compare(frame(lines)))["a"]
    assert (50.0, 95.0) == (found.latency_p50_seconds, found.latency_p95_seconds)
    assert (10.0, 50.0) == (found.input_tokens, found.output_tokens)


def test_the_baseline_and_the_score_are_named():
    """Default: the first variant, the only score; what is not there is said with what is."""
    results = simulated({"b": (0.9, "0.1"), "a": (0.5, "0.1")}, 50)
    assert ("b", "right") == (compare(results).baseline, compare(results).score)
    assert () == compare(results, baseline="a").worse
    with pytest.raises(InputError, match="there is no variant c; there are b, a"):
        compare(results, baseline="c")
    with pytest.raises(InputError, match="there is no score wrong; there are right"):
        compare(results, score="wrong")
    with pytest.raises(InputError, match="name one of right, kind"):
        compare(results.with_columns(score_kind=pl.lit(1.0)))
    with pytest.raises(InputError, match="no results to compare yet"):
        compare(results.filter(pl.col("row") < 0))


def test_without_a_score_cost_and_time_are_compared():
    """No score, no difference, no choice; the rest stands."""
    found = compare(simulated({"a": (0.5, "0.1"), "b": (0.5, "0.2")}, 20).drop("score_right"))
    assert found.choice.variant is None
    assert "no variant is named: there is no score to compare by" in comparison_text(found)
    assert Decimal("0.2") == by_name(found)["b"].cost_usd.per_row


def test_labels_add_agreement():
    """Each variant with itself and with the baseline, and alpha over all."""
    found = compare(simulated({"a": (0.9, "0.1"), "b": (0.9, "0.1")}, 100, repeats=2), label="output_text")
    assert found.alpha.value is not None
    assert found.variants[0].label_agreement is None
    assert 0 < by_name(found)["b"].self_agreement.value < 1
    assert "Cohen's kappa" in comparison_text(found)


def test_runs_side_by_side():
    """Variants are named run/variant; ids of different types meet as text; a run without the id is refused."""
    one = simulated({"m": (0.9, "0.1")}, 40)
    two = simulated({"m": (0.1, "0.1")}, 40).with_columns(row=pl.col("row").cast(pl.String), extra=pl.lit(1))
    found = compare(side_by_side({"old": one, "new": two}, "row"))
    assert ["old/m", "new/m"] == [one.name for one in found.variants]
    assert ("new/m",) == found.worse
    assert 40 == by_name(found)["new/m"].to_baseline.difference.rows
    with pytest.raises(InputError, match="run new has no column row"):
        side_by_side({"old": one, "new": two.drop("row")}, "row")


def test_plain_data_and_words_say_the_same():
    """--json is plain; the table shows score, interval, difference, p and the choice."""
    found = compare(simulated({"a": (0.9, "0.1"), "b": (0.5, "0.01")}, 200))
    document = orjson.loads(orjson.dumps(found.to_dict()))
    assert ["b"] == document["worse"]
    assert "0.1" == document["variants"][0]["cost_usd"]["per_row"]
    text = comparison_text(found, width=120)
    assert f"{100 * document['variants'][1]['score']['value']:.1f} %" in text
    assert "worse" in text and "take a:" in text and "< 0.001" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_results_changes_no_bit_of_a_figure(seed: int):
    """Rows and the groups that polars makes of them come in any order; two reports of one run are one text."""
    generator = random.Random(seed)
    lines = [
        line(row, variant, generator.random(), repeat=repeat, output_text=generator.choice("xyz"))
        for row in range(150)
        for variant in ("a", "b", "c")
        for repeat in range(generator.randint(1, 3))
    ]
    results = frame(lines).with_columns(number=pl.col("score_right").round(1))
    figures = [
        (
            compare(shuffled.lazy(), label="output_text", order=["b", "a", "c"]).to_dict(),
            krippendorff_alpha(shuffled.lazy().with_columns(label="number"), "interval"),
            calibration(shuffled.lazy().select("row", confidence="number", right="score_right")),
        )
        for one in range(4)
        for shuffled in [results.collect().sample(fraction=1, shuffle=True, seed=one)]
    ]
    assert [figures[0]] * 4 == figures


# --- disagreement ------------------------------------------------------------------------------------------------


def disputed() -> pl.LazyFrame:
    labels = {1: ("x", "x", "x"), 2: ("x", "y", "z"), 3: ("x", "x", "y"), 4: ("=1+1", "y", "y")}
    lines = [
        line(row, variant, None, output_text=text)
        for row, texts in labels.items()
        for variant, text in zip(("a", "b", "c"), texts, strict=True)
    ]
    lines += [line(1, "d", None, output_text="q", status="error"), line(3, "a", None, repeat=1, output_text="z")]
    return frame(lines).with_columns(about=pl.format("row {}", "row"))


def test_disputed_rows_are_listed():
    """The most disputed first; agreed rows are not there, failed replies have no label, repeats stand together."""
    found = disagreements(disputed(), columns=["about"])
    assert [2, 3, 4] == found["row"].to_list()
    assert ["row", "about", "agreement", "label_a", "label_b", "label_c"] == found.columns
    assert (3, "row 3", 0.5, "x | z", "x", "y") == found.row(1)
    assert [2] == disagreements(disputed(), limit=1)["row"].to_list()


@pytest.mark.parametrize(
    "name", ["label", "agreement", "votes", "replies", "different", "score", "label_a", "carried 0"]
)
def test_a_carried_column_may_have_any_name(name):
    """A table for labelling has a column `label` more often than not; of two of a name, ours keeps it."""
    found = disagreements(disputed().with_columns(pl.col("about").alias(name)), columns=[name, "about"])
    shown = f"{name}_carried" if name in ("agreement", "label_a") else name
    assert ["row", shown, "about", "agreement", "label_a", "label_b", "label_c"] == found.columns
    assert found[shown].to_list() == found["about"].to_list()


def test_scores_that_differ_by_rounding_alone_are_not_disputed():
    """And they are listed as a person writes them."""
    lines = {"row": [1, 1, 2, 2], "variant": ["a", "b"] * 2, "score": [0.1 + 0.2, 0.3, 0.1 + 0.7, 0.5]}
    results = pl.LazyFrame(lines).with_columns(status=pl.lit("ok"), output_text=pl.lit("x"))

    found = disagreements(results, label="score")

    assert [(2, 0.5, "0.8", "0.5")] == found.rows()


def test_disputed_rows_are_exported():
    """CSV that no spreadsheet runs, JSONL as it is; a terminal gets a table."""
    found = disagreements(disputed(), columns=["about"])
    lines = list(csv.DictReader(io.StringIO(exported(found, "csv"))))
    assert "'=1+1" == lines[2]["label_a"]
    assert "=1+1" == [orjson.loads(one) for one in exported(found, "jsonl").splitlines()][2]["label_a"]
    assert "label_a" in disagreements_text(found)
    assert "no row is labelled differently" == disagreements_text(
        disagreements(disputed().filter(pl.col("row") == 1))
    )


def test_a_label_may_be_a_field_of_the_output():
    """Any expression over the columns of results gives the label."""
    results = disputed().with_columns(output=pl.struct(kind=pl.col("output_text")))
    found = disagreements(results, label=pl.col("output").struct.field("kind"))
    assert [2, 3, 4] == found["row"].to_list()
