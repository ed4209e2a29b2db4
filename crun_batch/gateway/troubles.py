"""How long a lane has been failing, and in which words, so that a stop can name them. Times are in seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from msgspec import structs

from crun_batch.errors import EXIT_GATEWAY_REFUSED, EXIT_OUT_OF_MONEY
from crun_batch.gateway.spread import AnyLane
from crun_batch.records import Failure, Halt

REMEMBERED_FAILURES = 20
NAMED_FAILURES = 3
NAMED_WAIT_SECONDS = 60.0
"""A shorter wait, told by the gateway, is no reason why a run has stopped."""


class Troubles:
    """The latest failures of a session, and since when each lane has had nothing else."""

    def __init__(self) -> None:
        self._latest: deque[tuple[AnyLane, Failure]] = deque(maxlen=REMEMBERED_FAILURES)
        self._failing_since: dict[AnyLane, float] = {}

    def failed(self, lane: AnyLane, now: float, failure: Failure) -> None:
        self._failing_since.setdefault(lane, now)
        self._latest.append((lane, failure))

    def answered(self, lane: AnyLane) -> None:
        if self._failing_since:
            self._failing_since.pop(lane, None)

    def start_anew(self, now: float) -> None:
        """Nothing could go for a while: who was failing has been so since now."""
        if self._failing_since:
            self._failing_since = dict.fromkeys(self._failing_since, now)

    def failing_since(self, lane: AnyLane) -> float | None:
        """When the first failure came after which the lane answered nothing; None: its last request was good."""
        return self._failing_since.get(lane)

    def named(self, halt: Halt, lane: AnyLane | None = None) -> Halt:
        """The halt with what failed last, in one lane or in all, where the gateway or the money is its reason."""
        if halt.exit_code not in (EXIT_OUT_OF_MONEY, EXIT_GATEWAY_REFUSED):
            return halt
        last: dict[str, Failure] = {}
        for where, failure in reversed(self._latest):
            if lane is None or where is lane:
                last.setdefault(failure.message, failure)
        unsaid = [in_words(failure) for message, failure in last.items() if message not in halt.reason]
        return structs.replace(halt, last_failures=tuple(unsaid[:NAMED_FAILURES]))


def in_words(failure: Failure) -> str:
    """What failed, and the wait that the gateway asked for, where that is why nothing went on."""
    wait = failure.retry_after_seconds
    if wait is None or wait < NAMED_WAIT_SECONDS:
        return failure.message
    return f"{failure.message} (next try after {minutes(wait)})"


def set_aside_halt(reasons: Mapping[str, str]) -> Halt:
    """Why a run ends in which variants were set aside, each with its reason, and the others finished."""
    words = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return Halt(EXIT_GATEWAY_REFUSED, f"set aside, and all else went on to its end: {words}", (), True)


def minutes(seconds: float) -> str:
    """A time in words: seconds below two minutes, hours from two hours on."""
    if seconds >= 7200:
        return f"{seconds / 3600:.3g} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
