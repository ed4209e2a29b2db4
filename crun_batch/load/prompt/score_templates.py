"""What the graders' templates say of one row: `expected`, and what a judge is asked.

Owns their compilation and the complaints about them, before anything is sent. The rules of prompt templates hold
here too, but for nulls: a text that would print one is no mistake of the row; there is nothing to expect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.grader_sections import GraderSpec
from crun_batch.load.prompt.columns import converter
from crun_batch.load.prompt.confined import ConfinedEngine
from crun_batch.load.prompt.template_check import compile_template
from crun_batch.load.prompt.templates import (
    CarefulEngine,
    Template,
    Unrenderable,
    environment,
    holds_null,
    reason_in,
    shielded,
)

OF_A_REPLY = ("output_text", "output", "expected", "request")
"""What a judge's templates may name beside the columns."""


class ScoreTemplates:
    """The templates of all graders over one table. Not for several threads at once.

    Raises InputError with every mistake in them.
    """

    columns: tuple[str, ...]
    """The table's columns that they use, in its order."""

    def __init__(self, specs: Sequence[GraderSpec], *, schema: pa.Schema, job_source: str) -> None:
        self._converters = {field.name: converter(field.type) for field in schema}
        nested = {field.name for field in schema if pa.types.is_nested(field.type)} | {"output"}
        self._templates: dict[str, Template] = {}
        mistakes: list[Mistake] = []
        for key, source, beside in _sources(specs):
            template, found = compile_template(
                source,
                key=key,
                columns=schema.names,
                nested_columns=nested,
                file=job_source,
                beside=[name for name in beside if name not in schema.names],
            )
            self._templates[source] = template
            mistakes += found
        if mistakes:
            raise InputError(mistakes)
        used = {name for template in self._templates.values() for name in template.columns}
        self.columns = tuple(name for name in schema.names if name in used)
        self._fast = environment()
        for template in self._templates.values():
            self._fast.add_template(template.key, template.source)
        self._careful = CarefulEngine(list(self._templates.values()))
        self._confined = ConfinedEngine([one for one in self._templates.values() if one.way == "confined"])
        self._values: Mapping[str, Any] = {}
        self._rendered: dict[str, str | None] = {}

    def render(self, source: str, values: Mapping[str, Any]) -> str | None:
        """A template's text for a row's values; None where it would print a null.

        Kept until other values come: all answers to a row expect the same. Raises Unrenderable.
        """
        if values is not self._values:
            self._values, self._rendered = values, {}
        if source not in self._rendered:
            template = self._templates.get(source)  # None: a constant of the job file
            self._rendered[source] = source if template is None else self._render(template, values)
        return self._rendered[source]

    def names_of(self, source: str) -> tuple[str, ...]:
        """What a template names: columns, and parts of a reply."""
        template = self._templates.get(source)
        return () if template is None else template.columns

    def close(self) -> None:
        """Ends the child process, if a template needed one."""
        self._confined.close()

    def _render(self, template: Template, values: Mapping[str, Any]) -> str | None:
        if template.way == "constant":
            return template.source
        context = template.context({name: self._converted(name, values[name]) for name in template.columns})
        try:
            if template.way == "fast" and None not in context.values():
                return shielded(partial(self._fast.render_template, template.key, **context))
            engine = self._confined if template.way == "confined" else self._careful
            return engine.render(template.key, context)
        except Unrenderable as error:
            if any(holds_null(value) for value in context.values()):
                return None
            raise Unrenderable(reason_in(context, error.reason), template.key) from None

    def _converted(self, name: str, value: Any) -> Any:
        convert = self._converters.get(name)
        return value if convert is None else convert(value)


def _sources(specs: Sequence[GraderSpec]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """(job key, template, the names that it may use beside columns) of every text of the graders."""
    for index, spec in enumerate(specs):
        key = f"score[{index}].expected"
        if isinstance(spec.expected, str):
            yield key, spec.expected, ()
        elif isinstance(spec.expected, list | tuple):
            texts = [(place, one) for place, one in enumerate(spec.expected) if isinstance(one, str)]
            yield from ((f"{key}[{place}]", one, ()) for place, one in texts)
        if spec.prompt is not None:
            for part in ("system", "user"):
                text = getattr(spec.prompt, part)
                if text is not None:
                    yield f"score[{index}].prompt.{part}", text, OF_A_REPLY
