"""What a session has paid for is there for people, also where a table that was changed beside it ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crun_batch.console.words import summary_lines
from crun_batch.errors import InputError
from crun_batch.session.summaries import place_of
from crun_batch.state.run_state import RunContext
from crun_batch.state.summary import RunEnding, summary_of
from crun_batch.store.directory import write_json
from crun_batch.store.results import publish

KEPT = ("rows", "units", "cost", "results")
"""Of a summary's lines, those that say what is kept."""


@contextmanager
def keeping_what_came(context: RunContext) -> Iterator[None]:
    """What came until an InputError is closed and told; the error goes on. Raises DiskFailed."""
    try:
        yield
    except InputError as error:
        if context.state.account.totals().attempts:
            lines = summary_lines(_close(context, error))
            kept = "; ".join(f"{name} {phrase}" for name, phrase in lines if name in KEPT)
            context.options.say(f"what came until now is kept: {kept}")
        raise


def _close(context: RunContext, error: InputError) -> dict[str, Any]:
    """Publish and sum up; scores need the table, and wait for the next session. The summary, as written."""
    state, open_count = context.state, context.open_units
    publish(state.directory, state.schema, open_count, state.done.reopened_units)
    ending, seconds = RunEnding("stopped", error.exit_code, str(error)), state.account.seconds
    summary = summary_of(state.account, place_of(context), ending, open_count=open_count, seconds=seconds)
    write_json(state.directory, state.directory.summary, summary)
    return summary
