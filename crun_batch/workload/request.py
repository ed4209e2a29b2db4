"""What one row asks under one variant: the request's bytes, their hash, and what bounds its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson
from msgspec import Struct

from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.protocols.protocol import encode, request_hash
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.load.prompt.render import Renderer
from crun_batch.records import Prompt, Purpose, Row
from crun_batch.workload.bodies import answers_asked, model_of, output_limit_tokens, service_tier_of, unbounded_by
from crun_batch.workload.caching import CacheHints, hints_of
from crun_batch.workload.target import Target

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
    may_write_cache: bool = False
    """Whether its input may be billed at the price of cache writes."""
    service_tier: str | None = None
    """The gateway's tier that it asks for."""
    prefix: str | None = None
    """Names what it begins with, and where the gateway caches that; None: nothing asks for it."""
    whole_hash: str | None = None
    """Of a first request that opens a conversation: the hash of all that the row will ask."""

    @property
    def unit_hash(self) -> str:
        """What must be the same for an answered unit to stay answered."""
        return self.whole_hash or self.request_hash


class Variant(Target, frozen=True, dict=True):
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
        terms = self.terms
        body = self.body(row, prompt.messages, self.job.params, self.job.output_schema)
        asked = request_hash(terms.path, body)
        body, prefix = self.hinted(row, prompt.messages, body, self.job.output_schema)
        bound = len(body) + prompt.remote_parts * REMOTE_PART_TOKENS
        return Request(
            body,
            asked,
            terms.model,
            bound,
            terms.output_limit_tokens,
            may_write_cache=self.may_write_cache(body),
            service_tier=terms.service_tier,
            prefix=prefix,
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
        path = PROTOCOLS[self.protocol_name].path
        later = encode([prompt.later_turns, job.prompt.stateful, job.output_schema])
        asked, whole = request_hash(path, body), request_hash(path, body + later)
        body, prefix = self.hinted(row, prompt.messages, body, None)
        return Request(
            body,
            asked,
            job.model,
            len(body),
            self.terms.output_limit_tokens,
            may_write_cache=self.may_write_cache(body),
            service_tier=self.terms.service_tier,
            prefix=prefix,
            whole_hash=whole,
        )

    def _given(self, row: Row, body: bytes, remote_parts: int) -> Request:
        path = PROTOCOLS[self.protocol_name].path
        fields = orjson.loads(body)
        complaint = unbounded_by(fields, self.protocol_name) if self.job.budget.is_capped else None
        if complaint is not None:
            raise RowRejected(row, complaint)
        bound = len(body) + remote_parts * REMOTE_PART_TOKENS
        limit = output_limit_tokens(fields, self.protocol_name)
        if limit is not None:
            limit *= answers_asked(fields)
        return Request(
            body,
            request_hash(path, body),
            model_of(fields),
            bound,
            limit,
            may_write_cache=self.may_write_cache(body),
            service_tier=service_tier_of(fields),
        )
