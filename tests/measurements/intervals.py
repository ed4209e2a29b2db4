"""How often do the intervals of scores and of paired differences cover the truth? The choice of the methods.

Each line: one kind of evaluation, simulated --samples times; percent of the 95 % intervals that hold the true
value, and the mean width relative to the chosen method's. Resampling methods get the first --resampling samples.
Run: python tests/measurements/intervals.py [--samples 4000] [--resampling 300] [--rows 20 50 200 1000]

The chosen methods are those of crun_batch/stats/intervals.py: `rate_of` (Wilson, at the effective size where rows
have repeats), `paired_difference` (t with two pseudo-rows) and `paired_binary_difference`. Beside them: what they
replace. The last part is the share of equal variants that a test calls different (5 % are promised).
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

from crun_batch.stats.intervals import (
    RowSums,
    mcnemar_mid_p,
    paired_binary_difference,
    paired_difference,
    rate_of,
    t_quantile,
    wilson_interval,
)

Ends = tuple[float, float]
Pairs = list[tuple[float, int]]
"""Per row: the sum of its scores, its replies."""
BOOTSTRAPS = 800


# --- rates -------------------------------------------------------------------------------------------------------


def repeated(mean: float, spread: float, repeats: int) -> Callable[[random.Random, int], Pairs]:
    """Rows of unequal difficulty (a beta law of that mean; a small spread: all alike), asked `repeats` times."""

    def draw(rng: random.Random, rows: int) -> Pairs:
        found = []
        for _ in range(rows):
            ease = rng.betavariate(mean / spread, (1 - mean) / spread)
            found.append((float(sum(rng.random() < ease for _ in range(repeats))), repeats))
        return found

    return draw


def judged(rng: random.Random, rows: int) -> Pairs:
    """A judge's scores in fifths, 0.8 in the mean."""
    return [(sum(rng.random() < 0.8 for _ in range(5)) / 5, 1) for _ in range(rows)]


RATES: Mapping[str, tuple[float, Callable[[random.Random, int], Pairs]]] = {
    "once, 0.5": (0.5, repeated(0.5, 0.3, 1)),
    "once, 0.9": (0.9, repeated(0.9, 0.3, 1)),
    "once, 0.98": (0.98, repeated(0.98, 0.3, 1)),
    "3 repeats, 0.7, alike": (0.7, repeated(0.7, 0.01, 3)),
    "3 repeats, 0.7, unequal": (0.7, repeated(0.7, 0.5, 3)),
    "5 repeats, 0.9, very unequal": (0.9, repeated(0.9, 3.0, 5)),
    "judge in fifths, 0.8": (0.8, judged),
}


def chosen_rate(pairs: Pairs) -> Ends:
    found = rate_of(
        RowSums(
            len(pairs),
            sum(y for y, _ in pairs),
            sum(x for _, x in pairs),
            sum(y * y for y, _ in pairs),
            sum(y * x for y, x in pairs),
            sum(x * x for _, x in pairs),
        )
    )
    assert found is not None
    return found.low, found.high


def unclustered(pairs: Pairs) -> Ends:
    """Wilson, every reply taken for a row of its own."""
    replies = sum(x for _, x in pairs)
    return wilson_interval(sum(y for y, _ in pairs) / replies, replies)


def wald(pairs: Pairs) -> Ends:
    """Mean plus and minus t standard errors of the rows' means."""
    return student([y / x for y, x in pairs])


# --- paired differences ------------------------------------------------------------------------------------------


def split(better: float, worse: float) -> Callable[[random.Random, int], list[float]]:
    """Yes or no, once: the shares of rows that only one variant gets right."""

    def draw(rng: random.Random, rows: int) -> list[float]:
        drawn = [rng.random() for _ in range(rows)]
        return [float(u < better) - float(u > 1 - worse) for u in drawn]

    return draw


def repeats_of_two(mean: float, lead: float, repeats: int) -> Callable[[random.Random, int], list[float]]:
    """Rows of unequal difficulty, asked several times; one variant better by `lead` (in the mean)."""

    def draw(rng: random.Random, rows: int) -> list[float]:
        found = []
        for _ in range(rows):
            ease = lead + (1 - lead) * rng.betavariate(4 * mean, 4 * (1 - mean))
            found.append(
                sum((rng.random() < ease) - (rng.random() < ease - lead) for _ in range(repeats)) / repeats
            )
        return found

    return draw


def judged_pair(rng: random.Random, rows: int) -> list[float]:
    """Two judges' scores in quarters, 0.75 and 0.7 in the mean."""
    return [sum((rng.random() < 0.75) - (rng.random() < 0.7) for _ in range(4)) / 4 for _ in range(rows)]


def sparse(rng: random.Random, rows: int) -> list[float]:
    """5 % of the rows differ, by any amount, nine times of ten to one side."""
    return [
        rng.uniform(0.1, 1) * (1 if rng.random() < 0.9 else -1) if rng.random() < 0.05 else 0.0
        for _ in range(rows)
    ]


DIFFERENCES: Mapping[str, tuple[float, Callable[[random.Random, int], list[float]]]] = {
    "yes or no, 8 % and 3 %": (0.05, split(0.08, 0.03)),
    "yes or no, 20 % and 20 %": (0.0, split(0.2, 0.2)),
    "yes or no, 2 % and 0 %": (0.02, split(0.02, 0.0)),
    "3 repeats, lead 0.05": (0.05, repeats_of_two(0.7, 0.05, 3)),
    "2 repeats, easy, lead 0.01": (0.01, repeats_of_two(0.97, 0.01, 2)),
    "judges in quarters": (0.05, judged_pair),
    "few differ, to one side": (0.05 * 0.55 * 0.8, sparse),
}


def chosen_difference(values: list[float]) -> Ends:
    if all(value in (-1.0, 0.0, 1.0) for value in values):
        found = paired_binary_difference(len(values), values.count(1.0), values.count(-1.0))
    else:
        found = paired_difference(len(values), sum(values), sum(d * d for d in values), max(map(abs, values)))
    assert found is not None
    return found.low, found.high


def student(values: Sequence[float]) -> Ends:
    mean, error = moments(values)
    reach = t_quantile(0.975, len(values) - 1) * error
    return mean - reach, mean + reach


def percentile(values: list[float], rng: random.Random) -> Ends:
    return quantiles(sorted(moments(one)[0] for one in resamples(values, rng)), 0.025, 0.975)


def bca(values: list[float], rng: random.Random) -> Ends:
    """Bias-corrected and accelerated (Efron 1987)."""
    normal, (mean, error) = NormalDist(), moments(values)
    if error == 0:
        return mean, mean
    means = sorted(moments(one)[0] for one in resamples(values, rng))
    below = (sum(m < mean for m in means) + sum(m <= mean for m in means)) / 2 / len(means)
    bias = normal.inv_cdf(min(0.999, max(0.001, below)))
    cubes = math.fsum((value - mean) ** 3 for value in values)
    acceleration = cubes / (6 * (error * math.sqrt(len(values) * (len(values) - 1))) ** 3)
    levels = [normal.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (-1.96, 1.96)]
    return quantiles(means, *levels)


def bootstrap_t(values: list[float], rng: random.Random) -> Ends:
    mean, error = moments(values)
    found = (moments(one) for one in resamples(values, rng))
    ratios = sorted((m - mean) / e for m, e in found if e > 0)
    if len(ratios) < 40:
        return mean, mean
    low, high = quantiles(ratios, 0.025, 0.975)
    return mean - high * error, mean - low * error


def resamples(values: list[float], rng: random.Random) -> list[list[float]]:
    return [rng.choices(values, k=len(values)) for _ in range(BOOTSTRAPS)]


def moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    count, total = len(values), sum(values)
    variance = max(0.0, sum(value * value for value in values) - total * total / count) / (count - 1)
    return total / count, math.sqrt(variance / count)


def quantiles(ordered: list[float], *levels: float) -> Ends:
    low, high = (ordered[min(len(ordered) - 1, max(0, round(level * len(ordered)) - 1))] for level in levels)
    return low, high


# --- the lines ---------------------------------------------------------------------------------------------------

Method = Callable[..., Ends]
PLAIN_RATES: Mapping[str, Method] = {"chosen": chosen_rate, "t": wald, "unclustered": unclustered}
PLAIN: Mapping[str, Method] = {"chosen": chosen_difference, "t": student}
RESAMPLING: Mapping[str, Method] = {"percentile": percentile, "BCa": bca, "bootstrap-t": bootstrap_t}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--samples", type=int, default=4_000)
    arguments.add_argument("--resampling", type=int, default=300)
    arguments.add_argument("--rows", type=int, nargs="+", default=[20, 50, 200, 1_000])
    options = arguments.parse_args()
    rates = [measure(*kind, rows, options, PLAIN_RATES, {}) for kind in RATES.items() for rows in options.rows]
    pairs = [
        measure(*kind, rows, options, PLAIN, RESAMPLING) for kind in DIFFERENCES.items() for rows in options.rows
    ]
    print(f"\nchosen, worst line: rates {min(rates):.1f} %, differences {min(pairs):.1f} %")
    for rows in options.rows:
        false_alarms(rows, options.samples)


def measure(
    name: str,
    kind: tuple[float, Callable[[random.Random, int], list]],  # type: ignore[type-arg]
    rows: int,
    options: argparse.Namespace,
    plain: Mapping[str, Method],
    resampling: Mapping[str, Method],
) -> float:
    """Print one line; the chosen method's coverage in percent."""
    truth, draw = kind
    rng = random.Random(f"{name} {rows}")
    found: dict[str, list[Ends]] = {method: [] for method in (*plain, *resampling)}
    for sample in range(options.samples):
        values = draw(rng, rows)
        for method, interval in plain.items():
            found[method].append(interval(values))
        if sample < options.resampling and rows <= 200:
            for method, interval in resampling.items():
                found[method].append(interval(values, rng))
    widths = {method: mean_width(intervals) for method, intervals in found.items() if intervals}
    shown = [
        f"{method} {coverage(found[method], truth):5.1f} ({width / widths['chosen']:.2f})"
        for method, width in widths.items()
    ]
    print(f"{name:<30} {rows:>6} rows  {'  '.join(shown)}", flush=True)
    return coverage(found["chosen"], truth)


def mean_width(intervals: Sequence[Ends]) -> float:
    return sum(high - low for low, high in intervals) / len(intervals)


def coverage(intervals: Sequence[Ends], truth: float) -> float:
    return 100 * sum(low - 1e-12 <= truth <= high + 1e-12 for low, high in intervals) / len(intervals)


def false_alarms(rows: int, samples: int) -> None:
    """How often each test finds a difference between equals."""
    rng = random.Random(rows)
    draw, thirds = split(0.15, 0.15), repeats_of_two(0.7, 0.0, 3)
    mid_p = sum(
        mcnemar_mid_p(d.count(1.0), d.count(-1.0)) < 0.05 for d in (draw(rng, rows) for _ in range(samples))
    )
    paired = 0
    for _ in range(samples):
        low, high = chosen_difference(thirds(rng, rows))
        paired += not low <= 0 <= high
    print(
        f"{'equal variants called different':<30} {rows:>6} rows  McNemar's mid-p {100 * mid_p / samples:.1f} %"
        f"  paired t, 3 repeats {100 * paired / samples:.1f} %",
        flush=True,
    )


if __name__ == "__main__":
    main()
