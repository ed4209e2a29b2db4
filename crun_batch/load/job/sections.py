"""The sections of a job file: every key with its type, its default, and what it means.

The text below a field is its description in the JSON Schema and in the reference. Rules that look at several
keys live in `rules`; what is checked here looks at one value only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
    field_serializer,
    model_validator,
)
from typing_extensions import TypedDict

from crun_batch.load.job.addresses import base_url, query
from crun_batch.load.job.csv_values import Delimiter, Encoding, Quote
from crun_batch.load.job.places import split_dotted


class Section(BaseModel):
    """A mapping of known keys. A key without a value (null) counts as not written."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_written(cls, keys: Any) -> Any:
        if not isinstance(keys, Mapping):
            return keys
        return {key: value for key, value in keys.items() if value is not None or key not in cls.model_fields}


def not_written() -> Any:
    """The default of a section: what its keys' defaults say, made by the job's one validator and not by its own.

    A validator for each section, made while this is loaded, would take as long as that of the whole job.
    """
    return Field({}, validate_default=True)


def _text_or_list(value: Any) -> Any:
    texts = [value] if isinstance(value, str) else value
    if (
        not isinstance(texts, list | tuple)
        or not texts
        or not all(isinstance(text, str) and text for text in texts)
    ):
        raise ValueError("must be a text or a list of texts, none of them empty")
    return value if isinstance(value, str) else tuple(value)


def _amount(value: Any) -> Any:
    """Decimal of a number or a text; a float counts by its shortest literal."""
    if isinstance(value, str) and not re.fullmatch(r"\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,2})?", value):
        raise ValueError("must be an amount such as 0.01")
    if isinstance(value, bool):
        raise ValueError("must be an amount such as 0.01")
    return Decimal(repr(value)) if isinstance(value, float) else value


_PARTS: Mapping[str, tuple[type, ...]] = {"text": (str,), "image": (str,), "file": (str, dict)}
"""Our types of parts -> what stands under the key of that name; a mapping there is the protocol's own."""


def _content(value: Any) -> Any:
    """A message's content: a text, or parts of which ours (text, image, file) are checked and others pass."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("must be a text or a list of parts")
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str):
            raise ValueError(
                f"part {number} must be a mapping with a type: text, image, file, or one of the protocol"
            )
        own = _PARTS.get(kind)
        if own and (kind in part or len(part) == 1) and not isinstance(part.get(kind), own):
            raise ValueError(f"part {number} of type {kind} needs the key {kind} with a text")
    return value


def _columns(value: Any) -> Any:
    """`all`, or {column in results: input column} in order."""
    if value == "all" or isinstance(value, Mapping):
        pairs = [] if value == "all" else list(value.items())
    elif isinstance(value, list | tuple):
        pairs = []
        for item in value:
            pairs += item.items() if isinstance(item, Mapping) else [(item, item)]
    else:
        raise ValueError("must be all, a list of columns, or a mapping {new name: column}")
    if not all(isinstance(text, str) and text for pair in pairs for text in pair):
        raise ValueError("must name columns by text; {new name: column} renames")
    names = [new for new, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"names the results column '{twice}' twice")
    return value if value == "all" else dict(pairs)


def _axes(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping: a dotted key or an axis -> its levels")
    for axis, levels in value.items():
        named = isinstance(levels, Mapping) and all(isinstance(level, Mapping) for level in levels.values())
        if not levels or not (isinstance(levels, list) or named):
            raise ValueError(
                f"axis '{axis}' must be a list of values, or a mapping of level names to keys of the job"
            )
        if isinstance(levels, list) and not split_dotted(axis):
            raise ValueError(
                f"axis '{axis}' has a list of values, so it must be a dotted key such as params.temperature"
            )
    return dict(value)


def _schema(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError("must be a JSON Schema (a mapping) or the path of one")
    return value


def _bucket_address(value: str) -> str:
    if not re.fullmatch(r"(s3|gs|az)://[^/@:?#]+/[^?#]+", value):
        raise ValueError("must be s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH, without credentials")
    return value


def _folder(value: Any) -> Any:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("must be a folder's path")
    return Path(value)


_FILE = {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"]}
_TEXT_OR_FILE = WithJsonSchema({"anyOf": [{"type": "string"}, {**_FILE, "additionalProperties": False}]})
_CONTENT = WithJsonSchema({"anyOf": [{"type": "string"}, _FILE, {"type": "array", "items": {"type": "object"}}]})
_TEXTS = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
_COLUMN_NAMES = {"type": "array", "items": {"type": ["string", "object"]}}

Text = Annotated[str, Field(min_length=1)]
Template = Annotated[str, _TEXT_OR_FILE]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
CountOrZero = Annotated[int, Strict(), Field(ge=0)]
Duration = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Strict(), Field(gt=0, le=1000, allow_inf_nan=False)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Amount = Annotated[Decimal, BeforeValidator(_amount), Field(ge=0, lt=10**12, decimal_places=12)]
PositiveAmount = Annotated[Decimal, BeforeValidator(_amount), Field(gt=0, lt=10**12, decimal_places=12)]
Paths = Annotated[str | tuple[str, ...], BeforeValidator(_text_or_list), _TEXTS]
Url = Annotated[str, AfterValidator(base_url)]
BucketAddress = Annotated[str, AfterValidator(_bucket_address)]
Query = Annotated[dict[str, str], BeforeValidator(query)]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]{0,59}$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Axes = Annotated[dict[str, Any], BeforeValidator(_axes)]
Folder = Annotated[Path, BeforeValidator(_folder), WithJsonSchema({"type": "string"})]
Schema = Annotated[
    dict[str, Any],
    BeforeValidator(_schema),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]}),
]
Columns = Annotated[
    dict[str, str] | Literal["all"],
    BeforeValidator(_columns),
    WithJsonSchema({"anyOf": [{"const": "all"}, _COLUMN_NAMES, {"type": "object"}]}),
]


class Sample(Section):
    """A random choice of rows that stays the same: the N smallest hash(seed, id), so samples nest."""

    rows: Count
    """How many rows."""
    seed: CountOrZero = 0
    """Another seed, another choice."""


class CsvSpec(Section):
    """How .csv and .tsv files are written, where not as usual."""

    delimiter: Delimiter | None = None
    """What stands between cells: one character, such as ";" or "|", or tab. Default: "," (.csv), tab (.tsv)."""
    encoding: Encoding | None = None
    """How characters are bytes, by Python's name: cp1252, utf-16, shift_jis. Default: utf-8."""
    quote: Quote | None = None
    """What stands around cells that hold a delimiter, doubled inside; none: nothing does. Default: \\"."""


class InputSpec(Section):
    """Where the rows come from, and which of them are used."""

    table: Paths | None = None
    """Path, glob or list of them: .parquet .csv .tsv .jsonl/.ndjson .json (an array of objects) .xlsx
    .arrow/.feather; texts also packed (.csv.gz, .jsonl.zst). Relative to the job file, or elsewhere: https://
    s3:// gs:// az:// hf://datasets/. Or rows of one database: sqlite:///file?table=name, postgresql://...?query=.
    """
    query: Text | None = None
    """DuckDB SQL instead of `table`; needs `id`. Reads files below the job's folder, or --allow-path."""
    where: Text | None = None
    """DuckDB predicate: only rows for which it holds."""
    id: Text | None = None
    """Unique key column. Default: `row`, the position in the source from 0, before where, sample and limit."""
    limit: Count | None = None
    """Only the first rows. Excludes `sample`."""
    sample: Sample | None = None
    """Only a random choice of rows. Excludes `limit`."""
    csv: CsvSpec | None = None
    """How .csv and .tsv files are written, where not as usual."""
    sheet: Text | None = None
    """Sheet of an .xlsx, by name. Default: its only one."""


class Message(TypedDict):
    """One message of a conversation."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Who speaks."""
    content: Annotated[Any, BeforeValidator(_content), _CONTENT]
    """A text, {file: path}, or a list of parts: {type: text, text}, {type: image, image}, {type: file, file}
    (a URL that the gateway fetches, or a local path), or a part of the protocol, passed through."""
    name: NotRequired[str]
    """Name of the speaker, passed through."""
    tool_calls: NotRequired[list[dict[str, Any]]]
    """Tool calls of the assistant, passed through."""
    tool_call_id: NotRequired[str]
    """The call that a tool message answers, passed through."""


class PromptSpec(Section):
    """What is asked: MiniJinja over the row's columns; an undefined name is an error.

    Exactly one of `user`, `messages`, `turns`, `messages_column`, `body_column`. Any text may be {file: path},
    relative to the job file.
    """

    system: Template | None = None
    """The system prompt, beside `user` or `turns`."""
    user: Template | None = None
    """The user's message."""
    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None
    """A whole conversation: few-shot examples, history."""
    messages_column: Text | None = None
    """Column with OpenAI-style messages (JSON text or nested)."""
    body_column: Text | None = None
    """Column with a whole request body, sent byte for byte. Excludes model, params, output_schema."""
    turns: Annotated[tuple[Template, ...], Field(min_length=1)] | None = None
    """User messages of one conversation per row; the answers so far are sent again. Not with completions."""
    cache: Text = "off"
    """Ask the provider to keep what all requests begin with: auto, off, or a name for `prompt_cache_key`. Sends
    that key (chat, responses) and markers (messages; chat with Claude), and warms each prefix up."""
    stateful: Flag = False
    """With `turns` on the responses protocol: refer to the answers so far by previous_response_id."""


class LimitsSpec(Section):
    """How fast, how long, how often."""

    concurrency: Count = 64
    """Ceiling of requests in flight."""
    adaptive: Flag = True
    """Additive increase, multiplicative decrease under that ceiling."""
    requests_per_minute: Count | None = None
    """Limit for (base URL, key, model), whatever the variants. Default: none."""
    tokens_per_minute: Count | None = None
    """Input and output limit at admission, corrected by real usage. Default: none."""
    attempt_timeout_seconds: Duration = 600.0
    """Total deadline of one attempt; connecting has its own, shorter one (10 s)."""
    max_attempts: Count = 6
    """Attempts that ended in 408, 500, 502, 504, network, unknown. 429, 503, 529, 455 are not counted."""
    max_unknown_retries: CountOrZero = 1
    """Retries after an attempt that may have been billed."""
    give_up_after_minutes: Duration = 30.0
    """Stop after so long without any success (exit 5)."""
    stop_at_error_rate: Share = 0.5
    """Per variant, over its last 200 finished rows, from 20 on: stop (exit 5)."""
    on_variant_failure: Literal["set_aside", "stop"] = "set_aside"
    """Where the gateway refuses one variant of several (unknown model, key, error rate, no success for long): set
    it aside, finish the others and then exit 5, or stop at once. Rows of a variant set aside stay open."""


class BatchSpec(Section):
    """How `lane: batch` cuts the job, and how it asks. The gateway's own limits may be lower."""

    form: Literal["auto", "openai", "anthropic", "openrouter"] = "auto"
    """In whose form the gateway takes batches: files (openai), or requests inline with their results in a stream
    (anthropic) or in the batch itself (openrouter). auto: openrouter at openrouter.ai, else anthropic with
    endpoint.protocol: messages, else openai."""
    max_requests: Annotated[int, Strict(), Field(ge=1, le=100_000)] = 50_000
    """Most requests of one batch."""
    max_megabytes: Annotated[float, Strict(), Field(gt=0, le=1000, allow_inf_nan=False)] = 100.0
    """Most bytes of one batch's file, in millions."""
    max_enqueued_tokens: Count | None = None
    """Input tokens and output limits that may wait in batches at one time, for each variant. Default: no limit,
    until the gateway refuses a batch as too much."""
    completion_window: Text = "24h"
    """In what time the gateway is to be done, in its own words."""
    look_every_seconds: Duration = 30.0
    """How often it is asked how far a batch is."""


class PackSpec(Section):
    """Several rows in one request. Not with turns, tools, several choices, files, `lane: batch`."""

    rows: Annotated[int, Strict(), Field(ge=2, le=1000)] = 10
    """How many rows one request holds; half as many after a reply that was cut off."""
    format: Literal["json", "lines"] = "json"
    """How answers come back: a JSON array of exactly so many, or a line for each, which costs fewer tokens."""
    min_agreement: Share = 0.98
    """After a pilot: the share of rows with the same answer alone and packed that the lower end of its 95 %
    interval must reach; below, nothing more is sent packed."""
    seed: CountOrZero = 0
    """Decides which rows stand together, and in which order."""


class BudgetSpec(Section):
    """What the run may cost: for the run directory, all its sessions, pilot, retries, repairs, judges."""

    max_cost_usd: PositiveAmount | None = None
    """Most dollars. Needs params.max_output_tokens. Default: no cap."""
    max_cost_credits: PositiveAmount | None = None
    """Most credits. Needs params.max_output_tokens. Default: no cap."""
    credits: Literal["require", "warn", "off"] = "require"
    """Whether the balance must suffice. A gateway without a balance call is said once and goes on."""
    keep_credits: Amount = Decimal(0)
    """Leave at least this balance; re-read every 60 s."""

    @property
    def is_capped(self) -> bool:
        """Whether the run's cost has a cap, so that every request needs a bound."""
        return self.max_cost_usd is not None or self.max_cost_credits is not None


class OutputSpec(Section):
    """Where results go and what they carry."""

    dir: Folder = Path("runs/job")
    """Run directory, relative to the current directory. Default: runs/<name>."""
    columns: Columns | None = None
    """Input columns carried into results: a list ({new: column} renames), a mapping, or all. Default: id and
    those that the prompt uses. One added later is filled into earlier results where the table is the same."""
    publish: BucketAddress | None = None
    """s3://BUCKET/PATH (gs://, az://): where sealed attempts are copied as they come, and results at the end, each
    compared by its hash. Not under --simulate."""

    @field_serializer("dir", when_used="json")
    def _folder_as_text(self, folder: Path) -> str:
        return folder.as_posix()


class OnEndSpec(Section):
    """Who is told when a run ends, however it ends: how it went, as one JSON document. Not under --simulate."""

    command: Paths | None = None
    """A program and its arguments, run without a shell: the document is its standard input. A text is split at
    blanks, as a shell does."""
    webhook_env: EnvironmentName | None = None
    """Variable that holds an https address, a secret as a key is: the document is posted there. Its `text` is what
    Slack and Mattermost show."""
