"""What the judges will cost: the questions about stored answers, and those about answers still to come.

The first are there and are counted as they would be sent. For the others a word stands where the answer will be;
at the high end it has all the tokens that it may have. Sends and writes nothing.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
from msgspec import Struct

from crun_batch.preflight.prices import Prices
from crun_batch.pricing.account import Account
from crun_batch.pricing.estimate import SAMPLE_ROWS, Tally, Terms
from crun_batch.pricing.figures import VariantEstimate
from crun_batch.pricing.tokens import Counter, count_body, remembering, token_counter
from crun_batch.records import Row
from crun_batch.scoring.questions import REFUSED, Questions, Said
from crun_batch.scoring.unjudged import Asker, Shelf, stored_answers
from crun_batch.scoring.verdicts import Record
from crun_batch.state.opening import Standing
from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import no_rows
from crun_batch.store.scores import complete_scores, scores_schema
from crun_batch.workload.target import Judge
from crun_batch.workload.workload import Variant, Workload

STORED = ", stored answers"
"""What is added to a judge's name in an estimate of its questions about stored answers."""


class Backlog(Struct, frozen=True):
    """The questions about stored answers that no recorded verdict answers."""

    lengths: Mapping[str, Counts[int]] = {}
    """Judge -> input tokens of a question -> how many of that length."""

    @property
    def calls(self) -> int:
        return sum(counts.total() for counts in self.lengths.values())


class Docket(Struct, frozen=True):
    """What waits for judges: where the answers are, and how many questions about them are to be asked."""

    shelf: Shelf
    questions: Questions
    record: Record
    waiting: Backlog = Backlog()
    may_be_late: bool = False
    """Replies of a session that was killed were not read yet: what they say is not in the record."""


def docket_of(
    workload: Workload, standing: Standing, fingerprint: Callable[[], str], rows: Sequence[Row] | None
) -> Docket:
    """What of the run's stored answers waits for judges; `rows`: only the answers to these are judged now.

    `fingerprint()` names the scores that hold today; judges alone need it. Raises RunDamaged.
    """
    directory, schema = standing.directory, standing.schema
    questions = Questions(workload)
    record = Record(directory, schema, workload.judges, questions)
    if not workload.judges:
        return Docket(Shelf(directory, schema, no_rows(scores_schema(schema))), questions, record)
    known = complete_scores(directory, schema, fingerprint())
    wanted = None
    if rows is not None:
        chosen = bytearray(workload.table.source_rows)
        for row in rows:
            chosen[row.position] = True
        wanted = pa.array(chosen, pa.uint8()).cast(pa.bool_())
    shelf = Shelf(directory, schema, known, wanted)
    may_be_late = standing.recovered is not None and bool(standing.recovered.unread)
    return Docket(shelf, questions, record, _backlog(workload, shelf, questions, record), may_be_late)


def waiting_now(workload: Workload) -> Backlog:
    """What waits for judges, read without a lock."""
    schema = workload.run_schema()
    empty = no_rows(scores_schema(schema))
    shelf, questions = Shelf(RunDirectory(workload.job.output.dir), schema, empty), Questions(workload)
    record = Record(shelf.directory, schema, workload.judges, questions)
    return _backlog(workload, shelf, questions, record)


def _backlog(workload: Workload, shelf: Shelf, questions: Questions, record: Record) -> Backlog:
    """Count what is still to be asked. After SAMPLE_ROWS questions tokens follow from bytes."""
    if not workload.judges or not shelf.directory.job.exists():
        return Backlog()
    asker = Asker(workload, record, questions)
    measures = {judge.name: Measure(judge) for judge in workload.judges}
    lengths: dict[str, Counts[int]] = {}
    for batch in stored_answers(workload, questions, shelf):
        for answer, row in batch:
            for judge, request in asker.open(answer, row):
                tokens = measures[judge.name](request.body)
                lengths.setdefault(judge.name, Counts())[tokens] += 1
    return Backlog(lengths)


class Measure:
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


class JudgeTally:
    """One judge's questions, for an estimate."""

    def __init__(self, judge: Judge, workload: Workload, prices: Prices) -> None:
        limits = [variant.job.output_limit_tokens for variant in workload.variants]
        most = None if None in limits else max(limit for limit in limits if limit is not None)
        self._judge = judge
        self._workload = workload
        self._measure = Measure(judge)
        self._terms = partial_terms(judge, workload, prices, self._measure.counter)
        self._coming = Tally(self._terms(judge.name, 1, most))

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
            tokens = self._measure(self._judge.body(row, [{"role": "user", "content": plain}], {}, None))
        else:
            if request is None:
                return
            tokens = self._measure(request.body)
        self._coming.add(tokens, None, 0, repeats)

    def estimates(self, rows: int, waiting: Backlog, account: Account) -> list[VariantEstimate]:
        """A line for the answers to come, scaled to so many open rows, and one for the stored ones."""
        name = self._judge.name
        finished = account.finished_judgements().get(self._judge.spec.name)
        found = [self._coming.estimate(rows, finished)] if self._coming.lengths else []
        lengths = waiting.lengths.get(name)
        if lengths:
            stored = Tally(self._terms(name + STORED if found else name, 0, None))
            stored.lengths.update(lengths)
            stored.rows_read = lengths.total()
            found.append(stored.estimate(None, finished))
        return found


def partial_terms(
    judge: Judge, workload: Workload, prices: Prices, counter: Counter
) -> Callable[[str, int, int | None], Terms]:
    """Makes a judge's terms: of its name, the answers that its question carries, and their most tokens."""
    choice = prices.choice(judge.job.model)

    def terms(name: str, carried: int, most_tokens: int | None) -> Terms:
        return Terms(
            name=name,
            model=judge.job.model or "",
            price=choice.price,
            price_reason=choice.reason,
            max_output_tokens=judge.job.output_limit_tokens,
            counter_name=counter.name,
            counter_exact=counter.exact and not carried,
            credits_per_usd=workload.job.prices.credits_per_usd,
            earlier_answers=carried,
            earlier_limit_tokens=most_tokens,
        )

    return terms
