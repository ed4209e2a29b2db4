"""A comparison in words: one table of scores, one of money and time, one of agreement, and the choice.

Owns the layout. Every share stands with its 95 % interval, every difference with its p.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal

from crun_batch.console.amounts import UNKNOWN, count, counted, credit_amount, usd
from crun_batch.console.tables import Words, table
from crun_batch.console.words import one_line
from crun_batch.stats.comparison import SIGNIFICANCE, Against, Comparison, VariantFigures
from crun_batch.stats.consensus import Consensus
from crun_batch.stats.intervals import Difference, Rate
from crun_batch.stats.kappa import Coefficient
from crun_batch.stats.pairs import PairDifference
from crun_batch.stats.served import ServedModel


def comparison_text(comparison: Comparison, *, width: int | None = None) -> str:
    """The comparison for a terminal."""
    parts = [_headline(comparison)]
    if comparison.score is not None:
        parts.append(_scores(comparison, width))
    if len(comparison.variants) > 2 and comparison.pairs:
        parts.append(_pairs(comparison.pairs, width))
    parts += _costs(comparison.variants, width)
    if comparison.alpha is not None:
        parts += [_agreement(comparison, width), f"Krippendorff's alpha over all: {coefficient(comparison.alpha)}"]
    if comparison.consensus is not None:
        parts.append(_consensus(comparison.consensus, width))
    parts += [_served(comparison.served)] if comparison.served else []
    parts.append("\n".join(_choice(comparison)))
    return "\n\n".join(parts)


def percent(value: float) -> str:
    """81.3 %."""
    return f"{100 * value:.1f} %"


def rate(found: Rate | None) -> str:
    """81.3 % (79.1 to 83.4)."""
    return "-" if found is None else f"{percent(found.value)} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def coefficient(found: Coefficient) -> str:
    """0.747 (0.680 to 0.813)."""
    if found.value is None:
        return "not defined"
    interval = "" if found.low is None else f" ({found.low:.3f} to {found.high:.3f})"
    return f"{found.value:.3f}{interval}"


def p_value(p: float) -> str:
    """0.031, < 0.001."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def points(against: Against) -> str:
    """-3.2 points (-5.1 to -1.3)."""
    return _points(against.difference)


def _points(found: Difference) -> str:
    return f"{100 * found.value:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _headline(comparison: Comparison) -> str:
    by = "no score" if comparison.score is None else f"score {comparison.score}"
    variants = counted(len(comparison.variants), "variant")
    return one_line(f"{variants}, {by}, baseline {comparison.baseline}; intervals are 95 %")


def _scores(comparison: Comparison, width: int | None) -> str:
    headers = ("variant", "rows", "score", "no answer", "against the baseline", "p", "verdict")
    lines = []
    for one in _best_first(comparison.variants):
        against = one.to_baseline
        shown = (one.name, one.rows, rate(one.score), percent(one.missing.value))
        if one.name == comparison.baseline:
            lines.append((*shown, "baseline", "", ""))
        elif against is None:
            lines.append((*shown, Words("no common rows"), "", ""))
        else:
            lines.append((*shown, points(against), p_value(against.p_adjusted), Words(_verdict(against))))
    methods = {one.to_baseline.difference.method for one in comparison.variants if one.to_baseline is not None}
    notes = [f"p: {' or '.join(sorted(methods))}, Holm's correction"] if methods else []
    failed, missing = (
        sum(round(getattr(one, name).value * one.replies) for one in comparison.variants)
        for name in ("errors", "missing")
    )
    if failed:
        replies = "1 reply" if failed == 1 else f"{count(failed)} replies"
        notes.append(f"{replies} ended in error and count as score 0")
    if missing > failed:
        silent = missing - failed
        replies = "1 reply has" if silent == 1 else f"{count(silent)} replies have"
        notes.append(f"{replies} no text and score 0")
    return "\n".join([table(headers, lines, width=width), *notes])


def _best_first(variants: Sequence[VariantFigures]) -> list[VariantFigures]:
    """By score; those without one last, equals in their order."""
    return sorted(variants, key=lambda one: -1.0 if one.score is None else one.score.value, reverse=True)


def _pairs(pairs: Sequence[PairDifference], width: int | None) -> str:
    """Those that differ most surely first."""
    headers = ("variant", "against", "difference", "p", "rows", "verdict")
    lines = [
        (
            pair.first,
            pair.second,
            _points(pair.difference),
            p_value(pair.p_adjusted),
            pair.difference.rows,
            Words("differ" if pair.p_adjusted < SIGNIFICANCE else "no difference shown"),
        )
        for pair in sorted(pairs, key=lambda pair: pair.p_adjusted)
    ]
    return f"{table(headers, lines, width=width)}\np: Holm's correction over all {count(len(pairs))} pairs"


def _consensus(found: Consensus, width: int | None) -> str:
    """What all variants say together, and how often each says what the others do."""
    head = (
        f"consensus of {counted(len(found.variants), 'variant')}, one vote each: {count(found.decided)} of "
        f"{counted(found.rows, 'row')} have one, {count(found.unanimous)} by all; two variants agree on "
        f"{rate(found.agreement)}"
    )
    lines = [(name, rate(agrees)) for name, agrees in found.variants.items()]
    wrapped = "\n".join(textwrap.wrap(head, width)) if width else head
    return f"{wrapped}\n{table(('variant', 'agrees with the others'), lines, width=width)}"


def _served(served: Sequence[ServedModel]) -> str:
    """Variants that one model did not answer alone."""
    lines = [
        f"{one.variant}: {one.model} answered {count(one.replies)}, "
        f"from {_moment(one.first)} to {_moment(one.last)}"
        for one in served
    ]
    return "\n".join(["more than one model answered:", *map(one_line, lines)])


def _moment(moment: datetime | None) -> str:
    return UNKNOWN if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _verdict(against: Against) -> str:
    return "worse" if against.is_worse else "better" if against.is_better else "no difference shown"


_UNITS: dict[str, Callable[[Decimal | None], str]] = {"cost_usd": usd, "cost_credits": credit_amount}


def _costs(variants: Sequence[VariantFigures], width: int | None) -> list[str]:
    """Money by unit, a table for each in which something is known; then time and tokens, which have none."""
    known = [unit for unit in _UNITS if any(getattr(one, unit).total is not None for one in variants)]
    units = [unit for unit in known if unit == known[0] or not _is_covered(variants, known[0])] or ["cost_usd"]
    return [*(_money(variants, unit, width) for unit in units), _time(variants, width)]


def _is_covered(variants: Sequence[VariantFigures], unit: str) -> bool:
    return all(getattr(one, unit).total is not None for one in variants)


def _money(variants: Sequence[VariantFigures], unit: str, width: int | None) -> str:
    """Only the variants whose cost is known in this unit have figures. Of a reply, where rows have several."""
    show, one_answer = _UNITS[unit], "reply" if any(one.replies > one.rows for one in variants) else "row"
    lines = []
    for one in variants:
        money = getattr(one, unit)
        unknown = f", {count(money.unknown_replies)} unknown" if money.unknown_replies and money.total else ""
        per_correct = "-" if one.score is None else _amount(money.per_correct_row, show)
        lines.append((one.name, _amount(money.total, show) + unknown, _amount(money.per_row, show), per_correct))
    return table(("variant", "cost", f"per {one_answer}", f"per correct {one_answer}"), lines, width=width)


def _time(variants: Sequence[VariantFigures], width: int | None) -> str:
    headers = ("variant", "errors", "p50 s", "p95 s", "input tokens", "output tokens")
    lines = [
        (
            one.name,
            percent(one.errors.value),
            _number(one.latency_p50_seconds, 2),
            _number(one.latency_p95_seconds, 2),
            _number(one.input_tokens, 1),
            _number(one.output_tokens, 1),
        )
        for one in variants
    ]
    return table(headers, lines, width=width)


def _amount(amount: Decimal | None, show: Callable[[Decimal | None], str]) -> str:
    return UNKNOWN if amount is None else show(amount)


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:,.{decimals}f}"


def _agreement(comparison: Comparison, width: int | None) -> str:
    headers = ("variant", "agrees with itself", "agrees with the baseline", "Cohen's kappa")
    lines = [
        (
            one.name,
            rate(one.self_agreement),
            "baseline" if one.label_agreement is None else rate(one.label_agreement.agreement),
            "-" if one.label_agreement is None else coefficient(one.label_agreement.kappa),
        )
        for one in comparison.variants
    ]
    return table(headers, lines, width=width)


def _choice(comparison: Comparison) -> list[str]:
    choice = comparison.choice
    if choice.variant is None:
        return [one_line(f"no variant is named: {choice.reason}")]
    lines = [one_line(f"take {choice.variant}: {choice.reason}")]
    chosen = next(one for one in comparison.variants if one.name == choice.variant)
    if chosen.to_best is not None:
        may_be = max(0.0, -chosen.to_best.difference.low)
        lines.append(
            f"(not significantly worse is not equal: it may be up to {100 * may_be:.1f} points below the best)"
        )
    return lines
