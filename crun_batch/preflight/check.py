"""`check`: a job read from end to end without one call: its table, its templates, its requests, every mistake.

Owns the order in which mistakes are looked for, and that the first kind does not hide the next: a job file with
wrong keys still has its table and its templates checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from msgspec import structs

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.job import Job, load_job, load_readable_parts
from crun_batch.load.job.secrets import secrets_sent
from crun_batch.options import Shard
from crun_batch.preflight.checked_rows import CheckedRows, read_all
from crun_batch.preflight.warnings import prefix_complaints, warnings_of
from crun_batch.state.reuse import open_reuse
from crun_batch.workload.loading import load_workload
from crun_batch.workload.sharding import in_its_folder, one_shard
from crun_batch.workload.workload import Workload

SHORTENED_CHARACTERS = 400


def check_job(
    given: Job | str | Path,
    overrides: Mapping[str, object],
    environ: Mapping[str, str],
    allow_paths: Sequence[str | Path] = (),
    shard: Shard | None = None,
) -> dict[str, Any]:
    """Everything about a job that can be known without calling anybody; `mistakes` is empty where it may run.

    Of a job with mistakes the document says nothing but these and, where it could be read, the table.
    """
    mistakes: list[Mistake] = []
    source = given.source if isinstance(given, Job) else str(given)
    job = _job(given, overrides, environ, allow_paths, mistakes)
    document: dict[str, Any] = {"source": source, "mistakes": [], "rejected_rows": 0, "warnings": []}
    job = None if job is None else in_its_folder(job, shard, overrides)
    workload = _workload(job, shard, mistakes) if job is not None else None
    if workload is not None:
        try:
            seen_rows = read_all(workload)
            prefixes = prefix_complaints(workload)
        finally:
            workload.close()
        mistakes += seen_rows.rejections.mistakes(source)
        mistakes += _reuse_mistakes(workload)
        document |= {"table": _table(workload), "rejected_rows": seen_rows.rejections.rows}
        if not mistakes:
            expected = [f"{one.key}: {one.message}" for one in seen_rows.nothing_is_right.mistakes(source)]
            warnings = [*warnings_of(workload, environ), *prefixes, *expected]
            document |= {**_described(workload, seen_rows), "warnings": warnings}
    document["mistakes"] = [structs.asdict(mistake) for mistake in mistakes]
    return document


def _job(
    given: Job | str | Path,
    overrides: Mapping[str, object],
    environ: Mapping[str, str],
    allow_paths: Sequence[str | Path],
    mistakes: list[Mistake],
) -> Job | None:
    """The job; where it has mistakes, those of its parts that can be read on their own."""
    if isinstance(given, Job):
        return (given.with_overrides(overrides) if overrides else given).allowing(allow_paths)
    path = Path(given)
    try:
        return load_job(path, overrides, environ=environ, allow_paths=allow_paths)
    except InputError as error:
        mistakes += error.mistakes
        return load_readable_parts(path, overrides)


def _workload(job: Job, shard: Shard | None, mistakes: list[Mistake]) -> Workload | None:
    try:
        return one_shard(load_workload(job), shard)
    except InputError as error:
        mistakes += error.mistakes
        return None


def _reuse_mistakes(workload: Workload) -> list[Mistake]:
    """What is wrong with the runs that answers are to be taken from. Raises RunDamaged."""
    try:
        open_reuse(workload)
    except InputError as error:
        return list(error.mistakes)
    return []


def _described(workload: Workload, seen_rows: CheckedRows) -> dict[str, Any]:
    job, repeats = workload.job, workload.repeats
    return {
        "name": job.name,
        "shard": None if workload.shard is None else str(workload.shard.which),
        "model": job.model,
        "endpoint": {"base_url": job.endpoint.base_url, "protocol": job.endpoint.protocol},
        "secrets": secrets_sent(target.job for target in workload.targets),
        "endpoints": [
            {"name": one.endpoint.name, "base_url": one.endpoint.base_url, "weight": one.endpoint.weight}
            for one in job.at_each_endpoint
        ],
        "output_dir": str(job.output.dir),
        "on_end": job.on_end.model_dump(mode="json"),
        "templates": _templates(job),
        "variants": [variant.name for variant in workload.variants],
        "judges": [
            {
                "name": judge.spec.name,
                "model": judge.job.model,
                "endpoint": {"base_url": judge.job.endpoint.base_url, "protocol": judge.protocol_name},
            }
            for judge in workload.judges
        ],
        "functions": [{"name": one.name, "function": one.function} for one in job.score if one.function],
        "requests": seen_rows.requests * repeats,
        "identical": {"requests": seen_rows.identical * repeats, "is_minimum": seen_rows.identical_is_minimum},
        "share_identical": job.share_identical,
        "packs": any(variant.job.pack is not None for variant in workload.variants),
        "first_requests": [
            {"variant": name, "body": shortened(orjson.loads(body))} for name, body in seen_rows.first
        ],
    }


def _table(workload: Workload) -> dict[str, Any]:
    """What was read, and what each column is used for."""
    table = workload.table
    used = {name for variant in workload.variants for name in variant.renderer.columns}
    carried = {column: name for name, column in workload.carried.items()}
    return {
        "files": list(table.source.names),
        "source_rows": table.source_rows,
        "selected_rows": table.selected_rows,
        "id": table.id_name,
        "columns": [
            {
                "name": field.name,
                "type": str(field.type),
                "used": field.name in used,
                "carried_as": carried.get(field.name),
            }
            for field in table.schema
        ],
    }


def _templates(job: Job) -> list[dict[str, str]]:
    """The prompt's texts as written, by their keys."""
    prompt = job.prompt.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"cache"})
    return [
        {"key": f"prompt.{key}", "text": text if isinstance(text, str) else orjson.dumps(text).decode()}
        for key, text in prompt.items()
    ]


def shortened(value: Any) -> Any:
    """A JSON value whose long texts are cut, with how much was cut."""
    if isinstance(value, str) and len(value) > SHORTENED_CHARACTERS:
        return f"{value[:SHORTENED_CHARACTERS]}… ({len(value) - SHORTENED_CHARACTERS:,} characters more)"
    if isinstance(value, dict):
        return {key: shortened(part) for key, part in value.items()}
    return [shortened(part) for part in value] if isinstance(value, list) else value
