"""How many units a session has finished, and the share of errors that stops it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from crun_batch.errors import EXIT_GATEWAY_REFUSED
from crun_batch.records import Halt

ERROR_RATE_WINDOW_ROWS = 200
ERROR_RATE_FROM_ROWS = 20


class UnitTally:
    """Counts finished units by target; at `stop_at_error_rate` of a target's last units it calls `refuse`."""

    def __init__(
        self,
        targets: tuple[str, ...],
        stop_at_error_rate: float,
        refuse: Callable[[int, Halt], None],
        counted_as: str = "rows of variant",
    ) -> None:
        self.finished_units = 0
        self.failed_units = 0
        self._targets = targets
        self._stop_at_error_rate = stop_at_error_rate
        self._refuse = refuse
        self._counted_as = counted_as
        self._recent_errors: dict[int, deque[bool]] = {}

    def count(self, target: int, *, is_ok: bool, is_error: bool) -> None:
        """One more unit of this target has its end; not every one that is not ok is an error."""
        self.finished_units += 1
        self.failed_units += not is_ok
        recent = self._recent_errors.get(target)
        if recent is None:
            recent = self._recent_errors[target] = deque(maxlen=ERROR_RATE_WINDOW_ROWS)
        recent.append(is_error)
        if not is_error or len(recent) < ERROR_RATE_FROM_ROWS:
            return
        share = sum(recent) / len(recent)
        if share >= self._stop_at_error_rate:
            last = f"{len(recent)} {self._counted_as} {self._targets[target]!r}"
            self._refuse(
                target,
                Halt(
                    EXIT_GATEWAY_REFUSED,
                    f"{share:.0%} of the last {last} failed "
                    f"(limits.stop_at_error_rate is {self._stop_at_error_rate:g})",
                ),
            )
