"""The graders that compute a score from the answer itself, compiled, with what names their version."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.grader_sections import GraderSpec
from crun_batch.paths import is_file
from crun_batch.scoring.functions import load_function
from crun_batch.scoring.graders import Grade, accepted_arguments, compile_grader
from crun_batch.state.run_state import RunState
from crun_batch.workload.workload import Workload

_RULES = b"an answer that is missing scores 0"
"""Scores of other rules are computed anew."""


class Graders(Struct, frozen=True):
    """The computed graders of a job, ready, with the columns that they read and what names their version."""

    grades: Mapping[str, Grade]
    columns: tuple[str, ...]
    fingerprint: str


def graders_of(workload: Workload) -> Graders:
    """Import the graders' functions and compile all but the judges. Raises InputError with every mistake."""
    job, table = workload.job, workload.table
    grades: dict[str, Grade] = {}
    mistakes: list[Mistake] = []
    columns = set(workload.templates.columns)
    digest = hashlib.sha256(_RULES)
    for index, spec in enumerate(job.score):
        digest.update(orjson.dumps(spec.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS))
        if spec.grader == "judge":
            continue
        try:
            function = _function(workload, spec, f"score[{index}].function")
            grades[spec.name] = compile_grader(spec, render=workload.templates.render, function=function)
            if function is not None:
                digest.update(_source_of(function))
                columns |= set(table.schema.names) if "row" in accepted_arguments(function) else set()
        except InputError as error:
            mistakes += error.mistakes
        except ValueError as error:
            mistakes.append(Mistake(str(error), job.source, key=f"score[{index}]"))
    if mistakes:
        raise InputError([job.document.placed(mistake) for mistake in mistakes])
    ordered = tuple(name for name in table.schema.names if name in columns)
    return Graders(grades, ordered, digest.hexdigest())


def _function(workload: Workload, spec: GraderSpec, key: str) -> Callable[..., Any] | None:
    if spec.function is None:
        return None
    job = workload.job
    return load_function(spec.function, base_dir=job.base_dir, source=job.source, key=key)


def _source_of(function: Callable[..., Any]) -> bytes:
    """The bytes of the function's module, so that an edited one scores anew; nothing where it has no file."""
    file = inspect.getsourcefile(inspect.unwrap(function))
    return Path(file).read_bytes() if file is not None and is_file(Path(file)) else b""


def fingerprint_of(graders: Graders, state: RunState) -> str:
    """What the scores are computed from."""
    return f"{graders.fingerprint}-{state.fingerprint['table']}"
