"""The journal of a session: opened where it was recovered; its closed segments are sealed while it goes on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from crun_batch.state.run_state import RunContext, RunState
from crun_batch.store.journal import Journal, JournalSettings, create_journal, resume_journal
from crun_batch.store.seal import seal_segment


def open_journal(context: RunContext) -> Journal:
    """The run's journal, new or going on where it was recovered. Raises DiskFailed."""
    state, platform = context.state, context.options.platform
    settings = platform.journal or JournalSettings()
    syncer = platform.syncer() if platform.syncer is not None else None
    if state.recovered is None:
        checkpoint = state.account.to_checkpoint()
        return create_journal(state.directory, checkpoint, settings=settings, syncer=syncer)
    return resume_journal(state.directory, state.recovered, settings=settings, syncer=syncer)


class Sealer:
    """Seals closed segments; `in_place`: at once, not in a thread."""

    def __init__(self, state: RunState, journal: Journal, *, in_place: bool) -> None:
        self._state = state
        self._journal = journal
        self._executor = None if in_place else ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._pending: list[Future[None]] = []

    def seal(self, number: int) -> None:
        """Seal a segment, soon."""
        if self._executor is None:
            self._seal(number)
            return
        self._pending = [future for future in self._pending if not future.done() or future.result() is None]
        self._pending.append(self._executor.submit(self._seal, number))

    def begin_segment(self) -> None:
        """Start a segment from the account as it is now, and seal the one before, whose sums it holds."""
        closed = self._closed()
        if closed is not None:
            self.seal(closed)

    def finish(self) -> None:
        """The same, at the end: returns when all is sealed. Raises what sealing raised.

        The last segment is sealed by the caller, who would only wait: its thread has memory for that already.
        """
        closed = self._closed()
        self.wait()
        if closed is not None:
            self._seal(closed)

    def wait(self) -> None:
        """Until all is sealed. Raises what sealing raised."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        for future in self._pending:
            future.result()

    def _closed(self) -> int | None:
        return self._journal.maybe_rotate(self._state.account.to_checkpoint, force=True)

    def _seal(self, number: int) -> None:
        seal_segment(self._state.directory, number, self._state.schema, self._journal.checksum_of(number))
