"""Closed segments are sealed while the session goes on: one after the other, in a thread where one may be."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from crun_batch.state.run_state import RunState
from crun_batch.store.journal import Journal
from crun_batch.store.seal import seal_segment


class Sealer:
    """Seals closed segments; `in_place`: at once, not in a thread."""

    def __init__(self, state: RunState, journal: Journal, *, in_place: bool) -> None:
        self._state = state
        self._journal = journal
        self._executor = None if in_place else ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._pending: list[Future[Any]] = []

    def seal(self, number: int) -> None:
        """Seal a segment, soon."""
        task = (self._state.directory, number, self._state.schema, self._journal.checksum_of(number))
        if self._executor is None:
            seal_segment(*task)
            return
        self._pending = [future for future in self._pending if not future.done() or future.result() is None]
        self._pending.append(self._executor.submit(seal_segment, *task))

    def begin_segment(self) -> None:
        """Start a segment from the account as it is now, and seal the one before, whose sums it holds."""
        closed = self._journal.maybe_rotate(self._state.account.to_checkpoint, force=True)
        if closed is not None:
            self.seal(closed)

    def wait(self) -> None:
        """Until all is sealed. Raises what sealing raised."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        for future in self._pending:
            future.result()
