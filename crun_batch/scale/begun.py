"""Shards that were begun earlier: whether these workers may go on with them, and what waits in them for judges.

Looked at for all of them before the first worker starts: one shard that refuses, while the others send, would
have them pay for rows that never become one run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from msgspec import structs

from crun_batch.errors import RunDirectoryError
from crun_batch.options import Shard
from crun_batch.scale.whole import in_shard, places_begun
from crun_batch.scoring.docket import Backlog, waiting_now
from crun_batch.state.background import BackgroundCall
from crun_batch.state.changes import compare_requests
from crun_batch.state.job_document import fingerprint
from crun_batch.state.ownership import refuse_another_job, refuse_another_shard, schema_going_on
from crun_batch.state.run_state import RunContext
from crun_batch.state.status import shards_beside
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.workload.sharding import shard_of_rows


def refuse_other_counts(folder: Path, places: Sequence[Path]) -> None:
    """Rows of this job may be finished in shards of another count. Raises RunDirectoryError."""
    others = [place for place in shards_beside(folder) if place not in places]
    if others:
        count = others[0].name.removesuffix("-simulated").rpartition("-")[2]
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


def waiting_in(context: RunContext, places: Sequence[Path]) -> Backlog:
    """The questions to judges about answers that the shards have."""
    return _together(waiting_now(in_shard(context, place)) for place in places_begun(places))


def _together(backlogs: Iterable[Backlog]) -> Backlog:
    lengths: dict[str, Counter[tuple[int, int]]] = {}
    for backlog in backlogs:
        for judge, counts in backlog.lengths.items():
            lengths.setdefault(judge, Counter()).update(counts)
    return Backlog(lengths)
