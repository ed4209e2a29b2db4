"""The judges of a job: each a job of its own, checked like the job itself, so that it is asked like any variant.

Owns what a judge takes over from the job (limits, budget, prices; its endpoint where the judge names none) and
where its keys stand in the job file. What a judge is asked, and what its answer says, is somebody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, structs

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.grader_sections import GraderSpec
from crun_batch.load.job.job import Job
from crun_batch.load.job.places import KeyPath

OWN = ("model", "endpoint", "params", "output_schema")
"""Keys of a judge that are keys of its job."""
TAKEN_OVER = ("name", "env_file", "limits", "budget", "prices")
_QUESTION = {"user": "."}
"""Stands where a job has its prompt: a judge's is rendered over a row and an answer."""


class JudgeJob(Struct, frozen=True):
    """A judge: its place in `score`, its part of the job file, the job that it is asked by."""

    index: int
    spec: GraderSpec
    job: Job

    def mistake(self, mistake: Mistake) -> Mistake:
        """A mistake in its job as one in the job file."""
        return _placed(mistake, self.index, self.spec.name)


def judge_jobs(job: Job, overrides: Mapping[str, object] = {}) -> list[JudgeJob]:
    """Each judge of the job, in their order; `overrides` are laid over each.

    Raises InputError with every mistake, under the judge's key.
    """
    found: list[JudgeJob] = []
    mistakes: list[Mistake] = []
    for index, spec in enumerate(job.score):
        if spec.grader != "judge":
            continue
        try:
            made = _job_of(job, index, verdict_schema(spec))
            made = made.with_overrides(overrides) if overrides else made
            found.append(JudgeJob(index, spec, made))
        except InputError as error:
            mistakes += [_placed(mistake, index, spec.name) for mistake in error.mistakes]
    if mistakes:
        raise InputError(mistakes)
    return found


def _placed(mistake: Mistake, index: int, name: str) -> Mistake:
    key = mistake.key or ""
    if key.split(".")[0] in OWN:
        key = f"score[{index}].{key}"
    return structs.replace(mistake, key=key or None, message=f"{mistake.message} (judge {name})")


def _job_of(job: Job, index: int, schema: Mapping[str, Any]) -> Job:
    document = job.document
    written = document.tree["score"][index]
    taken_over = TAKEN_OVER if written.get("endpoint") is not None else (*TAKEN_OVER, "endpoint")
    tree: dict[str, Any] = {key: document.tree[key] for key in taken_over if key in document.tree}
    tree |= {key: written[key] for key in OWN if written.get(key) is not None}
    tree = {"output_schema": schema, **tree, "prompt": _QUESTION}
    own: KeyPath = ("score", index)
    places = {path: place for path, place in document.places.items() if path[0] in taken_over}
    places |= {path[2:]: place for path, place in document.places.items() if path[:2] == own and path[2:]}
    return Job(structs.replace(document, tree=tree, places=places, needs_table=False))


def verdict_schema(spec: GraderSpec) -> dict[str, Any]:
    """The JSON Schema of a judge's answer, where the job gives none."""
    low, high = spec.scale or (0, 1)
    verdict: dict[str, Any] = (
        {"type": "number", "minimum": low, "maximum": high} if not spec.labels else {"enum": list(spec.labels)}
    )
    key = spec.field or ("verdict" if spec.labels else "score")
    return {
        "type": "object",
        "properties": {"reason": {"type": "string"}, key: verdict},
        "required": ["reason", key],
        "additionalProperties": False,
    }
