"""What a terminal shows of a comparison: the best first, every pair, no unit or count mixed, never too wide."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from scipy import stats
from test_compare import by_name, disputed, frame, line, simulated

from crun_batch.console.compare_words import comparison_text
from crun_batch.console.compared_words import gold_text
from crun_batch.console.disagreements import disagreements, disagreements_text
from crun_batch.console.words import display_width
from crun_batch.reporting.comparing import ComparisonOptions, label_of
from crun_batch.stats.agreement import against_gold
from crun_batch.stats.comparison import compare
from crun_batch.stats.intervals import holm

THREE = {"middle": (0.7, "0.02"), "best": (0.9, "0.05"), "worst": (0.4, "0.001")}
WIDTHS = (60, 80, 100, 120, 200)


def test_the_best_score_stands_first():
    found = compare(simulated(THREE, 200))
    table = comparison_text(found).split("\n\n")[1]
    places = [table.index(f"\n{name} ") for name in ("best", "middle", "worst")]
    assert sorted(places) == places


def test_every_pair_is_compared_under_one_correction():
    """As many as there are, each over its common rows, Holm over all of them together."""
    results = simulated(THREE, 200)
    found = compare(results)
    assert [("middle", "best"), ("middle", "worst"), ("best", "worst")] == [
        (one.first, one.second) for one in found.pairs
    ]
    assert holm([one.difference.p for one in found.pairs]) == tuple(one.p_adjusted for one in found.pairs)
    to_baseline = by_name(found)["best"].to_baseline.difference
    assert (to_baseline.p, -to_baseline.value) == (found.pairs[0].difference.p, found.pairs[0].difference.value)
    wide = results.collect().pivot(on="variant", index="row", values="score_right")
    better = int((wide["best"] > wide["worst"]).sum())
    worse = int((wide["best"] < wide["worst"]).sum())
    exact = stats.binomtest(worse, better + worse).pvalue
    assert found.pairs[2].difference.p < exact
    assert "over all 3 pairs" in comparison_text(found)
    assert () == compare(simulated({f"v{n}": (0.5, "1") for n in range(13)}, 4)).pairs


def test_money_of_two_units_stands_in_two_tables():
    """What is known in credits only is not said to be unknown, and no column adds the one to the other."""
    lines = [line(row, "dollars", 1.0) for row in range(4)]
    lines += [line(row, "credits", 1.0, cost_usd=None, cost_credits=Decimal(2)) for row in range(4)]
    tables = [part for part in comparison_text(compare(frame(lines))).split("\n\n") if "per correct row" in part]
    assert 2 == len(tables)
    assert "$" in tables[0] and "credit" not in tables[0].replace("\ncredits", "")
    assert "credits" in tables[1] and "$" not in tables[1]
    assert 1 == comparison_text(compare(simulated(THREE, 9))).count("per correct row")


def test_what_a_reply_costs_is_not_called_what_a_row_costs():
    """Asked twice a row costs twice that: beside the number of rows and their cost it is said of a reply."""
    twice = comparison_text(compare(simulated(THREE, 9, repeats=2)))
    assert "per correct reply" in twice and "per row" not in twice.partition("\ntake ")[0]


def test_an_empty_answer_is_no_label():
    """Null, empty and blank are one: a reply without a label, and no class of its own."""
    frame = pl.DataFrame({"output_text": ["good", " bad ", "", "  ", None]})
    label = label_of(frame.schema, ComparisonOptions(gold="gold"))
    assert label is not None
    assert ["good", "bad", None, None, None] == frame.select(label.alias("label"))["label"].to_list()


def test_classes_count_rows_and_replies_apart():
    """Three replies to each row: its class has the rows, and the replies beside them."""
    labels = pl.LazyFrame(
        {"row": [1, 1, 1, 2, 2, 2], "label": ["a", "a", "b", "b", "b", "b"], "gold": ["a"] * 3 + ["b"] * 3}
    )
    figures = against_gold(labels)
    assert [(1, 3, 2), (1, 3, 4)] == [(one.rows, one.support, one.predicted) for one in figures.classes]
    text = gold_text("v", figures)
    assert "rows  replies  labelled so" in text and "replies: gold" in text
    assert max(map(len, gold_text("a variant with a long name", figures, width=80).splitlines())) <= 80
    once = against_gold(labels.unique("row", maintain_order=True))
    assert "replies  labelled so" not in gold_text("v", once)


def test_a_consensus_gives_each_variant_one_vote():
    """Whatever its repeats; a tie has no label; nobody agrees with himself."""
    rows = {1: ("x", "x", "y"), 2: ("x", "x", "x"), 3: ("x", "y", "z")}
    lines = [
        line(row, variant, None, output_text=text)
        for row, texts in rows.items()
        for variant, text in zip("abc", texts, strict=True)
    ]
    lines += [line(1, "c", None, output_text="y", repeat=repeat) for repeat in (1, 2, 3)]
    found = compare(frame(lines), label="output_text").consensus
    assert (3, 2, 1) == (found.rows, found.decided, found.unanimous)
    assert pytest.approx((1 / 3 + 1 + 0) / 3) == found.agreement.value
    # of a: the others are tied in 1 and 3, agree in 2; of c: the others say x in 1 and 2, and are tied in 3
    assert {"a": 1.0, "b": 1.0, "c": 0.5} == {name: rate.value for name, rate in found.variants.items()}


def test_a_model_that_changed_is_named():
    """With how many replies, and from when to when; one model alone is no news."""
    began = datetime(2026, 5, 1, tzinfo=UTC)
    results = frame([line(row, "a", 1.0) for row in range(10)]).with_columns(
        model=pl.when(pl.col("row") < 7).then(pl.lit("m-1")).otherwise(pl.lit("m-2")),
        finished_at=pl.lit(began) + pl.col("row") * timedelta(minutes=1),
    )
    found = compare(results)
    assert [("a", "m-1", 7), ("a", "m-2", 3)] == [(one.variant, one.model, one.replies) for one in found.served]
    assert "a: m-2 answered 3, from 2026-05-01 00:07:00 to 2026-05-01 00:09:00" in comparison_text(found)
    assert () == compare(results.filter(pl.col("row") < 7)).served


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_terminal_and_every_answer_is_seen(width):
    """Long texts stand after the answers; words are cut, never broken over lines."""
    long = disputed().with_columns(about=pl.lit("a long text without end, " * 40))
    text = disagreements_text(disagreements(long, columns=["about"]), width=width)
    assert max(map(display_width, text.splitlines())) <= width
    for answer in ("x | z", "z", "y"):
        assert answer in text
    found = compare(simulated(THREE, 100, repeats=2), label="output_text")
    lines = comparison_text(found, width=width).splitlines()
    assert [] == [one for one in lines if display_width(one) > width and "p:" not in one and "take" not in one]


def test_answers_without_end_are_grouped_by_who_gave_them():
    """Free texts of three variants at 50 columns: each row's answers with their variants, cut to the width."""
    texts = [
        line(1, name, None, output_text=f"{answer} " * 50)
        for name, answer in (("a", "yes"), ("b", "yes"), ("c", "no"))
    ]
    text = disagreements_text(disagreements(frame(texts)), width=50)
    assert "row 1, agreement 0.67" == text.splitlines()[0]
    assert text.splitlines()[1].startswith("  a, b: yes yes") and text.splitlines()[2].startswith("  c: no no")
    assert all(display_width(part) <= 50 for part in text.splitlines())
