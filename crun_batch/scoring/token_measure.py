"""How many tokens the questions to a judge have."""

from __future__ import annotations

from crun_batch.pricing.estimate import SAMPLE_ROWS
from crun_batch.pricing.tokens import Counter, count_body, remembering
from crun_batch.vocabulary.counters import token_counter
from crun_batch.workload.target import Judge


class TokenMeasure:
    """The input tokens of a judge's requests: counted, and after many of them as their bytes say."""

    def __init__(self, judge: Judge) -> None:
        self.counter: Counter = remembering(token_counter(judge.job.model or ""))
        self._counted = self._tokens = self._bytes = 0

    def __call__(self, body: bytes) -> int:
        if self._counted >= SAMPLE_ROWS:
            return round(len(body) * self._tokens / self._bytes)
        tokens = count_body(body, self.counter).tokens
        self._counted += 1
        self._tokens += tokens
        self._bytes += len(body)
        return tokens
