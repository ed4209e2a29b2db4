"""The end of a session for all who wait for it: the files, then the people."""

from __future__ import annotations

from typing import Any

from crun_batch.errors import CrunBatchError, DiskFailed, InputError
from crun_batch.records import Halt
from crun_batch.scoring.computed import Graders
from crun_batch.scoring.docket import Docket
from crun_batch.session.closing import close, refused
from crun_batch.session.kept import keeping_what_came
from crun_batch.session.on_end import tell_of_end, tell_of_failure
from crun_batch.session.publication import publication_of
from crun_batch.state.run_state import RunContext

__all__ = ["close_and_tell", "keeping_what_came", "refused"]


def close_and_tell(context: RunContext, graders: Graders, docket: Docket, halt: Halt | None) -> dict[str, Any]:
    """Score, publish, summarise, copy what is published, start telling of it; the summary, as written.

    Raises DiskFailed, RunDamaged; InputError where the table was changed, or `output.publish` holds another run.
    """
    try:
        summary = close(context, graders, docket, halt)
        _copy_what_is_published(context)
    except CrunBatchError as error:
        tell_of_failure(context, error)
        raise
    tell_of_end(context, summary)
    return summary


def _copy_what_is_published(context: RunContext) -> None:
    try:
        publication = publication_of(context)
    except InputError as error:
        if context.state.reservations is None:
            raise
        advice = "What is recorded is whole in the run directory; the same command copies what is missing."
        raise DiskFailed(str(error), advice=advice) from error
    if publication is not None:
        copied = publication.copy_all()
        context.options.say(f"published: {copied:,} files copied to {publication.address}")
