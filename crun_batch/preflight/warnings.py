"""What `check` warns of: what stands in the way of a run, or makes its bill unknown, and is no mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

from crun_batch.errors import InputError
from crun_batch.gateway.http.descriptors import ensure_file_descriptors
from crun_batch.load.job.job import Job
from crun_batch.load.job.on_end import on_end_problems
from crun_batch.load.job.secrets import resolve_secrets
from crun_batch.load.prompt.column_names import in_template
from crun_batch.preflight.caching import ROWS_COMPARED, prefix_complaint
from crun_batch.workload.workload import Workload


def warnings_of(workload: Workload, environ: Mapping[str, str]) -> list[str]:
    """What stands in the way of `run`, or makes its bill unknown, without being a mistake in the job."""
    job = workload.job
    said = [
        *(() if workload.shard is None else (*workload.shard.caps, *workload.shard.remarks)),
        *on_end_problems(job, environ),
        *(
            says
            for one in job.at_each_endpoint
            for says in _complaints(lambda one=one: resolve_secrets(one, environ))
        ),
        *_complaints(lambda: ensure_file_descriptors(job.limits.concurrency)),
    ]
    for index, one in enumerate(job.at_each_endpoint):
        if one.endpoint.auth == "none" and not _is_said_to_need_no_key(job, index):
            key = one.endpoint_key
            said.append(
                f"{key} names no key, so none is sent: add {key}.api_key_env, or auth: none if that is meant"
            )
    for judge in workload.judges:
        said += _complaints(lambda judge=judge: judge.secrets(environ))
        key = f"score[{judge.written.index}]"
        if judge.job.output_limit_tokens is None:
            said.append(f"{key}.params.max_output_tokens is not set: nothing bounds what {judge.name} costs")
        if judge.job.model not in job.prices.models:
            said.append(f"prices.models has no {judge.job.model!r}, the model of {judge.name}")
    said += _without_a_column(workload)
    if job.output_limit_tokens is None and job.prompt.body_column is None:
        said.append("params.max_output_tokens is not set: nothing bounds what a request costs")
    if job.model is not None and job.model not in job.prices.models:
        said.append(
            f"prices.models has no {job.model!r}: its cost is known only if the gateway or a list names it"
        )
    return said


def _without_a_column(workload: Workload) -> list[str]:
    """A prompt that is the same for every row, such as one with {text} in single braces."""
    if any(variant.renderer.columns for variant in workload.variants) or workload.table.selected_rows < 2:
        return []
    example = next(name for name in (*workload.table.schema.names, "text") if name != workload.table.id_name)
    return [f"no prompt prints a column: every row asks the same; a column is written {in_template(example)}"]


def prefix_complaints(workload: Workload) -> list[str]:
    """What the first rows show of a cache of prompts that could keep nothing."""
    rows = list(islice(chain.from_iterable(workload.table.rows(workload.columns)), ROWS_COMPARED))
    told = (prefix_complaint(variant, rows) for variant in workload.variants)
    return list(dict.fromkeys(says for says in told if says is not None))


def _is_said_to_need_no_key(job: Job, index: int) -> bool:
    """Whether the job itself says so, or sends a header with a value from the environment."""
    written = job.document.tree.get("endpoint") or {}
    one = written[index] if isinstance(written, list) else written
    headers = job.at_each_endpoint[index].endpoint.headers
    return one.get("auth") == "none" or any("${" in value for value in headers.values())


def _complaints(attempt: Any) -> Sequence[str]:
    try:
        attempt()
    except InputError as error:
        return [str(mistake) for mistake in error.mistakes]
    return []
