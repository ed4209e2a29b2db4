"""The section `score` of a job file: every key of a grader with its type, its default, and what it means.

Like `sections`, it looks at one value at a time; which keys go together is said in `grader_rules`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict

from crun_batch.load.job.endpoint_sections import EndpointSpec
from crun_batch.load.job.sections import Flag, Name, Section, Share, Template, Text


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from None
    return value


def _function(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
        raise ValueError("must be module:function, such as graders:is_polite")
    return value


def _scale(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("must be two numbers, the lowest before the highest")
    return value


class JudgePrompt(Section):
    """What a judge is asked: MiniJinja over the row's columns and `output_text`, `output`, `expected`, `request`.

    `request` is what the model was asked, as text. Any text may be {file: path}.
    """

    system: Template | None = None
    """The judge's system prompt."""
    user: Template
    """The judge's question."""


class GraderSpec(Section):
    """One grader: gives the column score_<name>, 0 to 1; null where there is no reply or nothing to expect.

    exact, one_of, contains, regex, number, json and python are computed, also over stored answers; judge asks a
    model, at a cost.
    """

    name: Name
    """Name of the score."""
    grader: Literal["exact", "one_of", "contains", "regex", "number", "json", "python", "judge"]
    """How an output is graded. exact: equals `expected`; one_of: equals one of them; contains: contains all of
    them; regex: `pattern` is found; number: its last number is `expected`; json: its JSON, or `field` of it,
    equals `expected`; python: `function` says; judge: a model says."""
    expected: Any = None
    """What is right: a template over the row's columns, a text, a number; for one_of and contains also a list, or
    a template that gives a JSON list; for json any value. A row where it is null has no score."""
    pattern: Annotated[str, Field(min_length=1), AfterValidator(_pattern)] | None = None
    """Python regular expression. For regex: what must be found. For others: its last match, group 1 if it has
    groups, is what is graded; without a match the score is 0."""
    field: Text | None = None
    """Dotted path into the reply's JSON (also fenced, or amid text): what is graded. For judge: of its verdict."""
    ignore_case: Flag = False
    """Upper and lower case count as the same."""
    whitespace: Literal["keep", "trim", "collapse"] = "trim"
    """keep: every space counts; trim: not those around; collapse: also, any run of them counts as one space."""
    tolerance: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)] | None = None
    """For numbers: the largest difference that is right."""
    relative_tolerance: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)] | None = None
    """For numbers: the same as a share of `expected`; the larger of both counts."""
    function: Annotated[str, AfterValidator(_function)] | None = None
    """For python: `module:function`, the module beside the job file or importable. It takes any of text, row,
    output, expected by name and gives a number from 0 to 1, true, false or None."""
    labels: Annotated[dict[str, Share], Field(min_length=1)] | None = None
    """For judge: the verdicts it may give -> their scores."""
    scale: Annotated[tuple[float, float], AfterValidator(_scale)] | None = None
    """For judge: the lowest and the highest number it may give, which become 0 and 1. Default: [0, 1]."""
    model: Text | None = None
    """For judge: the model that judges."""
    endpoint: EndpointSpec | None = None
    """For judge: where it is asked; stands alone, nothing is taken over. Default: the job's endpoint."""
    prompt: JudgePrompt | None = None
    """For judge: its question. Default: ours, with request, expected and answer."""
    params: dict[str, Any] = Field(default_factory=dict)
    """For judge: parameters of its requests."""
    output_schema: dict[str, Any] | Text | None = None
    """For judge: JSON Schema of its verdicts, inline or a path. Default: a reason and a score."""
