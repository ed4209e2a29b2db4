"""Opening a run directory: whose it is, where it stands, what of it is done.

Owns the judgement whether this job may go on in that directory. Nothing is sent here.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from crun_batch.options import RunOptions
from crun_batch.state.background import BackgroundCall
from crun_batch.state.changes import compare_requests
from crun_batch.state.job_document import fingerprint, tell_former_steering
from crun_batch.state.ownership import (
    late_columns,
    refuse_a_strangers_folder,
    refuse_another_job,
    refuse_another_shard,
    refuse_missing_files,
    refuse_shards_beside,
    schema_going_on,
)
from crun_batch.state.reading import batches_of, last_pilot
from crun_batch.state.recovery import account_now, done_marks, recover_journal
from crun_batch.state.retry import asked_again, reopen
from crun_batch.state.run_state import RunContext, RunState
from crun_batch.store.directory import RunDirectory, open_directory, read_json
from crun_batch.store.results import publish
from crun_batch.workload.workload import Workload


def open_context(workload: Workload, options: RunOptions, stack: ExitStack) -> RunContext:
    """The run in its directory, locked until the stack is closed, with what of the work is done.

    What a kill left unpublished is published; with `options.retry` the units that ended so are open again. Raises
    RunInUse, RunDamaged, RequestsChanged, RunDirectoryError (another job's), DiskFailed.
    """
    path = workload.job.output.dir
    refuse_a_strangers_folder(path)
    refuse_shards_beside(path, workload.shard)
    started_at = options.clock.now().isoformat(timespec="seconds")
    directory = open_directory(path, started_at=started_at, disk=options.platform.disk)
    stack.callback(directory.close)
    stack.enter_context(directory.blamed_where_gone())
    state = _recovered_state(workload, directory)
    if state.recovered is not None:
        compare_requests(workload, state, redo_changed=options.redo_changed)
        if state.recovered.cut_bytes:
            options.say(f"the journal ended in a torn line of {state.recovered.cut_bytes} bytes: cut off")
        if next(state.recovered.records(), None) is not None:  # killed before it could publish
            open_now = RunContext(workload, options, state).open_units
            publish(directory, state.schema, open_now, state.done.reopened_units)
    tell_former_steering(workload, state.document, options.say)
    _find_late_columns(workload, state, options)
    if options.retry:
        id_name = workload.table.id_name
        reopened = reopen(state.done, state.account, options.retry, path=path, id_name=id_name)
        options.say(asked_again(reopened, options.retry, workload.slots.per_row))
    return RunContext(workload, options, state)


def _find_late_columns(workload: Workload, state: RunState, options: RunOptions) -> None:
    """Columns that came after results: filled at the end; of another table they stay null, as is said."""
    finished = sum(state.account.totals().statuses.values())
    state.late_columns = late_columns(state.schema, state.document) if finished else ()
    if state.late_columns and not state.same_table:
        options.say(
            f"output.columns: {', '.join(state.late_columns)} came after {finished:,} results were finished, "
            f"which are null there: the table has changed since; `{workload.table.id_name}` joins them with it"
        )


def _recovered_state(workload: Workload, directory: RunDirectory) -> RunState:
    """Recover the journal, seal what a kill left, mark what is done."""
    document = read_json(directory.job) if directory.has_job else {}
    refuse_another_job(workload, document, directory.path)
    refuse_another_shard(workload, document, directory.path)
    refuse_missing_files(directory)
    schema = schema_going_on(workload.run_schema(), document, directory.path)
    fingerprinting = BackgroundCall(partial(fingerprint, workload))
    recovered = recover_journal(directory, schema)
    return RunState(
        account=account_now(directory),
        done=done_marks(workload, directory, is_new=recovered is None),
        directory=directory,
        batches=batches_of(directory),
        schema=schema,
        document=document,
        recovered=recovered,
        fingerprinting=fingerprinting,
        pilot=last_pilot(directory),
    )
