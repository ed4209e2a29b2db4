"""What the judges will cost: the questions about stored answers, and those about answers still to come.

The first are there and are counted as they would be sent. For the others a word stands where the answer will be;
at the high end it has all the tokens that it may have. Sends and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import structs

from crun_batch.gateway.protocols.protocol import encode
from crun_batch.preflight.prices import Prices
from crun_batch.pricing.estimate import SAMPLE_ROWS, Tally, Terms
from crun_batch.pricing.figures import VariantEstimate
from crun_batch.pricing.finished import Finished
from crun_batch.records import Row
from crun_batch.scoring.docket import Backlog
from crun_batch.scoring.questions import REFUSED, Questions, Said
from crun_batch.scoring.token_measure import TokenMeasure
from crun_batch.workload.request import Variant
from crun_batch.workload.target import Judge
from crun_batch.workload.workload import Workload

STORED = ", stored answers"
"""What is added to a judge's name in an estimate of its questions about stored answers."""


class JudgeTallies:
    """The tallies of all judges; nothing where there are none."""

    def __init__(self, workload: Workload, prices: Prices) -> None:
        self._questions = Questions(workload)
        self._tallies = [JudgeTally(judge, workload, prices) for judge in workload.judges]

    def add(
        self, rows: Sequence[Row], variants: Sequence[Variant], to_ask: Sequence[Sequence[Sequence[int]]]
    ) -> None:
        """Some rows with the repeats that are asked of each, variant by variant."""
        for row, *of_variants in zip(rows, *to_ask, strict=True) if self._tallies else ():
            open_ = [
                (variant, len(repeats)) for variant, repeats in zip(variants, of_variants, strict=True) if repeats
            ]
            for tally in self._tallies if open_ else ():
                for variant, repeats in open_:
                    tally.add(self._questions, row, variant, repeats)
                tally.row()
        for tally in self._tallies:
            tally.count()

    def estimates(
        self, rows: int, waiting: Backlog, finished: Mapping[str, Finished]
    ) -> list[list[VariantEstimate]]:
        """Of each judge its lines; `finished` by judge."""
        return [tally.estimates(rows, waiting, finished) for tally in self._tallies]


class JudgeTally:
    """One judge's questions, for an estimate."""

    def __init__(self, judge: Judge, workload: Workload, prices: Prices) -> None:
        limits = [variant.terms.output_limit_tokens for variant in workload.variants]
        most = None if None in limits else max(limit for limit in limits if limit is not None)
        self._judge = judge
        self._workload = workload
        self._measure = TokenMeasure(judge)
        self._terms = partial_terms(judge, workload, prices, self._measure)
        self._coming = Tally(self._terms(judge.name, 1, most))
        self._uncounted: list[tuple[bytes, int]] = []
        """Questions, and how often each is asked."""

    def row(self) -> None:
        """One more row of which something is open was read."""
        self._coming.row()

    def add(self, questions: Questions, row: Row, variant: Variant, repeats: int) -> None:
        """The questions about the answers that a row is still to get."""
        try:
            request = questions.request(self._judge, Said(variant.name, 0, "."), row)
        except REFUSED:  # the question names what only a real answer has
            texts = self._judge.spec.prompt
            plain = f"{texts.system or ''}{texts.user}" if texts is not None else ""
            body = self._judge.body(row, [{"role": "user", "content": plain}], {}, None)
        else:
            if request is None:
                return
            body = request.body
        self._uncounted.append((body, repeats))

    def count(self) -> None:
        """The questions that were added since the last call, at one go."""
        counts = self._measure([body for body, _ in self._uncounted])
        for tokens, (_, repeats) in zip(counts, self._uncounted, strict=True):
            self._coming.add(tokens, None, 0, repeats)
        self._uncounted.clear()

    def estimates(self, rows: int, waiting: Backlog, by_judge: Mapping[str, Finished]) -> list[VariantEstimate]:
        """A line for the answers to come, scaled to so many open rows, and one for the stored ones."""
        name = self._judge.name
        finished = by_judge.get(self._judge.spec.name)
        found = [self._coming.estimate(rows, finished)] if self._coming.lengths else []
        lengths = waiting.lengths.get(name)
        if lengths:
            terms = self._terms(name + STORED if found else name, 0, None)
            is_counted = lengths.total() <= SAMPLE_ROWS  # the tokens of more follow from their bytes
            stored = Tally(structs.replace(terms, counter_exact=terms.counter_exact and is_counted))
            for (tokens, bound_tokens), count in lengths.items():
                stored.add(tokens, None, 0, count, bound_tokens)
            stored.rows_read = lengths.total()
            found.append(stored.estimate(None, finished))
        return found


def partial_terms(
    judge: Judge, workload: Workload, prices: Prices, measure: TokenMeasure
) -> Callable[[str, int, int | None], Terms]:
    """Makes a judge's terms: of its name, the answers that its question carries, and their most tokens."""
    tier, counter = judge.terms.service_tier, measure.counter
    choice, *others = prices.choices(judge.job.model, tier)

    def terms(name: str, carried: int, most_tokens: int | None) -> Terms:
        return Terms(
            name=name,
            model=judge.job.model or "",
            price=choice.price,
            price_reason=choice.reason,
            max_output_tokens=judge.terms.output_limit_tokens,
            counter_name=counter.name,
            counter_exact=counter.exact and not carried,
            credits_per_usd=workload.job.prices.credits_per_usd,
            earlier_answers=carried,
            earlier_limit_tokens=most_tokens,
            cache_ttl=judge.cache_ttl(encode(judge.job.params)),
            other_prices=tuple(other.price for other in others),
            service_tier=tier,
            hosted=judge.terms.hosted,
        )

    return terms
