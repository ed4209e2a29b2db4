"""Shards that were begun earlier: whether these workers may go on with them.

Looked at for all of them before the first worker starts: one shard that refuses, while the others send, would
have them pay for rows that never become one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msgspec import structs

from crun_batch.errors import RunDirectoryError
from crun_batch.options import RunOptions, Shard
from crun_batch.scale.whole import in_shard, places_begun, shards_context
from crun_batch.state.background import BackgroundCall
from crun_batch.state.changes import compare_requests
from crun_batch.state.finding import shards_beside
from crun_batch.state.job_document import fingerprint
from crun_batch.state.ownership import refuse_another_job, refuse_another_shard, schema_going_on
from crun_batch.state.run_state import RunContext
from crun_batch.store.directory import SIMULATED, RunDirectory, read_json
from crun_batch.workload.sharding import shard_of_rows
from crun_batch.workload.workload import Workload


def is_one_run(folder: Path) -> bool:
    """Whether all rows have one run already: it was merged, or begun without workers."""
    return RunDirectory(folder).has_job


def begun_context(workload: Workload, options: RunOptions, places: Sequence[Path]) -> RunContext:
    """How far all shards are together. Raises RunDirectoryError, RequestsChanged: they cannot be gone on with."""
    refuse_other_counts(workload.job.output.dir, places)
    context = shards_context(workload, options, places)
    refuse_begun(context, places)
    return context


def refuse_other_counts(folder: Path, places: Sequence[Path]) -> None:
    """Rows of this job may be finished in shards of another count. Raises RunDirectoryError."""
    others = [place for place in shards_beside(folder) if place not in places]
    if others:
        count = others[0].name.removesuffix(SIMULATED).rpartition("-")[2]
        raise RunDirectoryError(
            f"{others[0]} is a shard of {count}; these workers would send its rows again, in {len(places)} shards",
            advice=f"Go on with --workers {count}; or make one run of them (`crun-batch merge --unfinished ... "
            f"-o {folder}`), which goes on in one process; or take another --output-dir.",
        )


def refuse_begun(context: RunContext, places: Sequence[Path]) -> None:
    """Shards of another job, or whose finished rows would now be asked something else.

    Raises RunDirectoryError, RequestsChanged.
    """
    workload, begun = context.workload, places_begun(places)
    if not begun:
        return
    fingerprinting = BackgroundCall(partial(fingerprint, workload))
    for place in begun:
        which = Shard(places.index(place) + 1, len(places))
        own = structs.replace(workload, shard=shard_of_rows(workload, which))
        document = read_json(RunDirectory(place).job)
        refuse_another_job(own, document, place)
        refuse_another_shard(own, document, place)
        schema_going_on(workload.run_schema(), document, place)
        former = {key: value for key, value in document["fingerprint"].items() if key != "shard"}
        state = structs.replace(
            in_shard(context, place).state,
            document={**document, "fingerprint": former},
            fingerprinting=fingerprinting,
        )
        compare_requests(workload, state, redo_changed=False)
