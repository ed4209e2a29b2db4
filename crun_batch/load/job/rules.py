"""What the keys of a job file allow beside each other: tables of rules over the tree as written.

The rules look at the tree, not at the model, so that they speak even where some value has a wrong type: all
mistakes come at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from crun_batch.errors import Mistake
from crun_batch.load.job.addresses import host_of
from crun_batch.load.job.batch_forms import PROTOCOLS_OF, batch_form
from crun_batch.load.job.endpoint_sections import DEFAULT_BASE_URL
from crun_batch.load.job.grader_rules import grader_mistakes
from crun_batch.load.job.lanes import goes_in_batches
from crun_batch.load.job.output_schema import column_of, schema_problem
from crun_batch.load.job.pack_rules import pack_mistakes
from crun_batch.load.job.places import LITERAL_KEY, Document, KeyPath
from crun_batch.load.job.unbounded import HOSTED_FIELDS, STORED_INPUTS
from crun_batch.records import is_batch_lane

PROMPT_FORMS = ("prompt.user", "prompt.messages", "prompt.turns", "prompt.messages_column", "prompt.body_column")
OUTPUT_LIMITS: Mapping[str, tuple[str, ...]] = {
    "chat": ("max_output_tokens", "max_tokens", "max_completion_tokens"),
    "responses": ("max_output_tokens",),
    "messages": ("max_output_tokens", "max_tokens"),
    "completions": ("max_output_tokens", "max_tokens"),
}
"""Protocol -> the params that bound a reply's tokens: ours, and the protocol's own names."""

NUMBERS = ("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty")
"""Params that are one number in every protocol."""

HEADER_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""`${NAME}` in a header: replaced from the environment when the run starts."""

CRUN_HOST = urlsplit(DEFAULT_BASE_URL).hostname

KEY_ADVICE = (
    "a key has no place in a job file: name its variable in endpoint.api_key_env, or its file in api_key_file"
)
_HEADER_ADVICE = "write ${NAME}: it is read from the environment and never written anywhere"
_SECRET_NAME = re.compile(
    r"(?i)(api|access|secret|auth)?[_-]?(key|token|secret|password|authorization|bearer|cookie)"
)
_SECRET_HEADER = re.compile(r"(?i)authorization|cookie|.*(api[_-]?key|token|secret|password).*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OUR_HEADERS = ("host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection")


class Written:
    """The tree by dotted key. None: not written, null, or empty."""

    def __init__(self, document: Document) -> None:
        self._tree = document.tree
        self.needs_table = document.needs_table

    def __call__(self, key: str) -> Any:
        value: Any = self._tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return None if value in ({}, []) else value

    def text(self, key: str) -> str | None:
        """What is written there, where it is a text."""
        value = self(key)
        return value if isinstance(value, str) else None

    def has(self, *keys: str) -> bool:
        """Whether all of the keys are written."""
        return all(self(key) is not None for key in keys)

    def output_limits(self) -> list[str]:
        """The params written that bound a reply's tokens."""
        protocol = self("endpoint.protocol")
        names = OUTPUT_LIMITS.get(protocol if isinstance(protocol, str) else "chat", ())
        return [f"params.{name}" for name in names if self.has(f"params.{name}")]

    def goes_in_batches(self) -> bool:
        """Whether requests go in batches, whatever follows these."""
        return goes_in_batches(self("lane"))

    def batch_form(self) -> str | None:
        """In which form batches go; None: the lane is live."""
        if not self.goes_in_batches():
            return None
        return batch_form(self("batch.form"), self("endpoint.protocol"), self("endpoint.base_url"))

    def budgeted(self) -> bool:
        """Whether a budget is set."""
        return self.has("budget.max_cost_usd") or self.has("budget.max_cost_credits")


class Rule(NamedTuple):
    """`key` gets the complaint `says` where the rule is `broken`."""

    key: str
    says: str
    broken: Callable[[Written], bool]


EXCLUDES: tuple[tuple[str, str, str], ...] = (
    ("input.query", "input.table", "keep one"),
    ("input.sample", "input.limit", "keep one"),
    ("endpoint.api_key_file", "endpoint.api_key_env", "keep one"),
    ("prompt.system", "prompt.messages", "add a message with the role system to prompt.messages instead"),
    ("prompt.system", "prompt.messages_column", "the rows' messages must carry it"),
    ("prompt.system", "prompt.body_column", "the rows' bodies must carry it"),
    ("model", "prompt.body_column", "the rows' bodies must carry it"),
    ("params", "prompt.body_column", "the rows' bodies must carry them"),
    ("output_schema", "prompt.body_column", "the rows' bodies must carry it"),
)
"""(key, the key it cannot stand beside, what to do)."""


def _lets_the_gateway_act(job: Written, field: str) -> bool:
    params = job("params")
    return job.budgeted() and isinstance(params, Mapping) and HOSTED_FIELDS[field](params.get(field))


def _names_what_is_kept(job: Written, field: str) -> bool:
    return job.budgeted() and job("endpoint.protocol") == "responses" and bool(job(f"params.{field}"))


RULES: tuple[Rule, ...] = (
    Rule(
        "input",
        "needs table (path, glob or list) or query (DuckDB SQL)",
        lambda job: job.needs_table and not job.has("input.table") and not job.has("input.query"),
    ),
    Rule(
        "input.query",
        "needs input.id, the result's unique key column",
        lambda job: job.has("input.query") and not job.has("input.id"),
    ),
    Rule(
        "model",
        "is missing: name the model to ask",
        lambda job: not any(map(job.has, ("model", "sweep", "prompt.body_column"))),
    ),
    Rule(
        "prompt",
        "needs exactly one of user, messages, turns, messages_column, body_column",
        lambda job: (
            isinstance(job("prompt"), Mapping | None)
            and sum(map(job.has, PROMPT_FORMS)) != 1
            and not job.has("sweep")
        ),
    ),
    Rule(
        "prompt.stateful",
        "needs prompt.turns and endpoint.protocol: responses",
        lambda job: (
            job("prompt.stateful") is True
            and not (job.has("prompt.turns") and job("endpoint.protocol") == "responses")
        ),
    ),
    Rule(
        "prompt.stateful",
        "needs stored responses, and params.store is false",
        lambda job: job("prompt.stateful") is True and job("params.store") is False,
    ),
    Rule(
        "prompt.turns",
        "need a protocol that says who said what: chat, responses or messages",
        lambda job: job.has("prompt.turns") and job("endpoint.protocol") == "completions" and not job.has("sweep"),
    ),
    Rule(
        "endpoint.auth",
        "none sends no key, but a key is named (api_key_env or api_key_file): drop one of them",
        lambda job: (
            job("endpoint.auth") == "none"
            and (job.has("endpoint.api_key_env") or job.has("endpoint.api_key_file"))
        ),
    ),
    Rule(
        "endpoint.auth",
        "needs a key: name its variable in endpoint.api_key_env, or its file in endpoint.api_key_file",
        lambda job: (
            job("endpoint.auth") in ("bearer", "x-api-key")
            and not (job.has("endpoint.api_key_env") or job.has("endpoint.api_key_file"))
        ),
    ),
    Rule(
        "endpoint.headers",
        "hold Authorization or X-API-Key, which endpoint.auth also sends: drop the header, or set auth: none",
        lambda job: (
            job("endpoint.auth") not in ("none", None)
            and not {"authorization", "x-api-key"}.isdisjoint(map(str.lower, _names(job("endpoint.headers"))))
        ),
    ),
    Rule(
        "endpoint.stream",
        "must be false with endpoint.protocol: completions at api.crun.ai, which does not stream it; "
        "other servers do",
        lambda job: (
            job("endpoint.stream") is True
            and job("endpoint.protocol") == "completions"
            and host_of(job("endpoint.base_url")) == CRUN_HOST
        ),
    ),
    Rule(
        "params",
        "needs max_output_tokens: the messages protocol requires it",
        lambda job: (
            job("endpoint.protocol") == "messages"
            and not (job.output_limits() or job.has("prompt.body_column") or job.has("sweep"))
        ),
    ),
    Rule(
        "budget",
        "needs params.max_output_tokens: without it one request may cost any amount",
        lambda job: (
            job.budgeted() and not (job.output_limits() or job.has("prompt.body_column") or job.has("sweep"))
        ),
    ),
    Rule(
        "endpoint.stream",
        "must be false with lane: batch, whose replies come in files",
        lambda job: job.goes_in_batches() and job("endpoint.stream") is True,
    ),
    Rule(
        "endpoint.name",
        "must not end with batch where lane is batch-then-live: what goes in batches is called so, and no other",
        lambda job: job("lane") == "batch-then-live" and is_batch_lane(job.text("endpoint.name")),
    ),
    *(
        Rule(
            "endpoint.protocol",
            f"must be {' or '.join(protocols)} with batch.form: {form}",
            lambda job, form=form, protocols=protocols: (  # type: ignore[misc]
                job.batch_form() == form and (job("endpoint.protocol") or "chat") not in protocols
            ),
        )
        for form, protocols in PROTOCOLS_OF.items()
    ),
    Rule(
        "prompt.body_column",
        "has a model in each body, and batch.form: openrouter needs one for the whole batch: set lane: live",
        lambda job: job.batch_form() == "openrouter" and job.has("prompt.body_column"),
    ),
    Rule(
        "prompt.stateful",
        "needs lane: live: a batch is done in any order, and may be done where the answers so far are not kept",
        lambda job: job.goes_in_batches() and job("prompt.stateful") is True,
    ),
    Rule(
        "params.n",
        "must be 1 with a budget: more answers cost more than is reserved; use repeats",
        lambda job: job.budgeted() and job("params.n") not in (None, 1),
    ),
    Rule(
        "params.best_of",
        "must be 1 with a budget: more answers cost more than is reserved",
        lambda job: job.budgeted() and job("params.best_of") not in (None, 1),
    ),
    *(
        Rule(
            f"params.{field}",
            "asks for what the gateway does and bills beside the tokens, and nothing bounds that: with a budget "
            "take it out",
            partial(_lets_the_gateway_act, field=field),
        )
        for field in HOSTED_FIELDS
    ),
    *(
        Rule(
            f"params.{field}",
            "names what the gateway keeps, which is billed as input: nothing bounds that, with a budget take it "
            "out",
            partial(_names_what_is_kept, field=field),
        )
        for field in STORED_INPUTS
    ),
    Rule(
        "params",
        "must bound the reply by one of max_output_tokens, max_tokens, max_completion_tokens, not by several",
        lambda job: len(job.output_limits()) > 1,
    ),
)


def broken_rules(document: Document) -> list[Mistake]:
    """Every rule of this module that the tree breaks."""
    job = Written(document)
    found = [(key, f"cannot stand beside {other}: {do}") for key, other, do in EXCLUDES if job.has(key, other)]
    found += [(rule.key, rule.says) for rule in RULES if rule.broken(job)]
    found += [
        (key, "must be a whole number, at least 1")
        for key in job.output_limits()
        if not isinstance(job(key), int) or job(key) is True or job(key) < 1
    ]
    found += [("output_schema", says) for says in _schema_problems(job)]
    found += [
        (f"params.{name}", f"is one number; several are an axis: sweep: {{params.{name}: [...]}}")
        for name in NUMBERS
        if isinstance(job(f"params.{name}"), list)
    ]
    mistakes = [document.mistake(tuple(key.split(".")), says) for key, says in found]
    placed = [*grader_mistakes(document.tree.get("score")), *_secrets(document.tree)]
    placed += pack_mistakes(document.tree.get("pack"), job)
    return mistakes + [document.mistake(path, says) for path, says in placed]


def _schema_problems(job: Written) -> Iterator[str]:
    schema = job("output_schema")
    if not isinstance(schema, Mapping):
        return
    problem = schema_problem(schema)
    if problem is not None:
        yield problem
    elif job("endpoint.protocol") == "messages" and not job.has("sweep") and not _describes_an_object(schema):
        yield "must describe an object: the messages protocol asks for it as the input of a tool"


def _describes_an_object(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object" or column_of(schema).kind == "struct"


def is_secret(path: KeyPath) -> bool:
    """Whether the value at `path` may be a key, so that no message shows it."""
    path = path[2:] if path[:1] == ("score",) else path
    hidden = path[:1] == ("endpoint",) and path[1:2] not in (("protocol",), ("stream",), ("base_url",))
    return hidden or any(isinstance(part, str) and _SECRET_NAME.fullmatch(part) for part in path)


def is_misplaced_key(path: KeyPath) -> bool:
    """Whether an unknown key is where somebody put an API key, such as `endpoint.api_key`."""
    path = path[2:] if path[:1] == ("score",) and len(path) > 3 else path
    return (
        path[:-1] in ((), ("endpoint",)) and isinstance(path[-1], str) and bool(_SECRET_NAME.fullmatch(path[-1]))
    )


def _names(headers: Any) -> list[str]:
    return [name for name in headers if isinstance(name, str)] if isinstance(headers, Mapping) else []


def _secrets(tree: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for path, endpoint in _endpoints(tree):
        headers = endpoint.get("headers")
        if isinstance(headers, Mapping):
            yield from ((path + place, says) for place, says in _header_mistakes(headers))
    for key, value in tree.items():
        if key != "prompt":
            yield from _literal_keys(value, (key,))


def _endpoints(tree: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """The job's endpoint and its judges', each with the path that leads to the key `endpoint`."""
    score = tree.get("score")
    judges = enumerate(score if isinstance(score, list) else ())
    holders: list[tuple[KeyPath, Any]] = [((), tree), *((("score", index), one) for index, one in judges)]
    for path, holder in holders:
        endpoint = holder.get("endpoint") if isinstance(holder, Mapping) else None
        if isinstance(endpoint, Mapping):
            yield path, endpoint


def _header_mistakes(headers: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    names = [name.lower() for name in headers]
    for name, value in headers.items():
        path = ("endpoint", "headers", name)
        if not _HEADER_NAME.fullmatch(name):
            yield path, "is no name of a header"
        elif name.lower() in _OUR_HEADERS:
            yield path, "is set by the request itself; drop it"
        elif names.count(name.lower()) > 1:
            yield path, "written twice; upper and lower case are the same header"
        if not isinstance(value, str):
            continue
        if "${" in HEADER_VARIABLE.sub("", value):
            yield path, "holds '${' without a variable's name; write ${NAME}"
        elif _SECRET_HEADER.fullmatch(name) and not HEADER_VARIABLE.search(value):
            yield path, f"must not hold a key itself; {_HEADER_ADVICE}"
        if any((character < " " and character != "\t") or character == "\x7f" for character in value):
            yield path, "must be one line of text"


def _literal_keys(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str) and LITERAL_KEY.search(value) and not is_misplaced_key(path):
        yield path, f"looks like a key; {KEY_ADVICE}"
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _literal_keys(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _literal_keys(child, (*path, index))
