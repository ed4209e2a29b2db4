"""The job: the whole contract of a job file, and the way from its text to a checked, frozen value.

Owns the model's root, the defaults that depend on several keys, and the order of the checks: values, files,
types, rules, and then every mistake at once. The environment is read for one thing here, the default address;
secrets are resolved in `secrets`, when a run starts.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import orjson
from msgspec import structs
from pydantic import Field, PrivateAttr, ValidationError

from crun_batch.errors import InputError, Mistake
from crun_batch.load.folders import Folders, checked_folders
from crun_batch.load.job.endpoint_lists import (
    at_each_endpoint,
    has_own_terms,
    in_each_lane,
    listed_mistake,
    with_endpoint_defaults,
    with_own_terms,
)
from crun_batch.load.job.endpoint_sections import EndpointSpec, PricesSpec
from crun_batch.load.job.file import (
    FORMATS,
    Format,
    file_text,
    format_of,
    overridden,
    plain_tree,
    read_text,
    read_tree,
    with_files,
)
from crun_batch.load.job.grader_sections import GraderSpec
from crun_batch.load.job.mistakes import mistakes_of
from crun_batch.load.job.output_schema import schema_of_class
from crun_batch.load.job.places import KEYWORDS_SOURCE, Document, KeyPath, written
from crun_batch.load.job.profiles import with_shared_files
from crun_batch.load.job.rules import OUTPUT_LIMITS, broken_rules
from crun_batch.load.job.sections import (
    Axes,
    BatchSpec,
    BudgetSpec,
    Count,
    CountOrZero,
    Flag,
    InputSpec,
    LimitsSpec,
    Name,
    OnEndSpec,
    OutputSpec,
    PackSpec,
    Paths,
    PromptSpec,
    Schema,
    Section,
    Text,
    not_written,
)

ANYWHERE = (Path("/"),)
"""For those who only look where a job writes, or whom it asks: they send none of its texts."""
READ_WITH_THE_FILE = ("extends", "env_file")
"""Keys that name files for what stands in the resolved job, or never in a job."""
_CLASS_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Job(Section):
    """One batch job: a table, a prompt, a model, and what may be spent on it.

    `Job(...)` takes the tree of a job file as keyword arguments: `Job(model="gpt-5.4", prompt={"user": "..."})`.
    Relative paths start from `base_dir` (default: the current directory). Raises InputError with every mistake.
    """

    name: Name = "job"
    """Name of the job. Default: the file's stem."""
    input: InputSpec = not_written()
    """Where the rows come from, and which of them are used."""
    endpoint: EndpointSpec = not_written()
    """Which gateway is called, how, and where its key is found; or a list of such endpoints for the same model."""
    model: Text | None = None
    """The model to ask. Required, but with `prompt.body_column`."""
    prompt: PromptSpec = not_written()
    """What is asked."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the request. max_output_tokens is translated per protocol; all else passes through."""
    output_schema: Schema | None = None
    """JSON Schema of the replies, inline or a path (.json, .yaml); in Python also a pydantic class, itself or as
    `module:Class`. Becomes the typed, validated column `output`; asked for in the last turn of a conversation."""
    repair_attempts: CountOrZero = 1
    """Requests to repair a reply that does not fit `output_schema`; after them its status is `invalid`."""
    sweep: Axes = Field(default_factory=dict)
    """Axes whose product is the variants: a dotted job key -> its values, or an axis -> named levels, each merged
    into the job (null removes a key). See above."""
    repeats: Count = 1
    """How often each row is asked."""
    reuse: Paths | None = None
    """Run directories (one or a list, from the current directory): where one of them has an answer to the same
    request of the same repeat at the same address, it is taken over at no cost, and not asked again."""
    share_identical: Flag = False
    """Send identical requests of one variant and repeat once; the other rows get the answer, at no cost."""
    score: tuple[GraderSpec, ...] = ()
    """Graders: each gives the column score_<name>, 0 to 1."""
    limits: LimitsSpec = not_written()
    """How fast, how long, how often."""
    lane: Literal["live", "batch", "batch-then-live"] = "live"
    """How requests go: one by one with their replies, or many at a time, cheaper and within a day
    (`prices.batch_share`), or so first and what batches leave undone one by one. Judges are asked live."""
    batch: BatchSpec = not_written()
    """How `lane: batch` cuts the job."""
    pack: PackSpec | None = None
    """Ask several rows in one request, where answers are short. Rows without a valid answer are asked alone."""
    budget: BudgetSpec = not_written()
    """What the run may cost."""
    prices: PricesSpec = not_written()
    """Prices that go before the gateway's own and public lists."""
    output: OutputSpec = not_written()
    """Where results go and what they carry."""
    on_end: OnEndSpec = OnEndSpec()
    """Who is told when a run ends."""
    extends: Paths | None = None
    """A file, or several, with what jobs share: endpoint, limits, budget, prices, env_file, on_end. See above."""
    env_file: Text | None = None
    """File of lines NAME=value, such as .env, for variables that are not set otherwise. See above."""

    _document: Document = PrivateAttr()
    _max_output_tokens: int | None = PrivateAttr(None)
    _placed: tuple[Job, ...] = PrivateAttr(())
    """Itself at each endpoint of a list, or at the one that has limits or prices of its own."""
    _lanes: tuple[Job, ...] = PrivateAttr(())
    """Itself in batches, and live, where it goes both ways."""

    def __init__(
        self, document: Document | None = None, /, *, base_dir: Path | str | None = None, **keys: Any
    ) -> None:
        document = _from_keywords(keys, base_dir) if document is None else written(document)
        document, mistakes = _readied(document)
        at_each, wrong = at_each_endpoint(document)
        checked = at_each[0] if at_each else with_endpoint_defaults(document)
        found = broken_rules(checked)
        try:
            super().__init__(**(checked.tree if not wrong or at_each else {**checked.tree, "endpoint": {}}))
        except ValidationError as error:
            found += mistakes_of(error, checked, Job)
        mistakes += [*wrong, *(listed_mistake(one, checked) for one in found)]
        placed = _placed(at_each or ([checked] if has_own_terms(checked) else []), mistakes)
        lanes = _placed(in_each_lane(checked), mistakes)
        if mistakes:
            raise InputError(sorted(mistakes, key=document.order)) from None
        self._document = document
        self._placed, self._lanes = placed, lanes
        self._max_output_tokens = self.params.pop("max_output_tokens", None)

    @property
    def at_each_endpoint(self) -> tuple[Job, ...]:
        """The job at each of its endpoints: that one alone, its own limits and prices; itself where it has one."""
        return self._placed or (self,)

    @property
    def in_each_lane(self) -> tuple[Job, ...]:
        """As `at_each_endpoint`; of `batch-then-live` in batches, then live: each lane has a name and prices."""
        return self._lanes or self.at_each_endpoint

    @property
    def endpoint_key(self) -> str:
        """What its `endpoint` is called in mistakes: of a list with the place there."""
        return self._document.endpoint_key or "endpoint"

    @property
    def document(self) -> Document:
        """The job as written, its files read: what overrides and levels of a sweep are laid over."""
        return self._document

    @property
    def source(self) -> str:
        """The job file as it was named, or `Job(...)`."""
        return self._document.source

    @property
    def base_dir(self) -> Path:
        """The folder from which the job's relative paths start."""
        return self._document.base_dir

    @cached_property
    def folders(self) -> Folders:
        """The folders whose files its rows and its SQL may read."""
        return Folders(self._document.base_dir, self._document.allowed)

    def allowing(self, paths: Sequence[str | Path]) -> Job:
        """The job whose rows and SQL may read files below these folders too. Raises InputError for no folder."""
        if not paths:
            return self
        allowed = (*self._document.allowed, *checked_folders(paths))
        return Job(structs.replace(self._document, allowed=allowed))

    @cached_property
    def max_output_tokens(self) -> int | None:
        """`params.max_output_tokens`; it is not in `params`, because each protocol has its own name for it."""
        return self._max_output_tokens

    @cached_property
    def output_limit_tokens(self) -> int | None:
        """The most tokens of a reply, whichever param says so. None: no bound."""
        names = OUTPUT_LIMITS[self.endpoint.protocol]
        own = next((self.params[name] for name in names if self.params.get(name) is not None), None)
        return own if self._max_output_tokens is None else self._max_output_tokens

    def with_overrides(self, overrides: Mapping[str, object], *, source: str = "--set") -> Job:
        """The job with `overrides` (dotted key -> text or Python value), checked anew. Raises InputError."""
        read_with_it = [key for key in READ_WITH_THE_FILE if key in overrides]
        if read_with_it:
            says = "is read with the job file: give it to load_job, or to Job(...) itself"
            raise InputError([Mistake(says, file=source, key=key) for key in read_with_it])
        return Job(overridden(self._document, overrides, source=source))

    def public_dict(self) -> dict[str, object]:
        """The resolved job as a JSON value that `parse_job` reads back. Headers as written: no secret is in it."""
        tree = self.model_dump(mode="json", exclude=set(READ_WITH_THE_FILE))
        if isinstance(self._document.tree.get("endpoint"), list):
            tree["endpoint"] = [one.model_dump(mode="json")["endpoint"] for one in self._placed]
        tree["score"] = [spec.model_dump(mode="json", exclude_unset=True) for spec in self.score]
        if self._max_output_tokens is not None:
            tree["params"] = {"max_output_tokens": self._max_output_tokens, **self.params}
        return tree

    def request_fingerprint(self) -> str:
        """sha256 (hex) over what shapes requests; the same whatever limits, budget, output and address are."""
        tree = self.model_dump(mode="json", include={"model", "prompt", "params", "output_schema"})
        del tree["prompt"]["cache"]  # it changes no answer
        tree |= {"protocol": self.endpoint.protocol, "stream": self.endpoint.stream}
        tree["max_output_tokens"] = self._max_output_tokens
        return hashlib.sha256(orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)).hexdigest()


def load_job(
    path: Path,
    overrides: Mapping[str, object] = {},
    *,
    environ: Mapping[str, str] | None = None,
    needs_table: bool = True,
    allow_paths: Sequence[str | Path] = (),
) -> Job:
    """Read a job file (.yaml, .yml, .toml, .json). Raises InputError with every mistake in it.

    `overrides` are dotted keys as from `--set key=value`; `environ` defaults to the process's own. Texts and
    schemas are read from files below the job's folder and below `allow_paths`.
    """
    return parse_job(
        read_text(path, what="the job file"),
        source=str(path),
        format=format_of(path),
        folders=Folders(path.parent, checked_folders(allow_paths)),
        overrides=overrides,
        environ=environ,
        needs_table=needs_table,
    )


def load_readable_parts(path: Path, overrides: Mapping[str, object] = {}) -> Job | None:
    """Of a job file with mistakes: its `input` and `prompt`, all else at defaults; None where these are wrong too.

    To find the mistakes in the table and the templates as well, before any is corrected.
    """
    own = ("input", "prompt")
    try:
        reading = read_tree(read_text(path, what="the job file"), source=str(path), format=format_of(path))
        tree = {key: reading.tree[key] for key in own if key in reading.tree}
        prompt = tree.get("prompt")
        if not (isinstance(prompt, Mapping) and prompt.get("body_column")):
            tree["model"] = "unchecked"
        document = Document(source=str(path), base_dir=path.parent, tree=tree, places=reading.places)
        return Job(overridden(document, {key: value for key, value in overrides.items() if key.startswith(own)}))
    except InputError:
        return None


def parse_job(
    text: str,
    *,
    source: str,
    format: Format,
    folders: Folders,
    overrides: Mapping[str, object] = {},
    environ: Mapping[str, str] | None = None,
    needs_table: bool = True,
) -> Job:
    """Read a job from text; `source` is what mistakes call it, its stem the default name. Raises InputError."""
    reading = read_tree(text, source=source, format=format)
    name = reading.tree.get("name")
    document = Document(
        source=source,
        base_dir=folders.base,
        allowed=folders.allowed,
        tree={**reading.tree, "name": _safe_name(Path(source).stem) if name is None else name},
        places=reading.places,
        mistakes=reading.mistakes,
        needs_table=needs_table,
    )
    return Job(with_shared_files(document, overrides, os.environ if environ is None else environ))


def _from_keywords(keys: Mapping[str, Any], base_dir: Path | str | None) -> Document:
    tree = {
        key: value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
        for key, value in keys.items()
    }
    base_dir = Path(base_dir) if base_dir is not None else Path.cwd()
    document = Document(source=KEYWORDS_SOURCE, base_dir=base_dir, tree=tree, needs_table=False)
    return with_shared_files(document, {}, os.environ)


def _safe_name(stem: str) -> str:
    return re.sub(r"^[^\w]+|[^\w.-]+", "-", stem).strip("-.")[:60] or "job"


def _readied(document: Document) -> tuple[Document, list[Mistake]]:
    """The document with plain values, and with the texts and the schema that it keeps in files."""
    document, wrong_class = _with_schema_of_class(document)
    tree, mistakes = plain_tree(document, is_exact=_is_amount)
    mistakes = [*wrong_class, *mistakes]
    mistakes = [*document.mistakes, *mistakes]
    tree["prompt"] = with_files(tree.get("prompt"), ("prompt",), document, mistakes)
    for index, grader in enumerate(tree["score"] if isinstance(tree.get("score"), list) else ()):
        if isinstance(grader, dict) and "prompt" in grader:
            grader["prompt"] = with_files(grader["prompt"], ("score", index, "prompt"), document, mistakes)
    if isinstance(tree.get("output_schema"), str):
        tree["output_schema"] = _schema_file(tree["output_schema"], document, mistakes)
    return _with_output_dir(structs.replace(document, tree=tree, mistakes=())), mistakes


def _with_schema_of_class(document: Document) -> tuple[Document, list[Mistake]]:
    """The document with a class's schema in the class's place. Only Python names one: a job file runs no code."""
    named = document.tree.get("output_schema")
    is_name = isinstance(named, str) and document.source == KEYWORDS_SOURCE and bool(_CLASS_NAME.fullmatch(named))
    if not (is_name or isinstance(named, type)):
        return document, []
    try:
        schema, mistakes = schema_of_class(named), []
    except ValueError as error:
        schema, mistakes = None, [document.mistake(("output_schema",), str(error))]
    return structs.replace(document, tree={**document.tree, "output_schema": schema}), mistakes


def _schema_file(name: str, document: Document, mistakes: list[Mistake]) -> dict[str, Any]:
    path = document.base_dir / name
    if path.suffix.lower() not in FORMATS:
        says = f"must be a mapping, or the path of a file that ends in {', '.join(FORMATS)}"
        mistakes.append(document.mistake(("output_schema",), says))
        return {}
    text = file_text(name, ("output_schema",), document, mistakes)
    try:
        reading = read_tree(text or "{}", source=str(path), format=format_of(path))
    except InputError as error:
        mistakes += error.mistakes
        return {}
    schema, wrong = plain_tree(
        Document(str(path), document.base_dir, reading.tree, reading.places), is_exact=lambda _: False
    )
    mistakes += [*reading.mistakes, *wrong]
    return schema


def _placed(documents: Sequence[Document], mistakes: list[Mistake]) -> tuple[Job, ...]:
    """A job at each endpoint; adds to `mistakes` what is wrong there and not told yet."""
    jobs = []
    for document in documents:
        try:
            jobs.append(Job(with_own_terms(document)))
        except InputError as error:
            found = [listed_mistake(one, document) for one in error.mistakes]
            of_endpoint = [one for one in found if (one.key or "").startswith("endpoint")]
            mistakes += [one for one in (of_endpoint or found) if one not in mistakes]
    return tuple(jobs)


def _is_amount(path: KeyPath) -> bool:
    """Whether numbers there stay exact decimals."""
    return path[0] in ("prices", "budget") or (path[0] == "endpoint" and "prices" in path)


def _with_output_dir(document: Document) -> Document:
    tree = dict(document.tree)
    output = tree.get("output") or {}
    if isinstance(output, Mapping) and output.get("dir") is None:
        tree["output"] = {**output, "dir": f"runs/{tree.get('name') or 'job'}"}
    return structs.replace(document, tree=tree)
