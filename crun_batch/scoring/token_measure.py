"""How many tokens the questions to a judge have."""

from __future__ import annotations

from collections.abc import Sequence

from crun_batch.pricing.estimate import SAMPLE_ROWS
from crun_batch.pricing.tokens import Counter, count_bodies, remembering
from crun_batch.vocabulary.counters import token_counter
from crun_batch.workload.target import Judge


class TokenMeasure:
    """The input tokens of a judge's requests: counted, and after many of them as their bytes say."""

    def __init__(self, judge: Judge) -> None:
        self.counter: Counter = remembering(token_counter(judge.job.model or ""))
        self._counted = self._tokens = self._bytes = 0

    def __call__(self, bodies: Sequence[bytes]) -> list[int]:
        """The tokens of each."""
        to_count = bodies[: SAMPLE_ROWS - self._counted]
        tokens = [one.tokens for one in count_bodies(to_count, self.counter)]
        self._counted += len(to_count)
        self._tokens += sum(tokens)
        self._bytes += sum(map(len, to_count))
        return tokens + [round(len(body) * self._tokens / self._bytes) for body in bodies[len(to_count) :]]
