"""One row to one prompt: templates over its columns, messages from a column, or a whole body from a column.

Owns the way from the job's prompt to `Prompt` and the place (row, id, job key) of everything that goes wrong
on it. Mistakes that need no row are all found when the renderer is made. Must not know protocols or prices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import orjson
import pyarrow as pa

from crun_batch.errors import InputError, Mistake
from crun_batch.load.folders import Folders
from crun_batch.load.prompt.column_names import did_you_mean
from crun_batch.load.prompt.columns import converter, holds_binary, json_bytes, may_hold_json, without_nulls
from crun_batch.load.prompt.confined import ConfinedEngine
from crun_batch.load.prompt.parts import Attachments, is_remote, remote_parts, remote_parts_of_body, unsendable
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.load.prompt.template_check import compile_template
from crun_batch.load.prompt.templates import (
    MAX_TEXT_CHARACTERS,
    CarefulEngine,
    Template,
    Unrenderable,
    environment,
    reason_in,
    shielded,
)
from crun_batch.records import Prompt, Row

Build = Callable[[Mapping[str, Any]], Any]
"""From the converted values of a row to a piece of its prompt."""


class Renderer:
    """Renders the prompts of a job. Not for several threads at once.

    `prompt_spec` is the job's prompt (system, user, messages, turns, messages_column, body_column), `schema` the
    table's, `folders` where local files are, `job_source` what complaints call the job.
    Raises InputError with every mistake in templates and column names.
    """

    columns: tuple[str, ...]
    """The columns that the prompt uses, in the table's order."""
    reads_local_files: bool
    """Whether an image or file part may name a local path."""
    is_plain: bool
    """Whether prompts are messages alone, neither whole bodies nor with later turns."""
    constant_messages: int
    """How many messages all rows begin with: texts without a template."""

    def __init__(self, prompt_spec: Any, *, schema: pa.Schema, folders: Folders, job_source: str) -> None:
        self._schema = schema
        self._file = job_source
        self._mistakes: list[Mistake] = []
        self._templates: list[Template] = []
        self._used: set[str] = set()
        self._nested = {field.name for field in schema if pa.types.is_nested(field.type)}
        self._attachments = Attachments(folders)
        self._has_parts = False
        self.reads_local_files = False
        self._row: Row | None = None
        self._prompt: Prompt | RowRejected = Prompt()
        self._rows: Sequence[Row] | None = None
        self._prompts: Sequence[Prompt | RowRejected] = ()
        self.is_plain = True
        self._read = self._reader(prompt_spec)
        if self._mistakes:
            raise InputError(self._mistakes)
        self.columns = tuple(name for name in schema.names if name in self._used)
        self.constant_messages = _constant_messages(prompt_spec, self._templates)
        self._start_engines()

    def render(self, row: Row) -> Prompt:
        """The prompt of one row, kept until another row comes; RowRejected where it has none."""
        if row is not self._row:
            self._row, self._prompt = row, self._rendered(row)
        if isinstance(self._prompt, RowRejected):
            raise self._prompt
        return self._prompt

    def prompts(self, rows: Sequence[Row]) -> Sequence[Prompt | RowRejected]:
        """Of each row, its prompt or why it has none; kept until another list comes."""
        if rows is not self._rows:
            self._rows, self._prompts = rows, [self._rendered(row) for row in rows]
        return self._prompts

    def _rendered(self, row: Row) -> Prompt | RowRejected:
        try:
            return self._read(row.values)
        except Unrenderable as error:
            return RowRejected(row, error.reason, error.key)

    def close(self) -> None:
        """Ends the child process, if a template needed one."""
        self._confined.close()

    def _start_engines(self) -> None:
        self._fast = environment()
        for template in self._templates:
            self._fast.add_template(template.key, template.source)
        self._careful = CarefulEngine(self._templates)
        self._confined = ConfinedEngine([template for template in self._templates if template.way == "confined"])
        kinds = {name: self._schema.field(name).type for name in self.columns}
        self._converters = {name: convert for name, kind in kinds.items() if (convert := converter(kind))}

    def _reader(self, spec: Any) -> Callable[[Mapping[str, Any]], Prompt]:
        if spec.body_column is not None:
            self.is_plain = False
            name = self._column("prompt.body_column", spec.body_column)
            return partial(_body_prompt, name)
        if spec.messages_column is not None:
            name = self._column("prompt.messages_column", spec.messages_column)
            return partial(_messages_prompt, name)
        turns = [self._message("user", turn, f"prompt.turns[{i}]") for i, turn in enumerate(spec.turns or ())]
        self._messages = [
            *([self._message("system", spec.system, "prompt.system")] if spec.system is not None else []),
            *(self._spec_message(message, index) for index, message in enumerate(spec.messages or ())),
            *([self._message("user", spec.user, "prompt.user")] if spec.user is not None else []),
            *turns[:1],
        ]
        self._later_turns = turns[1:]
        self.is_plain = not self._later_turns
        return self._template_prompt if self.is_plain else self._conversation_prompt

    def _column(self, key: str, name: str) -> str:
        if name not in self._schema.names:
            message = f"there is no column '{name}'; {did_you_mean(name, self._schema.names)}"
            self._mistakes.append(Mistake(message, file=self._file, key=key))
        elif not may_hold_json(kind := self._schema.field(name).type):
            message = f"column '{name}' is of type {kind}; JSON text or nested values are needed"
            self._mistakes.append(Mistake(message, file=self._file, key=key))
        self._used.add(name)
        return name

    def _template_prompt(self, values: Mapping[str, Any]) -> Prompt:
        if self._converters:
            values = {**values, **{name: convert(values[name]) for name, convert in self._converters.items()}}
        messages = tuple([build(values) for build in self._messages])
        if self._has_parts:
            return Prompt(
                messages=messages, remote_parts=remote_parts(message.get("content") for message in messages)
            )
        return Prompt(messages=messages)

    def _conversation_prompt(self, values: Mapping[str, Any]) -> Prompt:
        """All turns at once: a row whose last turn cannot be said is not asked its first."""
        if self._converters:
            values = {**values, **{name: convert(values[name]) for name, convert in self._converters.items()}}
        messages = tuple([build(values) for build in self._messages])
        return Prompt(messages=messages, later_turns=tuple([build(values) for build in self._later_turns]))

    def _spec_message(self, message: Any, index: int) -> Build:
        fields = message if isinstance(message, Mapping) else message.model_dump(exclude_none=True)
        key = f"prompt.messages[{index}]"
        return self._tree({"role": fields["role"], **fields}, key, verbatim=("role",))

    def _message(self, role: str, source: str, key: str) -> Build:
        template = self._template(source, key)
        if template.way == "constant":
            message = {"role": role, "content": template.source}
            return lambda values: message
        render = self._render_text
        return lambda values: {"role": role, "content": render(template, values)}

    def _template(self, source: str, key: str) -> Template:
        template, mistakes = compile_template(
            source, key=key, columns=self._schema.names, nested_columns=self._nested, file=self._file
        )
        binary = [name for name in template.columns if holds_binary(self._schema.field(name).type)]
        for name in binary:
            message = f"column '{name}' holds raw bytes, which have no form as text; cast it in input.query"
            mistakes.append(Mistake(message, file=self._file, key=key))
        self._mistakes += mistakes
        self._templates.append(template)
        self._used.update(template.columns)
        return template

    def _tree(self, value: Any, key: str, verbatim: tuple[str, ...] = ("type",)) -> Build:
        """A JSON-like value of the job whose texts are templates, but for the fields that are names of things."""
        if isinstance(value, str):
            template = self._template(value, key)
            return partial(self._render_text, template)
        if isinstance(value, Mapping):
            if value.get("type") in ("image", "file") and isinstance(value.get(value["type"]), str):
                return self._attachment(value, key)
            self._has_parts = self._has_parts or "type" in value
            builds = {
                name: (_constant(item) if name in verbatim else self._tree(item, f"{key}.{name}"))
                for name, item in value.items()
            }
            return lambda values: {name: build(values) for name, build in builds.items()}
        if isinstance(value, (list, tuple)):
            items = [self._tree(item, f"{key}[{index}]") for index, item in enumerate(value)]
            return lambda values: [build(values) for build in items]
        return _constant(value)

    def _attachment(self, part: Mapping[str, Any], key: str) -> Build:
        kind = part["type"]
        self._has_parts = True
        reference = self._template(part[kind], f"{key}.{kind}")
        if not is_remote(reference.source) and not reference.source.startswith("data:"):
            self.reads_local_files = True
        others = {name: item for name, item in part.items() if name not in ("type", kind)}
        build_others = self._tree(others, key)

        def build(values: Mapping[str, Any]) -> dict[str, Any]:
            name = self._render_text(reference, values).strip()
            try:
                url = self._attachments.url(name, image=kind == "image")
            except Unrenderable as error:
                raise Unrenderable(error.reason, reference.key) from None
            filename = {} if kind == "image" else {"filename": _filename(name)}
            return {"type": kind, "url": url, **filename, **build_others(values)}

        return build

    def _render_text(self, template: Template, values: Mapping[str, Any]) -> str:
        if template.way == "constant":
            return template.source
        plain = template.joined(values)
        if plain is not None:
            return _bounded(plain, template)
        context = template.context(values)
        try:
            if template.way == "confined":
                text = self._confined.render(template.key, context)
            elif template.way == "careful" or None in context.values():
                text = self._careful.render(template.key, context)
            else:
                text = shielded(partial(self._fast.render_template, template.key, **context))
        except Unrenderable as error:
            raise Unrenderable(reason_in(context, error.reason), template.key) from None
        return _bounded(text, template)


def _constant_messages(spec: Any, templates: Sequence[Template]) -> int:
    """How many leading messages are made of constant texts alone."""
    varying = {template.key for template in templates if template.way != "constant"}
    first = [f"prompt.messages[{index}]" for index in range(len(spec.messages or ()))]
    keys = [*(["prompt.system"] if spec.system is not None else []), *first]
    varies = (any(key == one or one.startswith(f"{key}.") for one in varying) for key in keys)
    return sum(1 for _ in takewhile(lambda is_varying: not is_varying, varies))


def _bounded(text: str, template: Template) -> str:
    if len(text) > MAX_TEXT_CHARACTERS:
        reason = f"it renders {len(text):,} characters; at most {MAX_TEXT_CHARACTERS:,} are sent"
        raise Unrenderable(reason, template.key)
    return text


def _constant(value: Any) -> Build:
    return lambda values: value


def _filename(reference: str) -> str:
    name = reference.split("?", 1)[0].rstrip("/").rsplit("/", 1)[-1]
    return "file" if reference.startswith("data:") or not name else name


def _messages_prompt(column: str, values: Mapping[str, Any]) -> Prompt:
    messages = _from_column(column, values)
    if not isinstance(messages, list) or not messages:
        raise Unrenderable("it holds no list of messages", f"column '{column}'")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Unrenderable(f"its message {index} is no object with a role", f"column '{column}'")
        reason = unsendable(message)
        if reason is not None:
            raise Unrenderable(f"message {index} cannot be sent: {reason}", f"column '{column}'")
    return Prompt(
        messages=tuple(messages), remote_parts=remote_parts(message.get("content") for message in messages)
    )


def _body_prompt(column: str, values: Mapping[str, Any]) -> Prompt:
    value = values[column]
    content = _from_column(column, values)
    if not isinstance(content, dict):
        raise Unrenderable("a request body has to be a JSON object", f"column '{column}'")
    if isinstance(value, str):
        body = value.encode()
    elif isinstance(value, bytes):
        body = value
    else:
        body = json_bytes(content)
    return Prompt(body=body, remote_parts=remote_parts_of_body(content))


def _from_column(column: str, values: Mapping[str, Any]) -> Any:
    """The value of a column that holds JSON text or nested values."""
    value = values[column]
    if value is None:
        raise Unrenderable("it is null here", f"column '{column}'")
    if not isinstance(value, (str, bytes)):
        return without_nulls(value)
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Unrenderable(f"it is no JSON: {error}", f"column '{column}'") from None
