"""job.json: the job as it is run, without secrets, what tells it from another, the prices with their source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import version
from typing import Any

from crun_batch.state.run_state import RunContext, RunState
from crun_batch.state.steered import steering_begun, tell_what_no_longer_holds, value_of
from crun_batch.store.directory import RunDirectory, read_json, write_json
from crun_batch.store.schema import schema_document
from crun_batch.workload.workload import Workload

LIBRARIES = (
    *("crun-batch", "polars", "pyarrow", "duckdb"),
    *("httptools", "python-socks", "minijinja", "genai-prices"),
)


def record_job(context: RunContext, prices: Mapping[str, Any]) -> None:
    """The job as it is run now, and the prices that hold from now on. Raises DiskFailed."""
    if not context.state.steering:
        context.state.steering = steering_begun(context.state.document)
    created_at = context.options.clock.now().isoformat(timespec="seconds")
    document = job_document(context.workload, context.state, prices=prices, created_at=created_at)
    directory = context.state.directory
    write_json(directory, directory.job, document)


def job_document(
    workload: Workload, state: RunState, *, prices: Mapping[str, Any], created_at: str
) -> dict[str, Any]:
    """What job.json says: the job as run, without secrets; what tells it from another; prices and where from."""
    return {
        "format": 1,
        "created_at": state.document.get("created_at", created_at),
        "job": workload.job.public_dict(),
        "source": workload.job.source,
        "base_dir": str(workload.job.base_dir),
        "fingerprint": state.fingerprint,
        "compared": None if state.redoes_changed else units_looked_at(workload),
        "tables": state.tables,
        "late_columns": list(state.late_columns) if state.late_columns and state.same_table else [],
        "variants": [variant.name for variant in workload.variants],
        "prices": prices,
        "earlier_prices": state.document.get("earlier_prices", []),
        "steering": state.steering,
        "run_schema": schema_document(state.schema),
        "versions": _versions(),
    }


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def record_scores(workload: Workload, state: RunState) -> None:
    """The scores that the job asks for now, in a job.json that names others, and the table that they are of.

    Raises DiskFailed.
    """
    directory = state.directory
    document = read_json(directory.job) if directory.has_job else {}
    if not document:
        return
    scores, table = workload.job.public_dict()["score"], state.fingerprint["table"]
    if document["job"].get("score") == scores and document["fingerprint"]["table"] == table:
        return
    document["job"] |= {"score": scores}
    document["fingerprint"] |= {"table": table}
    document["run_schema"] = schema_document(state.schema)
    write_json(directory, directory.job, document)


def record_steering(directory: RunDirectory, steering: Mapping[str, Any]) -> None:
    """What people have told the session, in its job.json. Raises DiskFailed."""
    write_json(directory, directory.job, {**read_json(directory.job), "steering": steering})


def tell_former_steering(workload: Workload, document: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Say what people set while the last session ran and is no longer so."""
    tell_what_no_longer_holds(document, partial(value_of, workload.job), say)


def units_looked_at(workload: Workload) -> dict[str, Any]:
    """Which units a session looks at: the fingerprint says nothing of others."""
    selection = workload.job.input.model_dump(mode="json", include={"where", "limit", "sample"})
    return {**selection, "repeats": workload.repeats}


def fingerprint(workload: Workload) -> dict[str, Any]:
    """`RunState.fingerprint`, computed."""
    requests = {variant.name: variant.job.request_fingerprint() for variant in workload.variants}
    reads_files = any(variant.renderer.reads_local_files for variant in workload.variants)
    shard = {} if workload.shard is None else {"shard": workload.shard.document()}
    return {"requests": requests, "table": workload.table.fingerprint(), "reads_local_files": reads_files, **shard}
