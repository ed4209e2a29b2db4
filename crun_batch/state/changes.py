"""Finished units whose request would now be another one: found by their hashes, told of, or opened again.

Answers to different requests are never mixed silently. Every finished unit is rendered anew where anything that
shapes requests has changed, units are looked at that the last session did not, or it may not have got through with
asking changed ones again.
"""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from crun_batch.console.amounts import counted, noun_of
from crun_batch.errors import RequestsChanged
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.pricing.account import UnitKey
from crun_batch.records import Row
from crun_batch.state.batched import refuse_another_way
from crun_batch.state.job_document import units_looked_at
from crun_batch.state.retry import recall
from crun_batch.state.run_state import RunState
from crun_batch.store.views import finished_units, results_frame
from crun_batch.workload.request import Variant
from crun_batch.workload.workload import Workload

DIFFS_SHOWN = 5


def compare_requests(workload: Workload, state: RunState, *, redo_changed: bool) -> None:
    """Render every finished unit anew where anything that shapes requests has changed; same hashes, same run.

    What is in batches must still go that way.
    """
    jobs = {variant.name: variant.job for variant in workload.variants}
    refuse_another_way(jobs, state.batches.open, state.directory.path)
    before, now = state.document.get("fingerprint"), state.fingerprint
    looked_at = state.document.get("compared") == units_looked_at(workload)
    if before == now and looked_at and not now["reads_local_files"]:
        return
    changed = list(_changed_slots(workload, state, _recorded_hashes(workload, state)))
    if not redo_changed and changed:
        raise RequestsChanged(
            _changes_text(workload, state, changed),
            advice="Answers to different requests are never mixed. Use another --output-dir, or ask the "
            "changed rows again with --redo-changed.",
        )
    state.redoes_changed = bool(changed)
    for slot, _ in changed:
        state.done.reopen(slot)
    units = [_key_of(workload, slot, row) for slot, row in changed]
    recall(state.account, units, path=state.directory.path, id_name=workload.table.id_name)


def _key_of(workload: Workload, slot: int, row: Row) -> UnitKey:
    variant = slot // workload.repeats % len(workload.variants)
    return str(row.row_id), workload.variants[variant].name, slot % workload.repeats


def _recorded_hashes(workload: Workload, state: RunState) -> array[int]:
    """For each slot the first 64 bits of the hash of the request that was answered; 0 where none was."""
    variants = {variant.name: variant.index for variant in workload.variants}
    hashes = array("Q", bytes(8 * workload.unit_slots))
    for batch in workload.table.positions_of(finished_units(state.directory.path, with_hashes=True)):
        columns = (batch.column(name).to_pylist() for name in ("position", "variant", "repeat", "request_hash"))
        for position, variant, repeat, text in zip(*columns, strict=True):
            if variant in variants and repeat < workload.repeats and text:
                hashes[workload.slots.of(position, variants[variant], repeat)] = int(text[:16], 16)
    return hashes


def _changed_slots(workload: Workload, state: RunState, recorded: array[int]) -> Iterator[tuple[int, Row]]:
    for batch in workload.table.rows(workload.columns):
        for row in batch:
            for variant in workload.variants:
                slots = [
                    workload.slots.of(row.position, variant.index, repeat) for repeat in range(workload.repeats)
                ]
                known = [slot for slot in slots if recorded[slot] and not state.done.is_open(slot)]
                if known:
                    now = _hash_now(variant, row)
                    yield from ((slot, row) for slot in known if recorded[slot] != now)


def _hash_now(variant: Variant, row: Row) -> int:
    """The first 64 bits of the request's hash; 0 for a row that has no prompt any more."""
    try:
        return int(variant.request(row).unit_hash[:16], 16)
    except RowRejected:
        return 0


def _changes_text(workload: Workload, state: RunState, changed: list[tuple[int, Row]]) -> str:
    what = counted(len(changed), f"finished {noun_of(workload.slots.per_row)}")
    lines = [f"{what} of {state.directory.path} would now send other requests"]
    lines += _job_changes(state.document.get("job", {}), workload.job.public_dict())
    if len(lines) == 1:
        lines += _row_changes(workload, state, [row for _, row in changed[:DIFFS_SHOWN]])
    return "\n".join(lines)


def _job_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    def lines(job: Mapping[str, Any]) -> list[str]:
        shaping = {key: job.get(key) for key in ("model", "prompt", "params", "output_schema", "sweep")}
        shaping["prompt"] = {key: text for key, text in (job.get("prompt") or {}).items() if key != "cache"}
        endpoint = job.get("endpoint") or {}
        one = endpoint[0] if isinstance(endpoint, list) else endpoint  # those of a list are the same in this
        shaping["endpoint"] = {key: one.get(key) for key in ("protocol", "stream")}
        return orjson.dumps(shaping, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode().splitlines()

    diff = list(difflib.unified_diff(lines(before), lines(now), "job of the run", "job now", lineterm="", n=0))
    return diff[:40]


def _row_changes(workload: Workload, state: RunState, rows: list[Row]) -> list[str]:
    """The carried columns of some changed rows, as recorded and as they are now."""
    import polars as pl

    frame = results_frame(state.directory.path)
    id_name = workload.table.id_name
    lines = []
    for row in rows:
        recorded = frame.filter(pl.col(id_name).cast(pl.String) == str(row.row_id)).head(1).collect().to_dicts()
        for name, column in workload.carried.items():
            old, new = (recorded[0].get(name) if recorded else None), row.values[column]
            if str(old) != str(new):
                lines += [
                    f"row {row.position} (id {row.row_id!r}), column {column!r}:",
                    f"  - {old!s:.200}",
                    f"  + {new!s:.200}",
                ]
    return lines
