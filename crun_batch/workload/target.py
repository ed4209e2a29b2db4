"""Who is asked: a model at an endpoint, with its params, as a job says it. Variants answer, judges grade.

Owns how messages become a request's body for them, and what of the job that takes, looked up once. What is asked
is theirs to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from msgspec import Struct, structs

from crun_batch.errors import InputError
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.protocols.protocol import BuildBody, Protocol
from crun_batch.load.job.addresses import query_text
from crun_batch.load.job.grader_sections import GraderSpec
from crun_batch.load.job.job import Job
from crun_batch.load.job.judges import JudgeJob, judge_jobs
from crun_batch.load.job.lanes import goes_in_batches
from crun_batch.load.job.secrets import Secrets, resolve_secrets
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.records import CacheTtl, ProtocolName, Row
from crun_batch.workload.bodies import answers_asked, cache_ttl, hosted, service_tier_of


class RequestTerms(Struct, frozen=True):
    """What all requests of a variant have in common, looked up in its job once."""

    path: str
    write: BuildBody
    model: str | None
    max_output_tokens: int | None
    output_limit_tokens: int | None
    """The most output tokens of a request, all its answers together."""
    stream: bool
    caches_input: bool
    """Whether the protocol may bill any input as written to a cache."""
    service_tier: str | None
    """The gateway's tier that all of them ask for."""
    hosted: tuple[str, ...]
    """Their fields that ask for what the gateway does and bills beside the tokens."""


class Target(Struct, frozen=True, dict=True):
    """Who is asked: a model at an endpoint, with its params, as a job says it."""

    index: int
    """Among the variants, then the judges."""
    name: str
    job: Job

    @property
    def protocol_name(self) -> ProtocolName:
        return self.job.endpoint.protocol

    @cached_property
    def at_each_endpoint(self) -> tuple[Target, ...]:
        """Itself at each of its job's endpoints, and there in each lane, that alone; itself where there is one."""
        jobs = self.job.in_each_lane
        return (self,) if jobs[0] is self.job else tuple(structs.replace(self, job=job) for job in jobs)

    @property
    def endpoint_name(self) -> str | None:
        """What the endpoint is called in records and messages; None: it is the only one, and nobody named it."""
        return self.job.endpoint.name

    @property
    def protocol(self) -> Protocol:
        return PROTOCOLS[self.protocol_name]

    @property
    def goes_in_batches(self) -> bool:
        """Whether it is asked in the batch lane, as all variants of a job are, and no judge."""
        return goes_in_batches(self.job.lane)

    @property
    def is_followed_live(self) -> bool:
        """Whether it is asked live what its batches leave undone."""
        return self.job.lane == "batch-then-live"

    @property
    def url(self) -> str:
        endpoint = self.job.endpoint
        return endpoint.base_url + self.terms.path + query_text(endpoint.query)

    @cached_property
    def terms(self) -> RequestTerms:
        job, protocol, limit = self.job, self.protocol, self.job.output_limit_tokens
        return RequestTerms(
            path=protocol.path,
            write=protocol.body,
            model=job.model,
            max_output_tokens=job.max_output_tokens,
            output_limit_tokens=None if limit is None else limit * answers_asked(job.params),
            stream=job.endpoint.stream,
            caches_input=self.protocol_name == "messages",
            service_tier=service_tier_of(job.params),
            hosted=hosted(job.params),
        )

    def body(
        self,
        row: Row,
        messages: Sequence[Mapping[str, Any]],
        params: Mapping[str, Any],
        output_schema: Mapping[str, Any] | None,
    ) -> bytes:
        """The messages in the protocol's form. Raises RowRejected where it cannot say them."""
        terms = self.terms
        try:
            return terms.write(
                terms.model or "", messages, params, terms.max_output_tokens, terms.stream, output_schema
            )
        except ValueError as error:
            raise RowRejected(row, str(error)) from None

    def cache_ttl(self, body: bytes) -> CacheTtl:
        """For how long input may be billed as kept: always for minutes with `messages`, else as the body asks."""
        return cache_ttl(body, self.terms.caches_input)

    def secrets(self, environ: Mapping[str, str]) -> Secrets:
        """The key and the headers of its one endpoint. Raises InputError that names all that are missing."""
        return resolve_secrets(self.job, environ)


class Judge(Target, frozen=True, dict=True):
    """A model that grades answers."""

    written: JudgeJob

    @property
    def spec(self) -> GraderSpec:
        return self.written.spec

    def secrets(self, environ: Mapping[str, str]) -> Secrets:
        """As of all who are asked; mistakes are named under the judge."""
        try:
            return resolve_secrets(self.job, environ)
        except InputError as error:
            raise InputError([self.written.mistake(mistake) for mistake in error.mistakes]) from None


def judges_of(job: Job, overrides: Mapping[str, object], first_index: int) -> tuple[Judge, ...]:
    """The judges of a job, each with its own job; `overrides` are laid over each. Raises InputError."""
    made = judge_jobs(job, overrides)
    return tuple(
        Judge(index, f"judge {one.spec.name}", one.job, one) for index, one in enumerate(made, first_index)
    )
