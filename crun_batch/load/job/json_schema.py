"""The JSON Schema of a job file, with what each key means: the text below its field, read from the source.

Read when somebody asks for it: pydantic would do that whenever the sections are loaded, and every command that
reads a job would wait for it.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from crun_batch.load.job.job import Job
from crun_batch.load.job.sections import Message, Section


def job_schema() -> dict[str, object]:
    """The JSON Schema of a job file, for editors."""
    schema = _with_meanings(Job.model_json_schema(), Job)
    one = schema["properties"]["endpoint"]
    spec = {"$ref": "#/$defs/EndpointSpec"}
    several = {"type": "array", "items": spec, "minItems": 1}
    schema["properties"]["endpoint"] = {
        **{key: value for key, value in one.items() if key != "$ref"},
        "anyOf": [spec, several],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "crun_batch job"}


def _with_meanings(schema: Mapping[str, Any], of: type[Section]) -> dict[str, Any]:
    """The JSON Schema of a section, with the text below each field as its description, in all its `$defs` too."""
    classes: dict[str, Any] = {one.__name__: one for one in Section.__subclasses__()}
    classes["Message"] = Message
    parts = {name: _described(part, classes.get(name)) for name, part in schema["$defs"].items()}
    return {**_described(schema, of), "$defs": parts}


def _described(part: Mapping[str, Any], of: Any | None) -> dict[str, Any]:
    if of is None:
        return dict(part)
    meanings = dict(_meanings(of))
    properties = {
        name: {"description": meanings[name], **value} if name in meanings else value
        for name, value in part["properties"].items()
    }
    return {**part, "properties": properties}


def _meanings(of: Any) -> Iterator[tuple[str, str]]:
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(of))).body
    assert isinstance(definition, ast.ClassDef)
    for field, below in pairwise(definition.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            yield field.target.id, inspect.cleandoc(below.value.value)
