"""What one row asks under one variant: the request's bytes, their hash, and what bounds its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import compress
from typing import Any

import orjson
from msgspec import Struct

from crun_batch.gateway.protocols.protocol import encode, request_hash
from crun_batch.gateway.protocols.writing import RequestForm, WrittenRequest, write_all
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.load.prompt.render import Renderer
from crun_batch.records import CacheTtl, Prompt, Purpose, Row
from crun_batch.workload.bodies import (
    answers_asked,
    cache_ttl,
    hosted,
    model_of,
    output_limit_tokens,
    service_tier_of,
    unbounded_by,
)
from crun_batch.workload.caching import CacheHints, hints_of
from crun_batch.workload.target import Target

REMOTE_PART_TOKENS = 20_000
"""Reserved for an image or a file that the gateway fetches: no byte of ours bounds its tokens."""


class Request(Struct, frozen=True, gc=False):
    """A request of one row under one variant, the same for all its repeats."""

    body: bytes
    request_hash: str
    unit_hash: str
    """What must be the same for an answered unit to stay answered: of a conversation all that the row will ask."""
    model: str | None
    input_bound_tokens: int
    output_bound_tokens: int | None
    turn: int = 0
    purpose: Purpose = "answer"
    cache_ttl: CacheTtl = ""
    """For how long its input may be kept in a cache, at the price of writing it there."""
    service_tier: str | None = None
    """The gateway's tier that it asks for."""
    prefix: str | None = None
    """Names what it begins with, and where the gateway caches that; None: nothing asks for it."""
    opens_conversation: bool = False
    """Whether others follow its answer."""
    hosted: tuple[str, ...] = ()
    """Its fields that ask for what the gateway does and bills beside the tokens."""


Asked = Request | RowRejected
"""A row's request, or why it has none."""


class Variant(Target, frozen=True, dict=True):
    """One way to ask: a level of every axis merged into the job."""

    renderer: Renderer
    """The same for all variants with the same prompt."""
    axes: Mapping[str, Any] = {}

    @property
    def repairs(self) -> int:
        """How often an answer that does not fit may be sent back."""
        return 0 if self.job.output_schema is None else self.job.repair_attempts

    def request(self, row: Row) -> Request:
        """The first request. Raises RowRejected where the row has no prompt or the protocol cannot say it."""
        [request] = self._requests([row], [self.renderer.render(row)])
        if isinstance(request, RowRejected):
            raise request
        return request

    def requests(self, rows: Sequence[Row], wanted: Sequence[object] | None = None) -> list[Asked]:
        """The first request of each row, or why it has none, stage by stage: the texts of all, then their bytes.

        `wanted`: says of each row whether it is; None: all are. Variants with one prompt share its texts as long
        as `rows` is the same list.
        """
        prompts = self.renderer.prompts(rows)
        if wanted is not None:
            rows, prompts = list(compress(rows, wanted)), list(compress(prompts, wanted))
        return self._requests(rows, prompts)

    def _requests(self, rows: Sequence[Row], prompts: Sequence[Prompt | RowRejected]) -> list[Asked]:
        if not self.renderer.is_plain:
            return [self._request_of(row, prompt) for row, prompt in zip(rows, prompts, strict=True)]
        said = [prompt.messages for prompt in prompts if isinstance(prompt, Prompt)]
        written = iter(write_all(self.form, said))
        return [
            self._plain(row, prompt, next(written)) if isinstance(prompt, Prompt) else prompt
            for row, prompt in zip(rows, prompts, strict=True)
        ]

    def _request_of(self, row: Row, prompt: Prompt | RowRejected) -> Asked:
        if isinstance(prompt, RowRejected):
            return prompt
        try:
            return self._opening(row, prompt) if prompt.body is None else self._given(row, prompt.body, prompt)
        except RowRejected as error:
            return error

    def _plain(self, row: Row, prompt: Prompt, written: WrittenRequest | ValueError) -> Asked:
        if isinstance(written, ValueError):
            return RowRejected(row, str(written))
        terms, body, prefix = self.terms, written.body, None
        if self.hints is not None:
            body, prefix = self.hinted(row, prompt.messages, body, self.job.output_schema)
        return Request(
            body,
            written.request_hash,
            written.request_hash,
            terms.model,
            len(body) + prompt.remote_parts * REMOTE_PART_TOKENS,
            terms.output_limit_tokens,
            cache_ttl=cache_ttl(body, terms.caches_input),
            service_tier=terms.service_tier,
            prefix=prefix,
            hosted=terms.hosted,
        )

    @cached_property
    def form(self) -> RequestForm:
        """What all its plain requests have in common."""
        terms, job = self.terms, self.job
        limit = terms.max_output_tokens
        return RequestForm(
            terms.path, terms.write, terms.model or "", job.params, limit, terms.stream, job.output_schema
        )

    @cached_property
    def hints(self) -> CacheHints | None:
        """What its requests carry so that their beginning is cached."""
        return hints_of(self.job, self.renderer.constant_messages)

    def hinted(
        self, row: Row, messages: Sequence[Mapping[str, Any]], body: bytes, schema: Mapping[str, Any] | None
    ) -> tuple[bytes, str | None]:
        """The body with the hints for the provider's cache, and the name of its prefix there."""
        hints = self.hints
        if hints is None:
            return body, None
        if hints.marked is not None:
            body = self.body(row, hints.marking(messages), self.job.params, schema)
        return hints.with_key(body, row.position), f"{self.index}-{hints.number(row.position)}"

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
        path = self.terms.path
        later = encode([prompt.later_turns, job.prompt.stateful, job.output_schema])
        asked, whole = request_hash(path, body), request_hash(path, body + later)
        body, prefix = self.hinted(row, prompt.messages, body, None)
        return Request(
            body,
            asked,
            whole,
            job.model,
            len(body),
            self.terms.output_limit_tokens,
            cache_ttl=self.cache_ttl(body),
            service_tier=self.terms.service_tier,
            prefix=prefix,
            opens_conversation=True,
            hosted=self.terms.hosted,
        )

    def _given(self, row: Row, body: bytes, prompt: Prompt) -> Request:
        path = self.terms.path
        fields = orjson.loads(body)
        complaint = unbounded_by(fields, self.protocol_name) if self.job.budget.is_capped else None
        if complaint is not None:
            raise RowRejected(row, complaint)
        bound = len(body) + prompt.remote_parts * REMOTE_PART_TOKENS
        limit = output_limit_tokens(fields, self.protocol_name)
        if limit is not None:
            limit *= answers_asked(fields)
        asked = request_hash(path, body)
        return Request(
            body,
            asked,
            asked,
            model_of(fields),
            bound,
            limit,
            cache_ttl=self.cache_ttl(body),
            service_tier=service_tier_of(fields),
            hosted=hosted(fields),
        )
