"""What a report is made from: sums, shares and samples of one run, as plain frozen values.

The queries fill it from the run's tables; the report and the terminal read it. Nothing here has the size of
the run: a million rows and a hundred give values of the same size. Amounts are Decimal, None where unknown;
moments are integer microseconds since the Unix epoch, UTC; durations are float seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from msgspec import Struct

from crun_batch.console.amounts import noun_of
from crun_batch.records import STATUSES
from crun_batch.stats.intervals import Rate


class Amount(Struct, frozen=True):
    """Money in the two units, each exact; None: not known in that unit, which is never 0."""

    usd: Decimal | None = None
    credits: Decimal | None = None

    def __add__(self, other: Amount) -> Amount:
        """What is known of both together."""
        return Amount(_plus(self.usd, other.usd), _plus(self.credits, other.credits))

    def per(self, count: int | Decimal) -> Amount:
        """One of `count` equal parts; unknown where there are none."""
        if not count:
            return Amount()
        return Amount(
            None if self.usd is None else self.usd / count, None if self.credits is None else self.credits / count
        )

    @property
    def is_known(self) -> bool:
        return self.usd is not None or self.credits is not None


def _plus(left: Decimal | None, right: Decimal | None) -> Decimal | None:
    return right if left is None else left if right is None else left + right


class BillLine(Struct, frozen=True):
    """Requests of one kind: what they are known to have cost, what those of unknown outcome may have cost."""

    variant: str
    outcome: str
    purpose: str
    source: str | None
    """Where the price is from: reply, job, models, list."""
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost: Amount
    held: Amount
    """Reserved for those whose cost is unknown: what they may have cost at most."""
    unpriced: int
    """Done, and their cost known in no unit."""
    unbounded_usd: int
    """Of unknown cost in dollars, and nothing was reserved for them: no bound is known."""
    unbounded_credits: int

    @property
    def unknown_requests(self) -> int:
        return self.requests if self.outcome == "unknown" else 0


class StatusLine(Struct, frozen=True):
    """Finished rows of one variant that one model answered and that ended alike."""

    variant: str
    status: str
    model: str | None
    """As it calls itself; None where there was no answer."""
    rows: int
    cost: Amount
    unpriced: int
    """Rows whose cost is known in no unit."""
    input_tokens: int
    output_tokens: int
    last_repeat: int
    missing: int = 0
    """Rows without a text, those in error included."""


class Bin(Struct, frozen=True):
    """What happened in one period of equal length."""

    start: int
    ok: int = 0
    not_ok: int = 0
    unanswered: int = 0
    """Requests that ended without an answer: rejected, not sent, unknown."""
    output_tokens: int = 0
    latency_median: float | None = None
    latency_p95: float | None = None


class Timeline(Struct, frozen=True):
    """The run over time: periods of consecutive bins, with long pauses left out between them."""

    bin_seconds: float
    periods: tuple[tuple[Bin, ...], ...]


class Histogram(Struct, frozen=True):
    """Counts between edges; one edge more than counts. Logarithmic: the edges grow by a factor."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    logarithmic: bool


class Quantiles(Struct, frozen=True):
    """Of how many values, and what they are at most: the least, 50, 90, 95, 99 %, the greatest; their mean."""

    count: int
    least: float
    p50: float
    p90: float
    p95: float
    p99: float
    greatest: float
    mean: float


class Distribution(Struct, frozen=True):
    """How a number is spread, over all and by variant."""

    name: str
    unit: str
    """seconds, tokens, or nothing."""
    total: Quantiles
    histogram: Histogram
    variants: Mapping[str, Quantiles]


class Example(Struct, frozen=True):
    """One row that failed."""

    row_id: str
    variant: str
    repeat: int
    message: str
    text: str


class FailureKind(Struct, frozen=True):
    """Rows that ended alike without being ok."""

    status: str
    kind: str | None
    rows: int
    cost: Amount
    examples: tuple[Example, ...]


class Retried(Struct, frozen=True):
    """Requests that brought no answer, whatever became of their rows."""

    outcome: str
    kind: str | None
    http_status: int | None
    requests: int
    held: Amount


class Labels(Struct, frozen=True):
    """How often each value of a column of few values occurs, by variant, over the rows that are ok."""

    column: str
    counts: Mapping[str, Mapping[str, int]]
    """Value -> variant -> rows; the most frequent value first. An absent value has the name ""."""
    others: int
    """Rows with values that are not listed."""
    lists: bool
    """The column holds lists: a row counts once for each of its values."""


class VariantLine(Struct, frozen=True):
    """One variant: what it is, how good, how dear, how fast."""

    name: str
    axes: Mapping[str, str]
    rows: int
    ok: int
    ok_rate: Rate | None
    scores: Mapping[str, Rate | None]
    cost: Amount
    unpriced: int
    input_tokens: int
    output_tokens: int
    latency_p50: float | None
    latency_p95: float | None
    missing: int = 0
    """Rows without a text, those in error included."""


class ShownAnswer(Struct, frozen=True):
    """What one variant said to one row. The text is cut; `characters` is its whole length."""

    variant: str
    repeat: int
    status: str
    text: str
    characters: int
    message: str
    cost: Amount
    latency_seconds: float | None
    scores: Mapping[str, float] = {}


class ShownSample(Struct, frozen=True):
    """One row: what was asked, and every answer to it."""

    row_id: str
    inputs: Mapping[str, str]
    answers: tuple[ShownAnswer, ...]

    @property
    def is_failed(self) -> bool:
        """Whether an answer is not ok."""
        return any(answer.status != "ok" for answer in self.answers)

    @property
    def is_differing(self) -> bool:
        """Whether there are different answers."""
        return len({answer.text for answer in self.answers if answer.text}) > 1


class Facts(Struct, frozen=True):
    """What the job says, for somebody who did not write it."""

    models: tuple[str, ...]
    gateway: str
    protocol: str
    table: str
    prompt: Mapping[str, str]
    repeats: int
    simulated: bool
    budget: Amount
    versions: Mapping[str, str]


class CacheFigures(Struct, frozen=True):
    """What a provider's cache did: input tokens, those read from it and written to it, what that saved."""

    input_tokens: int
    cached_tokens: int
    written_tokens: int
    saved: Amount
    """Negative where it cost more than it saved; unknown where no price is."""


class ReportData(Struct, frozen=True):
    """Everything that a report shows of one run."""

    name: str
    directory: str
    status: str
    """finished, stopped, interrupted, running, killed."""
    exit_code: int | None
    stop_reason: str | None
    resume_command: str | None
    units_total: int
    """Finished and open ones: a row of the table under one variant and repeat is a unit, as in the results."""
    in_flight: int
    seconds: float
    started_at: int | None
    ended_at: int | None
    facts: Facts
    bill: tuple[BillLine, ...]
    statuses: tuple[StatusLine, ...]
    timeline: Timeline | None
    distributions: tuple[Distribution, ...]
    failures: tuple[FailureKind, ...]
    retried: tuple[Retried, ...]
    labels: tuple[Labels, ...]
    variants: tuple[VariantLine, ...]
    samples: tuple[ShownSample, ...]
    id_name: str
    reused: str = ""
    """What was taken over from earlier runs, and what it had cost there, in words; "" for nothing."""
    cache: CacheFigures | None = None
    """None: nothing was cached."""
    units_per_row: int = 1
    out: str = ""
    """What is in batches that are not collected yet, in words; "" for nothing."""

    @property
    def noun(self) -> str:
        """What is counted: row; unit, where a row has several."""
        return noun_of(self.units_per_row)

    @property
    def noun_in_variant(self) -> str:
        """What is counted of one variant: unit, where each row is asked several times."""
        return noun_of(self.facts.repeats)

    @property
    def finished(self) -> int:
        """Units that have their result."""
        return sum(line.rows for line in self.statuses)

    @property
    def ok(self) -> int:
        return self.by_status["ok"]

    @property
    def cost(self) -> Amount:
        return total(line.cost for line in self.bill)

    @property
    def held(self) -> Amount:
        """What the requests of unknown cost may have cost at most, where something bounds them."""
        return total(line.held for line in self.bill)

    @property
    def requests(self) -> int:
        return sum(line.requests for line in self.bill)

    @property
    def unknown(self) -> int:
        """Requests of unknown outcome: maybe billed."""
        return sum(line.unknown_requests for line in self.bill)

    @property
    def uncertain(self) -> int:
        """Requests that were billed, or may have been, and whose cost is known in no unit."""
        return self.unknown + self.unpriced

    @property
    def unpriced(self) -> int:
        """Answered requests whose cost is known in no unit."""
        return sum(line.unpriced for line in self.bill)

    @property
    def by_status(self) -> dict[str, int]:
        """Finished units of each status."""
        return {status: sum(line.rows for line in self.statuses if line.status == status) for status in STATUSES}


def total(amounts: Iterable[Amount]) -> Amount:
    """The sum of what is known."""
    found = Amount()
    for amount in amounts:
        found += amount
    return found
