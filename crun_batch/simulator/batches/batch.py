r"""One batch: what was accepted, and how far it is at a moment. Its lines are done as its time goes by.

    validating -> in_progress -> finalizing -> completed | expired
        \-> failed       \-> cancelling -> cancelled

A tenth of `batch_seconds` goes to validating and a tenth to finalizing; what is between is spread evenly over the
lines. While it is being cancelled, lines are still done: so it may be complete before the cancel takes hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from crun_batch.simulator.batches.faults import hits, share_of
from crun_batch.simulator.batches.lines import BatchLine, LineResult, WrongLine, answer_line, failed_line
from crun_batch.simulator.generation import Generation
from crun_batch.simulator.settings import Settings

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
BatchFormName = Literal["openai", "anthropic", "openrouter"]
ENDED: frozenset[BatchStatus] = frozenset({"failed", "completed", "expired", "cancelled"})
_EDGE = 0.1


class BatchTerms(Struct, frozen=True):
    """What a batch was accepted with."""

    id: str
    key_name: str
    created_at: float
    form: BatchFormName
    """In whose form it was asked for."""
    metadata: dict[str, str] | None = None
    input_file_id: str | None = None
    """None: its requests came inline."""
    url: str = ""


class Batch:
    """A batch that runs; `advance` brings it to a moment."""

    def __init__(self, terms: BatchTerms, lines: Sequence[BatchLine], wrong: WrongLine | None) -> None:
        self.terms = terms
        self.lines = lines
        self.status: BatchStatus = "validating"
        self.wrong = wrong
        """Why it fails, where its lines are not what may be in a batch."""
        self.results: list[LineResult] = []
        self.ended_at: float | None = None
        self.cancelled_at: float | None = None
        self.left_files: dict[str, str] = {}
        """Of a batch from a file: `output` and `error` -> the file that it left."""

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    def count(self, *endings: str) -> int:
        """How many lines ended so."""
        return sum(result.ending in endings for result in self.results)

    def cancel(self, now: float) -> None:
        """Ask it to stop; what is done meanwhile counts."""
        if self.cancelled_at is None and not self.has_ended:
            self.cancelled_at = now

    def advance(self, now: float, settings: Settings, generation: Generation) -> None:
        """Do what is due by now."""
        if self.has_ended:
            return
        duration = settings.batch_seconds
        begins, ends = (self.terms.created_at + duration * part for part in (_EDGE, 1 - _EDGE))
        over = self.terms.created_at + duration
        stops = None if self.cancelled_at is None else self.cancelled_at + settings.batch_cancel_seconds
        if now < begins and stops is None:
            return
        if self.wrong is not None:
            self._end("failed", now)
            return
        until = now if stops is None else min(now, stops)
        share = 1.0 if ends <= begins else (until - begins) / (ends - begins)
        doable = len(self.lines) - int(settings.batch_faults.get("expired", 0.0) * len(self.lines))
        self._do(min(doable, int(max(0.0, min(1.0, share)) * len(self.lines))), settings, generation)
        if now >= over and (stops is None or over <= stops):
            self._finish(settings, generation, now, doable)
        elif stops is not None and now >= stops:
            self._give_up("canceled")
            self._end("cancelled", now)
        else:
            self.status = "cancelling" if stops is not None else "in_progress" if now < ends else "finalizing"

    def _finish(self, settings: Settings, generation: Generation, now: float, doable: int) -> None:
        self._do(doable, settings, generation)
        has_expired = len(self.results) < len(self.lines)
        self._give_up("expired")
        self._end("expired" if has_expired else "completed", now)

    def _do(self, count: int, settings: Settings, generation: Generation) -> None:
        all_fail = hits(settings, "failed_lines", self.terms.id)
        for line in self.lines[len(self.results) : count]:
            name = f"{self.terms.id} {line.custom_id}"
            if all_fail or hits(settings, "line_errors", name):
                self.results.append(failed_line(line))
                continue
            outcome = "missing" if hits(settings, "missing", name) else "answered"
            result = answer_line(line, generation, self.terms.key_name, self.terms.id, outcome=outcome)
            self.results.append(result)

    def _give_up(self, ending: Literal["expired", "canceled"]) -> None:
        left = self.lines[len(self.results) :]
        self.results += [LineResult(line.custom_id, ending) for line in left]

    def _end(self, status: BatchStatus, now: float) -> None:
        self.status, self.ended_at = status, now

    def delivered(self, settings: Settings) -> list[LineResult]:
        """The results as its files tell them: some lost, some twice, in another order, where a fault says so."""
        told: list[LineResult] = []
        for result in self.results:
            name = f"{self.terms.id} {result.custom_id}"
            is_missing = result.status is not None and hits(settings, "missing", name)
            told += [result] * (0 if is_missing else 2 if hits(settings, "doubled", name) else 1)
        if hits(settings, "shuffled", self.terms.id):
            told.sort(key=lambda result: share_of(settings, "shuffled", f"{self.terms.id} {result.custom_id}"))
        return told
