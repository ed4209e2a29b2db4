"""Opening a run directory: whose it is, where it stands, what of it is done.

Owns job.json and the judgement whether this job may go on in that directory. Nothing is sent here.
"""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Iterator, Mapping
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
from msgspec import Struct, structs

from crun_batch.errors import RequestsChanged, RunDirectoryError
from crun_batch.load.prompt.render import RowRejected
from crun_batch.pricing.account import Account, UnitKey
from crun_batch.records import Row
from crun_batch.session.source import Done
from crun_batch.state.background import Beside
from crun_batch.state.recovery import account_now, mark_done
from crun_batch.state.retry import recall
from crun_batch.store.directory import RunDirectory, open_directory, read_json, write_json
from crun_batch.store.disk import Disk
from crun_batch.store.recover import Recovered, recover
from crun_batch.store.schema import RunSchema, schema_document, schema_from_document
from crun_batch.store.seal import seal_segment
from crun_batch.store.views import finished_units, results_frame
from crun_batch.workload.workload import Variant, Workload

DIFFS_SHOWN = 5
LIBRARIES = (
    *("crun-batch", "polars", "pyarrow", "duckdb"),
    *("httptools", "pyreqwest", "httpx", "minijinja", "genai-prices"),
)


class Progressed(Struct):
    """How far a run has come."""

    account: Account
    done: Done
    pilot: Mapping[str, Any] | None = None
    """What the run's last pilot told."""


class Standing(Progressed, kw_only=True):
    """A locked run directory, and how far its run has come."""

    directory: RunDirectory
    schema: RunSchema
    document: dict[str, Any]
    """What job.json said before this session; empty for a new run."""
    recovered: Recovered | None
    fingerprinting: Beside[dict[str, Any]]
    """Reads the whole table, which nothing before the first record has to wait for."""
    prices: Mapping[str, Any] = {}
    """The prices of this session, once they are chosen."""
    failed_verdicts: int = 0
    """Questions to judges that this session got no verdict for."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides whether finished units would still send the same requests. Raises InputError."""
        return self.fingerprinting.result()


def open_standing(
    workload: Workload, path: Path, *, started_at: str, redo_changed: bool, disk: Disk | None = None
) -> Standing:
    """Lock the directory, recover its journal, seal what a kill left, mark what is done.

    Raises RunInUse, RunDamaged, RequestsChanged, RunDirectoryError (another job's), DiskFailed.
    """
    _refuse_a_strangers_folder(path)
    directory = open_directory(path, started_at=started_at, disk=disk)
    try:
        document = read_json(directory.job) if directory.job.exists() else {}
        _refuse_another_job(workload, document, path)
        schema = _schema_going_on(workload.run_schema(), document, path)
        fingerprinting = Beside(partial(fingerprint, workload))
        recovered = recover(directory)
        for number in recovered.older if recovered is not None else ():
            seal_segment(directory, number, schema)
        account = account_now(directory)
        done = mark_done(workload, finished_units(path)) if recovered is not None else Done(workload.unit_slots)
        standing = Standing(
            account,
            done,
            directory=directory,
            schema=schema,
            document=document,
            recovered=recovered,
            fingerprinting=fingerprinting,
            pilot=last_pilot(directory),
        )
        if recovered is not None:
            _compare_requests(workload, standing, redo_changed=redo_changed)
    except BaseException:
        directory.close()
        raise
    return standing


def read_standing(workload: Workload) -> Progressed:
    """How far the run has come, read without a lock; nothing done where there is no run yet."""
    path = workload.job.output.dir
    directory = RunDirectory(path)
    if not directory.job.exists():
        return Progressed(Account(), Done(workload.unit_slots))
    return Progressed(account_now(directory), mark_done(workload, finished_units(path)), last_pilot(directory))


def last_pilot(directory: RunDirectory) -> Mapping[str, Any] | None:
    """What the run's last pilot told. Raises RunDamaged."""
    if not directory.summary.exists():
        return None
    told: Mapping[str, Any] | None = read_json(directory.summary).get("pilot")
    return told


def job_document(
    workload: Workload, standing: Standing, *, prices: Mapping[str, Any], created_at: str
) -> dict[str, Any]:
    """What job.json says: the job as run, without secrets; what tells it from another; prices and where from."""
    return {
        "format": 1,
        "created_at": standing.document.get("created_at", created_at),
        "job": workload.job.public_dict(),
        "source": workload.job.source,
        "base_dir": str(workload.job.base_dir),
        "fingerprint": standing.fingerprint,
        "variants": [variant.name for variant in workload.variants],
        "prices": prices,
        "run_schema": schema_document(standing.schema),
        "versions": _versions(),
    }


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def record_scores(workload: Workload, standing: Standing) -> None:
    """The scores that the job asks for now, in a job.json that names others. Raises DiskFailed."""
    directory = standing.directory
    document = read_json(directory.job) if directory.job.exists() else {}
    scores = workload.job.public_dict()["score"]
    if document and document["job"].get("score") != scores:
        document["job"] |= {"score": scores}
        document["run_schema"] = schema_document(standing.schema)
        write_json(directory, directory.job, document)


def fingerprint(workload: Workload) -> dict[str, Any]:
    """`Standing.fingerprint`, computed."""
    requests = {variant.name: variant.job.request_fingerprint() for variant in workload.variants}
    reads_files = any(variant.renderer.reads_local_files for variant in workload.variants)
    return {"requests": requests, "table": workload.table.fingerprint(), "reads_local_files": reads_files}


def _refuse_a_strangers_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path} is a file; a run needs a folder of its own")
    if path.is_dir() and any(path.iterdir()) and not (path / "journal").is_dir():
        raise RunDirectoryError(
            f"{path} is not empty and holds no run; nothing was written into it",
            advice="Give the run another --output-dir.",
        )


def _refuse_another_job(workload: Workload, document: Mapping[str, Any], path: Path) -> None:
    if not document:
        return
    mine = (workload.job.name, workload.table.id_name)
    theirs = (document["job"]["name"], document["run_schema"]["id_name"])
    for what, one, other in zip(("name", "id column"), mine, theirs, strict=True):
        if one != other:
            raise RunDirectoryError(
                f"{path} belongs to another job: its {what} is {other!r}, this job's is {one!r}",
                advice="Give this job another --output-dir.",
            )


def _schema_going_on(schema: RunSchema, document: Mapping[str, Any], path: Path) -> RunSchema:
    """The columns of a run that may already have some: the levels of variants that are no longer asked stay.

    Raises RunDirectoryError where a column would change its type; whole numbers may become numbers.
    """
    if not document:
        return schema
    before = schema_from_document(document["run_schema"])
    schema = structs.replace(schema, axes={**before.axes, **schema.axes})
    types = {field.name: field.type for field in schema.axis_fields}
    changed = [
        field.name
        for field in before.axis_fields
        if (now := types[field.name]) != field.type and (field.type, now) != (pa.int64(), pa.float64())
    ]
    if before.output is not None and schema.output is not None and before.output != schema.output:
        changed.append("output")
    if changed:
        raise RunDirectoryError(
            f"the column {changed[0]} of {path} would change its type",
            advice="Go on with another --output-dir.",
        )
    return schema


def _compare_requests(workload: Workload, standing: Standing, *, redo_changed: bool) -> None:
    """Render every finished unit anew where anything that shapes requests has changed; same hashes, same run."""
    before, now = standing.document.get("fingerprint"), standing.fingerprint
    if before == now and not now["reads_local_files"]:
        return
    changed = list(_changed_slots(workload, standing, _recorded_hashes(workload, standing)))
    if not redo_changed and changed:
        raise RequestsChanged(
            _changes_text(workload, standing, changed),
            advice="Answers to different requests are never mixed. Go on with another --output-dir, or ask the "
            "changed rows again with --redo-changed.",
        )
    for slot, _ in changed:
        standing.done.reopen(slot)
    units = [_key_of(workload, slot, row) for slot, row in changed]
    recall(standing.account, units, path=standing.directory.path, id_name=workload.table.id_name)


def _key_of(workload: Workload, slot: int, row: Row) -> UnitKey:
    variant = slot // workload.repeats % len(workload.variants)
    return str(row.row_id), workload.variants[variant].name, slot % workload.repeats


def _recorded_hashes(workload: Workload, standing: Standing) -> array[int]:
    """For each slot the first 64 bits of the hash of the request that was answered; 0 where none was."""
    variants = {variant.name: variant.index for variant in workload.variants}
    hashes = array("Q", bytes(8 * workload.unit_slots))
    for batch in workload.table.positions_of(finished_units(standing.directory.path, with_hashes=True)):
        columns = (batch.column(name).to_pylist() for name in ("position", "variant", "repeat", "request_hash"))
        for position, variant, repeat, text in zip(*columns, strict=True):
            if variant in variants and repeat < workload.repeats and text:
                hashes[workload.slot(position, variants[variant], repeat)] = int(text[:16], 16)
    return hashes


def _changed_slots(workload: Workload, standing: Standing, recorded: array[int]) -> Iterator[tuple[int, Row]]:
    for batch in workload.table.rows(workload.columns):
        for row in batch:
            for variant in workload.variants:
                slots = [workload.slot(row.position, variant.index, repeat) for repeat in range(workload.repeats)]
                known = [slot for slot in slots if recorded[slot] and not standing.done.is_open(slot)]
                if known:
                    now = _hash_now(variant, row)
                    yield from ((slot, row) for slot in known if recorded[slot] != now)


def _hash_now(variant: Variant, row: Row) -> int:
    """The first 64 bits of the request's hash; 0 for a row that has no prompt any more."""
    try:
        return int(variant.request(row).unit_hash[:16], 16)
    except RowRejected:
        return 0


def _changes_text(workload: Workload, standing: Standing, changed: list[tuple[int, Row]]) -> str:
    lines = [f"{len(changed):,} finished units of {standing.directory.path} would now send other requests"]
    lines += _job_changes(standing.document.get("job", {}), workload.job.public_dict())
    if len(lines) == 1:
        lines += _row_changes(workload, standing, [row for _, row in changed[:DIFFS_SHOWN]])
    return "\n".join(lines)


def _job_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    def lines(job: Mapping[str, Any]) -> list[str]:
        shaping = {key: job.get(key) for key in ("model", "prompt", "params", "output_schema", "sweep")}
        shaping["endpoint"] = {key: (job.get("endpoint") or {}).get(key) for key in ("protocol", "stream")}
        return orjson.dumps(shaping, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode().splitlines()

    diff = list(difflib.unified_diff(lines(before), lines(now), "job of the run", "job now", lineterm="", n=0))
    return diff[:40]


def _row_changes(workload: Workload, standing: Standing, rows: list[Row]) -> list[str]:
    """The carried columns of some changed rows, as recorded and as they are now."""
    frame = results_frame(standing.directory.path)
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
