"""What is to be done: a job, its table and its variants brought together; from rows to requests to tickets.

Owns what one unit's request is (body, hash, model, bounds) and which columns travel into the results. Nothing is
sent or written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import orjson
import pyarrow as pa
from msgspec import Struct, structs

from crun_batch.errors import InputError, Mistake
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.protocols.protocol import encode
from crun_batch.load.job.job import Job
from crun_batch.load.job.output_schema import Column, arrow_type, column_of, merged
from crun_batch.load.job.sections import PromptSpec
from crun_batch.load.job.sweep import Variation, variations
from crun_batch.load.prompt.render import Renderer, RowRejected
from crun_batch.load.prompt.score_templates import ScoreTemplates
from crun_batch.load.table.table import Table, open_table
from crun_batch.pricing.account import UnitSoFar
from crun_batch.pricing.costs import holds
from crun_batch.records import Hold, Price, Prompt, Purpose, Row, Ticket, Tries, Unit
from crun_batch.store.schema import LAST, SEQUENCE, RunSchema, attempts_schema, parts_schema, results_schema
from crun_batch.store.views import quoted
from crun_batch.workload.bodies import model_of, output_limit_tokens, unbounded_by
from crun_batch.workload.target import Asked, Judge, judges_of

NO_TRIES = Tries()
REMOTE_PART_TOKENS = 20_000
"""Reserved for an image or a file that the gateway fetches: no byte of ours bounds its tokens."""


class Request(Struct, frozen=True, gc=False):
    """A request of one row under one variant, the same for all its repeats."""

    body: bytes
    request_hash: str
    model: str | None
    input_bound_tokens: int
    output_bound_tokens: int | None
    turn: int = 0
    purpose: Purpose = "answer"
    whole_hash: str | None = None
    """Of a first request that opens a conversation: the hash of all that the row will ask."""

    @property
    def unit_hash(self) -> str:
        """What must be the same for an answered unit to stay answered."""
        return self.whole_hash or self.request_hash


class Variant(Asked, frozen=True, dict=True):
    """One way to ask: a level of every axis merged into the job."""

    renderer: Renderer
    """The same for all variants with the same prompt."""
    axes: Mapping[str, Any] = {}

    def request(self, row: Row) -> Request:
        """The first request. Raises RowRejected where the row has no prompt or the protocol cannot say it."""
        prompt = self.renderer.render(row)
        if prompt.body is not None:
            return self._given(row, prompt.body, prompt.remote_parts)
        if prompt.later_turns:
            return self._opening(row, prompt)
        asking = self.asking
        body = self.body(row, prompt.messages, self.job.params, self.job.output_schema)
        bound = len(body) + prompt.remote_parts * REMOTE_PART_TOKENS
        return Request(body, request_hash(asking.path, body), asking.model, bound, asking.output_limit_tokens)

    def later_bodies(self, row: Row) -> list[bytes]:
        """The requests of a conversation's later turns as far as they are known before it: a word per answer."""
        prompt = self.renderer.render(row)
        messages = list(prompt.messages)
        bodies = []
        for message in prompt.later_turns:
            messages += [{"role": "assistant", "content": "."}, message]
            bodies.append(self.body(row, messages, self.job.params, self.job.output_schema))
        return bodies

    def _opening(self, row: Row, prompt: Prompt) -> Request:
        """The first request of a conversation; the output schema holds for the last turn alone."""
        job = self.job
        body = self.body(row, prompt.messages, job.params, None)
        path = PROTOCOLS[self.protocol_name].path
        later = encode([prompt.later_turns, job.prompt.stateful, job.output_schema])
        return Request(
            body,
            request_hash(path, body),
            job.model,
            len(body),
            job.output_limit_tokens,
            whole_hash=request_hash(path, body + later),
        )

    def _given(self, row: Row, body: bytes, remote_parts: int) -> Request:
        path = PROTOCOLS[self.protocol_name].path
        fields = orjson.loads(body)
        complaint = unbounded_by(fields, self.protocol_name) if self.job.budget.is_capped else None
        if complaint is not None:
            raise RowRejected(f"row {row.position} (id {row.row_id!r}): {complaint}")
        bound = len(body) + remote_parts * REMOTE_PART_TOKENS
        limit = output_limit_tokens(fields, self.protocol_name)
        return Request(body, request_hash(path, body), model_of(fields), bound, limit)


def request_hash(path: str, body: bytes) -> str:
    """128 bits of BLAKE2b over the protocol's path and the body's bytes, as 32 hex digits."""
    return blake2b(body, digest_size=16, person=path.encode()[-16:]).hexdigest()


class Workload(Struct, frozen=True):
    """Everything that is to be done, ready to be walked row by row."""

    job: Job
    table: Table
    variants: tuple[Variant, ...]
    carried: Mapping[str, str]
    """New name in the results -> input column."""
    templates: ScoreTemplates
    """Of the graders."""
    output: Column | None = None
    """The column of the answers under an output schema, the same for all variants."""
    judges: tuple[Judge, ...] = ()

    @property
    def asked(self) -> tuple[Asked, ...]:
        """All who are asked: the variants, then the judges."""
        return (*self.variants, *self.judges)

    @property
    def repeats(self) -> int:
        return self.job.repeats

    @property
    def renderers(self) -> list[Renderer]:
        """Each once."""
        return list({id(variant.renderer): variant.renderer for variant in self.variants}.values())

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be read of each row."""
        used = [name for variant in self.variants for name in variant.renderer.columns]
        return tuple(dict.fromkeys([*used, *self.carried.values()]))

    @property
    def selected_units(self) -> int:
        return self.table.selected_rows * len(self.variants) * self.repeats

    @property
    def unit_slots(self) -> int:
        """Units that the source could hold: where the done marks have their places."""
        return self.table.source_rows * self.slots_per_row

    @property
    def slots_per_row(self) -> int:
        return len(self.variants) * self.repeats

    def slot(self, position: int, variant: int, repeat: int) -> int:
        return (position * len(self.variants) + variant) * self.job.repeats + repeat

    def run_schema(self) -> RunSchema:
        table = self.table
        fields = [table.schema.field(column).with_name(name) for name, column in self.carried.items()]
        return RunSchema(
            id_name=table.id_name,
            id_type=table.id_type,
            carried=pa.schema(fields),
            axes={variant.name: variant.axes for variant in self.variants},
            scores=tuple(spec.name for spec in self.job.score),
            output=None if self.output is None else arrow_type(self.output),
        )

    def rejections(self, rows: Iterator[list[Row]], most: int = 20) -> tuple[list[str], int]:
        """What the first rows without a prompt complain of, and how many rows were looked at."""
        complaints: list[str] = []
        looked_at = 0
        for batch in rows:
            looked_at += len(batch)
            for row in batch:
                complaints += self._complaints(row)
            if len(complaints) >= most:
                break
        return complaints[:most], looked_at

    def _complaints(self, row: Row) -> list[str]:
        complaints = []
        for variant in self.variants:
            try:
                variant.request(row)
            except RowRejected as error:
                complaints.append(str(error))
        return list(dict.fromkeys(complaints))


def load_workload(job: Job, frame: object | None = None, overrides: Mapping[str, object] = {}) -> Workload:
    """Open the table, vary the job, compile the prompts, settle the columns.

    `overrides` are laid over each variant. Raises InputError with every mistake found.
    """
    varied = variations(job, overrides)
    table = open_table(job.input, base_dir=job.base_dir, frame=frame)
    renderers = _renderers(varied, table)
    variants = tuple(
        Variant(index, one.name, one.job, renderer, one.axes)
        for index, (one, renderer) in enumerate(zip(varied, renderers, strict=True))
    )
    templates = ScoreTemplates(job.score, schema=table.schema, job_source=job.source)
    carried = _carried(job, table, variants)
    judges = judges_of(job, overrides, len(variants))
    workload = Workload(job, table, variants, carried, templates, _output_column(variants), judges)
    _check_names(workload)
    return workload


def _renderers(varied: Sequence[Variation], table: Table) -> list[Renderer]:
    """One for each prompt. Raises InputError with the mistakes of all prompts."""
    made: list[tuple[PromptSpec, Renderer]] = []
    mistakes: dict[Mistake, None] = {}
    for one in varied:
        if any(prompt == one.job.prompt for prompt, _ in made):
            continue
        try:
            renderer = Renderer(
                one.job.prompt, schema=table.schema, base_dir=one.job.base_dir, job_source=one.job.source
            )
        except InputError as error:
            mistakes |= dict.fromkeys(_of_variant(mistake, one, varied) for mistake in error.mistakes)
        else:
            made.append((one.job.prompt, renderer))
    if mistakes:
        raise InputError(list(mistakes))
    return [next(renderer for prompt, renderer in made if prompt == one.job.prompt) for one in varied]


def _of_variant(mistake: Mistake, one: Variation, varied: Sequence[Variation]) -> Mistake:
    """Names the variant where there are several; where all have the same prompt, it is the job's mistake."""
    if all(other.job.prompt == one.job.prompt for other in varied):
        return mistake
    return structs.replace(mistake, message=f"{mistake.message} (sweep, variant {one.name})")


def _output_column(variants: Sequence[Variant]) -> Column | None:
    schemas = [variant.job.output_schema for variant in variants]
    columns = [column_of(schema) for schema in schemas if schema is not None]
    return merged(columns) if columns else None


def _carried(job: Job, table: Table, variants: Sequence[Variant]) -> dict[str, str]:
    names = table.schema.names
    chosen = job.output.columns
    if chosen is None:
        prompts = [(variant.job.prompt, variant.renderer) for variant in variants]
        rendered = [made for prompt, made in prompts if not (prompt.body_column or prompt.messages_column)]
        columns = {name: name for name in names if any(name in made.columns for made in rendered)}
    elif chosen == "all":
        columns = {name: name for name in names}
    else:
        columns = dict(chosen)
    missing = [column for column in columns.values() if column not in names and column != table.id_name]
    if missing:
        raise InputError(
            [
                Mistake(
                    f"there is no column {column!r}; the table has {', '.join(names)}",
                    job.source,
                    key="output.columns",
                )
                for column in missing
            ]
        )
    return {name: column for name, column in columns.items() if name != table.id_name and column in names}


def _check_names(workload: Workload) -> None:
    """No column that the user names may have a name of ours, in whatever case: SQL tells no case apart."""
    schema = workload.run_schema()
    ours = structs.replace(schema, id_name=SEQUENCE, carried=pa.schema([]))
    taken = {name.lower() for name in (*parts_schema(ours).names, *results_schema(ours).names, LAST)}
    mistakes = []
    if schema.id_name.lower() in taken | {name.lower() for name in attempts_schema(ours).names}:
        query = f"select *, {quoted(schema.id_name)} as my_id from 'table.csv'"
        mistakes.append(
            Mistake(
                f"results or attempts have a column {schema.id_name!r} of their own, whatever the case of its "
                f"letters; rename it in the table, or with input.query: {query}",
                workload.job.source,
                key="input.id",
            )
        )
    taken.add(schema.id_name.lower())
    for name in schema.carried.names:
        if name.lower() in taken:
            mistakes.append(
                Mistake(
                    f"the results have a column {name!r} already, whatever the case of its letters; rename the "
                    f"input's: output.columns: {{input_{name}: {name}}}",
                    workload.job.source,
                    key="output.columns",
                )
            )
        taken.add(name.lower())
    if mistakes:
        raise InputError(mistakes)


class Tickets:
    """Makes tickets: requests with their holds and their places in the token window."""

    def __init__(
        self,
        price_of: Callable[[str | None], Price | None],
        credits_per_usd: Decimal | None,
        tokens_per_byte: Callable[[], float],
    ) -> None:
        self._price_of = price_of
        self._credits_per_usd = credits_per_usd
        self._tokens_per_byte = tokens_per_byte
        self._holds: dict[tuple[str | None, int | None], Callable[[int], Hold]] = {}

    def ticket(
        self, unit: Unit, row: Row, request: Request, *, so_far: UnitSoFar | None, replaces: str | None
    ) -> Ticket:
        """The unit's next attempt, its earlier ones counted."""
        return Ticket(
            unit=unit,
            row=row,
            body=request.body,
            request_hash=request.request_hash,
            hold=self.hold(request),
            bound_tokens=self.bound_tokens(request),
            attempt=so_far.attempts + 1 if so_far is not None else 1,
            tries=so_far.tries if so_far is not None else NO_TRIES,
            model=request.model,
            replaces=replaces,
            turn=request.turn,
            purpose=request.purpose,
        )

    def bound_tokens(self, request: Request) -> int:
        """What the request counts against the limit of tokens."""
        return int(request.input_bound_tokens * self._tokens_per_byte()) + (request.output_bound_tokens or 0)

    def hold(self, request: Request) -> Hold:
        """The most that the request can cost."""
        terms = (request.model, request.output_bound_tokens)
        at = self._holds.get(terms)
        if at is None:
            at = self._holds[terms] = holds(
                self._price_of(request.model), request.output_bound_tokens, self._credits_per_usd
            )
        return at(request.input_bound_tokens)
