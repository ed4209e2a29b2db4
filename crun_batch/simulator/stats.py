"""What the gateway counts besides money: requests, statuses, faults, rejections, requests at the same time."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Stats:
    """Counters since the start."""

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self._paths: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._faults: Counter[str] = Counter()
        self._rejections: Counter[str] = Counter()

    def count(self, path: str, status: int) -> None:
        """A request was answered with this status; 0: with none, its connection was cut."""
        self.requests += 1
        self._paths[path] += 1
        self._statuses[status] += 1

    def begin(self, path: str) -> None:
        """A generating request was accepted, and its reply is on its way."""
        self.count(path, 200)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def end(self) -> None:
        """The reply has been delivered, or its client has gone."""
        self.in_flight -= 1

    def fault(self, kind: str) -> None:
        """A simulated fault has hit."""
        self._faults[kind] += 1

    def reject(self, reason: str) -> None:
        """A request was refused by a limit: requests, tokens, concurrency or credit."""
        self._rejections[reason] += 1

    def report(self) -> dict[str, Any]:
        """All counters as plain values."""
        return {
            "requests": self.requests,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "paths": dict(self._paths),
            "statuses": {str(status): number for status, number in self._statuses.items()},
            "faults": dict(self._faults),
            "rejections": dict(self._rejections),
        }
