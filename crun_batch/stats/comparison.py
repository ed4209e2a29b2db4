"""Variants side by side: score, cost, time, tokens, paired differences, and which one to take.

Owns what is compared and the rule of the choice. Input is a frame of the columns of `results`, lazy and as large
as it likes: polars counts, only sums become Python values. Must not know runs, files or terminals.

A reply that ended in `error` counts as score 0: a model that cannot take a row has not got it right. The share of
replies without a text, those in error included, stands beside every score. Replies that wait for a score (a judge
not yet asked, no gold label) do not count. The row is the unit of chance: the repeats of a row are averaged before
rows are compared.

The rule: of the variants that are not significantly worse than the one with the best score (paired over their
common rows, Holm's correction over all comparisons, p >= 0.05), the cheapest per row is named. "Not significantly
worse" is no proof of equality; the difference's interval says how much worse it may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from typing import Any, Literal

import polars as pl
from msgspec import Struct, structs, to_builtins

from crun_batch.errors import InputError
from crun_batch.stats.agreement import (
    PairAgreement,
    krippendorff_alpha,
    majority_labels,
    pair_agreement,
    row_sums,
    self_agreement,
)
from crun_batch.stats.consensus import Consensus, consensus_of
from crun_batch.stats.intervals import (
    Difference,
    Rate,
    RowSums,
    holm,
    rate_of,
)
from crun_batch.stats.kappa import Coefficient
from crun_batch.stats.pairs import PairDifference, all_pairs, paired_differences
from crun_batch.stats.served import ServedModel, served_models
from crun_batch.stats.sums import mean_of

SIGNIFICANCE = 0.05
_EXACT = Context(prec=50)
_MONEY = ("cost_usd", "cost_credits")
_TOKENS = ("input_tokens", "output_tokens", "reasoning_tokens")
_SUMS = (*_MONEY, *_TOKENS)


class Money(Struct, frozen=True):
    """What a variant cost in one unit. None: not known, which is never 0."""

    total: Decimal | None
    """Of the replies whose cost is known."""
    per_row: Decimal | None
    """Mean of those: what one row costs, asked once. A row that is asked repeatedly has several replies."""
    per_correct_row: Decimal | None
    """per_row / score. None without a score, or with score 0."""
    unknown_replies: int
    """Replies whose cost is not known."""


class Against(Struct, frozen=True):
    """The paired difference of a variant's score to another's. `p_adjusted` is Holm's over all comparisons."""

    other: str
    difference: Difference
    p_adjusted: float

    @property
    def is_worse(self) -> bool:
        return self.difference.value < 0 and self.p_adjusted < SIGNIFICANCE

    @property
    def is_better(self) -> bool:
        return self.difference.value > 0 and self.p_adjusted < SIGNIFICANCE


class VariantFigures(Struct, frozen=True):
    """One variant. Latencies are seconds of the last attempt; tokens are means per reply."""

    name: str
    rows: int
    replies: int
    errors: Rate
    """Share of replies that ended in `error`."""
    missing: Rate
    """Share of replies without a text, those in error included: no answer, whatever the reason."""
    score: Rate | None
    cost_usd: Money
    cost_credits: Money
    latency_p50_seconds: float | None
    latency_p95_seconds: float | None
    input_tokens: float | None
    output_tokens: float | None
    reasoning_tokens: float | None
    to_baseline: Against | None = None
    to_best: Against | None = None
    self_agreement: Rate | None = None
    label_agreement: PairAgreement | None = None
    """Of its majority labels with the baseline's."""


class Choice(Struct, frozen=True):
    """What the rule names. `variant` is None where it cannot: `reason` says why."""

    variant: str | None
    best: str | None
    candidates: tuple[str, ...]
    reason: str


class Comparison(Struct, frozen=True):
    """Variants in their order; `alpha` is Krippendorff's over all labels, where labels were named."""

    score: str | None
    baseline: str
    variants: tuple[VariantFigures, ...]
    choice: Choice
    alpha: Coefficient | None = None
    pairs: tuple[PairDifference, ...] = ()
    """Every pair of variants, with one correction over all of them."""
    consensus: Consensus | None = None
    """Over all variants, where labels were named and there are two and more."""
    served: tuple[ServedModel, ...] = ()
    """Of variants that more than one model answered, each of them."""

    @property
    def worse(self) -> tuple[str, ...]:
        """Variants whose score is significantly below the baseline's: what --fail-if-worse fails on."""
        return tuple(one.name for one in self.variants if one.to_baseline is not None and one.to_baseline.is_worse)

    def to_dict(self) -> dict[str, Any]:
        """Plain data (--json); amounts are decimal text."""
        return {**_plain(to_builtins(self, builtin_types=(Decimal,))), "worse": list(self.worse)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Decimal):
        digits = f"{value:f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    return value


def side_by_side(runs: Mapping[str, pl.LazyFrame], row: str) -> pl.LazyFrame:
    """Several runs as one frame of variants named `run/variant`, with the columns that all of them have.

    Ids of different types are compared as text. Raises InputError where a run has no column `row`.
    """
    schemas = {name: frame.collect_schema() for name, frame in runs.items()}
    without = next((name for name, schema in schemas.items() if row not in schema), None)
    if without is not None:
        raise InputError(f"run {without} has no column {row}: only runs over the same ids can be compared")
    first, *others = schemas.values()
    same = [name for name in first.names() if all(schema.get(name) == first[name] for schema in others)]
    shared = [name for name in same if name not in (row, "variant")]
    key = pl.col(row) if row in same else pl.col(row).cast(pl.String)
    named = [
        frame.select(key, *shared, variant=pl.concat_str(pl.lit(name), pl.lit("/"), pl.col("variant")))
        for name, frame in runs.items()
    ]
    return pl.concat(named)


def compare(
    results: pl.LazyFrame,
    *,
    row: str = "row",
    score: str | None = None,
    baseline: str | None = None,
    label: pl.Expr | str | None = None,
    order: Sequence[str] = (),
) -> Comparison:
    """Compare the variants of `results` by `score_<score>` (default: its only score, if there is one).

    `row` is the id column, `baseline` a variant (default: the first), `label` a column or expression that gives
    each reply's label, which adds agreement. `order` names variants as the job has them: replies lie in the order
    in which they came, and who was quickest must not decide who is the baseline. Raises InputError where a name
    is not there.
    """
    schema = results.collect_schema()
    score = _score_name(schema.names(), score)
    replies = _replies(results, row, score, label)
    names = [name for (name,) in replies.select("variant").unique(maintain_order=True).collect().iter_rows()]
    places = {name: place for place, name in enumerate(order)}
    names.sort(key=lambda name: places.get(name, len(places)))
    baseline = _baseline(names, baseline)
    replies = replies.with_columns(pl.col("variant").cast(pl.Enum(names)))
    by_row = _by_row(replies).collect().lazy()
    figures = _figures(replies, by_row, names)
    if score is not None:
        figures = _with_differences(figures, by_row, baseline)
    alpha = consensus = None
    if label is not None:
        labels = replies.select("row", "variant", "label").collect().lazy()  # read once, for five questions
        majority = majority_labels(labels).collect().lazy()
        figures = _with_agreement(figures, labels, majority, baseline)
        alpha, consensus = krippendorff_alpha(labels), consensus_of(majority, names)
    pairs = all_pairs(by_row, names) if score is not None else ()
    served = served_models(results)
    return Comparison(score, baseline, tuple(figures), choose(figures), alpha, pairs, consensus, served)


def _score_name(columns: Sequence[str], score: str | None) -> str | None:
    scores = [name.removeprefix("score_") for name in columns if name.startswith("score_")]
    if score is None:
        if len(scores) > 1:
            raise InputError(f"several scores are there: name one of {', '.join(scores)}")
        return scores[0] if scores else None
    if score not in scores:
        raise InputError(f"there is no score {score}; {'there are ' + ', '.join(scores) if scores else 'none is'}")
    return score


def _baseline(names: Sequence[str], baseline: str | None) -> str:
    if not names:
        raise InputError("there are no results to compare yet")
    if baseline is not None and baseline not in names:
        raise InputError(f"there is no variant {baseline}; there are {', '.join(names)}")
    return baseline or names[0]


def _replies(results: pl.LazyFrame, row: str, score: str | None, label: pl.Expr | str | None) -> pl.LazyFrame:
    """The columns that count, by fixed names: row, variant, failed, missing, score, label; money, tokens, time."""
    failed = pl.col("status") == "error"
    given = pl.lit(None, pl.Float64) if score is None else pl.col(f"score_{score}")
    shown = pl.lit(None, pl.String) if label is None else pl.col(label) if isinstance(label, str) else label
    return results.select(
        "variant",
        "latency_seconds",
        *_SUMS,
        row=pl.col(row),
        failed=failed,
        missing=failed | (pl.col("output_text").fill_null("").str.strip_chars() == ""),
        score=given if score is None else pl.when(failed).then(0.0).otherwise(given),
        label=pl.when(~failed).then(shown.cast(pl.String)),
    )


def _by_row(replies: pl.LazyFrame) -> pl.LazyFrame:
    """One line per (row, variant): replies of each kind, the mean score, whether it is one yes or no."""
    score = pl.col("score")
    return replies.group_by("row", "variant").agg(
        replies=pl.len(),
        failed=pl.col("failed").sum(),
        missing=pl.col("missing").sum(),
        scored=score.count(),
        mean=mean_of(score),
        binary=(score.count() == 1) & score.is_in([0.0, 1.0]).all(),
    )


def _figures(replies: pl.LazyFrame, by_row: pl.LazyFrame, names: Sequence[str]) -> list[VariantFigures]:
    totals = replies.group_by("variant").agg(
        *(pl.col(name).sum() for name in _MONEY),
        *(pl.col(name).mean() for name in _TOKENS),
        *(pl.col(name).count().alias(f"{name}_known") for name in _MONEY),
        replies=pl.len(),
        p50=pl.col("latency_seconds").quantile(0.5),
        p95=pl.col("latency_seconds").quantile(0.95),
    )
    lines = {line["variant"]: line for line in totals.collect().iter_rows(named=True)}
    errors, missing = (
        row_sums(by_row.select("variant", y=name, x="replies"), ["variant"]) for name in ("failed", "missing")
    )
    scored = by_row.filter(pl.col("scored") > 0)
    scores = row_sums(
        scored.select("variant", y=pl.col("mean") * pl.col("scored"), x=pl.col("scored")), ["variant"]
    )
    return [
        _variant(lines[name], errors[name], missing[name], rate_of(scores[name]) if name in scores else None)
        for name in names
    ]


def _variant(line: Mapping[str, Any], failures: RowSums, silences: RowSums, score: Rate | None) -> VariantFigures:
    errors, missing = rate_of(failures), rate_of(silences)
    assert errors is not None and missing is not None, "a variant has replies"
    money = {name: _money(line[name], line[f"{name}_known"], line["replies"], score) for name in _MONEY}
    return VariantFigures(
        name=line["variant"],
        rows=failures.rows,
        replies=line["replies"],
        errors=errors,
        missing=missing,
        score=score,
        cost_usd=money["cost_usd"],
        cost_credits=money["cost_credits"],
        latency_p50_seconds=line["p50"],
        latency_p95_seconds=line["p95"],
        input_tokens=line["input_tokens"],
        output_tokens=line["output_tokens"],
        reasoning_tokens=line["reasoning_tokens"],
    )


def _money(total: Decimal, known: int, replies: int, score: Rate | None) -> Money:
    if known == 0:
        return Money(None, None, None, replies)
    per_row = total / known
    per_correct = per_row / Decimal(score.value) if score is not None and score.value > 0 else None
    return Money(total, _to_pico(per_row), None if per_correct is None else _to_pico(per_correct), replies - known)


def _to_pico(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-12), context=_EXACT)


def _with_differences(
    figures: Sequence[VariantFigures], by_row: pl.LazyFrame, baseline: str
) -> list[VariantFigures]:
    """The figures with their differences to the baseline and to the best."""
    best = best_of(figures)
    to_baseline = _adjusted(baseline, paired_differences(by_row, baseline))
    if best is None or best == baseline:
        to_best = to_baseline if best is not None else {}
    else:
        to_best = _adjusted(best, paired_differences(by_row, best))
    return [
        structs.replace(one, to_baseline=to_baseline.get(one.name), to_best=to_best.get(one.name))
        for one in figures
    ]


def _adjusted(other: str, differences: Mapping[str, Difference]) -> dict[str, Against]:
    adjusted = holm([difference.p for difference in differences.values()])
    return {
        name: Against(other, difference, p)
        for (name, difference), p in zip(differences.items(), adjusted, strict=True)
    }


def best_of(figures: Sequence[VariantFigures]) -> str | None:
    """The variant with the highest score; of equals the first. None without scores."""
    scored = {one.name: one.score.value for one in figures if one.score is not None}
    return max(scored, key=lambda name: scored[name]) if scored else None


def choose(figures: Sequence[VariantFigures]) -> Choice:
    """The rule of this module. A variant without common rows with the best one is no candidate."""
    best = best_of(figures)
    if best is None:
        return Choice(None, None, (), "there is no score to compare by")
    candidates = [
        one for one in figures if one.name == best or (one.to_best is not None and not one.to_best.is_worse)
    ]
    names, unit = tuple(one.name for one in candidates), _common_unit(candidates)
    if unit is None:
        return Choice(None, best, names, "what a row costs is not known for all of them")
    cheapest = min(candidates, key=lambda one: (getattr(one, unit).per_row, one.name != best))
    if cheapest.name == best:
        return Choice(best, best, names, "it has the best score, and none as good costs less per row")
    return Choice(
        cheapest.name,
        best,
        names,
        f"it costs the least per row of the {len(names)} that are not significantly worse than {best}, the best",
    )


def _common_unit(figures: Sequence[VariantFigures]) -> Literal["cost_usd", "cost_credits"] | None:
    units: tuple[Literal["cost_usd", "cost_credits"], ...] = ("cost_usd", "cost_credits")
    known = (unit for unit in units if all(getattr(one, unit).per_row is not None for one in figures))
    return next(known, None)


def _with_agreement(
    figures: Sequence[VariantFigures], labels: pl.LazyFrame, majority: pl.LazyFrame, baseline: str
) -> list[VariantFigures]:
    repeats = self_agreement(labels)
    return [
        structs.replace(
            one,
            self_agreement=repeats.get(one.name),
            label_agreement=None if one.name == baseline else pair_agreement(majority, baseline, one.name),
        )
        for one in figures
    ]
