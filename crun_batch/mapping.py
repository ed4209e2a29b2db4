"""`map`: a frame in, the same frame with the answers beside its rows out. For notebooks.

Owns the name of the run directory, which is what the answers depend on, and the way back into the frame's own
type. Everything between is `run`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, overload

import orjson
import polars as pl
import pyarrow as pa

from crun_batch.api import run
from crun_batch.api.run_handle import Run
from crun_batch.errors import InputError, RefusedToStart
from crun_batch.load.job.job import Job
from crun_batch.load.table.table import open_table

F = TypeVar("F")
FOLDER = Path("runs")
_KEPT = ("status", "output_text", "output", "outputs", "error_message", "cost_usd", "cost_credits")


@overload
def map(
    frame: pl.DataFrame | pl.LazyFrame,
    *,
    prompt: str | Mapping[str, Any],
    model: str,
    max_cost_usd: Decimal | float | str | None = None,
    **keys: Any,
) -> pl.DataFrame: ...


@overload
def map(
    frame: F,
    *,
    prompt: str | Mapping[str, Any],
    model: str,
    max_cost_usd: Decimal | float | str | None = None,
    **keys: Any,
) -> F: ...


def map(
    frame: Any,
    *,
    prompt: str | Mapping[str, Any],
    model: str,
    max_cost_usd: Decimal | float | str | None = None,
    **keys: Any,
) -> Any:
    """Ask a model about every row; returns the frame with the answers beside its rows, in the same order.

    `frame` is a polars, pandas or Arrow table, and so is what comes back. `prompt` is the user's template over
    its columns, or the section `prompt` of a job. `keys` are other sections of a job (`output_schema=Label`,
    `params={"max_output_tokens": 200}`, which `max_cost_usd` needs) and what `run` takes (`simulate=True`,
    `progress=True`).

    New columns: status, output_text, `output` with an output_schema, outputs, score_<name>, error_message,
    cost_usd, cost_credits; with a sweep or repeats also variant and repeat, and a line for each. A row without an
    answer has nulls.

    The run is kept in runs/map-<fingerprint>, named after the frame's values and all that shapes the requests:
    the same call again resumes where it stopped and pays for nothing twice. A call that stopped early warns.
    Raises what `run` raises: InputError, RefusedToStart, RunDirectoryError, DiskFailed; RefusedToStart also where
    the gateway refuses before any answer.
    """
    _refuse_no_table(frame)
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()  # once: a second time its rows may come in another order, beside other answers
    _refuse_own_names(keys)
    sections = {name: keys.pop(name) for name in list(keys) if name in Job.model_fields}
    told = {"user": prompt} if isinstance(prompt, str) else prompt
    job = Job(**{"name": "map", "prompt": told, "model": model, **sections})
    _refuse_taken(frame, job)
    if "dir" not in (sections.get("output") or {}):
        keys.setdefault("output_dir", str(FOLDER / f"map-{fingerprint(job, frame)[:16]}"))
    done = run(job, table=frame, max_cost_usd=max_cost_usd, **keys)
    if done.status != "finished" and done.summary["attempts"] == 0:
        raise RefusedToStart(done.stop_reason or "nothing was sent")
    if done.status != "finished":
        warnings.warn(f"{done.stop_reason}; the same call again resumes it ({done.directory})", stacklevel=2)
    return _beside(frame, answers(done, frame, job))


def fingerprint(job: Job, frame: Any) -> str:
    """sha256 (hex) over the frame's values and all that shapes the requests and says who is asked.

    A list of endpoints may lose and gain some: it is one thing, whatever is in it.
    """
    table = open_table(job.input, folders=job.folders, frame=frame)
    [where, *others] = [one.endpoint.base_url for one in job.at_each_endpoint]
    parts = [job.request_fingerprint(), "" if others else where, job.input.id, table.fingerprint()]
    sweep = job.model_dump(mode="json", include={"sweep"})
    return hashlib.sha256(orjson.dumps([*parts, sweep], option=orjson.OPT_SORT_KEYS)).hexdigest()


def answers(done: Run, frame: Any, job: Job) -> pl.DataFrame:
    """The results' columns for each row of the frame, with its position in the column `_position`."""
    results = done.results()
    names = results.collect_schema().names()
    id_column, several = job.input.id, _is_several(job)
    kept = [name for name in names if name in _KEPT or name.startswith("score_")]
    kept = [*(["variant", "repeat"] if several else []), *kept]
    ids = pl.int_range(len(frame), eager=True) if id_column is None else _column(frame, id_column)
    keys = pl.LazyFrame({"_id": ids.cast(pl.String)}).with_row_index("_position")
    found = results.select(pl.col(id_column or "row").cast(pl.String).alias("_id"), *kept)
    joined = keys.join(found, on="_id", how="left", maintain_order="left").drop("_id")
    order = ["_position", *(["variant", "repeat"] if several else [])]
    return joined.sort(order, maintain_order=True).collect()


def _is_several(job: Job) -> bool:
    return bool(job.sweep) or job.repeats > 1


def _refuse_no_table(frame: Any) -> None:
    """A list of texts has no column that a prompt could name."""
    is_table = isinstance(frame, pl.LazyFrame | pa.Table) or hasattr(frame, "columns")
    if not is_table:
        kind = type(frame).__name__
        advice = 'a list of texts is pl.DataFrame({"text": texts}), with prompt="{{ text }}"'
        raise InputError(f"map takes a polars, pandas or Arrow table, not a {kind}; {advice}")


def _refuse_own_names(keys: Mapping[str, Any]) -> None:
    """What `run` takes and `map` gives it, or has no use for."""
    given = "the table is its first argument, the job is made of prompt, model and the sections given"
    shards = "it answers every row of the frame; give each machine its part of the frame, or a job file to `run`"
    for name, advice in {"job": given, "table": given, "shard": shards}.items():
        if name in keys:
            raise InputError(f"map() takes no argument {name!r}; {advice}")


def _refuse_taken(frame: Any, job: Job) -> None:
    """Before anything is paid."""
    several = ("variant", "repeat") if _is_several(job) else ()
    new = {*_KEPT, *several, *(f"score_{spec.name}" for spec in job.score)}
    taken = [name for name in _names(frame) if name in new - ({"output"} if job.output_schema is None else set())]
    if taken:
        raise InputError(f"the frame has a column {taken[0]!r}, as the answers do; rename or drop it")


def _beside(frame: Any, found: pl.DataFrame) -> Any:
    """The frame's rows, repeated where there are several answers, with the answers' columns."""
    positions, new = found["_position"], found.drop("_position")
    if isinstance(frame, pl.DataFrame):
        return frame[positions].hstack(new)
    if isinstance(frame, pa.Table):
        rows = frame.take(positions.to_arrow())
        for column in new.to_arrow().itercolumns():
            rows = rows.append_column(new.columns[rows.num_columns - frame.num_columns], column)
        return rows
    rows = frame.iloc[positions.to_list()]
    columns = new.to_pandas(use_pyarrow_extension_array=False)
    return rows.assign(**{name: columns[name].to_numpy() for name in new.columns})


def _names(frame: Any) -> list[str]:
    return list(frame.column_names if isinstance(frame, pa.Table) else frame.columns)


def _column(frame: Any, name: str) -> pl.Series:
    values = frame.column(name) if isinstance(frame, pa.Table) else frame[name]
    return values if isinstance(values, pl.Series) else pl.Series(name, values)
